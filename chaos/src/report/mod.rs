//! What a run was and what came of it: the record, and its forms for people and programs.
//!
//! A `Report` is all runs of one call of the suite. `table` is for the terminal, `serde` for programs, `junit` for CI,
//! `html` for a page with plots that needs nothing beside it.

mod html;
mod junit;
mod record;
#[cfg(test)]
mod report_test;
mod summary;
mod svg;
mod table;

use serde::{Deserialize, Serialize};

pub use record::{
    Bar, EpochSpan, FaultSpan, GapRecord, IncidentPhase, IncidentRecord, Rate, RoleSpan, RunRecord, SpanRole,
};
pub use summary::{PHASES, RTO_MS, Summary, phases, rates, summaries};
pub use table::live;

/// All runs of one call of the suite.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was called, for the title.
    pub title: String,
    /// Wall clock at the beginning, milliseconds since 1970.
    pub began_at_ms: u64,
    /// The machine and the programs: processors, kernel, PostgreSQL, pgvigil.
    pub about: Vec<String>,
    /// In the order in which they were run.
    pub runs: Vec<RunRecord>,
}

impl Report {
    /// Whether something was run, every run was good and every bar is met. A run that was left out, with its reason, is
    /// neither good nor bad.
    pub fn is_good(&self) -> bool {
        let mut done = self.runs.iter().filter(|run| run.skipped.is_none()).peekable();
        done.peek().is_some() && done.all(RunRecord::is_good) && summaries(&self.runs).iter().all(Summary::is_good)
    }

    /// The table for the terminal.
    pub fn table(&self) -> String {
        table::table(self)
    }

    /// JUnit XML: one test for each run.
    pub fn junit(&self) -> String {
        junit::junit(self)
    }

    /// A page that needs nothing beside it.
    pub fn html(&self) -> String {
        html::page(self)
    }
}

/// Text that stands for itself in HTML and XML. Control characters, which XML cannot hold, become spaces.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(letter),
            control if control.is_control() => out.push(' '),
            other => out.push(other),
        }
    }
    out
}
