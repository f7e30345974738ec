//! An agent's own book of stretches of time in which commits may have been acknowledged without k standbys: kept until
//! all of it is agreed, also across the agent's and the server's end.

use super::{Cause, DETAIL_MAX, Unproven, UnprovenReport, is_agreed};
use crate::{cluster::ClusterState, id::Epoch, lsn::Lsn, time::Time};
use serde::{Deserialize, Serialize};

/// More stretches than this are not kept apart: the newest of a cause becomes longer instead.
const STRETCHES_MAX: usize = 24;

/// One stretch, on this host's clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// The reign.
    pub epoch: Epoch,
    /// See [`UnprovenReport::id`].
    pub id: u64,
    /// Why.
    pub cause: Cause,
    /// One sentence.
    pub detail: String,
    /// When the opposite was last seen.
    pub began: Time,
    /// When it was seen to be over.
    pub ended: Option<Time>,
}

/// Canaries that give no right yet: one makes the right longer because k standbys of the rule took it after it began, and were
/// not sealed then. An acknowledgement alone shows that only while backends wait, and that no session sees: they go by a flag
/// of the checkpointer, which may lag behind what is shown (history A8), and somebody may have taken the rule out of force.
/// So what standbys have counts, as the next look shows it. Keeps S3 (found by the simulation).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Canaries {
    /// Of which epoch, when it began, the end of its record, and before when it was acknowledged; oldest first.
    acknowledged: Vec<(Epoch, Time, Lsn, Time)>,
    confirmed_at: Option<Time>,
}

impl Canaries {
    /// More than these are not waited for.
    const REMEMBERED: usize = 64;

    /// One of `epoch` that began at `began` and ends at `lsn` was acknowledged before `now`.
    pub fn acknowledged(&mut self, epoch: Epoch, began: Time, lsn: Lsn, now: Time) {
        if self.acknowledged.len() >= Self::REMEMBERED {
            self.acknowledged.remove(0);
        }
        self.acknowledged.push((epoch, began, lsn, now));
    }

    /// A look that began at `at`: where it showed the rule in force, `confirmed` is up to where k standbys of that rule have
    /// WAL. The epoch and beginning of the newest canary that was acknowledged before it and counts by that. Where the rule
    /// was not in force, none counts that was acknowledged so far.
    pub fn looked(&mut self, rule: bool, confirmed: Option<Lsn>, at: Time) -> Option<(Epoch, Time)> {
        if !rule {
            self.acknowledged.clear();
            return None;
        }
        let counts =
            |(_, _, lsn, acknowledged): &(Epoch, Time, Lsn, Time)| *acknowledged <= at && Some(*lsn) <= confirmed;
        let newest =
            self.acknowledged.iter().filter(|canary| counts(canary)).map(|(epoch, began, ..)| (*epoch, *began)).max();
        self.acknowledged.retain(|canary| !counts(canary));
        self.confirmed_at = newest.map(|(_, began)| began).or(self.confirmed_at);
        newest
    }

    /// When the newest one began that counted, whatever the reign.
    #[must_use]
    pub const fn confirmed_at(&self) -> Option<Time> {
        self.confirmed_at
    }
}

/// Whether a copy is known to go on under the name of a standby of the rule: what confirms under that name need not be a
/// member that an election seals. `agreed` is what is agreed of the primary's reign.
#[must_use]
pub fn name_taken(agreed: &[Unproven]) -> bool {
    agreed.iter().any(|known| known.cause == Cause::NameTakenTwice && known.until.is_none())
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Oldest first.
    pub stretches: Vec<Stretch>,
    last_id: u64,
    /// When the newest look began that showed the agreed rule in force and nothing that weakens it.
    shown_at: Option<Time>,
}

impl Ledger {
    /// From what an agent before this one had written down, and the newest id that it gave. What went on then is over for as
    /// long as nobody looked; it begins anew if it is seen anew.
    #[must_use]
    pub fn recovered(mut stretches: Vec<Stretch>, last_id: u64, now: Time) -> Self {
        for stretch in &mut stretches {
            stretch.ended.get_or_insert(now);
        }
        let last_id = stretches.iter().map(|stretch| stretch.id).fold(last_id, u64::max);
        Self { stretches, last_id, shown_at: None }
    }

    /// The newest id that was given, to be kept for the next life: what is agreed already is known by ids.
    #[must_use]
    pub const fn last_id(&self) -> u64 {
        self.last_id
    }

    /// How long ago the look began that showed all to be in order; `None`: not yet, or it is not. In milliseconds.
    #[must_use]
    pub fn shown_ago(&self, now: Time) -> Option<u64> {
        self.shown_at.filter(|_| !self.goes_on()).map(|at| now.since(at))
    }

