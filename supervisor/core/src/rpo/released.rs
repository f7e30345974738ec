//! Commits that people release: a backend that waits for standbys and is cancelled tells its client COMMIT, with a warning.

use crate::lsn::Lsn;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// A commit that waits for standbys: its server process, and when its transaction began, in microseconds of that server's
/// clock, which tells one transaction of a session from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Waiter {
    /// The process.
    pub pid: i32,
    /// When its transaction began.
    pub began_us: i64,
}

/// In so many looks on end, with nothing confirmed between the first and the last, must a commit be seen waiting: one that was
/// confirmed a moment ago may be seen waiting until its process runs.
const LOOKS: u8 = 3;

/// What looks at a primary show of the commits that wait there.
#[derive(Clone, Debug, Default)]
pub struct Releases {
    confirmed: Lsn,
    /// Who waits, and for how many looks since anything was confirmed.
    waiting: BTreeMap<Waiter, u8>,
    /// Gone at the last look.
    gone: BTreeSet<Waiter>,
}

impl Releases {
    /// A look shows who waits, and the farthest that any standby which may confirm has flushed. The answer: those who wait no
    /// more, although nothing was confirmed from long before they were seen gone until after it. Their clients were told
    /// COMMIT, or their sessions have ended.
    pub fn look(&mut self, confirmed: Lsn, waiting: BTreeSet<Waiter>) -> BTreeSet<Waiter> {
        let moved = confirmed > self.confirmed;
        self.confirmed = self.confirmed.max(confirmed);
        let sure = std::mem::take(&mut self.gone);
        let before = std::mem::take(&mut self.waiting);
        let looks = |waiter: &Waiter| if moved { 0 } else { before.get(waiter).copied().unwrap_or(0) };
        self.waiting = waiting.into_iter().map(|waiter| (waiter, looks(&waiter).saturating_add(1))).collect();
        if moved {
            return BTreeSet::new();
        }
        // One look shows the standbys first and then who waits: what was confirmed in between, the next look shows.
        let lasting = before.iter().filter(|(_, looks)| **looks >= LOOKS).map(|(waiter, _)| *waiter);
        self.gone = lasting.filter(|waiter| !self.waiting.contains_key(waiter)).collect();
        sure
    }

    /// It is no primary, or another one: nothing of before counts.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiters(pids: &[i32]) -> BTreeSet<Waiter> {
        pids.iter().map(|pid| Waiter { pid: *pid, began_us: 1 }).collect()
    }

    fn see(releases: &mut Releases, confirmed: u64, pids: &[i32], looks: usize) {
        for _ in 0..looks {
            assert!(releases.look(Lsn(confirmed), waiters(pids)).is_empty());
        }
    }

    #[test]
    fn one_that_waits_no_more_although_nothing_was_confirmed_was_released() {
        let mut releases = Releases::default();
        see(&mut releases, 10, &[1, 2], 4);
        see(&mut releases, 10, &[2], 1);
        assert_eq!(releases.look(Lsn(10), waiters(&[2])), waiters(&[1]), "by two looks");
        see(&mut releases, 10, &[2], 3);
    }

    /// Its next commit waits at once.
    #[test]
    fn a_session_that_goes_on_with_another_transaction_was_released_too() {
        let mut releases = Releases::default();
        let again = BTreeSet::from([Waiter { pid: 1, began_us: 2 }]);
        see(&mut releases, 10, &[1], 4);
        assert!(releases.look(Lsn(10), again.clone()).is_empty());
        assert_eq!(releases.look(Lsn(10), again), waiters(&[1]));
    }

    #[test]
    fn whoever_a_standby_may_have_confirmed_was_not() {
        let mut releases = Releases::default();
        see(&mut releases, 10, &[1], 4);
        see(&mut releases, 10, &[], 1);
        see(&mut releases, 11, &[], 2);
        // A standby that comes back tells of no more than before.
        see(&mut releases, 0, &[3], 4);
        see(&mut releases, 11, &[], 1);
        assert_eq!(releases.look(Lsn(11), waiters(&[])), waiters(&[3]));
    }

    /// Confirmed, and not run yet: its process is seen waiting for a look or two.
    #[test]
    fn one_that_was_seen_waiting_for_a_moment_was_not() {
        let mut releases = Releases::default();
        see(&mut releases, 10, &[1], 2);
        see(&mut releases, 12, &[1, 2], 2);
        see(&mut releases, 12, &[], 4);
    }
}
