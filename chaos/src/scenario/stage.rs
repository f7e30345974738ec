//! The stage on which a scenario plays: a cluster in full health with clients that work all the time, faults that are
//! logged, and questions about what has become of it all.

use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use thiserror::Error;

use super::watch::Watch;
use crate::cluster::{ClusterError, serves};
use crate::fault::{Fault, FaultError, Undo, strike};
use crate::history::{Operation, Outcome};
use crate::host::{World, WorldError};
use crate::interrupt::{self, WaitError};
use crate::libpq::Address;
use crate::report::{FaultSpan, RunRecord};
use crate::status::Status;
use crate::workload::{Load, LoadError};

/// How long the cluster may take to be in full health again.
pub const HEAL_LIMIT: Duration = Duration::from_secs(240);
/// How long anything else may take on a slow machine.
pub const LIMIT: Duration = Duration::from_secs(90);
/// Between two looks.
const PACE: Duration = Duration::from_millis(50);

/// Why a scenario ended early.
#[derive(Debug, Error)]
pub enum StoryError {
    /// Something that it demands does not hold.
    #[error("{0}")]
    Claim(String),
    /// See there.
    #[error(transparent)]
    Fault(#[from] FaultError),
    /// See there.
    #[error(transparent)]
    World(#[from] WorldError),
    /// See there.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// See there.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// See there.
    #[error(transparent)]
    Wait(#[from] WaitError),
}

impl From<crate::host::HostError> for StoryError {
    fn from(error: crate::host::HostError) -> StoryError {
        StoryError::World(error.into())
    }
}

impl StoryError {
    /// Whether the user asked for the end.
    pub fn is_interrupt(&self) -> bool {
        matches!(
            self,
            StoryError::Wait(WaitError::Interrupted) | StoryError::Cluster(ClusterError::Wait(WaitError::Interrupted))
        )
    }
}

/// What a scenario comes to.
pub type Told = Result<(), StoryError>;

/// A fault that is under way on this stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handle(usize);

/// One fault that is not over.
#[derive(Debug)]
struct UnderWay {
    handle: Handle,
    fault: Fault,
    undo: Undo,
}

/// The stage.
pub struct Stage<'a> {
    /// The cluster and its hosts.
    pub world: &'a mut World,
    /// The choices of this run.
    pub random: StdRng,
    /// The record of this run.
    pub(super) record: RunRecord,
    load: Load,
    watch: Watch,
    under_way: Vec<UnderWay>,
    asked: Option<Duration>,
    /// When the newest fault was about to begin or to end, until somebody waits for what comes of it.
    turned_us: Option<u64>,
    /// Servers that were promoted by hand, and when.
    by_hand: Vec<(Address, u64)>,
    say: &'a mut dyn FnMut(String),
    began: Instant,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        world: &'a mut World,
        load: Load,
        record: RunRecord,
        asked: Option<Duration>,
        say: &'a mut dyn FnMut(String),
    ) -> Stage<'a> {
        let watch = Watch::start(&world.cluster, load.origin_us());
        let random = StdRng::seed_from_u64(record.seed);
        Stage {
            world,
            random,
            record,
            load,
            watch,
            under_way: Vec::new(),
            asked,
            turned_us: None,
            by_hand: Vec::new(),
            say,
            began: Instant::now(),
        }
    }

    /// A line for whoever looks on.
    pub fn say(&mut self, line: impl Into<String>) {
        (self.say)(format!("{:6.1} s  {}", self.began.elapsed().as_secs_f64(), line.into()));
    }

    /// Microseconds since the run began.
    pub fn now(&self) -> u64 {
        self.load.now_us()
    }

    /// Begins a fault; it lasts until `end`, or the end of the scenario.
    pub fn begin(&mut self, fault: Fault) -> Result<Handle, StoryError> {
        let primary = self.world.cluster.node_of(&self.seen_primary()).map_or(0, |node| node.id);
        let from_us = self.now();
        self.turned_us = Some(from_us);
        if let Fault::PromotedByHand(id) = &fault {
            self.by_hand.push((self.world.cluster.node(*id)?.address(), from_us));
        }
        let undo = strike(self.world, &fault)?;
        let handle = Handle(self.record.faults.len());
        self.say(fault.to_string());
        self.record.faults.push(FaultSpan {
            kind: fault.kind(),
            target: fault.target(),
            from_us,
            until_us: (!undo.is_under_way()).then(|| self.now()),
            may_move: fault.may_move(primary),
        });
        if undo.is_under_way() {
            self.under_way.push(UnderWay { handle, fault, undo });
        }
        Ok(handle)
    }

    /// Takes a fault back. One that is over already, or was over at once, stays so.
    pub fn end(&mut self, handle: Handle) -> Told {
        let Some(at) = self.under_way.iter().position(|under_way| under_way.handle == handle) else { return Ok(()) };
        let UnderWay { fault, undo, .. } = self.under_way.remove(at);
        self.turned_us = Some(self.now());
        let ended = undo.end(self.world, &fault);
        self.record.faults[handle.0].until_us = Some(self.now());
        self.say(format!("over: {fault}"));
        Ok(ended?)
    }

