//! Which types openraft works with here, and the short names for them.
//!
//! `Proposal` and `Outcome` are wrapped: openraft wants `Display` of a command, and an answer also for entries
//! that carry no command (a new leader's blank entry, a change of the group's members).

use pgvigil_core::{Outcome, Proposal};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One command in the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Command(pub Proposal);

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What became of one log entry: the outcome of its proposal, or nothing where the entry carried none.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reply(pub Option<Outcome>);

openraft::declare_raft_types!(
    /// openraft with pgvigil's types: numbers for nodes, host:port for their addresses, Tokio for tasks.
    pub TypeConfig:
        D = Command,
        R = Reply,
        NodeId = u64,
        Node = openraft::BasicNode,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

/// Position in the log: (term, leading node, index).
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// Whom this node promised to follow, and in which term.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// One log entry.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// The group's members as of one log entry.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot covers.
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
/// A snapshot: what it covers, and its framed bytes.
pub type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Vec<u8>>;
