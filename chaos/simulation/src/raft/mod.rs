//! The Raft group: openraft itself on simulated disks, network and clocks, or a model of it that is three times as fast.

mod model;
mod real;

use crate::{exec::Watch, world::World};
use model::Model;
use pgvigil_core::{Outcome, Proposal, State, cluster::ClusterState, time::Time};
use real::Real;
use serde::{Deserialize, Serialize};
use std::{cell::Cell, rc::Rc, sync::Arc};

pub use model::RaftEvent;
pub use real::{Entered, settings};

/// What agrees on the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A model of Raft, for many seeds.
    #[default]
    Model,
    /// openraft itself, as the program has it.
    Openraft,
}

/// The state after an entry.
#[derive(Debug)]
pub struct Applied {
    /// Everything.
    pub state: State,
    /// The one cluster, shared with whoever learns it.
    pub cluster: Option<Arc<ClusterState>>,
}

impl Applied {
    fn of(state: State) -> Rc<Self> {
        let cluster = state.clusters.get(&World::cluster()).cloned().map(Arc::new);
        Rc::new(Self { state, cluster })
    }
}

/// Not agreed: no leader here, no quorum in time, or deposed meanwhile. It may still be agreed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAgreed;

/// See the module. Nodes are numbered by host.
#[derive(Debug)]
pub struct Raft {
    /// The voters' hosts.
    pub voters: Vec<usize>,
    /// Moves when a node's applied state does.
    pub states: Vec<Watch>,
    /// Moves when a node's idea of the leader does.
    pub leadership: Vec<Watch>,
    /// How often a leader was elected.
    pub elections: Cell<u64>,
    group: Group,
}

#[derive(Debug)]
enum Group {
    Model(Model),
    Real(Real),
}

impl Raft {
    /// A group that has agreed nothing.
    #[must_use]
    pub fn new(kind: Kind, voters: Vec<usize>, hosts: usize) -> Self {
        Self {
            voters,
            states: (0..hosts).map(|_| Watch::default()).collect(),
            leadership: (0..hosts).map(|_| Watch::default()).collect(),
            elections: Cell::new(0),
            group: match kind {
                Kind::Model => Group::Model(Model::new(hosts)),
                Kind::Openraft => Group::Real(Real::new(hosts)),
            },
        }
    }

    /// Lets the group begin.
    pub fn begin(&self, w: &World) {
        match &self.group {
            Group::Model(_) => Model::begin(w),
            // Each node begins with its process.
            Group::Real(_) => {}
        }
    }

    /// One event of the group.
    pub fn event(&self, w: &World, event: RaftEvent) {
        if let Group::Model(model) = &self.group {
            model.event(w, event);
        }
    }

    /// What `host` has applied.
    #[must_use]
    pub fn state(&self, host: usize) -> Option<Rc<Applied>> {
        match &self.group {
            Group::Model(model) => model.state(host),
            Group::Real(real) => real.state(host),
        }
    }

    /// The newest agreed state, for checkers and operators.
    #[must_use]
    pub fn newest(&self) -> Option<Rc<Applied>> {
        match &self.group {
            Group::Model(model) => model.newest(),
            Group::Real(real) => real.newest(),
        }
    }

    /// The term in which `host` believes to lead.
    #[must_use]
    pub fn leads(&self, host: usize) -> Option<u64> {
        match &self.group {
            Group::Model(model) => model.leads(host),
            Group::Real(real) => real.leads(host),
        }
    }

    /// Whom `host` believes to lead.
    #[must_use]
    pub fn leader_known_to(&self, host: usize) -> Option<usize> {
        match &self.group {
            Group::Model(model) => model.leader_known_to(host),
            Group::Real(real) => real.leader_known_to(host),
        }
    }

    /// The real leader: the one of the newest term.
    #[must_use]
    pub fn leader(&self) -> Option<usize> {
        let of = |host: &usize| self.leads(*host).map(|term| (term, *host));
        self.voters.iter().filter_map(of).max().map(|(_, host)| host)
    }

    /// Voters that lack at most `entries` entries, as a leader sees them.
    #[must_use]
    pub fn caught_up(&self, w: &World, from: usize, entries: u64) -> Vec<usize> {
        match &self.group {
            Group::Model(model) => model.caught_up(w, from, entries),
            Group::Real(real) => real.caught_up(from, entries),
        }
    }

    const fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// A process of pgvigil has begun or ended on `host`: it forgets that it led.
    pub fn restarted(&self, w: &World, host: usize) {
        match &self.group {
            Group::Model(model) => model.restarted(w, host),
            Group::Real(real) => real.restarted(w, host),
        }
        self.leadership[host].bump(&w.exec);
    }

    /// Power is lost on `host`: what Raft's store had not flushed is gone, or a part of it.
    pub fn lose_power(&self, w: &World, host: usize) {
        if let Group::Real(real) = &self.group {
            real.lose_power(w, host);
        }
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

    /// Has `proposal` agreed by the leader on `host`, within `limit_ms`.
    pub async fn propose(&self, host: usize, proposal: Proposal, limit_ms: u64) -> Result<Outcome, NotAgreed> {
        match &self.raft.group {
            Group::Model(model) => model.propose(self, host, proposal, limit_ms).await,
            Group::Real(real) => real.propose(self, host, proposal, limit_ms).await,
        }
    }

    /// A quorum confirms, after this was called, that `host` still leads, and everything agreed before is applied here.
    pub async fn confirm_leadership(&self, host: usize) -> Result<(), NotAgreed> {
        match &self.raft.group {
            Group::Model(model) => model.confirm_leadership(self, host).await,
            Group::Real(real) => real.confirm_leadership(self, host).await,
        }
    }

    /// Within `limit_ms`, a quorum has acknowledged a heartbeat that `host` sent as a leader at `since`, on its own clock, or
    /// later.
    pub async fn led_since(&self, host: usize, since: Time, limit_ms: u64) -> Result<(), NotAgreed> {
        match &self.raft.group {
            Group::Model(model) => model.led_since(self, host, limit_ms).await,
            Group::Real(real) => real.led_since(self, host, since, limit_ms).await,
        }
    }

    /// Hands the leadership over.
    pub fn hand_over(&self, from: usize, to: usize) {
        match &self.raft.group {
            Group::Model(model) => model.hand_over(self, from, to),
            Group::Real(real) => real.hand_over(self, from, to),
        }
    }
}
