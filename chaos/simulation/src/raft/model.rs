//! A model of the Raft group: an agreed log, leaders with terms, quorum confirmation, delays, partitions.
//!
//! Some three times as fast as openraft in its place. What the rest of the program may assume of Raft is modelled: an entry
//! is agreed once a majority holds it; a leader is elected by a majority, none of which is ahead of it; a deposed leader goes
//! on believing until it hears of a newer term, and may decide, but neither commit nor confirm; an entry that was not agreed
//! in time may still be agreed later, or be overwritten.

use super::{Applied, NotAgreed};
use crate::{
    exec::{Done, Micros},
    world::{Event, World},
};
use pgvigil_core::{Outcome, Proposal, State, apply, trace::Line};
use std::{cell::RefCell, rc::Rc};

/// Between two heartbeats of a leader.
const HEARTBEAT: Micros = 50_000;
/// Silence after which an election is tried: at least, at most.
const ELECTION: (Micros, Micros) = (200_000, 400_000);

/// Something that happens in the group.
#[derive(Clone, Copy, Debug)]
pub enum RaftEvent {
    /// Heartbeats and election time-outs.
    Tick,
    /// A leader of that term hears from those that received its newest entries.
    Advance(usize, u64),
    /// A node learns how far the log is agreed.
    Apply(usize, usize),
}

#[derive(Clone, Debug)]
struct Pending {
    proposal: Option<Rc<Proposal>>,
    outcome: Rc<RefCell<Option<Outcome>>>,
    done: Rc<Done>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    term: u64,
    leads: Option<u64>,
    /// The term in which it committed its first entry as leader.
    ready: Option<u64>,
    /// How much of the agreed log it holds.
    held: usize,
    applied: usize,
    /// Entries that are not agreed.
    tail: Vec<Pending>,
    heard_at: Micros,
    patience: Micros,
    leader: Option<usize>,
}

/// See the module. Nodes are numbered by host; those that are no voters stay empty.
#[derive(Debug)]
pub struct Model {
    nodes: RefCell<Vec<Node>>,
    log: RefCell<Vec<Option<Rc<Applied>>>>,
}

impl Model {
    /// A group that has agreed nothing.
    pub(super) fn new(hosts: usize) -> Self {
        Self {
            nodes: RefCell::new(vec![Node { patience: ELECTION.0, ..Node::default() }; hosts]),
            log: RefCell::new(vec![Some(Applied::of(State::default()))]),
        }
    }

    pub(super) fn state(&self, host: usize) -> Option<Rc<Applied>> {
        let applied = self.nodes.borrow()[host].applied;
        self.log.borrow()[applied].clone()
    }

    pub(super) fn newest(&self) -> Option<Rc<Applied>> {
        self.log.borrow().last().cloned().flatten()
    }

    pub(super) fn leads(&self, host: usize) -> Option<u64> {
        self.nodes.borrow()[host].leads
    }

    pub(super) fn leader_known_to(&self, host: usize) -> Option<usize> {
        self.nodes.borrow()[host].leader
    }

    pub(super) fn caught_up(&self, w: &World, from: usize, entries: u64) -> Vec<usize> {
        let nodes = self.nodes.borrow();
        let held = nodes[from].held;
        w.raft
            .voters
            .iter()
            .copied()
            .filter(|v| {
                (held.saturating_sub(nodes[*v].held) as u64) <= entries && w.hears(*v) && w.reaches_both(from, *v)
            })
            .collect()
    }

    pub(super) fn restarted(&self, w: &World, host: usize) {
        let mut nodes = self.nodes.borrow_mut();
        let node = &mut nodes[host];
        node.leads = None;
        node.leader = None;
        node.heard_at = w.exec.now();
    }

    pub(super) fn begin(w: &World) {
        w.exec.at(w.exec.now(), None, Event::Raft(RaftEvent::Tick));
    }

    /// One event of the group.
    pub(super) fn event(&self, w: &World, event: RaftEvent) {
        match event {
            RaftEvent::Tick => self.tick(w),
            RaftEvent::Advance(leader, term) => self.advance(w, leader, term),
            RaftEvent::Apply(host, index) => {
                let mut nodes = self.nodes.borrow_mut();
                let node = &mut nodes[host];
                let index = index.min(node.held);
                if node.applied < index {
                    node.applied = index;
                    drop(nodes);
                    w.raft.states[host].bump(&w.exec);
                }
            }
        }
    }

