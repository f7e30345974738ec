//! What the checkers found.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::history::{History, Outcome};

/// What kind of promise was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An acknowledged commit is absent.
    Lost,
    /// Something refused, or never sent, is there.
    Resurrected,
    /// Two members acknowledged commits on one timeline.
    TwoWriters,
    /// Something was acknowledged on a piece of a timeline that is not in the history of the present one.
    OutsideHistory,
    /// A server of an older epoch served a statement that began after a newer epoch had acknowledged something.
    StaleService,
    /// A read through the primary did not see what had been acknowledged before it began.
    Vanished,
    /// No serial order explains what was seen, at the isolation that one PostgreSQL gives.
    NotSerial,
    /// Money came from nowhere or went there.
    Unbalanced,
    /// An epoch rose although nothing had happened that calls for it.
    UnneededFailover,
    /// The cluster did not come back to full health unaided.
    NotHealed,
}

impl Kind {
    /// The word for tables.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Lost => "lost",
            Kind::Resurrected => "resurrected",
            Kind::TwoWriters => "two writers",
            Kind::OutsideHistory => "outside history",
            Kind::StaleService => "stale service",
            Kind::Vanished => "vanished",
            Kind::NotSerial => "not serial",
            Kind::Unbalanced => "unbalanced",
            Kind::UnneededFailover => "unneeded failover",
            Kind::NotHealed => "not healed",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which.
    pub kind: Kind,
    /// What was seen, in a sentence or two.
    pub text: String,
}

/// How many operations ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Writes acknowledged.
    pub acknowledged: usize,
    /// Writes refused.
    pub failed: usize,
    /// Writes of unknown end.
    pub unknown: usize,
    /// How many of these took effect.
    pub unknown_present: usize,
    /// Reads answered.
    pub reads: usize,
}

impl Counts {
    /// Of a history alone: what unknown writes came to is not known yet.
    pub fn of(history: &History) -> Counts {
        let mut counts = Counts::default();
        for operation in &history.operations {
            match (operation.work.writes(), operation.outcome) {
                (true, Outcome::Ok) => counts.acknowledged += 1,
                (true, Outcome::Fail) => counts.failed += 1,
                (true, Outcome::Unknown) => counts.unknown += 1,
                (false, Outcome::Ok) => counts.reads += 1,
                (false, _) => {}
            }
        }
        counts
    }
}

/// How many violations of one kind are told in words.
const TOLD: usize = 8;
/// How many notes are kept.
const NOTES: usize = 20;

/// What checkers find, while they look.
#[derive(Debug, Default)]
pub struct Findings {
    violations: Vec<Violation>,
    totals: BTreeMap<Kind, usize>,
    notes: Vec<String>,
}

impl Findings {
    /// A broken promise.
    pub fn add(&mut self, kind: Kind, text: impl Into<String>) {
        let total = self.totals.entry(kind).or_default();
        *total += 1;
        if *total <= TOLD {
            self.violations.push(Violation { kind, text: text.into() });
        }
    }

    /// Something worth knowing that is no violation.
    pub fn note(&mut self, text: impl Into<String>) {
        if self.notes.len() < NOTES {
            self.notes.push(text.into());
        }
    }

    /// The verdict they amount to.
    pub fn into_verdict(self, counts: Counts) -> Verdict {
        Verdict { counts, violations: self.violations, totals: self.totals, notes: self.notes }
    }
}

/// What all checkers found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// How many operations ended how.
    pub counts: Counts,
    /// Every broken promise; of many alike only the first ones.
    pub violations: Vec<Violation>,
    /// How many of each kind, those left out above included.
    pub totals: BTreeMap<Kind, usize>,
    /// What was seen and is no violation, such as a cycle that one plain PostgreSQL allows at that level.
    pub notes: Vec<String>,
}

impl Verdict {
    /// Nothing was broken.
    pub fn is_clean(&self) -> bool {
        self.totals.is_empty()
    }

    /// How many violations of that kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        self.totals.get(&kind).copied().unwrap_or(0)
    }
}

/// When and to whom something was said, for a sentence in brackets.
pub(super) fn told(operation: &crate::history::Operation) -> String {
    let at = operation.ended as f64 / 1e6;
    let by = operation.server.as_ref().map_or_else(String::new, |server| format!(" by {}", server.address));
    format!("(to client {} at {at:.3} s{by})", operation.client)
}
