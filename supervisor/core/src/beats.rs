//! Heartbeats as an agent sends them on one stream to the leader: when the next one is due, which of them an answer renews
//! the lease for, and when a silent leader is left. Pure: the caller reads the clock and has the stream.

use crate::{
    cluster::ClusterState,
    id::Epoch,
    keeper::Renewal,
    report::{Answer, LeaderClock, PostgresReport, Report, ShownToLeader},
    time::Time,
};
use std::collections::VecDeque;

/// Between two heartbeats while nothing agreed is known, in milliseconds.
const FIRST_MS: u64 = 250;
/// Heartbeats whose sending is remembered, for the answer that renews the lease as of it.
const REMEMBERED: usize = 64;
/// A leader that does not answer for this many intervals is left.
const PATIENCE: u64 = 4;

/// The interval between heartbeats, in milliseconds.
#[must_use]
pub fn interval_ms(agreed: Option<&ClusterState>) -> u64 {
    agreed.map_or(FIRST_MS, |agreed| agreed.settings.heartbeat_ms)
}

/// What an answer says, beside the agreed state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The lease is renewed as of the sending of this heartbeat.
    pub renewed: Option<u64>,
    /// When this leader has seen the rule in force last.
    pub shown: Option<ShownToLeader>,
    /// The primary's agent is late.
    pub primary_late: Option<bool>,
    /// When the answer was sent.
    pub clock: Option<LeaderClock>,
}

impl From<&Answer> for Said {
    fn from(answer: &Answer) -> Self {
        Self { renewed: answer.renewed, shown: answer.shown, primary_late: answer.primary_late, clock: answer.clock }
    }
}

/// What the leaders heard last have said, each with its time on this host's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leader {
    /// The newest clock that came with an answer, and when it came.
    pub clock: Option<(LeaderClock, Time)>,
    /// When the leader had seen the rule of that reign in force, or earlier.
    pub shown: Option<(Epoch, Time)>,
    /// Whether the leader misses heartbeats of the primary's agent, and when it said so.
    pub primary_late: Option<(bool, Time)>,
}

/// A heartbeat that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Beat {
    seq: u64,
    /// Before it was made.
    at: Time,
    /// The epoch as whose primary it spoke.
    reigning: Option<Epoch>,
}

/// The heartbeats of one stream.
#[derive(Clone, Debug)]
pub struct Beats {
    seq: u64,
    sent: VecDeque<Beat>,
    heard_at: Time,
}

impl Beats {
    /// A stream that is opened at `now`.
    #[must_use]
    pub const fn new(now: Time) -> Self {
        Self { seq: 0, sent: VecDeque::new(), heard_at: now }
    }

    /// The next heartbeat, which `make` makes under its number; to be sent at once. `now` was read before: the holder
    /// counts its lease from before the sending. Keeps S3. `None`: there is nothing to report yet.
    pub fn next(&mut self, now: Time, make: impl FnOnce(u64) -> Option<Report>) -> Option<Report> {
        self.seq += 1;
        let report = make(self.seq);
        let reigning = report.as_ref().and_then(|report| match &report.postgres {
            PostgresReport::Primary(primary) => Some(primary.epoch),
            _ => None,
        });
        self.sent.push_back(Beat { seq: self.seq, at: now, reigning });
        if self.sent.len() > REMEMBERED {
            self.sent.pop_front();
        }
        report
    }

    /// When the next heartbeat is due: an interval after the last one, not after the last answer.
    #[must_use]
    pub fn due(&self, interval_ms: u64) -> Time {
        self.sent.back().map_or(Time(0), |beat| beat.at).plus(interval_ms)
    }

    /// The leader has answered the stream's opening.
    pub const fn opened(&mut self, now: Time) {
        self.heard_at = now;
    }

    /// An answer has come in at `now`: what makes the right longer.
    pub fn heard(&mut self, said: Said, leader: &mut Leader, now: Time) -> Option<Renewal> {
        self.heard_at = now;
        if let Some(late) = said.primary_late {
            leader.primary_late = Some((late, now));
        }
        if let Some(clock) = said.clock {
            leader.clock = Some((clock, now));
        }
        if let Some((shown, beat)) = said.shown.and_then(|shown| Some((shown, self.beat(shown.seq)?))) {
            // It was so long before the heartbeat came in, which was no earlier than it was sent.
            leader.shown = Some((shown.epoch, beat.at.minus(shown.ago_ms)));
        }
        let Beat { at, reigning, .. } = self.beat(said.renewed?)?;
        Some(Renewal::Lease { epoch: reigning?, sent_at: at })
    }

    /// The leader is silent, and another one is to be looked for.
    #[must_use]
    pub const fn is_silent(&self, interval_ms: u64, now: Time) -> bool {
        now.since(self.heard_at) > PATIENCE * interval_ms
    }

    fn beat(&self, seq: u64) -> Option<Beat> {
        self.sent.iter().find(|beat| beat.seq == seq).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::NodeId, testing::World};
    use proptest::prelude::*;

    const NOW: Time = Time(100_000);

    fn renewed(seq: u64) -> Said {
        Said { renewed: Some(seq), ..Said::default() }
    }

