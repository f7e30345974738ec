//! What an agent's tasks share: what is known at this moment, and how they wake each other.

use crate::{
    exec::{Notify, Watch},
    fault::Strike,
    postgres::{data::Names, server::Sample, wal::Point},
    world::{W, World},
};
use pgvigil_core::{
    beats::Leader,
    cluster::ClusterState,
    command::Proof,
    keeper::{Guarded, Renewal},
    lease::Right,
    local::{Local, LocalPostgres, Promise, RuleDoubt},
    lsn::Lsn,
    report::{DiscardedWal, Probe},
    rpo::{Canaries, Ledger},
    time::Time,
    worker::{Orders, Worker},
    written::Written,
};
use std::{cell::RefCell, collections::VecDeque, rc::Rc};

/// An act or a statement that failed, and why.
pub type Failed = String;

/// Everything that changes.
#[derive(Debug)]
pub struct Inner {
    /// What `reconcile` looks at.
    pub local: Local,
    /// The newest agreed state held.
    pub agreed: Option<Rc<ClusterState>>,
    /// The server that is known to run.
    pub postmaster: Option<u64>,
    /// The newest sample and when it began.
    pub sample: Option<(Sample, Time)>,
    /// The slow sample was taken, which tells the system identifier.
    pub slow: bool,
    /// A standby's flushed position and the beginning of the first sample that showed it.
    pub flush_seen: Option<(Lsn, Time)>,
    /// Ends of records of canaries and markers.
    pub records: Vec<Lsn>,
    /// The newest successful canary began then.
    pub canary_ok_at: Option<Time>,
    /// The canary under way began then.
    pub canary_waiting_since: Option<Time>,
    /// The newest complete proof.
    pub proof: Option<Proof>,
    /// The newest probe and when it ended.
    pub probe: Option<(Probe, Time)>,
    /// `reconcile`'s wish for a new incarnation.
    pub needs_new_incarnation: Option<String>,
    /// Diverged WAL that was kept aside.
    pub discarded: Option<DiscardedWal>,
    /// What the guard has confirmed.
    pub guarded: Guarded,
    /// The worst delay of the worker's own timer since the last report.
    pub starved_ms: u64,
    /// WAL that others than the canary have written since this became primary.
    pub written: Written,
    /// The seal is good for streaming from.
    pub can_stream: bool,
    /// Since when the sealed position has not moved.
    pub quiet_since: Option<Time>,
    /// The names that were last put in force.
    pub names_in_force: Option<Names>,
    /// Recovery is pinned to one timeline.
    pub pinned: bool,
    /// PostgreSQL was stopped by us.
    pub stopping: bool,
    /// How often people had changed the files that were loaded at the newest look.
    pub touched: Option<u32>,
    /// Stretches of time in which commits may have been acknowledged without k standbys, until they are agreed.
    pub unproven: Ledger,
    /// What the leader heard last has said.
    pub leader: Leader,
    /// Canaries that give a right once a look has shown the rule in force.
    pub canaries: Canaries,
    /// Which act may begin now.
    pub worker: Worker<Orders>,
    /// When it was last looked whether operators have asked for something else.
    pub looked_at: Time,
    /// What makes the right longer, not yet told to the guard.
    pub renewals: VecDeque<Renewal>,
}

impl Inner {
    /// WAL may be added, or another history begins: what was read of its end is no longer so.
    pub fn forget_end(&mut self) {
        self.local.wal_end = None;
        self.local.own_end = None;
    }

    /// A reign begins here: what was measured in an older one is of another history.
    pub fn forget_records(&mut self) {
        self.records.clear();
        self.written = Written::default();
    }
}

/// See the module.
#[derive(Debug)]
pub struct Agent {
    /// What changes. Not borrowed across an `await`.
    pub inner: RefCell<Inner>,
    /// Wakes the worker.
    pub work: Notify,
    /// Asks for a report at once.
    pub report: Notify,
    /// Asks for a sample at once.
    pub look: Notify,
    /// Wakes the keeper of the right.
    pub renewed: Notify,
    /// A server has ended.
    pub exited: Notify,
    /// Moves when the agreed state held does.
    pub learned: Watch,
    /// Frames from the leader.
    pub mail: RefCell<VecDeque<super::uplink::Mail>>,
    /// Wakes the uplink.
    pub posted: Notify,
}

/// An agent's task: the world, its agent, its host.
#[derive(Clone)]
pub struct Ctx {
    /// The world.
    pub w: W,
    /// The agent.
    pub a: Rc<Agent>,
    /// The host.
    pub h: usize,
}

impl Agent {
    /// Reads what must be known before the first act.
    #[must_use]
    pub fn new(w: &World, host: usize) -> Self {
        let disk = w.hosts[host].disk.borrow();
        let local = Local {
            me: w.member(host).clone(),
            marker: disk.data.as_ref().and_then(|data| data.marker.clone()),
            promise: disk.promise.clone(),
            postgres: LocalPostgres::Unknown,
            wal_end: None,
            directory: pgvigil_core::local::Directory::default(),
            own_end: None,
            sealed: None,
            fence_on_disk: false,
            in_force: None,
            right: Right::default(),
            starting_since: None,
            election_since: None,
            canary_waiting_ms: 0,
            standbys_enough_since: None,
            proven: None,
            busy: false,
            checkpointed_at: None,
            restart_due: None,
            rule_astray_since: None,
            rule_doubt: RuleDoubt::default(),
            unasked_since: None,
        };
        let inner = Inner {
            local,
            agreed: None,
            postmaster: None,
            sample: None,
            slow: false,
            flush_seen: None,
            records: Vec::new(),
            written: Written::default(),
            canary_ok_at: None,
            canary_waiting_since: None,
            proof: None,
            probe: None,
            needs_new_incarnation: None,
            discarded: None,
            guarded: Guarded::default(),
            starved_ms: 0,
            can_stream: false,
            quiet_since: None,
            names_in_force: None,
            pinned: false,
            stopping: false,
            touched: None,
            unproven: Ledger::recovered(disk.unproven.clone(), 0, w.now(host)),
            leader: Leader::default(),
            canaries: Canaries::default(),
            worker: Worker::default(),
            looked_at: Time(0),
            renewals: VecDeque::new(),
        };
        Self {
            inner: RefCell::new(inner),
            work: Notify::default(),
            report: Notify::default(),
            look: Notify::default(),
            renewed: Notify::default(),
            exited: Notify::default(),
            learned: Watch::default(),
            mail: RefCell::default(),
            posted: Notify::default(),
        }
    }
}