    fn tick(&self, w: &World) {
        w.exec.at(w.exec.now() + HEARTBEAT, None, Event::Raft(RaftEvent::Tick));
        let leaders: Vec<(usize, u64)> = {
            let nodes = self.nodes.borrow();
            w.raft.voters.iter().filter_map(|v| nodes[*v].leads.map(|term| (*v, term))).collect()
        };
        for (leader, term) in leaders {
            if w.hears(leader) {
                self.advance(w, leader, term);
            }
        }
        let now = w.exec.now();
        let restless: Vec<usize> = {
            let nodes = self.nodes.borrow();
            let silent = |v: &&usize| nodes[**v].leads.is_none() && now >= nodes[**v].heard_at + nodes[**v].patience;
            w.raft.voters.iter().filter(silent).copied().collect()
        };
        for candidate in restless {
            if w.hears(candidate) {
                self.stand(w, candidate, false);
            }
        }
    }

    /// `candidate` asks for votes; those that heard a leader lately refuse, unless the leader itself hands over.
    fn stand(&self, w: &World, candidate: usize, handed_over: bool) -> bool {
        let now = w.exec.now();
        let mut nodes = self.nodes.borrow_mut();
        nodes[candidate].patience = w.rng.range(ELECTION.0, ELECTION.1);
        nodes[candidate].heard_at = now;
        let held = nodes[candidate].held;
        let votes: Vec<usize> = w
            .raft
            .voters
            .iter()
            .copied()
            .filter(|v| *v == candidate || (w.hears(*v) && w.reaches_both(candidate, *v)))
            .filter(|v| nodes[*v].held <= held)
            .filter(|v| *v == candidate || handed_over || now >= nodes[*v].heard_at + ELECTION.0)
            .collect();
        if votes.len() < w.raft.majority() {
            return false;
        }
        let term = w.raft.voters.iter().map(|v| nodes[*v].term).max().unwrap_or(0) + 1;
        for voter in &votes {
            nodes[*voter].term = term;
            nodes[*voter].heard_at = now;
            if nodes[*voter].leads.take().is_some() {
                w.raft.leadership[*voter].bump(&w.exec);
            }
        }
        let node = &mut nodes[candidate];
        node.leads = Some(term);
        node.leader = Some(candidate);
        // The entry with which a leader begins.
        node.tail.push(Pending { proposal: None, outcome: Rc::default(), done: Done::new() });
        drop(nodes);
        w.raft.elections.set(w.raft.elections.get() + 1);
        w.cover.hit("raft", "leader-elected");
        w.log("raft", || format!("{} leads term {term}", w.member(candidate)));
        w.raft.leadership[candidate].bump(&w.exec);
        self.kick(w, candidate, term);
        true
    }

    fn kick(&self, w: &World, leader: usize, term: u64) {
        let delay = w.latency(leader, (leader + 1) % w.hosts.len()) * 2 + w.disk_delay(leader).min(20_000);
        let process = Some(World::agent_process(leader));
        w.exec.at(w.exec.now() + delay, process, Event::Raft(RaftEvent::Advance(leader, term)));
    }

    /// What a leader's newest entries came to: agreed if a majority holds them.
    fn advance(&self, w: &World, leader: usize, term: u64) {
        if !w.hears(leader) {
            return;
        }
        let now = w.exec.now();
        let mut nodes = self.nodes.borrow_mut();
        if nodes[leader].leads != Some(term) {
            return;
        }
        let tail = nodes[leader].tail.clone();
        let held = nodes[leader].held;
        let mut acknowledged = vec![leader];
        let mut deposed = false;
        let mut told = Vec::new();
        for voter in w.raft.voters.iter().copied().filter(|v| *v != leader) {
            if !w.hears(voter) || !w.reaches(leader, voter) {
                continue;
            }
            let back = w.reaches(voter, leader);
            let node = &mut nodes[voter];
            if node.term > term {
                deposed |= back;
                continue;
            }
            node.term = term;
            node.heard_at = now;
            node.tail.clone_from(&tail);
            // Everything agreed before is sent along; a leader holds all of it.
            node.held = held;
            if node.leads.take().is_some() || node.leader != Some(leader) {
                node.leader = Some(leader);
                told.push(voter);
            }
            if back {
                acknowledged.push(voter);
            }
            if node.applied < held {
                let at = now + w.latency(leader, voter);
                w.exec.at(at, Some(World::agent_process(voter)), Event::Raft(RaftEvent::Apply(voter, held)));
            }
        }
        if deposed {
            nodes[leader].leads = None;
            nodes[leader].leader = None;
            nodes[leader].heard_at = now;
            told.push(leader);
            w.cover.hit("raft", "stale-leader-stood-down");
        }
        let agreed = !deposed && acknowledged.len() >= w.raft.majority() && !tail.is_empty();
        if agreed {
            let upto = self.agree(w, &tail);
            for voter in &acknowledged {
                nodes[*voter].held = upto;
                nodes[*voter].tail.clear();
            }
            nodes[leader].applied = upto;
            nodes[leader].ready = Some(term);
            for voter in acknowledged.iter().copied().filter(|v| *v != leader) {
                // The next message tells them that it is agreed.
                let at = now + 2 * w.latency(leader, voter);
                w.exec.at(at, Some(World::agent_process(voter)), Event::Raft(RaftEvent::Apply(voter, upto)));
            }
        }
        let oldest = w.raft.voters.iter().map(|v| nodes[*v].applied).min().unwrap_or(0);
        drop(nodes);
        self.forget(oldest);
        for host in told {
            w.raft.leadership[host].bump(&w.exec);
        }
        if agreed {
            for pending in &tail {
                pending.done.end(&w.exec);
            }
            w.raft.states[leader].bump(&w.exec);
        }
    }

