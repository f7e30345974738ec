//! openraft itself, as the program has it: its settings, its pace, its storage on a disk that loses what was not flushed, its
//! calls on a network that delays, cuts and loses. One openraft per voter, in the simulated process of that host.
//!
//! ```text
//!   propose, confirm, led_since ──► openraft ──► log, machine ──► disk (written | flushed)
//!                                    │   ▲
//!                          network ◄─┘   └── runtime (tasks, clocks and chance of the simulation)
//! ```

mod agreed;
mod disk;
mod log;
mod machine;
mod network;
mod node;
mod options;
mod runtime;
mod types;

use super::{Applied, Group, NotAgreed, Raft};
use crate::world::{W, World};
use agreed::Agreed;
use disk::{Change, Disk};
use openraft::{
    AsyncRuntime, LogIdOptionExt, ReadPolicy,
    async_runtime::WatchReceiver,
    errors::{ClientWriteError, ForwardReason, RaftError},
};
use options::ELECTION_MAX;
use pgvigil_core::{Outcome, Proposal, id::NodeId, time::Time};
use runtime::{HostInstant, Runtime};
use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};
use types::{Command, Openraft};

pub use options::settings;
pub use runtime::Entered;

/// Between two attempts of a leader that waits for its first quorum.
const FRESH_LEADER_RETRY: Duration = Duration::from_millis(2);

/// A node as its process knows it.
#[derive(Default)]
struct Node {
    raft: Option<Openraft>,
    leader: Option<usize>,
    leads: Option<u64>,
    /// When it last took something from a leader that it follows.
    heard: Option<HostInstant>,
    /// What it shows as applied.
    state: Option<Rc<Applied>>,
}

/// See the module.
pub(super) struct Real {
    nodes: RefCell<Vec<Node>>,
    disks: Vec<RefCell<Disk>>,
    agreed: RefCell<Vec<Agreed>>,
}

impl std::fmt::Debug for Real {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Real")
    }
}

impl Raft {
    /// openraft's part of the world; only its own code asks.
    fn real(&self) -> &Real {
        match &self.group {
            Group::Real(real) => real,
            Group::Model(_) => unreachable!("openraft's code runs where openraft runs"),
        }
    }
}

impl Real {
    pub(super) fn new(hosts: usize) -> Self {
        Self {
            nodes: RefCell::new((0..hosts).map(|_| Node::default()).collect()),
            disks: (0..hosts).map(|_| RefCell::default()).collect(),
            agreed: RefCell::default(),
        }
    }

    fn disk(&self, host: usize) -> &RefCell<Disk> {
        &self.disks[host]
    }

    /// Writes to the store of `host`, unflushed.
    fn write(&self, w: &World, host: usize, change: Change) {
        w.log_host(host, || format!("writes {change}"));
        self.disk(host).borrow_mut().write(change);
    }

    fn openraft(&self, host: usize) -> Option<Openraft> {
        self.nodes.borrow()[host].raft.clone()
    }

    fn heard(&self, w: &World, host: usize) {
        self.nodes.borrow_mut()[host].heard = Some(HostInstant(w.clock_micros(host)));
    }

    /// Shows what is applied on `host`.
    fn publish(&self, w: &World, host: usize) {
        let state = self.disk(host).borrow().written.applied.state.clone();
        self.nodes.borrow_mut()[host].state = state;
        w.raft.states[host].bump(&w.exec);
    }

    pub(super) fn state(&self, host: usize) -> Option<Rc<Applied>> {
        self.nodes.borrow()[host].state.clone()
    }

    pub(super) fn leads(&self, host: usize) -> Option<u64> {
        self.nodes.borrow()[host].leads
    }

    pub(super) fn leader_known_to(&self, host: usize) -> Option<usize> {
        self.nodes.borrow()[host].leader
    }

