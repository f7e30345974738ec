//! The simulated world: hosts with disks, clocks and processes, the network between them, and the queue of events.

use crate::{
    agent::shared::Agent,
    check::Check,
    controller::Controller,
    coverage::Coverage,
    exec::{Exec, Micros, ProcessId},
    fault::Fault,
    guard::{Guard, GuardEvent},
    network::Network,
    plan::Scenario,
    planted::Planted,
    postgres::{
        data::{DataDir, Disk},
        server::{Pg, PgEvent},
        wal::Tree,
    },
    raft::{Raft, RaftEvent},
    rng::Rng,
    run::Options,
    trace::Trace,
};
use pgvigil_core::{
    id::{ClusterId, MemberId, NodeId},
    member::MemberSpec,
    time::{Time, WallTime},
    trace::Line,
};
use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::Rc,
};

/// What the simulation is run through.
pub type W = Rc<World>;

/// Something to be done later, in the process that must live and not be frozen for it.
pub struct Call(pub Box<dyn FnOnce(&W)>);

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Call")
    }
}

/// Everything that happens outside of tasks.
#[derive(Debug)]
pub enum Event {
    /// In a server.
    Pg {
        /// Whose.
        host: usize,
        /// Which server; another one by now ignores it.
        pid: u64,
        /// What.
        what: PgEvent,
    },
    /// At a guard.
    Guard(usize, GuardEvent),
    /// A timer of a future that knows nothing of the executor.
    Wake(std::task::Waker),
    /// In the model of the Raft group.
    Raft(RaftEvent),
    /// A message arrives, or the like.
    Call(Call),
    /// Clients commit at this host's server, if it lets them.
    Clients(usize),
    /// A fault of the plan begins.
    Fault(usize),
    /// A fault of the plan ends.
    Over(Fault),
}

/// A host.
#[derive(Debug)]
pub struct Host {
    /// The member on it.
    pub spec: MemberSpec,
    /// Whether its pgvigil is a voter.
    pub voter: bool,
    /// Its clock at true time 0, in microseconds.
    pub clock_offset: u64,
    /// How fast its clock runs: millionths more or less than true time.
    pub clock_ppm: i64,
    /// Powered on.
    pub powered: Cell<bool>,
    /// Its disk.
    pub disk: RefCell<Disk>,
    /// A copy of its data directory.
    pub copy: RefCell<Option<DataDir>>,
    /// Its PostgreSQL.
    pub pg: RefCell<Pg>,
    /// Its agent, while the process runs.
    pub agent: RefCell<Option<Rc<Agent>>>,
    /// The controller in the same process, of a voter.
    pub controller: RefCell<Option<Rc<Controller>>>,
    /// How many processes of pgvigil have run here: tells one from the next.
    pub life: Cell<u64>,
    /// Its guard.
    pub guard: RefCell<Guard>,
    /// So many percent of the looks at PostgreSQL take long.
    pub late_answers: Cell<u64>,
    /// An operator wants the host to stay off.
    pub held_off: Cell<bool>,
}

/// So many percent of the looks at PostgreSQL take long where nothing else is said.
pub const LATE_ANSWERS: u64 = 1;

/// See the module.
pub struct World {
    /// Virtual time.
    pub exec: Exec<Event>,
    /// Chance.
    pub rng: Rng,
    /// The network.
    pub net: RefCell<Network>,
    /// The histories of WAL.
    pub tree: RefCell<Tree>,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The Raft group.
    pub raft: Raft,
    /// The checkers.
    pub check: RefCell<Check>,
    /// What has happened at least once.
    pub cover: Coverage,
    /// The bug put back on purpose.
    pub planted: Option<Planted>,
    /// Whether people's hands are in the plan.
    pub hands: bool,
    /// What the seed decided.
    pub scenario: Scenario,
    /// The printed trace.
    pub trace: Trace,
    /// What nodes could tell of their past, if it is wanted.
    pub lines: Option<RefCell<Vec<Line>>>,
    /// Faults are over: only healing from here on.
    pub quiet: Cell<bool>,
    /// A crash that waits for somebody to reach a step.
    pub ambush: RefCell<Vec<crate::fault::Ambush>>,
    ids: Cell<u64>,
}

/// The only cluster.
pub const CLUSTER: &str = "sim";

impl World {
    /// The world of `scenario` before its first moment.
    #[must_use]
    pub fn new(scenario: Scenario, options: &Options) -> W {
        let rng = Rng::new(scenario.seed, 2);
        let count = scenario.hosts.len();
        let hosts: Vec<Host> = scenario.hosts.iter().map(|plan| Host::new(plan, &rng)).collect();
        let voters = (0..count).filter(|host| hosts[*host].voter).collect();
        Rc::new(Self {
            exec: Exec::new(3 * count),
            net: RefCell::new(Network::new(count)),
            tree: RefCell::default(),
            raft: Raft::new(options.raft, voters, count),
            check: RefCell::new(Check::default()),
            cover: Coverage::default(),
            planted: options.planted,
            hands: options.hands,
            scenario,
            trace: Trace::new(options.trace),
            lines: options.record.then(RefCell::default),
            quiet: Cell::new(false),
            ambush: RefCell::default(),
            ids: Cell::new(0),
            hosts,
            rng,
        })
    }

    /// Keeps a line of the past, if it is wanted.
    pub fn record(&self, line: impl FnOnce() -> Line) {
        if let Some(lines) = &self.lines {
            let line = line();
            lines.borrow_mut().push(line);
        }
    }

    /// A number that was never used before.
    pub fn fresh_id(&self) -> u64 {
        self.ids.set(self.ids.get() + 1);
        self.ids.get()
    }