impl Ctx {
    /// This host's clock.
    #[must_use]
    pub fn now(&self) -> Time {
        self.w.now(self.h)
    }

    /// The newest agreed state held.
    #[must_use]
    pub fn agreed(&self) -> Option<Rc<ClusterState>> {
        self.a.inner.borrow().agreed.clone()
    }

    /// Wakes the worker.
    pub fn wake_work(&self) {
        self.a.work.notify(&self.w.exec);
    }

    /// Asks for a report at once.
    pub fn wake_report(&self) {
        self.a.report.notify(&self.w.exec);
    }

    /// Asks for a sample at once.
    pub fn wake_look(&self) {
        self.a.look.notify(&self.w.exec);
    }

    /// Takes in agreed state, unless it is older than what is held. Keeps S5.
    pub fn learn(&self, state: Rc<ClusterState>) {
        let mut inner = self.a.inner.borrow_mut();
        if inner.agreed.as_ref().is_some_and(|held| held.revision >= state.revision) {
            return;
        }
        self.w.check.borrow_mut().learned(&self.w, self.h, state.revision);
        let before = inner.agreed.as_ref().and_then(|held| held.election.as_ref().map(|e| e.epoch));
        let election = state.election.as_ref().map(|e| e.epoch);
        if election != before {
            inner.local.election_since = election.map(|_| self.w.now(self.h));
        }
        inner.agreed = Some(Rc::clone(&state));
        drop(inner);
        self.evidence(|ledger, _| ledger.forget_agreed(&state));
        self.a.learned.bump(&self.w.exec);
        self.wake_work();
    }

    /// Changes the promise: on disk and fsynced first, then in memory.
    pub async fn promise(&self, change: impl FnOnce(&mut Promise)) {
        let mut promise = self.a.inner.borrow().local.promise.clone();
        let before = promise.clone();
        change(&mut promise);
        if promise == before {
            return;
        }
        self.w.fsync(self.h).await;
        {
            let mut disk = self.w.hosts[self.h].disk.borrow_mut();
            disk.promise = promise.clone();
            if self.w.planted != Some(crate::planted::Planted::SealNotDurable) {
                disk.promise_synced = promise.clone();
            }
        }
        self.a.inner.borrow_mut().local.promise = promise;
    }

    /// PostgreSQL was found not to run: forgets everything that was true of the running one.
    pub fn forget_running(&self, crashed: bool) {
        let mut inner = self.a.inner.borrow_mut();
        inner.postmaster = None;
        inner.sample = None;
        inner.canary_waiting_since = None;
        inner.local.canary_waiting_ms = 0;
        inner.local.standbys_enough_since = None;
        inner.local.in_force = None;
        inner.local.rule_doubt.server_ended();
        inner.touched = None;
        inner.local.proven = None;
        inner.proof = None;
        inner.local.postgres = LocalPostgres::Stopped { crashed };
        drop(inner);
        self.evidence(|ledger, now| ledger.end_all(now));
    }

    /// Changes what is known against the rule, writes it down without a flush, and has it told.
    pub fn evidence(&self, change: impl FnOnce(&mut Ledger, Time) -> bool) {
        let now = self.now();
        let mut inner = self.a.inner.borrow_mut();
        if change(&mut inner.unproven, now) {
            self.w.hosts[self.h].disk.borrow_mut().unproven.clone_from(&inner.unproven.stretches);
            drop(inner);
            self.wake_report();
        }
    }

    /// A place between two steps: something may strike here.
    pub async fn step(&self, name: &'static str) {
        self.w.pause(20, 400).await;
        if let Some(strike) = self.w.struck(self.h, name) {
            self.w.log_host(self.h, || format!("struck at {name}: {strike:?}"));
            strike.happen(&self.w, self.h);
            if matches!(strike, Strike::Agent | Strike::Host) {
                std::future::pending::<()>().await;
            }
        }
    }

    /// What a new connection to the server here shows; waits for a frozen one up to `limit_ms`.
    pub async fn sample(&self, limit_ms: u64) -> Option<Sample> {
        self.query(limit_ms).await?;
        self.w.sample(self.h)
    }

    /// A statement of the agent's own: `None` if no server answers in time.
    pub async fn query(&self, limit_ms: u64) -> Option<()> {
        let deadline = self.now().plus(limit_ms);
        self.w.pause(100, 600).await;
        loop {
            if !self.w.server_runs(self.h) {
                return None;
            }
            if !self.w.exec.is_frozen(World::postgres_process(self.h)) {
                return self.w.sample(self.h).map(|_| ());
            }
            if self.now() >= deadline {
                return None;
            }
            self.w.pause(10_000, 20_000).await;
        }
    }

    /// Where this host's WAL ends, by its files.
    #[must_use]
    pub fn end_on_disk(&self) -> Option<Point> {
        let disk = self.w.hosts[self.h].disk.borrow();
        disk.data.as_ref().map(|data| self.w.tree.borrow().owner(data.end))
    }
}
