//! A model of the Raft group: an agreed log, leaders with terms, quorum confirmation, delays, partitions.
//!
//! openraft itself is not run here (its crate `openraft-rt-sim` shows that it could be, at some fifty times the cost).
//! What the rest of the program may assume of it is modelled: an entry is agreed once a majority holds it; a leader is
//! elected by a majority, none of which is ahead of it; a deposed leader goes on believing until it hears of a newer
//! term, and may decide, but neither commit nor confirm; an entry that was not agreed in time may still be agreed later,
//! or be overwritten.

use crate::{
    exec::{Done, Micros, Watch},
    world::{Event, W, World},
};
use pgvigil_core::{Outcome, Proposal, State, apply, cluster::ClusterState, trace::Line};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

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

/// The state after an entry.
#[derive(Debug)]
pub struct Applied {
    /// Everything.
    pub state: State,
    /// The one cluster, shared with whoever learns it.
    pub cluster: Option<Rc<ClusterState>>,
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
pub struct Raft {
    /// The voters' hosts.
    pub voters: Vec<usize>,
    nodes: RefCell<Vec<Node>>,
    log: RefCell<Vec<Option<Rc<Applied>>>>,
    /// Moves when a node's applied state does.
    pub states: Vec<Watch>,
    /// Moves when a node's idea of the leader does.
    pub leadership: Vec<Watch>,
    /// How often a leader was elected.
    pub elections: Cell<u64>,
}

/// Not agreed: no leader here, no quorum in time, or deposed meanwhile. It may still be agreed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAgreed;

impl Raft {
    /// A group that has agreed nothing.
    #[must_use]
    pub fn new(voters: Vec<usize>, hosts: usize) -> Self {
        let first = Rc::new(Applied { state: State::default(), cluster: None });
        Self {
            voters,
            nodes: RefCell::new(vec![Node { patience: ELECTION.0, ..Node::default() }; hosts]),
            log: RefCell::new(vec![Some(first)]),
            states: (0..hosts).map(|_| Watch::default()).collect(),
            leadership: (0..hosts).map(|_| Watch::default()).collect(),
            elections: Cell::new(0),
        }
    }

    /// What `host` has applied.
    #[must_use]
    pub fn state(&self, host: usize) -> Option<Rc<Applied>> {
        let applied = self.nodes.borrow()[host].applied;
        self.log.borrow()[applied].clone()
    }

    /// The newest agreed state, for checkers and operators.
    #[must_use]
    pub fn newest(&self) -> Option<Rc<Applied>> {
        self.log.borrow().last().cloned().flatten()
    }

    /// The term in which `host` believes to lead.
    #[must_use]
    pub fn leads(&self, host: usize) -> Option<u64> {
        self.nodes.borrow()[host].leads
    }

    /// Whom `host` believes to lead.
    #[must_use]
    pub fn leader_known_to(&self, host: usize) -> Option<usize> {
        self.nodes.borrow()[host].leader
    }

    /// The real leader: the one of the newest term.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        let nodes = self.nodes.borrow();
        let of = |host: &usize| nodes[*host].leads.map(|term| (term, *host));
        self.voters.iter().filter_map(of).max().map(|(_, host)| host)
    }

    /// Voters that lack at most a few entries, as a leader sees them.
    #[must_use]
    pub fn caught_up(&self, w: &World, from: usize) -> Vec<usize> {
        let nodes = self.nodes.borrow();
        let held = nodes[from].held;
        self.voters
            .iter()
            .copied()
            .filter(|v| nodes[*v].held + 2 >= held && w.hears(*v) && w.reaches_both(from, *v))
            .collect()
    }

    const fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// A process of pgvigil has begun or ended on `host`: it forgets that it led.
    pub fn restarted(&self, w: &World, host: usize) {
        let mut nodes = self.nodes.borrow_mut();
        let node = &mut nodes[host];
        node.leads = None;
        node.leader = None;
        node.heard_at = w.exec.now();
        drop(nodes);
        self.leadership[host].bump(&w.exec);
    }
}

impl World {
    /// Whether pgvigil on `host` runs and is not frozen.
    #[must_use]
    pub fn hears(&self, host: usize) -> bool {
        self.hosts[host].powered.get()
            && self.hosts[host].agent.borrow().is_some()
            && !self.exec.is_frozen(Self::agent_process(host))
    }

    /// One event of the group.
    pub fn raft_event(&self, event: RaftEvent) {
        match event {
            RaftEvent::Tick => self.raft_tick(),
            RaftEvent::Advance(leader, term) => self.advance(leader, term),
            RaftEvent::Apply(host, index) => {
                let mut nodes = self.raft.nodes.borrow_mut();
                let node = &mut nodes[host];
                let index = index.min(node.held);
                if node.applied < index {
                    node.applied = index;
                    drop(nodes);
                    self.raft.states[host].bump(&self.exec);
                }
            }
        }
    }

