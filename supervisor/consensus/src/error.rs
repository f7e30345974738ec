//! What can go wrong between this process and the group, as a caller needs to know it.

use pgvigil_core::id::NodeId;
use std::time::Duration;

/// Who leads, as far as this node knows: id and address. May be out of date, as all knowledge of a leader may.
pub type KnownLeader = Option<(NodeId, String)>;

/// The node could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings contradict each other or break a bound.
    #[error("raft settings: {0}")]
    Settings(String),
    /// The store is unreadable, newer, damaged or incomplete.
    #[error(transparent)]
    Store(#[from] pgvigil_raft_store::StoreError),
    /// openraft refused to start on the store.
    #[error("raft cannot start: {0}")]
    Raft(String),
}

/// A proposal was not applied, or nobody knows whether it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was written: ask the leader instead.
    #[error("this node does not lead{}", shown(leader))]
    NotLeader {
        /// Whom to ask, if known.
        leader: KnownLeader,
    },
    /// The group did not answer in time.
    #[error("the group did not answer: {reason}{}", if *perhaps_applied { " (the change may yet be applied)" } else { "" })]
    Unavailable {
        /// What was waited for.
        reason: String,
        /// Whether the proposal may still be committed later. Proposals name the revision on which they are based,
        /// so proposing again is harmless.
        perhaps_applied: bool,
    },
    /// This node's Raft is finished; the process must fence and exit.
    #[error("raft has failed: {reason}")]
    Fatal {
        /// Why.
        reason: String,
    },
}

/// A quorum did not confirm this node's leadership. Keeps S5: without the confirmation nothing is told to an agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("leadership is not confirmed: {reason}{}", shown(leader))]
pub struct NotLeader {
    /// Whom to ask instead, if known.
    pub leader: KnownLeader,
    /// Why.
    pub reason: String,
}

/// A change of the group's members failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Only the leader changes members.
    #[error("this node does not lead{}", shown(leader))]
    NotLeader {
        /// Whom to ask, if known.
        leader: KnownLeader,
    },
    /// The rules say no.
    #[error("the members cannot be changed so: {0}")]
    Refused(String),
    /// Not done in time; it may yet happen.
    #[error("{step} took longer than {patience:?}; it may yet happen")]
    Slow {
        /// Which step.
        step: &'static str,
        /// How long was waited.
        patience: Duration,
    },
    /// A peer cannot be believed; see the store's `PeerError`.
    #[error("{0}")]
    Distrusted(String),
    /// This node's Raft is finished.
    #[error("raft has failed: {reason}")]
    Fatal {
        /// Why.
        reason: String,
    },
}

fn shown(leader: &KnownLeader) -> String {
    leader.as_ref().map_or_else(String::new, |(id, address)| format!("; node {id} at {address} is thought to"))
}
