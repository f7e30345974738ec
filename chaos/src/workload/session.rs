//! One connection of a client, and what the ends of its statements mean.

use std::time::{Duration, Instant};

use crate::history::{Outcome, Server};
use crate::libpq::{Address, Answer, Connection, ExecError};

/// SQLSTATE of a write on a server that only reads.
const READ_ONLY: &str = "25006";
/// Where the server is: the timeline it writes to and its insert position; for RETURNING and SELECT on a primary.
pub(super) const PLACE: &str = "left(pg_walfile_name(pg_current_wal_insert_lsn()), 8), pg_current_wal_insert_lsn()";
/// The first half of it.
pub(super) const TIMELINE: &str = "left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)";
/// The second half.
pub(super) const LSN: &str = "pg_current_wal_insert_lsn()";

/// How a statement outside a transaction block, or a COMMIT, ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct End {
    pub outcome: Outcome,
    /// The error or warning.
    pub why: Option<String>,
    /// Whether the connection may be used again.
    pub go_on: bool,
    /// It is a server that only reads.
    pub read_only: bool,
}

/// What an answer to a statement that commits by itself, or to a COMMIT, counts as.
pub(super) fn judge(end: &Result<Answer, ExecError>) -> End {
    let (outcome, go_on, read_only) = match end {
        Ok(answer) if answer.warnings.is_empty() => (Outcome::Ok, true, false),
        // "canceling wait for synchronous replication": committed locally, replicated or not.
        Ok(_) => (Outcome::Unknown, false, false),
        // A plain error rolls the transaction back. FATAL and PANIC can also strike after the commit.
        Err(ExecError::Server { severity, sqlstate, .. }) if severity == "ERROR" => {
            let read_only = sqlstate == READ_ONLY;
            (Outcome::Fail, !read_only, read_only)
        }
        Err(ExecError::Nul) => unreachable!("statements are made of digits and names of ours"),
        Err(_) => (Outcome::Unknown, false, false),
    };
    let warning = |answer: &Answer| answer.warnings.first().map(|w| format!("{}: {}", w.sqlstate, w.message));
    let why = match end {
        Ok(answer) => warning(answer),
        Err(error) => Some(error.to_string()),
    };
    End { outcome, why, go_on, read_only }
}

/// An error of a statement inside a transaction block whose COMMIT was never sent: nothing of it will ever be there.
#[derive(Debug)]
pub(super) struct Undone {
    pub why: String,
    /// Whether a ROLLBACK makes the connection usable again.
    pub go_on: bool,
}

/// How long to wait for an answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience<'a> {
    /// So long.
    For(Duration),
    /// Until told to stop.
    Until(&'a dyn Stopped),
}

/// Something that can be told to stop.
pub(super) trait Stopped: std::fmt::Debug + Sync {
    fn stopped(&self) -> bool;
}

/// How often a client that waits without a deadline looks whether it is to stop.
const SLICE: Duration = Duration::from_millis(100);

/// One connection of a client.
#[derive(Debug)]
pub(super) struct Session<'a> {
    pub connection: Connection,
    pub address: Address,
    /// When it was established, on the history's clock.
    pub connected: u64,
    pub patience: Patience<'a>,
}

impl Session<'_> {
    /// Sends a statement and waits for its answer.
    pub fn exec(&mut self, sql: &str) -> Result<Answer, ExecError> {
        self.connection.send(sql)?;
        match self.patience {
            Patience::For(limit) => self.connection.receive(Instant::now() + limit),
            Patience::Until(stop) => loop {
                match self.connection.receive(Instant::now() + SLICE) {
                    Err(ExecError::Deadline) if !stop.stopped() => {}
                    end => return end,
                }
            },
        }
    }

    /// A statement inside a transaction block.
    pub fn step(&mut self, sql: &str) -> Result<Answer, Undone> {
        self.exec(sql).map_err(|error| {
            let go_on = matches!(&error, ExecError::Server { severity, .. } if severity == "ERROR");
            Undone { why: error.to_string(), go_on: go_on && self.connection.is_up() }
        })
    }

    /// The server, at the place that a row begins with (see `PLACE`).
    pub fn server(&self, row: Option<&Vec<Option<String>>>) -> Server {
        let cell = |column: usize| row.and_then(|row| row.get(column)?.as_deref());
        let timeline = cell(0).and_then(|text| u32::from_str_radix(text, 16).ok());
        Server { address: self.address.clone(), timeline, lsn: cell(1).and_then(lsn) }
    }
}

/// An LSN in PostgreSQL's notation.
pub(super) fn lsn(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libpq::Notice;

    fn server(severity: &str, sqlstate: &str) -> Result<Answer, ExecError> {
        Err(ExecError::Server { severity: severity.into(), sqlstate: sqlstate.into(), message: String::new() })
    }

    fn judged(end: &Result<Answer, ExecError>) -> (Outcome, bool) {
        let end = judge(end);
        (end.outcome, end.go_on)
    }

    #[test]
    fn a_commit_with_a_warning_is_no_acknowledgement() {
        assert_eq!(judged(&Ok(Answer::default())), (Outcome::Ok, true));
        let notice = Notice { severity: "WARNING".into(), sqlstate: "01000".into(), message: "canceling wait".into() };
        let end = judge(&Ok(Answer { rows: Vec::new(), warnings: vec![notice] }));
        assert_eq!((end.outcome, end.go_on), (Outcome::Unknown, false));
        assert_eq!(end.why.as_deref(), Some("01000: canceling wait"));
    }

    #[test]
    fn only_a_plain_error_is_a_definite_failure() {
        assert_eq!(judged(&server("ERROR", "40001")), (Outcome::Fail, true));
        assert_eq!(judged(&server("ERROR", READ_ONLY)), (Outcome::Fail, false));
        assert!(judge(&server("ERROR", READ_ONLY)).read_only);
        assert_eq!(judged(&server("FATAL", "57P01")), (Outcome::Unknown, false));
        assert_eq!(judged(&server("PANIC", "XX000")), (Outcome::Unknown, false));
        assert_eq!(judged(&Err(ExecError::Lost("reset".into()))), (Outcome::Unknown, false));
        assert_eq!(judged(&Err(ExecError::Deadline)), (Outcome::Unknown, false));
    }

    #[test]
    fn an_lsn_is_read() {
        assert_eq!(lsn("1/A0"), Some(0x1_0000_00A0));
        assert_eq!(lsn("x"), None);
    }
}
