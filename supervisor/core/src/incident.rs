//! The record of a change of primary: reason, evidence, each phase with its time, outcome.

use crate::{
    id::{Epoch, MemberId, Revision},
    time::WallTime,
};
use serde::{Deserialize, Serialize};

/// The steps of a change of primary, in the order in which they usually happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The first sign of trouble that the evidence holds.
    Noticed,
    /// The election was agreed.
    Begun,
    /// Enough members were sealed and a successor was agreed.
    Appointed,
    /// The successor left recovery.
    Promoted,
    /// Its door was opened to clients.
    Opened,
    /// The older rules were closed: k standbys have the new history.
    Completed,
}

impl Phase {
    /// The word for tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Noticed => "noticed",
            Self::Begun => "begun",
            Self::Appointed => "appointed",
            Self::Promoted => "promoted",
            Self::Opened => "opened",
            Self::Completed => "completed",
        }
    }
}

/// When a phase was reached, by the wall clock of the leader that decided it. For people; nothing is decided by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseAt {
    /// Which.
    pub phase: Phase,
    /// When.
    pub at: WallTime,
}

/// How a change of primary ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IncidentOutcome {
    /// Still going on.
    Open,
    /// A new primary serves.
    Moved,
    /// The same member went on as primary.
    Stayed,
    /// Overtaken by a later election.
    Superseded,
}

/// The record of one change of primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// The epoch of its election: its number.
    pub epoch: Epoch,
    /// `failover`, `switchover`, `forced failover`, `renewal`.
    pub kind: String,
    /// One sentence.
    pub reason: String,
    /// What was seen, one line each.
    pub evidence: Vec<String>,
    /// Who decided: a leader's node or an operator.
    pub by: String,
    /// The primary before.
    pub from: Option<MemberId>,
    /// The primary after.
    pub to: Option<MemberId>,
    /// The phases reached so far.
    pub phases: Vec<PhaseAt>,
    /// What else became known: who is missing, WAL discarded, members given up. Bounded.
    pub notes: Vec<String>,
    /// Whether it is not proven that no acknowledged commit was lost; see [`crate::rpo::verdict`]. Never taken back.
    pub possible_data_loss: bool,
    /// How it ended.
    pub outcome: IncidentOutcome,
    /// The revision as which an operator's request for it was agreed.
    #[serde(default)]
    pub request: Option<Revision>,
}

/// How many incidents a cluster keeps, and how many notes an incident.
pub const INCIDENTS_MAX: usize = 200;
/// How many notes an incident keeps.
pub const NOTES_MAX: usize = 40;

impl Incident {
    /// Records a phase, once.
    pub fn reach(&mut self, phase: Phase, at: WallTime) {
        if !self.phases.iter().any(|p| p.phase == phase) {
            self.phases.push(PhaseAt { phase, at });
        }
    }

    /// Adds a note unless the same one stands there already or there are too many.
    pub fn note(&mut self, text: &str) {
        if self.notes.len() < NOTES_MAX && !self.notes.iter().any(|n| n == text) {
            self.notes.push(text.to_owned());
        }
    }
}