    /// Heartbeats of the primary of epoch 1, one each 250 ms from [`NOW`] on.
    fn beats(count: u64) -> Beats {
        let world = World::serving(2, 1);
        let mut beats = Beats::new(NOW);
        for number in 0..count {
            let made = beats.next(NOW.plus(250 * number), |seq| Some(Report { seq, ..world.primary_report(&[1]) }));
            assert_eq!(made.map(|report| report.seq), Some(number + 1));
        }
        beats
    }

    fn lease(sent_at: Time) -> Option<Renewal> {
        Some(Renewal::Lease { epoch: Epoch(1), sent_at })
    }

    #[test]
    fn a_lease_counts_from_the_sending_of_the_heartbeat_that_it_answers() {
        let (mut beats, mut leader) = (beats(3), Leader::default());
        let late = NOW.plus(5_000);
        assert_eq!(beats.heard(renewed(2), &mut leader, late), lease(NOW.plus(250)));
        assert_eq!(beats.heard(renewed(1), &mut leader, late), lease(NOW));
        for unknown in [0, 4] {
            assert_eq!(beats.heard(renewed(unknown), &mut leader, late), None);
        }
        assert_eq!(beats.heard(Said::default(), &mut leader, late), None);
        assert_eq!(leader, Leader::default());
    }

    #[test]
    fn a_heartbeat_of_no_primary_renews_nothing() {
        let world = World::serving(2, 1);
        let (mut beats, mut leader) = (Beats::new(NOW), Leader::default());
        assert!(beats.next(NOW, |_| Some(world.standby_report(1))).is_some());
        assert!(beats.next(NOW.plus(250), |_| None).is_none());
        for seq in [1, 2] {
            assert_eq!(beats.heard(renewed(seq), &mut leader, NOW.plus(300)), None);
        }
        assert_eq!(beats.due(250), NOW.plus(500), "the next one is due none the less");
    }

    #[test]
    fn the_newest_heartbeats_are_remembered() {
        let mut beats = beats(70);
        let remembered = |seq| beats.heard(renewed(seq), &mut Leader::default(), NOW.plus(20_000)).is_some();
        assert_eq!((1..=70).map(remembered).filter(|known| *known).count(), REMEMBERED);
        assert!(beats.heard(renewed(7), &mut Leader::default(), NOW).is_some());
    }

    #[test]
    fn the_next_one_is_due_an_interval_after_the_last_whatever_is_answered() {
        assert!(Beats::new(NOW).due(250) < NOW);
        let mut beats = beats(2);
        let _ = beats.heard(renewed(2), &mut Leader::default(), NOW.plus(400));
        assert_eq!(beats.due(250), NOW.plus(500));
    }

    #[test]
    fn a_leader_that_is_silent_for_four_heartbeats_is_left() {
        let mut beats = beats(9);
        assert!(!beats.is_silent(250, NOW.plus(1_000)) && beats.is_silent(250, NOW.plus(1_001)));
        beats.opened(NOW.plus(500));
        assert!(!beats.is_silent(250, NOW.plus(1_500)) && beats.is_silent(250, NOW.plus(1_501)));
        let _ = beats.heard(Said::default(), &mut Leader::default(), NOW.plus(1_000));
        assert!(!beats.is_silent(250, NOW.plus(2_000)) && beats.is_silent(250, NOW.plus(2_001)));
    }

    #[test]
    fn what_the_leader_said_is_kept_with_its_time_here() {
        let (mut beats, mut leader) = (beats(3), Leader::default());
        let clock = LeaderClock { node: NodeId(2), since: Time(7), at: Time(9) };
        let shown = ShownToLeader { epoch: Epoch(1), ago_ms: 40, seq: 2 };
        let said = Said { clock: Some(clock), shown: Some(shown), primary_late: Some(true), renewed: None };
        assert_eq!(beats.heard(said, &mut leader, NOW.plus(800)), None);
        let at = NOW.plus(800);
        // As if the heartbeat had come in when it was sent: never later than it was so.
        let kept = Leader {
            clock: Some((clock, at)),
            shown: Some((Epoch(1), NOW.plus(250 - 40))),
            primary_late: Some((true, at)),
        };
        assert_eq!(leader, kept);
        let unknown = Said { shown: Some(ShownToLeader { seq: 9, ..shown }), ..Said::default() };
        let _ = beats.heard(unknown, &mut leader, NOW.plus(900));
        assert_eq!(leader, kept, "what is not said again stays");
    }

    proptest! {
        /// Keeps S3: whatever is answered, however late, twice or out of order, no lease begins after the heartbeat that it
        /// answers was sent, nor in an epoch of which that did not speak.
        #[test]
        fn no_lease_begins_after_its_heartbeat(
            steps in proptest::collection::vec((0_u64..400, any::<bool>(), 0_u64..150), 1..150),
        ) {
            let world = World::serving(2, 1);
            let (primary, standby) = (world.primary_report(&[1]), world.standby_report(1));
            let (mut beats, mut now) = (Beats::new(NOW), NOW);
            let mut sent: Vec<(Time, bool)> = Vec::new();
            for (passes, serves, answered) in steps {
                let report = if serves { &primary } else { &standby };
                let _ = beats.next(now, |_| Some(report.clone()));
                sent.push((now, serves));
                now = now.plus(passes);
                if let Some(renewal) = beats.heard(renewed(answered), &mut Leader::default(), now) {
                    let (at, served) = sent[usize::try_from(answered - 1).unwrap()];
                    prop_assert!(served);
                    prop_assert_eq!(Some(renewal), lease(at));
                }
            }
        }
    }
}
