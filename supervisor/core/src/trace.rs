//! What a node can tell of its past: its log with what came of it, and from what each decision and act was made.
//!
//! One JSON object a line. `pgvigil log` writes the first kinds from a node's store; a node that runs with `node.journal`
//! writes the others as it goes. `pgvigil-trace` reads all of them and repeats every step with the core (S1 - S5): what a
//! real cluster did is held against what the code that is proven would have done.

use crate::{
    cluster::State,
    command::{Command, Proposal},
    id::{ClusterId, MemberId, NodeId, Revision},
    local::Local,
    observation::Observations,
    reconcile::Action,
    time::Time,
};
use serde::{Deserialize, Serialize};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// Whose log follows.
    Store {
        /// The node.
        node: NodeId,
        /// Its store's random id, in hexadecimal.
        store: String,
    },
    /// The state from which the entries go on, where older ones are purged.
    Base {
        /// Index of the last entry in it.
        index: u64,
        /// The state after that entry.
        state: State,
    },
    /// An entry of the log.
    Entry {
        /// Its place.
        index: u64,
        /// The term of the leader that wrote it.
        term: u64,
        /// What was proposed; `None` for an entry of Raft's own.
        proposal: Option<Box<Proposal>>,
    },
    /// How far the node has applied its log, and to what state. Entries beyond may still be overwritten.
    Applied {
        /// Index of the last applied entry.
        index: u64,
        /// The state after it.
        state: State,
    },
    /// A process began; what it knew before is forgotten.
    Began {
        /// The node.
        node: NodeId,
    },
    /// The leader decided.
    Decided(Box<Decided>),
    /// An agent set about an act.
    Acted(Box<Acted>),
}

/// From what a leader decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decided {
    /// The leader's node.
    pub node: NodeId,
    /// For which cluster.
    pub cluster: ClusterId,
    /// From which agreed state.
    pub revision: Revision,
    /// What it had seen.
    pub seen: Observations,
    /// On its clock.
    pub now: Time,
    /// What it wanted agreed.
    pub command: Command,
}

/// From what an agent acted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Acted {
    /// Of which cluster.
    pub cluster: ClusterId,
    /// Who.
    pub member: MemberId,
    /// From which agreed state.
    pub revision: Revision,
    /// What it knew of itself.
    pub local: Local,
    /// On its clock.
    pub now: Time,
    /// What it did.
    pub action: Action,
}
