//! The leader's loop: what is seen, the shipped `decide`, one command at a time. After `supervisor/src/controller`.

pub mod service;

use crate::{
    exec::Notify,
    planted::Planted,
    world::{W, World},
};
use pgvigil_core::{
    Outcome, Proposal,
    cluster::ClusterState,
    command::{Actor, Command},
    decide::{self, Wanted},
    id::{Epoch, NodeId},
    lease,
    listening::{Listening, listening},
    observation::Observations,
    placement,
    report::{LeaderClock, Report},
    time::Time,
    trace::{Decided, Line},
};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

const TICK_MS: u64 = 100;
const HANDOVER_PAUSE_MS: u64 = 5_000;
/// How long an entry may take to be agreed.
pub const AGREE_MS: u64 = 3_000;

/// A voter's controller.
#[derive(Debug, Default)]
pub struct Controller {
    /// Since when it leads and listens, and what it has seen.
    pub inbox: RefCell<Option<Observations>>,
    /// In which of Raft's terms it began to listen.
    pub term: Cell<u64>,
    /// Woken by every report and by every change of state or leadership.
    pub poke: Notify,
}

impl Controller {
    /// Takes in a report; `false` if this node does not listen.
    pub fn receive(&self, w: &World, agreed: Option<&ClusterState>, report: Report, at: Time) -> bool {
        let mut inbox = self.inbox.borrow_mut();
        let Some(seen) = inbox.as_mut() else { return false };
        seen.receive(agreed, report, at);
        drop(inbox);
        self.poke.notify(&w.exec);
        true
    }

    /// This moment, for those who are answered now.
    pub fn clock(&self, at: Time) -> Option<LeaderClock> {
        let inbox = self.inbox.borrow();
        let seen = inbox.as_ref()?;
        Some(LeaderClock { node: seen.me, since: seen.since, at })
    }

    /// When the rule was last shown in force, before `at`.
    pub fn rule_shown(&self, at: Time) -> Option<(Epoch, u64)> {
        let (epoch, shown) = self.inbox.borrow().as_ref()?.rule_shown?;
        Some((epoch, at.since(shown)))
    }

    /// Whether the heartbeat in `report`, received at `at`, renews the lease; if so it is remembered before anybody is
    /// told. Keeps S3.
    pub fn renew(&self, agreed: &ClusterState, report: &Report, at: Time) -> bool {
        let mut inbox = self.inbox.borrow_mut();
        let Some(seen) = inbox.as_mut() else { return false };
        if !lease::may_renew(agreed, report) {
            return false;
        }
        let Some(reign) = agreed.reign() else { return false };
        let newest = seen.last_renewal.entry(reign.epoch).or_insert(at);
        *newest = (*newest).max(at);
        true
    }
}

/// Starts the controller of a voter.
pub fn start(w: &W, host: usize) {
    let controller = Rc::new(Controller::default());
    *w.hosts[host].controller.borrow_mut() = Some(Rc::clone(&controller));
    let process = World::agent_process(host);
    w.exec.spawn(process, run(Rc::clone(w), host, Rc::clone(&controller)));
    for leadership in [false, true] {
        let (w, controller) = (Rc::clone(w), Rc::clone(&controller));
        let at = Rc::clone(&w);
        at.exec.spawn(process, async move {
            let mut seen = u64::MAX;
            loop {
                let watch = if leadership { &w.raft.leadership[host] } else { &w.raft.states[host] };
                w.changed(watch, &mut seen).await;
                controller.poke.notify(&w.exec);
            }
        });
    }
}

#[derive(Default)]
struct Starvation {
    ms: u64,
    until: Time,
    deaf_until: Time,
}

impl Starvation {
    const STRETCH_MAX_MS: u64 = 500;

    fn note(&mut self, late_ms: u64, now: Time) {
        if late_ms > Self::STRETCH_MAX_MS {
            self.deaf_until = now;
        } else if late_ms > TICK_MS / 2 && late_ms >= self.ms {
            self.ms = late_ms;
            self.until = now.plus(10 * late_ms);
        } else if now >= self.until {
            self.ms = 0;
        }
    }
}

async fn run(w: W, host: usize, controller: Rc<Controller>) {
    let mut wake_at = w.now(host);
    let mut starved = Starvation::default();
    let mut handover_after = Time(0);
    loop {
        let planned = wake_at.min(w.now(host).plus(TICK_MS));
        let by_timer = w.until_or_told(host, planned, &controller.poke).await;
        let now = w.now(host);
        starved.note(if by_timer { now.since(planned) } else { 0 }, now);
        if !lead(&w, host, &controller).await {
            wake_at = now.plus(TICK_MS);
            continue;
        }
        wake_at = decide_all(&w, host, &controller, &starved).await;
        if now >= handover_after && hand_over(&w, host, &controller) {
            handover_after = w.now(host).plus(HANDOVER_PAUSE_MS);
        }
    }
}

