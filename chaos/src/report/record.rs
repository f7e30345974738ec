//! The record of one run, filled by whoever runs a scenario. All times are microseconds since the run began.

use serde::{Deserialize, Serialize};

use crate::check::Verdict;

/// One run of one scenario.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The scenario's name.
    pub scenario: String,
    /// Its number in the list of thirty; `None` for others (storms, soak rounds, planted bugs).
    #[serde(default)]
    pub number: Option<u32>,
    /// One sentence: what happens.
    pub story: String,
    /// The seed of the choices.
    pub seed: u64,
    /// The wall clock at the beginning, milliseconds since 1970: incidents are placed by it.
    pub began_at_ms: u64,
    /// How long it took.
    pub length_us: u64,
    /// Members by name, in the order to be shown.
    pub members: Vec<String>,
    /// What was done to the cluster.
    pub faults: Vec<FaultSpan>,
    /// Which member was seen in which role, when.
    pub roles: Vec<RoleSpan>,
    /// Every epoch seen, in order.
    pub epochs: Vec<EpochSpan>,
    /// Operations by second.
    pub rates: Vec<Rate>,
    /// The stops of writes.
    pub gaps: Vec<GapRecord>,
    /// Changes of primary, as `pgvigil incidents --json` tells them.
    pub incidents: Vec<IncidentRecord>,
    /// What the checkers found.
    pub verdict: Verdict,
    /// The bar of the write gap, if this scenario has one of its own.
    #[serde(default)]
    pub bar: Option<Bar>,
    /// Why the run ended early or the scenario's own demands were not met; empty if neither.
    pub failures: Vec<String>,
    /// Why it was not run at all here.
    #[serde(default)]
    pub skipped: Option<String>,
    /// The command that runs it again.
    pub repeat: String,
    /// Where logs, history and data directories were kept.
    #[serde(default)]
    pub kept: Option<String>,
}

impl RunRecord {
    /// Whether it was run and everything demanded held.
    pub fn is_good(&self) -> bool {
        self.skipped.is_none() && self.failures.is_empty() && self.verdict.is_clean()
    }
}

/// One fault.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FaultSpan {
    /// Its kind, in a word or two (`kill -9 postmaster`, `partition`): counted by it.
    pub kind: String,
    /// What it struck.
    pub target: String,
    /// When it began.
    pub from_us: u64,
    /// When it ended; `None`: it happens at once and nobody takes it back (a kill).
    pub until_us: Option<u64>,
    /// Whether a change of primary is a right answer to it (also a planned one). Epochs that rise without any such
    /// fault are unneeded failovers.
    pub may_move: bool,
}

/// A member's role from some moment on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RoleSpan {
    /// Who.
    pub member: String,
    /// From when.
    pub from_us: u64,
    /// Until when; `None`: until the end of the run.
    pub until_us: Option<u64>,
    /// What it was seen to be.
    pub role: SpanRole,
}

/// What a member was seen to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpanRole {
    /// Primary, open to clients.
    Primary,
    /// Appointed, or primary behind its closed door.
    Appointed,
    /// A streaming standby.
    Standby,
    /// There, but neither: starting, stopped, being made anew.
    Other,
    /// Nobody could say.
    #[default]
    Unseen,
}

/// An epoch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EpochSpan {
    /// Its number.
    pub epoch: u64,
    /// When it was first seen.
    pub from_us: u64,
    /// Its primary, if one was appointed.
    pub primary: String,
}

/// Operations that ended within one second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Seconds since the run began.
    pub second: u32,
    /// Writes acknowledged.
    pub ok: u32,
    /// Writes refused.
    pub fail: u32,
    /// Writes of unknown end.
    pub unknown: u32,
}

/// One stop of writes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GapRecord {
    /// The fault it belongs to: its place in `faults`; `None` for a gap that belongs to none.
    pub fault: Option<usize>,
    /// The client; `None`: over all clients that name every host.
    pub client: Option<u32>,
    /// The last acknowledgement before.
    pub from_us: u64,
    /// The first acknowledgement after; `None`: there was none until the end.
    pub until_us: Option<u64>,
}

impl GapRecord {
    /// Its length in milliseconds; infinite if it never ended.
    pub fn length_ms(&self) -> f64 {
        self.until_us.map_or(f64::INFINITY, |until| until.saturating_sub(self.from_us) as f64 / 1e3)
    }
}

/// A change of primary. The fields are those of `pgvigil incidents --json`; others are ignored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IncidentRecord {
    /// The epoch of its election.
    pub number: u64,
    /// `failover`, `switchover`, …
    pub kind: String,
    /// One sentence.
    pub reason: String,
    /// The primary before.
    pub from: String,
    /// The primary after.
    pub to: String,
    /// `open`, `moved`, `stayed`, `superseded`.
    pub outcome: String,
    /// Recorded as possible data loss.
    pub possible_data_loss: bool,
    /// In order.
    pub phases: Vec<IncidentPhase>,
}

/// A phase of a change of primary.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IncidentPhase {
    /// `noticed`, `begun`, `appointed`, `promoted`, `opened`, `completed`.
    pub name: String,
    /// Wall clock, milliseconds since 1970.
    pub at_ms: u64,
    /// Milliseconds since the first phase.
    pub after_ms: u64,
}

/// The bars of a scenario's write gap, milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Bar {
    /// Of the median over all its runs.
    pub median_ms: f64,
    /// Of every single run.
    pub max_ms: f64,
}