    /// A look at the primary of `epoch` that began at `began` showed whether the agreed rule is in force, and what lowers
    /// a commit's promise. That a rule is not in force is judged elsewhere: it may be one of our own on its way. `true` if
    /// the stretches have changed.
    pub fn looked(&mut self, epoch: Epoch, rule: bool, lowered: Option<&str>, began: Time, stamp: u64) -> bool {
        let mut changed = match lowered {
            Some(what) => self.begins(epoch, Cause::CommitLowered, what, began, stamp),
            None => self.ends(Cause::CommitLowered, began),
        };
        if rule {
            changed |= self.ends(Cause::RuleNotInForce, began);
            if !self.goes_on() {
                self.shown_at = Some(began);
            }
        }
        changed
    }

    /// Something begins; it had last been seen otherwise when all was seen to be in order, or at `now` if that never was.
    /// `stamp` is a number that rises from one life of this agent to the next (the wall clock). `false` if it goes on
    /// already.
    pub fn begins(&mut self, epoch: Epoch, cause: Cause, detail: &str, now: Time, stamp: u64) -> bool {
        let since = self.shown_at.unwrap_or(now);
        if self.stretches.iter().any(|s| s.cause == cause && s.epoch == epoch && s.ended.is_none()) {
            return false;
        }
        self.last_id = stamp.max(self.last_id + 1);
        let detail: String = detail.chars().take(DETAIL_MAX).collect();
        let full = self.stretches.len() >= STRETCHES_MAX;
        match self.stretches.iter().rposition(|s| s.cause == cause && s.epoch == epoch).filter(|_| full) {
            Some(at) => {
                let stretch = &mut self.stretches[at];
                (stretch.ended, stretch.id, stretch.detail) = (None, self.last_id, detail);
            }
            None => {
                let stretch = Stretch { epoch, id: self.last_id, cause, detail, began: since, ended: None };
                self.stretches.push(stretch);
            }
        }
        true
    }

    /// What went on for this cause is seen to be over. `false` if nothing did.
    pub fn ends(&mut self, cause: Cause, now: Time) -> bool {
        let mut open = self.stretches.iter_mut().filter(|s| s.cause == cause && s.ended.is_none()).peekable();
        let any = open.peek().is_some();
        open.for_each(|stretch| stretch.ended = Some(now));
        any
    }

    /// The server has ended, or is no primary any more: nothing goes on.
    pub fn end_all(&mut self, now: Time) -> bool {
        self.shown_at = None;
        let mut open = self.stretches.iter_mut().filter(|s| s.ended.is_none()).peekable();
        let any = open.peek().is_some();
        open.for_each(|stretch| stretch.ended = Some(now));
        any
    }

    /// Whether anything goes on now.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.stretches.iter().any(|stretch| stretch.ended.is_none())
    }

    /// What is not agreed yet, for the next report.
    #[must_use]
    pub fn reports(&self, agreed: Option<&ClusterState>, now: Time) -> Vec<UnprovenReport> {
        let reports = self.stretches.iter().map(|stretch| UnprovenReport {
            epoch: stretch.epoch,
            id: stretch.id,
            cause: stretch.cause,
            detail: stretch.detail.clone(),
            began_ago_ms: now.since(stretch.began),
            ended_ago_ms: stretch.ended.map(|at| now.since(at)),
        });
        reports.filter(|report| !agreed.is_some_and(|agreed| settled(agreed, report))).collect()
    }

    /// Forgets what is over and agreed. `true` if that was something.
    pub fn forget_agreed(&mut self, agreed: &ClusterState) -> bool {
        let before = self.stretches.len();
        self.stretches.retain(|stretch| {
            let report = UnprovenReport {
                epoch: stretch.epoch,
                id: stretch.id,
                cause: stretch.cause,
                detail: String::new(),
                began_ago_ms: 0,
                ended_ago_ms: stretch.ended.map(|_| 0),
            };
            stretch.ended.is_none() || !settled(agreed, &report)
        });
        self.stretches.len() != before
    }
}

