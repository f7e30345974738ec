//! Small histories for the tests of the checkers.

use super::{Counts, Findings, Tables, Verdict};
use crate::history::{History, Operation, Outcome, Server, Work};
use crate::libpq::Address;

/// An operation without a server.
pub(super) fn op(began: u64, ended: u64, outcome: Outcome, work: Work) -> Operation {
    Operation { client: 0, direct: false, began, ended, connected: 0, server: None, outcome, why: None, work }
}

/// An acknowledged insert of row `at`, by the server at `host`.
pub(super) fn write_at(at: u64, host: &str, timeline: u32, lsn: u64) -> Operation {
    let mut operation = op(at, at + 5, Outcome::Ok, Work::Insert { seq: at });
    let address = Address { host: host.to_owned(), port: 1 };
    operation.server = Some(Server { address, timeline: Some(timeline), lsn: Some(lsn) });
    operation
}

/// A read that the server at `host` answered.
pub(super) fn read_at(at: u64, host: &str, timeline: u32) -> Operation {
    let mut operation = write_at(at, host, timeline, 1);
    operation.work = Work::Lookup { seq: 1, found: Some(true) };
    operation
}

/// What one checker makes of it.
pub(super) fn judged(
    history: &History,
    end: Tables,
    checker: impl FnOnce(&History, &Tables, &mut Findings),
) -> Verdict {
    let mut findings = Findings::default();
    checker(history, &end, &mut findings);
    findings.into_verdict(Counts::of(history))
}
