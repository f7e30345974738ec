//! The shipped controller (`pgvigil-controller`) in the simulated world: its ports, and the stream of an agent.

pub mod stream;

use crate::{
    exec::Notify,
    planted::Planted,
    raft::Applied,
    world::{W, World},
};
use pgvigil_controller::{
    leader,
    ports::{Node, NotAgreed, Step, Wakes},
};
use pgvigil_core::{
    Outcome, Proposal, State,
    cluster::ClusterState,
    command::Command,
    decide::{self, Decision},
    id::{ClusterId, NodeId},
    inbox::Inbox,
    observation::Observations,
    reign::FenceDebt,
    rpo,
    time::{Time, WallTime},
    trace::Line,
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    ops::Deref,
    rc::Rc,
    sync::Arc,
    task::Poll,
};

/// How long an entry may take to be agreed, in milliseconds.
const AGREE_MS: u64 = 3_000;

/// What a voter's controller holds in memory.
#[derive(Debug)]
pub struct Controller {
    /// What it has seen.
    pub inbox: RefCell<Inbox>,
    /// Woken by every report.
    pub poke: Notify,
}

/// A voter, for its controller.
#[derive(Clone)]
pub struct Voter {
    w: W,
    host: usize,
    controller: Rc<Controller>,
}

/// The agreed state at one moment.
pub struct Agreed {
    applied: Option<Rc<Applied>>,
    nothing: State,
}

impl Agreed {
    fn of(w: &World, host: usize) -> Self {
        Self { applied: w.raft.state(host), nothing: State::default() }
    }

    /// The one cluster.
    fn cluster(&self) -> Option<Arc<ClusterState>> {
        self.applied.as_ref()?.cluster.clone()
    }
}

impl Deref for Agreed {
    type Target = State;

    fn deref(&self) -> &State {
        self.applied.as_ref().map_or(&self.nothing, |applied| &applied.state)
    }
}

/// Starts the controller of a voter.
pub fn start(w: &W, host: usize) {
    let inbox = RefCell::new(Inbox::new(World::node(host)));
    let controller = Rc::new(Controller { inbox, poke: Notify::default() });
    *w.hosts[host].controller.borrow_mut() = Some(Rc::clone(&controller));
    let voter = Voter { w: Rc::clone(w), host, controller };
    w.exec.spawn(World::agent_process(host), async move { leader::run(&voter).await });
}

impl Node for Voter {
    type Agreed = Agreed;
    type Wakes = Alarm;

    fn me(&self) -> NodeId {
        World::node(self.host)
    }

    fn now(&self) -> Time {
        self.w.now(self.host)
    }

    fn wall(&self) -> WallTime {
        self.w.wall()
    }

    async fn pause(&self, ms: u64) {
        self.w.sleep(self.host, ms).await;
    }

    fn agreed(&self) -> Agreed {
        Agreed::of(&self.w, self.host)
    }

    fn leads(&self) -> Option<u64> {
        let leads = self.w.raft.leads(self.host);
        let listens = self.controller.inbox.borrow().term();
        if leads.is_some() && listens.is_some() && leads != listens {
            self.w.cover.hit("lead", "lost-and-regained");
        }
        leads
    }

    fn elected(&self) -> bool {
        self.w.raft.leads(self.host).is_some()
    }

    async fn propose(&self, proposal: &Proposal) -> Result<Outcome, NotAgreed> {
        let agreed = self.w.propose(self.host, proposal.clone(), AGREE_MS).await;
        agreed.map_err(|_| NotAgreed::Failed("not agreed".to_owned()))
    }

    async fn confirm_leadership(&self) -> Option<u64> {
        self.w.confirm_leadership(self.host).await.ok()?;
        self.w.raft.leads(self.host)
    }

    fn caught_up(&self, entries: u64) -> BTreeSet<NodeId> {
        self.w.raft.caught_up(&self.w, self.host, entries).into_iter().map(World::node).collect()
    }

    fn stores(&self) -> BTreeMap<NodeId, u64> {
        // Stores that are lost and begun anew are not simulated.
        BTreeMap::new()
    }