    pub(super) fn caught_up(&self, from: usize, entries: u64) -> Vec<usize> {
        let Some(raft) = self.openraft(from) else { return Vec::new() };
        let metrics = raft.metrics().borrow_watched().clone();
        let lag = |matched: u64| metrics.last_log_index.map_or(0, |last| (last + 1).saturating_sub(matched));
        let followers = metrics.replication.clone().unwrap_or_default().into_iter();
        let close = followers.filter(|(_, matched)| lag(matched.next_index()) <= entries);
        close.map(|(id, _)| World::host_of_node(NodeId(id))).filter(|host| *host != from).collect()
    }

    /// A process has begun on `host`, and opens the store; or it has ended.
    pub(super) fn restarted(&self, w: &World, host: usize) {
        let gone = std::mem::take(&mut self.nodes.borrow_mut()[host]);
        drop(gone);
        if !w.hosts[host].voter || w.hosts[host].agent.borrow().is_none() {
            return;
        }
        self.publish(w, host);
        let world = runtime::world();
        w.exec.spawn(World::agent_process(host), node::run(world, host));
    }

    pub(super) fn lose_power(&self, w: &World, host: usize) {
        self.disk(host).borrow_mut().lose_power(&w.rng);
    }

    pub(super) async fn propose(
        &self,
        w: &World,
        host: usize,
        proposal: Proposal,
        limit_ms: u64,
    ) -> Result<Outcome, NotAgreed> {
        let raft = self.openraft(host).ok_or(NotAgreed)?;
        let command = Command(Arc::new(proposal));
        let attempts = async {
            loop {
                match raft.client_write(command.clone()).await {
                    Ok(written) => return written.data.0.ok_or(NotAgreed),
                    Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))
                        if forward.reason == ForwardReason::LeaseExpired =>
                    {
                        w.cover.hit("raft", "fresh-leader-waited");
                        Runtime::sleep(FRESH_LEADER_RETRY).await;
                    }
                    Err(_) => return Err(NotAgreed),
                }
            }
        };
        let answer = w.within(host, limit_ms, attempts).await;
        if answer.is_none() {
            w.cover.hit("raft", "not-agreed-in-time");
        }
        answer.unwrap_or(Err(NotAgreed))
    }

    pub(super) async fn confirm_leadership(&self, w: &World, host: usize) -> Result<(), NotAgreed> {
        let raft = self.openraft(host).ok_or(NotAgreed)?;
        let reading = raft.ensure_linearizable(ReadPolicy::ReadIndex);
        let read = w.within(host, options::millis(ELECTION_MAX * 2), reading).await;
        if !matches!(read, Some(Ok(_))) {
            w.cover.hit("raft", "not-confirmed");
            return Err(NotAgreed);
        }
        Ok(())
    }

    pub(super) async fn led_since(&self, w: &World, host: usize, since: Time, limit_ms: u64) -> Result<(), NotAgreed> {
        let raft = self.openraft(host).ok_or(NotAgreed)?;
        // Not before the millisecond that is meant.
        let since = HostInstant(since.0 * 1_000 + 999);
        let wait = raft.wait(Some(Duration::from_millis(limit_ms)));
        let led = wait.leader_with_quorum_acked(Some(since), "a quorum").await;
        if led.is_err() {
            w.cover.hit("raft", "not-led-since");
        }
        led.map(drop).map_err(|_| NotAgreed)
    }

    /// The leader on `from` asks whether `to` is there, and lets it stand for election at once.
    pub(super) fn hand_over(&self, w: &World, from: usize, to: usize) {
        let Some(raft) = self.openraft(from).filter(|_| from != to) else { return };
        let world: W = runtime::world();
        w.exec.spawn(World::agent_process(from), async move {
            world.pause(300, 2_000).await;
            if world.hears(to) && world.reaches_both(from, to) && world.raft.leads(from).is_some() {
                world.cover.hit("raft", "handed-over");
                raft.trigger().transfer_leader(World::node(to).0).await.ok();
            }
        });
    }
}
