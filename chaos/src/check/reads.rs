//! No read through a primary misses what had been acknowledged before it began.

use super::{Findings, Kind, verdict::told};
use crate::history::{History, Work};

pub(super) fn check(history: &History, findings: &mut Findings) {
    // Clients look only for rows that one of them had been told of before; a standby (no timeline) may lag behind.
    for operation in history.acknowledged() {
        if let Work::Lookup { seq, found: Some(false) } = operation.work
            && operation.server.as_ref().is_some_and(|server| server.timeline.is_some())
        {
            findings.add(
                Kind::Vanished,
                format!("row {seq} of the ledger, acknowledged before, was not seen by a read {}", told(operation)),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{judged, read_at};
    use super::super::{Tables, Verdict};
    use super::*;

    fn found(found: Option<bool>, timeline: Option<u32>) -> Verdict {
        let mut read = read_at(10, "a", 1);
        read.work = Work::Lookup { seq: 1, found };
        read.server.as_mut().expect("it has one").timeline = timeline;
        judged(&History { operations: vec![read] }, Tables::default(), |h, _, f| check(h, f))
    }

    #[test]
    fn a_row_that_is_seen_or_a_standby_that_lags_is_clean() {
        assert!(found(Some(true), Some(1)).is_clean());
        assert!(found(Some(false), None).is_clean());
        assert!(found(None, Some(1)).is_clean());
    }

    #[test]
    fn a_primary_that_has_forgotten_is_found() {
        assert_eq!(found(Some(false), Some(1)).count(Kind::Vanished), 1);
    }
}