    /// pgvigil's process on `host`.
    #[must_use]
    pub const fn agent_process(host: usize) -> ProcessId {
        3 * host
    }

    /// The host of `process`.
    #[must_use]
    pub const fn host_of_process(process: ProcessId) -> usize {
        process / 3
    }

    /// The guard on `host`.
    #[must_use]
    pub const fn guard_process(host: usize) -> ProcessId {
        3 * host + 1
    }

    /// PostgreSQL on `host`.
    #[must_use]
    pub const fn postgres_process(host: usize) -> ProcessId {
        3 * host + 2
    }

    /// The clock of `host`, in microseconds.
    #[must_use]
    pub fn clock_micros(&self, host: usize) -> u64 {
        let place = &self.hosts[host];
        let now = self.exec.now();
        let drift = i64::try_from(now).unwrap_or(0) / 1_000 * place.clock_ppm / 1_000;
        place.clock_offset + now.saturating_add_signed(drift)
    }

    /// `CLOCK_BOOTTIME` of `host`.
    #[must_use]
    pub fn now(&self, host: usize) -> Time {
        Time(self.clock_micros(host) / 1_000)
    }

    /// The true time at which the clock of `host` shows at least `at`.
    #[must_use]
    pub fn true_time(&self, host: usize, at: Time) -> Micros {
        self.true_time_micros(host, at.0 * 1_000)
    }

    /// The same, for a moment in microseconds.
    #[must_use]
    pub fn true_time_micros(&self, host: usize, at: u64) -> Micros {
        let wait = at.saturating_sub(self.clock_micros(host));
        // A little more than by division, so that the clock has certainly got there.
        let ppm = self.hosts[host].clock_ppm;
        let scaled = wait.saturating_add_signed(-(i64::try_from(wait).unwrap_or(0) / 1_000 * ppm / 1_000));
        self.exec.now() + scaled + if wait > 0 { wait / 5_000 + 20 } else { 0 }
    }

    /// Wall clocks agree in this world: nothing may be decided by them.
    #[must_use]
    pub fn wall(&self) -> WallTime {
        WallTime(1_700_000_000_000 + self.exec.now() / 1_000)
    }

    /// Whether a packet gets from `from` to `to`, and there is a host to take it.
    #[must_use]
    pub fn reaches(&self, from: usize, to: usize) -> bool {
        self.hosts[to].powered.get() && self.net.borrow().up(from, to)
    }

    /// Both ways.
    #[must_use]
    pub fn reaches_both(&self, a: usize, b: usize) -> bool {
        self.reaches(a, b) && self.reaches(b, a)
    }

    /// How long a packet takes now.
    pub fn latency(&self, from: usize, to: usize) -> Micros {
        if from == to {
            return self.rng.range(20, 100);
        }
        let slow = self.net.borrow().slow(from, to);
        self.rng.range(80, 600) + if slow > 0 { self.rng.range(0, slow) } else { 0 }
    }

    /// How long an fsync takes that is begun now.
    pub fn disk_delay(&self, host: usize) -> Micros {
        let stalled = self.hosts[host].disk.borrow().stalled_until.saturating_sub(self.exec.now());
        stalled + self.rng.range(150, 1_500)
    }

    /// Lets `what` happen in the server `pid` of `host` at `at`.
    pub fn pg_event_at(&self, host: usize, pid: u64, at: Micros, what: PgEvent) {
        self.exec.at(at, Some(Self::postgres_process(host)), Event::Pg { host, pid, what });
    }

    /// Calls `what` at `at` in pgvigil's process of `host`, if it is still the same one then.
    pub fn call_at(&self, host: usize, at: Micros, what: impl FnOnce(&W) + 'static) {
        let life = self.hosts[host].life.get();
        let call = Call(Box::new(move |w: &W| {
            if w.hosts[host].life.get() == life && w.hosts[host].agent.borrow().is_some() {
                what(w);
            }
        }));
        self.exec.at(at, Some(Self::agent_process(host)), Event::Call(call));
    }

    /// The member on `host`.
    #[must_use]
    pub fn member(&self, host: usize) -> &MemberId {
        &self.hosts[host].spec.member
    }

    /// The node on `host`.
    #[must_use]
    pub fn node(host: usize) -> NodeId {
        NodeId(host as u64 + 1)
    }

    /// The host of the node of that number.
    #[must_use]
    pub fn host_of_node(node: NodeId) -> usize {
        usize::try_from(node.0).unwrap_or(1) - 1
    }

    /// The host of `member`.
    #[must_use]
    pub fn host_of(&self, member: &MemberId) -> Option<usize> {
        self.hosts.iter().position(|host| host.spec.member == *member)
    }

    /// The cluster's name.
    #[must_use]
    pub fn cluster() -> ClusterId {
        ClusterId::from(CLUSTER)
    }

    /// Checks S3 as of this moment.
    pub fn check_service(&self) {
        self.check.borrow_mut().service(self);
    }
}

impl Host {
    fn new(plan: &crate::plan::HostPlan, rng: &Rng) -> Self {
        Self {
            spec: plan.spec.clone(),
            voter: plan.voter,
            clock_offset: rng.range(10_000_000, 4_000_000_000),
            clock_ppm: plan.clock_ppm,
            powered: Cell::new(true),
            disk: RefCell::default(),
            copy: RefCell::default(),
            pg: RefCell::default(),
            agent: RefCell::default(),
            controller: RefCell::default(),
            life: Cell::new(0),
            guard: RefCell::default(),
            late_answers: Cell::new(LATE_ANSWERS),
            held_off: Cell::new(false),
        }
    }
}