/// Whether this node leads; begins and ends listening.
async fn lead(w: &W, host: usize, controller: &Controller) -> bool {
    let listens = controller.inbox.borrow().is_some();
    match listening(w.raft.leads(host), listens.then(|| controller.term.get())) {
        Listening::GoesOn => true,
        Listening::Begins(term) => {
            *controller.inbox.borrow_mut() = None;
            if listens {
                w.cover.hit("lead", "lost-and-regained");
            }
            let since = w.now(host);
            if w.confirm_leadership(host).await.is_err() || w.raft.leads(host) != Some(term) {
                return false;
            }
            controller.term.set(term);
            *controller.inbox.borrow_mut() = Some(Observations::new(World::node(host), since));
            w.log_host(host, || "begins to listen as leader".to_owned());
            true
        }
        Listening::Not => {
            *controller.inbox.borrow_mut() = None;
            false
        }
    }
}

async fn decide_all(w: &W, host: usize, controller: &Controller, starved: &Starvation) -> Time {
    let mut wake_at = w.now(host).plus(TICK_MS);
    let Some(cluster) = w.raft.state(host).and_then(|applied| applied.cluster.clone()) else {
        create(w, host).await;
        return w.now(host);
    };
    let now = w.now(host);
    let decision = {
        let mut inbox = controller.inbox.borrow_mut();
        let Some(seen) = inbox.as_mut() else { return wake_at };
        seen.wall = w.wall();
        seen.starved_ms = starved.ms;
        seen.deaf_until = starved.deaf_until;
        seen.notice(&cluster, now);
        let decision = match w.planted {
            Some(planted) => decide::decide(&cluster, &tampered(seen, &cluster, planted), now),
            None => decide::decide(&cluster, seen, now),
        };
        if let Some(wanted) = &decision.command {
            w.record(|| {
                Line::Decided(Box::new(Decided {
                    node: World::node(host),
                    cluster: cluster.id.clone(),
                    revision: cluster.revision,
                    seen: seen.clone(),
                    now,
                    command: wanted.command.clone(),
                }))
            });
            seen.appointing(&wanted.command);
        }
        decision
    };
    for finding in &decision.findings {
        w.cover.hit("finding", &finding.code);
    }
    if let Some(at) = decision.wake_at {
        wake_at = wake_at.min(at);
    }
    if let Some(wanted) = decision.command
        && agree(w, host, &cluster, wanted).await
    {
        wake_at = w.now(host);
    }
    wake_at
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

/// Has a decision agreed; `true` if the state has moved.
async fn agree(w: &W, host: usize, cluster: &ClusterState, wanted: Wanted) -> bool {
    let proposal = Proposal {
        cluster: cluster.id.clone(),
        based_on: Some(cluster.revision),
        at: w.wall(),
        by: Actor::Controller(World::node(host)),
        reason: wanted.reason,
        evidence: wanted.evidence,
        command: wanted.command,
    };
    matches!(w.propose(host, proposal, AGREE_MS).await, Ok(Outcome::Agreed { .. }))
}

async fn create(w: &W, host: usize) {
    let proposal = Proposal {
        cluster: World::cluster(),
        based_on: None,
        at: w.wall(),
        by: Actor::Controller(World::node(host)),
        reason: "the configuration asks for it".to_owned(),
        evidence: Vec::new(),
        command: Command::CreateCluster {
            settings: w.scenario.settings.clone(),
            expect: w.hosts.iter().map(|host| host.spec.member.clone()).collect(),
        },
    };
    if w.propose(host, proposal, AGREE_MS).await.is_err() {
        w.sleep(host, TICK_MS).await;
    }
}

/// Moves the leadership off the primary's host in quiet times. `true` if it was tried.
fn hand_over(w: &W, host: usize, controller: &Controller) -> bool {
    let Some(applied) = w.raft.state(host) else { return false };
    let Some(seen) = controller.inbox.borrow().clone() else { return false };
    let caught_up: BTreeSet<NodeId> = w.raft.caught_up(w, host).into_iter().map(World::node).collect();
    let all = BTreeMap::from([(World::cluster(), seen)]);
    let me = World::node(host);
    let Some(to) = placement::better_leader(&applied.state, &all, me, &caught_up, w.now(host)) else { return false };
    w.hand_over(host, World::host_of_node(to));
    true
}
