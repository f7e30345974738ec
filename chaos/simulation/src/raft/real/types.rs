//! Which types openraft works with here: the program's, on another runtime. Proposals are shared instead of copied, so that
//! one entry can be told from another of the same text.

use super::runtime::Runtime;
use pgvigil_core::{Outcome, Proposal, State};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// One command in the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Command(pub Arc<Proposal>);

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What became of one entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reply(pub Option<Outcome>);

openraft::declare_raft_types!(
    /// openraft with pgvigil's types in simulated processes.
    pub TypeConfig:
        D = Command,
        R = Reply,
        NodeId = u64,
        Node = openraft::BasicNode,
        AsyncRuntime = Runtime,
);

/// A snapshot's data: the whole state.
pub type Data = Arc<State>;
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub type Snapshot = openraft::alias::SnapshotOf<TypeConfig, Data>;
pub type Openraft = openraft::Raft<TypeConfig, super::machine::Machine>;
