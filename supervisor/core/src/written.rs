//! How much WAL others than the agent write, as its canaries measure it: an idle server is known by it.

use crate::lsn::Lsn;

/// More than a canary's commit takes, in bytes.
const CANARY: u64 = 512;

/// What the canaries of one reign have measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where the newest one ends.
    last: Option<Lsn>,
    /// The least that was written from one to the next: what a canary itself takes.
    least: u64,
    others: u64,
}

impl Default for Written {
    fn default() -> Self {
        Self { last: None, least: CANARY, others: 0 }
    }
}

impl Written {
    /// A canary was acknowledged; the last record ends at `end`.
    pub fn note(&mut self, end: Lsn) {
        if let Some(last) = self.last.replace(end) {
            let bytes = end.bytes_since(last);
            self.least = self.least.min(bytes);
            self.others += bytes - self.least;
        }
    }

    /// Bytes that others have written between the canaries; too many rather than too few.
    #[must_use]
    pub const fn by_others(&self) -> u64 {
        self.others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_canary_takes_itself_is_nobody_elses() {
        let mut written = Written::default();
        for end in [1_000, 1_150, 1_300, 1_450] {
            written.note(Lsn(end));
        }
        assert_eq!(written.by_others(), 0);
        written.note(Lsn(10_000));
        assert_eq!(written.by_others(), 10_000 - 1_450 - 150);
    }
}