    fn raft_tick(&self) {
        self.exec.at(self.exec.now() + HEARTBEAT, None, Event::Raft(RaftEvent::Tick));
        let leaders: Vec<(usize, u64)> = {
            let nodes = self.raft.nodes.borrow();
            self.raft.voters.iter().filter_map(|v| nodes[*v].leads.map(|term| (*v, term))).collect()
        };
        for (leader, term) in leaders {
            if self.hears(leader) {
                self.advance(leader, term);
            }
        }
        let now = self.exec.now();
        let restless: Vec<usize> = {
            let nodes = self.raft.nodes.borrow();
            let silent = |v: &&usize| nodes[**v].leads.is_none() && now >= nodes[**v].heard_at + nodes[**v].patience;
            self.raft.voters.iter().filter(silent).copied().collect()
        };
        for candidate in restless {
            if self.hears(candidate) {
                self.stand(candidate, false);
            }
        }
    }

    /// `candidate` asks for votes; those that heard a leader lately refuse, unless the leader itself hands over.
    fn stand(&self, candidate: usize, handed_over: bool) -> bool {
        let now = self.exec.now();
        let mut nodes = self.raft.nodes.borrow_mut();
        nodes[candidate].patience = self.rng.range(ELECTION.0, ELECTION.1);
        nodes[candidate].heard_at = now;
        let held = nodes[candidate].held;
        let votes: Vec<usize> = self
            .raft
            .voters
            .iter()
            .copied()
            .filter(|v| *v == candidate || (self.hears(*v) && self.reaches_both(candidate, *v)))
            .filter(|v| nodes[*v].held <= held)
            .filter(|v| *v == candidate || handed_over || now >= nodes[*v].heard_at + ELECTION.0)
            .collect();
        if votes.len() < self.raft.majority() {
            return false;
        }
        let term = self.raft.voters.iter().map(|v| nodes[*v].term).max().unwrap_or(0) + 1;
        for voter in &votes {
            nodes[*voter].term = term;
            nodes[*voter].heard_at = now;
            if nodes[*voter].leads.take().is_some() {
                self.raft.leadership[*voter].bump(&self.exec);
            }
        }
        let node = &mut nodes[candidate];
        node.leads = Some(term);
        node.leader = Some(candidate);
        // The entry with which a leader begins.
        node.tail.push(Pending { proposal: None, outcome: Rc::default(), done: Done::new() });
        drop(nodes);
        self.raft.elections.set(self.raft.elections.get() + 1);
        self.cover.hit("raft", "leader-elected");
        self.log("raft", || format!("{} leads term {term}", self.member(candidate)));
        self.raft.leadership[candidate].bump(&self.exec);
        self.kick(candidate, term);
        true
    }

    fn kick(&self, leader: usize, term: u64) {
        let delay = self.latency(leader, (leader + 1) % self.hosts.len()) * 2 + self.disk_delay(leader).min(20_000);
        let process = Some(Self::agent_process(leader));
        self.exec.at(self.exec.now() + delay, process, Event::Raft(RaftEvent::Advance(leader, term)));
    }