/// It is agreed, or its reign is so long ago that nothing is remembered of it.
fn settled(agreed: &ClusterState, report: &UnprovenReport) -> bool {
    match agreed.reigns.iter().find(|reign| reign.epoch == report.epoch) {
        Some(reign) => is_agreed(&reign.unproven, report),
        None => agreed.reigns.last().is_some_and(|newest| newest.epoch > report.epoch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by the simulation (`--hands`, seed 157): it had waited while nobody could confirm it, was let go when the rule
    /// was taken away, and heard of that only when the rule was back.
    #[test]
    fn a_canary_that_was_under_way_when_the_rule_was_taken_away_gives_no_right() {
        let mut canaries = Canaries::default();
        assert_eq!(canaries.looked(true, Some(Lsn(7)), Time(0)), None);
        assert_eq!(canaries.looked(false, Some(Lsn(7)), Time(100)), None);
        canaries.acknowledged(Epoch(1), Time(50), Lsn(8), Time(120));
        assert_eq!(canaries.looked(true, Some(Lsn(7)), Time(130)), None);
        canaries.acknowledged(Epoch(1), Time(131), Lsn(9), Time(140));
        assert_eq!(canaries.looked(true, Some(Lsn(7)), Time(150)), None);
        assert_eq!(canaries.looked(true, Some(Lsn(9)), Time(200)), Some((Epoch(1), Time(131))), "they took both");
    }

    /// A copy of a standby that is sealed goes on confirming under its name: that makes nobody's right longer.
    #[test]
    fn a_name_that_is_taken_leaves_acknowledgements_without_meaning() {
        let taken = |until| Unproven {
            cause: Cause::NameTakenTwice,
            detail: String::new(),
            from: crate::time::WallTime(1),
            until,
            newest: 1,
            times: 1,
        };
        assert!(!name_taken(&[]));
        assert!(name_taken(&[taken(None)]));
        assert!(!name_taken(&[taken(Some(crate::time::WallTime(2)))]));
    }

    /// The wall clock was put back while no agent ran: what is seen now is not taken for what was agreed before.
    #[test]
    fn ids_rise_from_one_life_to_the_next_whatever_the_clock_says() {
        let mut before = Ledger::default();
        before.begins(Epoch(1), Cause::RuleNotInForce, "by hand", Time(1), 5_000);
        let mut after = Ledger::recovered(Vec::new(), before.last_id(), Time(2));
        after.begins(Epoch(1), Cause::RuleNotInForce, "by hand", Time(3), 4_000);
        assert!(after.stretches[0].id > before.stretches[0].id);
    }

    #[test]
    fn what_goes_on_is_one_stretch_and_what_comes_back_another() {
        let mut ledger = Ledger::default();
        assert!(ledger.begins(Epoch(2), Cause::CommitLowered, "off", Time(10), 7));
        assert!(!ledger.begins(Epoch(2), Cause::CommitLowered, "off", Time(20), 8));
        assert!(ledger.ends(Cause::CommitLowered, Time(30)));
        assert!(!ledger.ends(Cause::CommitLowered, Time(31)));
        assert!(ledger.begins(Epoch(2), Cause::CommitLowered, "local", Time(40), 3));
        let reports = ledger.reports(None, Time(50));
        assert_eq!(
            reports.iter().map(|r| (r.id, r.began_ago_ms, r.ended_ago_ms)).collect::<Vec<_>>(),
            [(7, 40, Some(20)), (8, 10, None)]
        );
    }

    #[test]
    fn a_canary_counts_by_a_look_that_began_after_it_and_shows_that_standbys_have_it() {
        let mut canaries = Canaries::default();
        let all = Some(Lsn(u64::MAX));
        canaries.acknowledged(Epoch(2), Time(100), Lsn(10), Time(110));
        canaries.acknowledged(Epoch(2), Time(200), Lsn(20), Time(210));
        assert_eq!(canaries.looked(true, all, Time(105)), None);
        assert_eq!(canaries.looked(true, None, Time(205)), None, "nobody has it");
        assert_eq!(canaries.looked(true, Some(Lsn(19)), Time(220)), Some((Epoch(2), Time(100))));
        // A change of our own is on its way, or somebody took the rule out of force.
        assert_eq!(canaries.looked(false, all, Time(230)), None);
        assert_eq!(canaries.looked(true, all, Time(240)), None);
        canaries.acknowledged(Epoch(2), Time(310), Lsn(30), Time(320));
        assert_eq!(canaries.looked(true, all, Time(330)), Some((Epoch(2), Time(310))));
    }

    #[test]
    fn a_book_that_is_full_makes_stretches_longer_and_loses_none() {
        let mut ledger = Ledger::default();
        for at in 0..1_000 {
            ledger.begins(Epoch(2), Cause::RuleNotInForce, "x", Time(2 * at), 0);
            ledger.ends(Cause::RuleNotInForce, Time(2 * at + 1));
        }
        assert_eq!(ledger.stretches.len(), STRETCHES_MAX);
        assert_eq!(ledger.stretches.last().unwrap().ended, Some(Time(1_999)));
        assert!(ledger.begins(Epoch(2), Cause::CommitLowered, "off", Time(2_000), 0), "another cause is not lost");
        assert!(ledger.goes_on());
    }
}
