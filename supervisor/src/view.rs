//! The status document: what people and programs are told about a cluster. Plain data, made by pure functions from
//! the agreed state and what the leader has seen; nothing is ever decided from it.

mod build;
mod events;
mod member;
mod rpo;

pub use build::{incident_document, status_document};
pub use events::{EventDocument, events_between};

use pgvigil_core::member::Tier;
use serde::{Deserialize, Serialize};

/// The code of the finding that a voter's Raft store was emptied: one voter fewer than people think.
pub const VOTER_EMPTIED: &str = "voter-emptied";

/// How many of the newest incidents a status holds.
pub const INCIDENTS_IN_STATUS: usize = 5;

/// One cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusDocument {
    /// The cluster's name.
    pub cluster: String,
    /// The answering node's wall clock, ms since 1970.
    pub at_ms: u64,
    /// The answering node.
    pub node: u64,
    /// Whether it leads. Otherwise everything that is seen rather than agreed is unknown.
    pub from_leader: bool,
    /// The Raft leader; 0 when none is known.
    pub leader: u64,
    /// Count of agreed changes.
    pub revision: u64,
    /// The newest epoch begun.
    pub epoch: u64,
    /// The timeline of the newest reign.
    pub timeline: u32,
    /// The member appointed last, whether or not it serves; empty before the first reign.
    pub primary: String,
    /// Where the cluster is.
    pub state: ClusterWord,
    /// What is under way and what it waits for; empty when nothing is.
    pub waits_for: String,
    /// By whom and why; empty: not paused.
    pub paused: String,
    /// By name.
    pub members: Vec<MemberDocument>,
    /// The newest durability rule.
    pub rule: Option<RuleDocument>,
    /// Durability and service at this moment.
    pub rpo: RpoDocument,
    /// What an operator asked for and has not begun.
    pub request: String,
    /// The revision as which that was agreed; 0: nothing is asked for.
    pub request_revision: u64,
    /// The revision as which the request that was dropped last had been agreed; 0: none was.
    pub dropped_revision: u64,
    /// Why it was dropped.
    pub dropped_because: String,
    /// Former primaries that are not yet known to serve nobody.
    pub unfenced: Vec<String>,
    /// Problems, and decisions that wait for something.
    pub findings: Vec<String>,
    /// The newest few, newest last.
    pub incidents: Vec<IncidentDocument>,
    /// How many are remembered.
    pub incident_count: u32,
    /// PostgreSQL's; 0 when not yet known.
    pub system_identifier: u64,
}

impl StatusDocument {
    /// The member of that name.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&MemberDocument> {
        self.members.iter().find(|member| member.name == name)
    }
}

/// Where a cluster is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClusterWord {
    /// No primary was ever appointed.
    #[default]
    Forming,
    /// The primary serves, commits go through, every member streams.
    Healthy,
    /// The primary serves, but something is missing.
    Degraded,
    /// Seals are being collected.
    Electing,
    /// The successor is leaving recovery.
    Promoting,
    /// The successor's door is closed until every former primary is fenced.
    Opening,
    /// The successor serves; k standbys do not yet have its history.
    Completing,
    /// No primary serves, and nothing is under way.
    Down,
    /// Not the leader's view: nobody can say.
    Unknown,
}

/// What a member is for the cluster now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It is the primary, or its PostgreSQL still runs as one; its state says whether it serves.
    Primary,
    /// It is appointed and does not yet run as a primary.
    Appointed,
    /// Its PostgreSQL runs as a standby.
    Standby,
    /// Neither, or unknown.
    #[default]
    None,
}

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemberDocument {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub tier: Tier,
    /// Higher is preferred.
    pub priority: u32,
    /// Where its PostgreSQL is reached.
    pub host: String,
    /// PostgreSQL's port.
    pub port: u16,
    /// The pgvigil process beside it.
    pub node: u64,
    /// Which of its data directories counts.
    pub incarnation: u64,
    /// What it is now.
    pub role: Role,
    /// What its PostgreSQL does, in a word or two.
    pub state: String,
    /// Its timeline; 0 when unknown.
    pub timeline: u32,
    /// How far its WAL is flushed; empty when unknown.
    pub flush_lsn: String,
    /// Flushed WAL behind the primary.
    pub flush_lag_bytes: Option<u64>,
    /// Replayed WAL behind the primary.
    pub replay_lag_bytes: Option<u64>,
    /// Whether the newest rule counts it.
    pub in_rule: bool,
    /// Whether it could take over now.
    pub may_take_over: bool,
    /// Why not.
    pub may_not_because: String,
    /// Since its last report.
    pub silent_ms: Option<u64>,
    /// A fresh data directory was asked for.
    pub reinit_requested: bool,
    /// The newest restart asked for.
    pub restart_request: u64,
    /// The newest restart done.
    pub restarted: u64,
    /// It is to leave.
    pub leaving: bool,
    /// What its agent complains of.
    pub problems: Vec<String>,
    /// What its agent is busy with; empty: nothing.
    pub activity: String,
    /// Whether the connection by which the primary streams to it is encrypted; absent when there is none.
    pub encrypted: Option<bool>,
}

/// A durability rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleDocument {
    /// Its reign.
    pub epoch: u64,
    /// Its number within the reign.
    pub version: u64,
    /// How many of the cohort must have flushed.
    pub k: u32,
    /// Who may.
    pub cohort: Vec<String>,
    /// How many rules count in an election; 1 when all is settled.
    pub open_rules: u32,
    /// The change under way; empty: none.
    pub change: String,
}

/// Whether an acknowledged commit can be lost, and whether commits are acknowledged at all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RpoDocument {
    /// No acknowledged commit can be lost by the loss of the primary.
    pub zero: bool,
    /// Otherwise why not.
    pub why_not: Vec<String>,
    /// Commits go through.
    pub writable: bool,
    /// Otherwise why not.
    pub not_writable: Vec<String>,
}

/// A change of primary.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IncidentDocument {
    /// The epoch of its election.
    pub number: u64,
    /// `failover`, `switchover` ...
    pub kind: String,
    /// One sentence.
    pub reason: String,
    /// What was seen.
    pub evidence: Vec<String>,
    /// Who decided.
    pub by: String,
    /// The primary before.
    pub from: String,
    /// The primary after.
    pub to: String,
    /// The phases reached.
    pub phases: Vec<PhaseDocument>,
    /// What else became known.
    pub notes: Vec<String>,
    /// It is not proven that no acknowledged commit was lost.
    pub possible_data_loss: bool,
    /// The verdict in one sentence, with what it follows from.
    #[serde(default)]
    pub loss: String,
    /// `open`, `moved`, `stayed`, `superseded`.
    pub outcome: String,
    /// From the first sign to the open door.
    pub to_open_ms: Option<u64>,
    /// The revision as which an operator asked for it; 0: nobody did.
    pub request_revision: u64,
}

/// A phase of a change of primary.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseDocument {
    /// Its word.
    pub name: String,
    /// The leader's wall clock.
    pub at_ms: u64,
    /// Since the first phase.
    pub after_ms: u64,
}

#[cfg(test)]
#[path = "view/view_test.rs"]
pub(crate) mod tests;
