//! The clients' own books: which rows were acknowledged. The cluster is judged by them.

use std::collections::BTreeSet;

/// What one client knows of its rows, numbered from 0.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    /// Rows begun.
    next: u64,
    /// Rows begun whose acknowledgement never came, or came with a warning: they may be there or not.
    unanswered: BTreeSet<u64>,
}

/// What the books and the table say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) acknowledged: u64,
    /// Acknowledged rows that are not there.
    pub(super) lost: u64,
    pub(super) unanswered: u64,
    pub(super) unanswered_present: u64,
    /// Which server was read.
    pub(super) read_from: String,
}

impl Book {
    /// Begins a row: unanswered until it is acknowledged.
    pub(super) fn begin(&mut self) -> u64 {
        let row = self.next;
        self.next += 1;
        self.unanswered.insert(row);
        row
    }

    /// The row was acknowledged, without a warning.
    pub(super) fn acknowledge(&mut self, row: u64) {
        self.unanswered.remove(&row);
    }

    /// How many rows were acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        self.next - self.unanswered.len() as u64
    }

    /// Compares with the rows that are there.
    pub(super) fn check(&self, present: &BTreeSet<u64>, verdict: &mut Verdict) {
        let lost = (0..self.next).filter(|row| !self.unanswered.contains(row) && !present.contains(row)).count();
        verdict.acknowledged += self.acknowledged();
        verdict.lost += lost as u64;
        verdict.unanswered += self.unanswered.len() as u64;
        verdict.unanswered_present += self.unanswered.intersection(present).count() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_acknowledged_row_is_lost_and_a_missing_unanswered_one_is_not() {
        let mut book = Book::default();
        for row in 0..5 {
            assert_eq!(book.begin(), row);
        }
        for row in [0, 1, 4] {
            book.acknowledge(row);
        }
        let mut verdict = Verdict::default();
        book.check(&BTreeSet::from([0, 2, 4]), &mut verdict);
        assert_eq!((verdict.acknowledged, verdict.lost), (3, 1));
        assert_eq!((verdict.unanswered, verdict.unanswered_present), (2, 1));
    }
}
