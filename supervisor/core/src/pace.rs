//! How often the canary is due.
//!
//! Where PostgreSQL archives by time (`archive_timeout`), every canary makes it archive a segment, day and night. So there
//! the canary rests while nobody else writes, for then nobody waits for an acknowledgement either, and while the lease is
//! renewed, for then the right to serve needs none. It is due again the moment one of these is no longer known. S3's
//! arithmetic does not change: a right counts from a canary's or a heartbeat's beginning (see [`crate::lease`]).

use crate::{settings::Settings, time::Time};

/// So long nobody else must have written before it rests.
pub const ALONE_MS: u64 = 10_000;
/// Between two looks whether it may go on resting.
pub const LOOK_MS: u64 = 100;

/// Whether anybody writes beside the canary, as its transaction ids show: two in a row have two numbers in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Company {
    last: Option<u64>,
    alone_since: Option<Time>,
    waits: bool,
}

impl Company {
    /// A canary that began then committed under that transaction id.
    pub fn committed(&mut self, began: Time, xid: u64) {
        let alone = self.last.is_some_and(|last| last.checked_add(1) == Some(xid));
        self.alone_since = if alone { self.alone_since } else { None }.or(Some(began));
        self.last = Some(xid);
        self.waits = false;
    }

    /// A canary waits: whoever else writes will be known by its transaction id.
    pub const fn waiting(&mut self) {
        self.waits = true;
    }

    /// A canary failed, or another server is asked from now on: nothing is known.
    pub fn unknown(&mut self) {
        *self = Self::default();
    }
}

/// What the newest sample of the server showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writers {
    /// When the sample was begun.
    pub at: Time,
    /// The transaction id after the newest one that has ended.
    pub next_xid: u64,
    /// Transactions under way that have written, the canary's left out.
    pub under_way: u32,
    /// PostgreSQL archives a segment after each `archive_timeout` in which anything was written.
    pub archives_by_time: bool,
}

/// Whether the canary rests at `now`. `settled`: the reign is open and complete, and no rule is being changed.
#[must_use]
pub fn rests(
    company: &Company,
    writers: Option<&Writers>,
    renewed_sent_at: Option<Time>,
    settled: bool,
    settings: &Settings,
    now: Time,
) -> bool {
    let (Some(last), Some(alone_since), Some(writers), Some(renewed)) =
        (company.last, company.alone_since, writers, renewed_sent_at)
    else {
        return false;
    };
    // At the next look half the lease is left for a canary to take its place; the primary begins to stop at a third.
    let renewed = now.since(renewed) <= (settings.lease_ms / 2).saturating_sub(LOOK_MS);
    let sampled = now.since(writers.at) <= 3 * settings.heartbeat_ms;
    let nobody = writers.under_way == 0 && last.checked_add(1) == Some(writers.next_xid);
    settled
        && !company.waits
        && writers.archives_by_time
        && renewed
        && sampled
        && nobody
        && now.since(alone_since) >= ALONE_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lease::Right, reconcile::stop_margins};
    use proptest::prelude::*;

    const NOW: Time = Time(1_000_000);

    fn alone() -> Company {
        let mut company = Company::default();
        company.committed(NOW.minus(ALONE_MS), 6);
        company.committed(NOW.minus(250), 7);
        company
    }

    const fn idle() -> Writers {
        Writers { at: NOW.minus(200), next_xid: 8, under_way: 0, archives_by_time: true }
    }

    fn at(company: &Company, writers: Writers, renewed: Option<Time>, settled: bool, now: Time) -> bool {
        rests(company, Some(&writers), renewed, settled, &Settings::default(), now)
    }

    #[test]
    fn it_rests_while_nobody_writes_and_the_lease_renews() {
        let renewed = Some(NOW.minus(300));
        assert!(at(&alone(), idle(), renewed, true, NOW));
        let busy = [
            Writers { under_way: 1, ..idle() },
            Writers { next_xid: 9, ..idle() },
            Writers { at: NOW.minus(2_000), ..idle() },
            Writers { archives_by_time: false, ..idle() },
        ];
        for writers in busy {
            assert!(!at(&alone(), writers, renewed, true, NOW), "{writers:?}");
        }
        assert!(!at(&alone(), idle(), renewed, false, NOW), "a rule is being changed");
        assert!(!at(&alone(), idle(), None, true, NOW), "no lease");
        assert!(!at(&alone(), idle(), Some(NOW.minus(501)), true, NOW), "a renewal is missing");
        assert!(!rests(&alone(), None, renewed, true, &Settings::default(), NOW));
        let mut company = alone();
        company.waiting();
        assert!(!at(&company, idle(), renewed, true, NOW), "it hangs");
        company.committed(NOW, 8);
        assert!(at(&company, Writers { next_xid: 9, ..idle() }, renewed, true, NOW), "a slow one changes nothing");
        company.unknown();
        assert!(!at(&company, idle(), renewed, true, NOW), "nothing is known of the company");
    }

    #[test]
    fn somebody_elses_commit_begins_the_count_anew() {
        let mut company = alone();
        company.committed(NOW, 9);
        let writers = |now: Time| Writers { at: now, next_xid: 10, ..idle() };
        for (after, rests) in [(ALONE_MS - 1, false), (ALONE_MS, true)] {
            let now = NOW.plus(after);
            assert_eq!(at(&company, writers(now), Some(now), true, now), rests);
        }
    }

    proptest! {
        /// Whatever the settings: when the last renewal is as old as may be, a canary that begins at the next look still
        /// comes before the primary begins to stop. Keeps S3 and spares a healthy primary.
        #[test]
        fn a_canary_comes_in_time_when_renewals_end(
            heartbeat_ms in 50_u64..2_000, lease_ms in 600_u64..20_000, since in 0_u64..20_000,
        ) {
            let settings = Settings { heartbeat_ms, lease_ms, ..Settings::default() };
            let renewed = NOW.minus(since);
            let writers = Writers { at: NOW, ..idle() };
            if rests(&alone(), Some(&writers), Some(renewed), true, &settings, NOW) {
                let right = Right { renewed_sent_at: Some(renewed), canary_began_at: None };
                prop_assert!(right.left(&settings, NOW.plus(LOOK_MS)) > stop_margins(lease_ms).0);
            }
        }
    }
}
