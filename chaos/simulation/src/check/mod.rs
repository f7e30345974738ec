//! What must hold in every history; the first thing that does not ends the run.

mod agreed;
mod durability;
mod liveness;
mod loss;
mod service;

use crate::{
    exec::Micros,
    postgres::wal::{Branch, Point},
};
use pgvigil_core::id::Revision;
use serde::Serialize;
use std::collections::BTreeMap;

/// A property that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Its name: `RPO`, `S1`, `S2`, `S3`, `S4`, `S5`, `invariant`, `agreement`, `raft`, `liveness`.
    pub property: &'static str,
    /// True microseconds.
    pub at: Micros,
    /// What was found.
    pub detail: String,
}

/// What the checkers remember.
#[derive(Debug, Default)]
pub struct Check {
    /// The first violation.
    pub violation: Option<Violation>,
    /// The end of the last acknowledged commit of each branch, by the epoch of its acknowledgement.
    acknowledged: BTreeMap<(Branch, u64), u64>,
    /// From what each primary that was promoted or started began: epoch, host, point.
    begun: Vec<(u64, usize, Point)>,
    /// Who acknowledges in each epoch.
    acknowledges: BTreeMap<u64, usize>,
    /// The newest epoch that was open to clients.
    opened: u64,
    /// Up to this epoch, a forced failover has given up commits.
    forgiven: u64,
    /// What each process of pgvigil has learned: by host, its life and the revision.
    learned: BTreeMap<usize, (u64, Revision)>,
    /// When the rule was first taken out of force by hand, in true microseconds, by the epoch of its primary.
    weakened: BTreeMap<u64, Micros>,
    /// As of when "RPO 0 holds" was said of each reign last.
    held: BTreeMap<u64, Micros>,
    /// Every acknowledgement, kept where people's hands are in the plan: point, epoch, when.
    acknowledgements: Vec<(Point, u64, Micros)>,
    /// Commits that were lost because of that.
    losses: Vec<loss::Loss>,
    /// Acknowledged commits.
    pub commits: u64,
    /// The last acknowledgement to a client: when, in which epoch.
    pub last: (Micros, u64),
    /// Appointments that were promoted or continued.
    pub reigns: u64,
    /// Those that were promoted.
    pub failovers: u64,
}

impl Check {
    fn fail(&mut self, property: &'static str, at: Micros, detail: String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { property, at, detail });
        }
    }
}