    async fn transfer_leadership(&self, to: NodeId) -> Result<(), String> {
        self.w.hand_over(self.host, World::host_of_node(to));
        Ok(())
    }

    fn inbox<T>(&self, look: impl FnOnce(&mut Inbox) -> T) -> T {
        look(&mut self.controller.inbox.borrow_mut())
    }

    fn poke(&self) {
        self.controller.poke.notify(&self.w.exec);
    }

    fn show(&self) {}

    fn wakes(&self) -> Alarm {
        Alarm { node: self.clone(), states: u64::MAX, leadership: u64::MAX }
    }

    fn to_create(&self) -> Option<(ClusterId, Command)> {
        let expect = self.w.hosts.iter().map(|host| host.spec.member.clone()).collect();
        let settings = self.w.scenario.settings.clone();
        Some((World::cluster(), Command::CreateCluster { settings, expect }))
    }

    fn fence(&self, _: &ClusterState, _: &[FenceDebt]) {
        // No host has a fence command.
    }

    fn forget_fences(&self) {
        self.w.log_host(self.host, || "begins to listen as leader".to_owned());
    }

    fn judge(&self, agreed: &ClusterState, seen: &Observations, now: Time) -> Decision {
        let decision = match self.w.planted {
            Some(planted) => decide::decide(agreed, &tampered(seen, agreed, planted), now),
            None => decide::decide(agreed, seen, now),
        };
        for finding in &decision.findings {
            self.w.cover.hit("finding", &finding.code);
        }
        let shown = seen.rule_shown.filter(|(epoch, _)| agreed.reign().is_some_and(|reign| reign.epoch == *epoch));
        if let Some((epoch, at)) = shown.filter(|_| rpo::doubts_now(agreed, seen, now, true).is_empty()) {
            let at = self.w.exec.now().saturating_sub(now.since(at) * 1_000);
            self.w.check.borrow_mut().said_to_hold(epoch.0, at);
        }
        decision
    }

    fn record(&self, line: impl FnOnce() -> Line) {
        self.w.record(line);
    }

    async fn step(&self, _: &str, _: Step) {}
}

/// The evidence as a planted bug would have it.
fn tampered(seen: &Observations, cluster: &ClusterState, planted: Planted) -> Observations {
    let mut seen = seen.clone();
    match planted {
        Planted::LeaseIgnored => {
            for debt in &cluster.fence_debts {
                seen.fence_commands_done.insert(debt.primary.member.clone(), debt.epoch);
            }
        }
        Planted::EvidenceNotAgreed => {
            seen.reports.values_mut().for_each(|at| at.report.unproven.clear());
        }
        Planted::FlushNotRemembered => seen.flushed.clear(),
        Planted::PositionsInvented => {
            let seals = seen.reports.values().filter_map(|at| at.report.seal.as_ref());
            let best = seals.map(|seal| seal.seal.position).max();
            for at in seen.reports.values_mut() {
                if let (Some(seal), Some(best)) = (at.report.seal.as_mut(), best) {
                    seal.seal.position = best;
                }
            }
        }
        _ => {}
    }
    seen
}

/// What wakes the leader's loop.
pub struct Alarm {
    node: Voter,
    /// The versions looked at last.
    states: u64,
    leadership: u64,
}

impl Wakes for Alarm {
    async fn wait(&mut self, due: Time, longest_ms: u64) -> Option<Time> {
        let Voter { w, host, controller } = &self.node;
        let (planned, raft) = (due.min(w.now(*host).plus(longest_ms)), &w.raft);
        let at = w.true_time(*host, planned) + w.rng.range(0, 300);
        let mut asked = false;
        poll_fn(|_| {
            let states = raft.states[*host].poll(&w.exec, &mut self.states).is_ready();
            let leadership = raft.leadership[*host].poll(&w.exec, &mut self.leadership).is_ready();
            if states || leadership || controller.poke.poll(&w.exec).is_ready() || w.exec.now() >= at {
                return Poll::Ready(());
            }
            w.ask(at, &mut asked);
            Poll::Pending
        })
        .await;
        Some(planned)
    }
}