    /// Takes every fault back, the newest first; goes on after an error and returns the first.
    pub fn end_all(&mut self) -> Told {
        let mut result = Ok(());
        while let Some(last) = self.under_way.last() {
            let handle = last.handle;
            let ended = self.end(handle);
            result = result.and(ended);
        }
        result
    }

    /// What goes on by itself: faults that repeat, and pgvigils that have died and are started again.
    pub fn tick(&mut self) -> Told {
        interrupt::check()?;
        self.world.cluster.tend()?;
        for UnderWay { fault, undo, .. } in &mut self.under_way {
            undo.tick(self.world, fault)?;
        }
        Ok(())
    }

    /// How long a scenario that only waits is to wait: what the user asked for, or this.
    pub fn length(&self, usual: Duration) -> Duration {
        self.asked.unwrap_or(usual)
    }

    /// Lets time pass.
    pub fn pause(&mut self, length: Duration) -> Told {
        let until = Instant::now() + length;
        while Instant::now() < until {
            self.tick()?;
            std::thread::sleep(PACE.min(until.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    /// Asks until there is an answer; `what` is said when there is none within `limit`.
    pub fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut question: impl FnMut(&mut Stage<'a>) -> Result<Option<T>, StoryError>,
    ) -> Result<T, StoryError> {
        let began = Instant::now();
        loop {
            self.tick()?;
            if let Some(answer) = question(self)? {
                return Ok(answer);
            }
            if began.elapsed() > limit {
                let state =
                    self.status().map_or_else(|e| e.to_string(), |s| describe(&s, self.world.cluster.nodes.len()));
                return Err(StoryError::Claim(format!(
                    "waited {limit:?} in vain for {what}; the status then: {state}"
                )));
            }
            std::thread::sleep(PACE);
        }
    }

    /// The status at this moment, from the Raft leader.
    pub fn status(&self) -> Result<Status, StoryError> {
        Ok(self.world.cluster.status()?)
    }

    /// A status that satisfies `good`.
    pub fn until_status(&mut self, what: &str, good: impl Fn(&Status) -> bool) -> Result<Status, StoryError> {
        self.until(what, LIMIT, |stage| match stage.status() {
            Ok(status) if status.from_leader && good(&status) => Ok(Some(status)),
            Ok(_) | Err(StoryError::Cluster(ClusterError::Command { .. })) => Ok(None),
            Err(e) => Err(e),
        })
    }

    /// The member that was last seen as the primary, without asking.
    fn seen_primary(&self) -> String {
        self.watch.seen().epochs.last().map(|epoch| epoch.primary.clone()).unwrap_or_default()
    }

    /// The node of the primary that serves now.
    pub fn primary(&mut self) -> Result<u64, StoryError> {
        let status = self.until_status("an open primary", |status| {
            status.member(&status.primary).is_some_and(|member| member.role == "primary" && member.state == "open")
        })?;
        Ok(self.world.cluster.node_of(&status.primary)?.id)
    }

    /// The nodes other than that one.
    pub fn others(&self, node: u64) -> Vec<u64> {
        self.world.cluster.nodes.iter().map(|node| node.id).filter(|id| *id != node).collect()
    }

    /// The node that leads the Raft group.
    pub fn leader(&mut self) -> Result<u64, StoryError> {
        Ok(self.until_status("a Raft leader", |status| status.leader != 0)?.leader)
    }

    /// The newest epoch.
    pub fn epoch(&mut self) -> Result<u64, StoryError> {
        Ok(self.until_status("a Raft leader", |_| true)?.epoch)
    }

    /// How many operations so far `pick` wants.
    pub fn count(&self, pick: impl Fn(&Operation) -> bool) -> usize {
        self.load.count(pick)
    }

    /// Writes acknowledged so far that began after `from`, by clients that name every host.
    pub fn acknowledged_since(&self, from: u64) -> usize {
        self.count(|op| is_ack(op) && !op.direct && op.began >= from)
    }

    /// Writes acknowledged by that node's server that began between the two moments.
    pub fn acknowledged_by(&self, node: u64, from: u64, until: u64) -> Result<usize, StoryError> {
        let address = self.world.cluster.node(node)?.address();
        let by = |op: &Operation| op.server.as_ref().is_some_and(|server| server.address == address);
        let within = |op: &Operation| op.began >= from && op.began < until;
        Ok(self.count(|op| is_ack(op) && by(op) && within(op)))
    }

    /// Waits until writes over connections made from now on are acknowledged.
    pub fn writes_resume(&mut self) -> Told {
        // On a busy machine a client may be connected anew before a fault's last command has returned.
        let now = self.now();
        let turned = self.turned_us.take().unwrap_or(now);
        self.until("writes over new connections", LIMIT, |stage| {
            let some = stage.count(|op| is_ack(op) && !op.direct && op.connected > turned && op.began > now);
            Ok((some > 10).then_some(()))
        })?;
        self.say("writes have resumed");
        Ok(())
    }

    /// Waits until `more` further writes are acknowledged.
    pub fn writes_go_on(&mut self, more: usize) -> Told {
        let from = self.now();
        self.until(&format!("{more} more acknowledged writes"), LIMIT, |stage| {
            Ok((stage.acknowledged_since(from) >= more).then_some(()))
        })
    }

    /// Takes every fault back and waits for full health: the status says it, and every postmaster does.
    pub fn heal(&mut self) -> Result<Status, StoryError> {
        self.end_all()?;
        let members = self.world.cluster.nodes.len();
        let began = Instant::now();
        loop {
            self.tick()?;
            let ailments = match self.status() {
                Ok(status) => {
                    let mut ailments = status.ailments(members);
                    let mute = self.world.cluster.nodes.iter().filter(|node| !serves(node));
                    ailments.extend(mute.map(|node| format!("PostgreSQL on host {} does not serve", node.id)));
                    if ailments.is_empty() {
                        self.say(format!("in full health, epoch {}, primary {}", status.epoch, status.primary));
                        return Ok(status);
                    }
                    ailments.join("; ")
                }
                Err(StoryError::Cluster(ClusterError::Command { output, .. })) => output,
                Err(e) => return Err(e),
            };
            if began.elapsed() > HEAL_LIMIT {
                return Err(StoryError::Claim(format!("not in full health after {HEAL_LIMIT:?}: {ailments}")));
            }
            std::thread::sleep(PACE * 4);
        }
    }

    /// Something that must hold.
    pub fn demand(&mut self, holds: bool, what: impl Into<String>) -> Told {
        if holds { Ok(()) } else { Err(StoryError::Claim(what.into())) }
    }

    /// The epoch must have risen by so much since it was `before`.
    pub fn demand_epochs(&mut self, before: u64, allowed: std::ops::RangeInclusive<u64>) -> Told {
        let rose = self.epoch()? - before;
        let what = format!("the epoch rose by {rose}, expected {} to {}", allowed.start(), allowed.end());
        self.demand(allowed.contains(&rose), what)
    }

    /// How often another member became primary since the scenario began.
    pub fn changes_of_primary(&self) -> usize {
        let epochs = self.watch.seen().epochs;
        epochs.windows(2).filter(|pair| pair[0].primary != pair[1].primary).count()
    }

    /// A `pgvigil` command that must succeed; what it printed.
    pub fn pgvigil(&mut self, arguments: &[&str]) -> Result<String, StoryError> {
        let printed = self.world.cluster.command(arguments)?;
        self.say(format!("pgvigil {}", arguments.join(" ")));
        Ok(printed)
    }

    /// A `pgvigil` command that must be refused, with that exit code.
    pub fn refused(&mut self, arguments: &[&str], code: i32) -> Told {
        let output = self.world.cluster.run(arguments)?;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
        let what =
            format!("pgvigil {} should end with {code}: {}: {}", arguments.join(" "), output.status, said.trim());
        self.demand(output.status.code() == Some(code), what)?;
        self.say(format!("pgvigil {}: refused: {}", arguments.join(" "), said.trim()));
        Ok(())
    }

    /// Notes something done to the cluster that is none of the faults.
    pub fn note(&mut self, kind: &str, target: &str, may_move: bool) {
        let now = self.now();
        self.say(format!("{kind} ({target})"));
        let (kind, target) = (kind.to_owned(), target.to_owned());
        self.record.faults.push(FaultSpan { kind, target, from_us: now, until_us: Some(now), may_move });
    }

    /// A host is given up and a new one takes its place, as an operator does it: the old node leaves the Raft group and
    /// its member the cluster, the new ones join. Returns the new node.
    pub fn replace(&mut self, node: u64) -> Result<u64, StoryError> {
        let member = self.world.cluster.node(node)?.member.clone();
        self.pgvigil(&["voters", "remove", &node.to_string()])?;
        self.under_way.retain(|under_way| under_way.fault.host() != Some(node));
        self.world.remove_host(node)?;
        self.pgvigil(&["members", "remove", &member, "--no-wait"])?;
        let new = self.world.add_host()?;
        self.note("host replaced", &format!("host {node} by host {new}"), false);
        let address = self.world.cluster.node(new)?.listen.clone();
        self.until("the new node to be taken into the Raft group", LIMIT, |stage| {
            let added = stage.world.cluster.run(&["voters", "add", &new.to_string(), &address])?;
            Ok(added.status.success().then_some(()))
        })?;
        self.until_status("the old member to be gone", |status| status.member(&member).is_none())?;
        Ok(new)
    }

    /// The record with roles and epochs, the load, which goes on, and which servers were promoted by hand, and when.
    pub(super) fn close(self) -> (RunRecord, Load, Vec<(Address, u64)>) {
        let Stage { mut record, load, watch, by_hand, .. } = self;
        record.length_us = load.now_us();
        let seen = watch.seen();
        record.roles = seen.roles;
        record.epochs = seen.epochs;
        (record, load, by_hand)
    }
}

/// A write that was acknowledged.
fn is_ack(operation: &Operation) -> bool {
    operation.outcome == Outcome::Ok && operation.work.writes()
}

/// A status in a line.
pub(super) fn describe(status: &Status, members: usize) -> String {
    format!("{}; {}", status.ailments(members).join("; "), status.findings.join("; "))
}