    /// What a leader's newest entries came to: agreed if a majority holds them.
    fn advance(&self, leader: usize, term: u64) {
        if !self.hears(leader) {
            return;
        }
        let now = self.exec.now();
        let mut nodes = self.raft.nodes.borrow_mut();
        if nodes[leader].leads != Some(term) {
            return;
        }
        let tail = nodes[leader].tail.clone();
        let held = nodes[leader].held;
        let mut acknowledged = vec![leader];
        let mut deposed = false;
        let mut told = Vec::new();
        for voter in self.raft.voters.iter().copied().filter(|v| *v != leader) {
            if !self.hears(voter) || !self.reaches(leader, voter) {
                continue;
            }
            let back = self.reaches(voter, leader);
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
                let at = now + self.latency(leader, voter);
                self.exec.at(at, Some(Self::agent_process(voter)), Event::Raft(RaftEvent::Apply(voter, held)));
            }
        }
        if deposed {
            nodes[leader].leads = None;
            nodes[leader].leader = None;
            nodes[leader].heard_at = now;
            told.push(leader);
            self.cover.hit("raft", "stale-leader-stood-down");
        }
        let agreed = !deposed && acknowledged.len() >= self.raft.majority() && !tail.is_empty();
        if agreed {
            let upto = self.agree(&tail);
            for voter in &acknowledged {
                nodes[*voter].held = upto;
                nodes[*voter].tail.clear();
            }
            nodes[leader].applied = upto;
            nodes[leader].ready = Some(term);
            for voter in acknowledged.iter().copied().filter(|v| *v != leader) {
                // The next message tells them that it is agreed.
                let at = now + 2 * self.latency(leader, voter);
                self.exec.at(at, Some(Self::agent_process(voter)), Event::Raft(RaftEvent::Apply(voter, upto)));
            }
        }
        let oldest = self.raft.voters.iter().map(|v| nodes[*v].applied).min().unwrap_or(0);
        drop(nodes);
        self.forget(oldest);
        for host in told {
            self.raft.leadership[host].bump(&self.exec);
        }
        if agreed {
            for pending in &tail {
                pending.done.end(&self.exec);
            }
            self.raft.states[leader].bump(&self.exec);
        }
    }

    /// Applies what was agreed; returns the new length of the log.
    fn agree(&self, tail: &[Pending]) -> usize {
        for pending in tail {
            let Some(last) = self.raft.newest() else { break };
            let next = match &pending.proposal {
                None => {
                    *pending.outcome.borrow_mut() = Some(Outcome::Nothing);
                    self.record(|| {
                        let index = self.raft.log.borrow().len() as u64;
                        Line::Entry { index, term: 0, proposal: None }
                    });
                    last
                }
                Some(proposal) => {
                    let mut state = last.state.clone();
                    let outcome = apply(&mut state, proposal);
                    self.record(|| {
                        let index = self.raft.log.borrow().len() as u64;
                        Line::Entry { index, term: 0, proposal: Some(Box::new((**proposal).clone())) }
                    });
                    let cluster = state.clusters.get(&Self::cluster()).cloned().map(Rc::new);
                    self.check.borrow_mut().entry(
                        self,
                        proposal,
                        &outcome,
                        last.cluster.as_deref(),
                        cluster.as_deref(),
                    );
                    *pending.outcome.borrow_mut() = Some(outcome);
                    Rc::new(Applied { state, cluster })
                }
            };
            self.raft.log.borrow_mut().push(Some(next));
        }
        self.raft.log.borrow().len() - 1
    }

    fn forget(&self, oldest: usize) {
        let mut log = self.raft.log.borrow_mut();
        for place in log.iter_mut().take(oldest).rev() {
            if place.take().is_none() {
                break;
            }
        }
    }

    /// Has `proposal` agreed by the leader on `host`, within `limit_ms`.
    pub async fn propose(&self, host: usize, proposal: Proposal, limit_ms: u64) -> Result<Outcome, NotAgreed> {
        let term = self.raft.leads(host).ok_or(NotAgreed)?;
        let outcome: Rc<RefCell<Option<Outcome>>> = Rc::default();
        let done = Done::new();
        let pending =
            Pending { proposal: Some(Rc::new(proposal)), outcome: Rc::clone(&outcome), done: Rc::clone(&done) };
        self.raft.nodes.borrow_mut()[host].tail.push(pending);
        self.kick(host, term);
        if self.within(host, limit_ms, self.ended(&done)).await.is_none() {
            self.cover.hit("raft", "not-agreed-in-time");
        }
        let outcome = outcome.borrow().clone();
        outcome.ok_or(NotAgreed)
    }

    /// A quorum confirms, after this was called, that `host` still leads, and everything agreed before is applied here.
    pub async fn confirm_leadership(&self, host: usize) -> Result<(), NotAgreed> {
        let term = self.raft.leads(host).ok_or(NotAgreed)?;
        loop {
            self.pause(150, 1_500).await;
            let mut confirmed = 1;
            {
                let nodes = self.raft.nodes.borrow();
                if nodes[host].leads != Some(term) {
                    return Err(NotAgreed);
                }
                for voter in self.raft.voters.iter().copied().filter(|v| *v != host) {
                    if self.hears(voter) && self.reaches_both(host, voter) && nodes[voter].term <= term {
                        confirmed += 1;
                    }
                }
                if confirmed >= self.raft.majority() && nodes[host].ready == Some(term) {
                    return Ok(());
                }
            }
            self.cover.hit("raft", "not-confirmed");
            self.pause(20_000, 60_000).await;
        }
    }

    /// Hands the leadership over.
    pub fn hand_over(&self, from: usize, to: usize) {
        if from != to && self.hears(to) && self.reaches_both(from, to) && self.stand(to, true) {
            self.cover.hit("raft", "handed-over");
        }
    }
}

/// Lets the group begin.
pub fn begin(w: &W) {
    w.exec.at(w.exec.now(), None, Event::Raft(RaftEvent::Tick));
}