    /// Applies what was agreed; returns the new length of the log.
    fn agree(&self, w: &World, tail: &[Pending]) -> usize {
        for pending in tail {
            let Some(last) = self.newest() else { break };
            let next = match &pending.proposal {
                None => {
                    *pending.outcome.borrow_mut() = Some(Outcome::Nothing);
                    w.record(|| {
                        let index = self.log.borrow().len() as u64;
                        Line::Entry { index, term: 0, proposal: None }
                    });
                    last
                }
                Some(proposal) => {
                    let mut state = last.state.clone();
                    let outcome = apply(&mut state, proposal);
                    w.record(|| {
                        let index = self.log.borrow().len() as u64;
                        Line::Entry { index, term: 0, proposal: Some(Box::new((**proposal).clone())) }
                    });
                    let next = Applied::of(state);
                    let (before, after) = (last.cluster.as_deref(), next.cluster.as_deref());
                    w.check.borrow_mut().entry(w, proposal, &outcome, before, after);
                    *pending.outcome.borrow_mut() = Some(outcome);
                    next
                }
            };
            self.log.borrow_mut().push(Some(next));
        }
        self.log.borrow().len() - 1
    }

    fn forget(&self, oldest: usize) {
        let mut log = self.log.borrow_mut();
        for place in log.iter_mut().take(oldest).rev() {
            if place.take().is_none() {
                break;
            }
        }
    }

    pub(super) async fn propose(
        &self,
        w: &World,
        host: usize,
        proposal: Proposal,
        limit_ms: u64,
    ) -> Result<Outcome, NotAgreed> {
        let term = self.leads(host).ok_or(NotAgreed)?;
        let outcome: Rc<RefCell<Option<Outcome>>> = Rc::default();
        let done = Done::new();
        let pending =
            Pending { proposal: Some(Rc::new(proposal)), outcome: Rc::clone(&outcome), done: Rc::clone(&done) };
        self.nodes.borrow_mut()[host].tail.push(pending);
        self.kick(w, host, term);
        if w.within(host, limit_ms, w.ended(&done)).await.is_none() {
            w.cover.hit("raft", "not-agreed-in-time");
        }
        let outcome = outcome.borrow().clone();
        outcome.ok_or(NotAgreed)
    }

    pub(super) async fn confirm_leadership(&self, w: &World, host: usize) -> Result<(), NotAgreed> {
        let term = self.leads(host).ok_or(NotAgreed)?;
        loop {
            w.pause(150, 1_500).await;
            let mut confirmed = 1;
            {
                let nodes = self.nodes.borrow();
                if nodes[host].leads != Some(term) {
                    return Err(NotAgreed);
                }
                for voter in w.raft.voters.iter().copied().filter(|v| *v != host) {
                    if w.hears(voter) && w.reaches_both(host, voter) && nodes[voter].term <= term {
                        confirmed += 1;
                    }
                }
                if confirmed >= w.raft.majority() && nodes[host].ready == Some(term) {
                    return Ok(());
                }
            }
            w.cover.hit("raft", "not-confirmed");
            w.pause(20_000, 60_000).await;
        }
    }

    /// The next heartbeats are confirmation enough.
    pub(super) async fn led_since(&self, w: &World, host: usize, limit_ms: u64) -> Result<(), NotAgreed> {
        w.pause(0, HEARTBEAT).await;
        w.within(host, limit_ms, self.confirm_leadership(w, host)).await.unwrap_or(Err(NotAgreed))
    }

    pub(super) fn hand_over(&self, w: &World, from: usize, to: usize) {
        if from != to && w.hears(to) && w.reaches_both(from, to) && self.stand(w, to, true) {
            w.cover.hit("raft", "handed-over");
        }
    }
}
