//! The checkers: what a history and the state at its end prove wrong.
//!
//! Each checker is a function of data alone and adds what it finds to a `Findings`. None of them knows how pgvigil
//! works: they know what a client may expect of one PostgreSQL that never fails.

mod bank;
mod failovers;
mod gaps;
mod ledger;
mod reads;
mod serial;
mod service;
#[cfg(test)]
mod testing;
mod verdict;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::history::History;
use crate::report::{EpochSpan, FaultSpan};

pub use gaps::gaps;
pub use verdict::{Counts, Findings, Kind, Verdict, Violation};

/// What there is to compare a history with, once the run is over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Final {
    /// The tables of the workload on the present primary.
    pub tables: Tables,
    /// Every epoch seen while it ran, in order. Empty: not looked at.
    pub epochs: Vec<EpochSpan>,
    /// Every fault that was done.
    pub faults: Vec<FaultSpan>,
    /// Why the cluster did not come back to full health unaided; empty if it did.
    pub unhealed: Vec<String>,
}

/// The tables of the workload at the end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tables {
    /// Numbers of the ledger's rows, as often as they are there.
    pub ledger: Vec<u64>,
    /// The lists.
    pub lists: BTreeMap<u64, Vec<u64>>,
    /// The registers: value and version.
    pub registers: BTreeMap<u64, (u64, u64)>,
    /// The accounts.
    pub accounts: BTreeMap<u64, i64>,
    /// Numbers of the transfers, as often as they are there.
    pub transfers: Vec<u64>,
    /// What each account held at first.
    pub opening_balance: i64,
    /// The timeline that the server they were read from is on.
    pub timeline: u32,
    /// Its history: each older timeline and the LSN at which it was left.
    pub forks: Vec<(u32, u64)>,
}

/// Checks everything there is to check. The history must be complete: its clients have been stopped.
pub fn check(history: &History, end: &Final) -> Verdict {
    let mut findings = Findings::default();
    let present = [
        ledger::check(history, &end.tables, &mut findings),
        bank::check(history, &end.tables, &mut findings),
        serial::check(history, &end.tables, &mut findings),
    ];
    reads::check(history, &mut findings);
    service::check(history, &end.tables, &mut findings);
    failovers::check(&end.epochs, &end.faults, &mut findings);
    for why in &end.unhealed {
        findings.add(Kind::NotHealed, why.clone());
    }
    let counts = Counts { unknown_present: present.iter().sum(), ..Counts::of(history) };
    findings.into_verdict(counts)
}
