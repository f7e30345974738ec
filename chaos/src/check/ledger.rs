//! The ledger: no acknowledged row is absent, no refused one is there.

use std::collections::HashMap;

use super::{Findings, Kind, Tables};
use crate::history::{History, Outcome, Work};

/// Returns how many inserts of unknown end took effect.
pub(super) fn check(history: &History, end: &Tables, findings: &mut Findings) -> usize {
    let mut present: HashMap<u64, usize> = HashMap::new();
    for seq in &end.ledger {
        *present.entry(*seq).or_default() += 1;
    }
    for (seq, times) in present.iter().filter(|(_, times)| **times > 1) {
        findings.add(Kind::Resurrected, format!("row {seq} of the ledger is there {times} times"));
    }
    let mut unknown_present = 0;
    for operation in &history.operations {
        let Work::Insert { seq } = operation.work else { continue };
        let there = present.remove(&seq).is_some();
        match operation.outcome {
            Outcome::Ok if !there => findings.add(
                Kind::Lost,
                format!("row {seq} of the ledger, acknowledged {}, is absent", super::verdict::told(operation)),
            ),
            Outcome::Fail if there => findings.add(
                Kind::Resurrected,
                format!("row {seq} of the ledger, refused {}, is there", super::verdict::told(operation)),
            ),
            Outcome::Unknown if there => unknown_present += 1,
            _ => {}
        }
    }
    for seq in present.keys() {
        findings.add(
            Kind::Resurrected,
            format!("row {seq} of the ledger is there, and no client is known to have sent it"),
        );
    }
    unknown_present
}

#[cfg(test)]
mod tests {
    use super::super::testing::{judged, op, write_at};
    use super::*;

    fn insert(seq: u64, outcome: Outcome) -> crate::history::Operation {
        op(seq * 10, seq * 10 + 5, outcome, Work::Insert { seq })
    }

    fn history() -> History {
        let operations = vec![
            insert(1, Outcome::Ok),
            insert(2, Outcome::Fail),
            insert(3, Outcome::Unknown),
            insert(4, Outcome::Unknown),
            write_at(90, "b", 1, 1),
        ];
        History { operations }
    }

    fn found(ledger: &[u64]) -> super::super::Verdict {
        judged(&history(), Tables { ledger: ledger.to_vec(), ..Tables::default() }, |h, t, f| {
            check(h, t, f);
        })
    }

    #[test]
    fn acknowledged_rows_and_any_of_the_unknown_ones_are_clean() {
        let mut findings = Findings::default();
        let end = Tables { ledger: vec![1, 3, 90], ..Tables::default() };
        assert_eq!(check(&history(), &end, &mut findings), 1);
        assert!(findings.into_verdict(super::super::Counts::default()).is_clean());
    }

    #[test]
    fn a_lost_row_is_found() {
        assert_eq!(found(&[3, 90]).count(Kind::Lost), 1);
    }

    #[test]
    fn refused_doubled_and_unsent_rows_are_found() {
        assert_eq!(found(&[1, 2, 90]).count(Kind::Resurrected), 1, "refused");
        assert_eq!(found(&[1, 1, 90]).count(Kind::Resurrected), 1, "twice");
        assert_eq!(found(&[1, 77, 90]).count(Kind::Resurrected), 1, "never sent");
    }
}
