//! The comparison of the books with the table: nothing acknowledged may be missing, nothing refused may be there.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{LedgerError, Outcome, Shared};
use crate::libpq::{Connection, ExecError};

/// How long reading the table may take.
const READ_LIMIT: Duration = Duration::from_secs(120);

/// What the comparison found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verdict {
    /// Operations acknowledged.
    pub acknowledged: usize,
    /// Numbers of rows that were acknowledged and are absent. Must be empty.
    pub lost: Vec<u64>,
    /// Numbers of rows that are there although the server said they were not written, or that no client ever sent, or
    /// that are there twice. Must be empty.
    pub resurrected: Vec<u64>,
    /// Operations whose end no client can know.
    pub unknown: usize,
    /// How many of these are in the table.
    pub unknown_present: usize,
}

impl Verdict {
    /// Nothing lost, nothing resurrected.
    pub fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.resurrected.is_empty()
    }
}

/// Reads the table on the present primary and compares.
///
/// The books are copied first and the table is read afterwards, so the clients may go on writing meanwhile: whatever is
/// acknowledged in the copy was committed before the table was read.
pub(super) fn check(shared: &Shared) -> Result<Verdict, LedgerError> {
    let what = "read the ledger's table";
    let books = shared.books().clone();
    let deadline = Instant::now() + READ_LIMIT;
    let mut connection =
        Connection::connect(&shared.options.dsn.to_string(), deadline).map_err(|e| LedgerError::Connect(what, e))?;
    let answer = connection
        .exec(&format!("SELECT seq FROM {}", shared.table), deadline)
        .map_err(|e: ExecError| LedgerError::Statement(what, e))?;
    let highest = shared.next_seq.load(std::sync::atomic::Ordering::Acquire);
    let mut present = HashSet::with_capacity(answer.rows.len());
    let mut verdict = Verdict::default();
    for row in answer.rows {
        let number = row.first().and_then(|cell| cell.as_deref()).and_then(|text| text.parse::<u64>().ok());
        let number = number.ok_or(LedgerError::Row(row))?;
        if number == 0 || number >= highest || !present.insert(number) {
            verdict.resurrected.push(number);
        }
    }
    for op in &books {
        let there = present.contains(&op.seq);
        match op.outcome {
            Outcome::Ok => {
                verdict.acknowledged += 1;
                if !there {
                    verdict.lost.push(op.seq);
                }
            }
            Outcome::Fail => {
                if there {
                    verdict.resurrected.push(op.seq);
                }
            }
            Outcome::Unknown => {
                verdict.unknown += 1;
                verdict.unknown_present += usize::from(there);
            }
        }
    }
    Ok(verdict)
}
