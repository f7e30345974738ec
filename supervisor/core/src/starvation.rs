//! How late a loop's own timers ran of late: one's own pauses must not look like the silence of others. The idea is
//! Lifeguard's (local health awareness, SWIM). Keeps S3: what is stretched is only who is believed lost, never a lease.

use crate::{observation::Observations, time::Time};

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Starvation {
    /// By how many milliseconds time-outs stretch, for a machine that is busy all the time.
    ms: u64,
    until: Time,
    /// The end of the last pause that was longer than that.
    deaf_until: Time,
}

impl Starvation {
    /// Time-outs stretch by no more than this, in milliseconds: a longer pause is over when it is over.
    const STRETCH_MAX_MS: u64 = 500;
    /// A delay that is no longer than this, in milliseconds, is none.
    const USUAL_MS: u64 = 50;

    /// The loop woke up at `now`, `late_ms` after it had wanted to.
    pub fn note(&mut self, late_ms: u64, now: Time) {
        if late_ms > Self::STRETCH_MAX_MS {
            self.deaf_until = now;
        } else if late_ms > Self::USUAL_MS && late_ms >= self.ms {
            self.ms = late_ms;
            self.until = now.plus(10 * late_ms);
        } else if now >= self.until {
            self.ms = 0;
        }
    }

    /// Tells those who judge the silence of others.
    pub(crate) const fn tell(&self, seen: &mut Observations) {
        seen.starved_ms = self.ms;
        seen.deaf_until = self.deaf_until;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that was frozen and then leads must not be slow for the rest of the minute.
    #[test]
    fn a_long_pause_counts_until_its_end_and_a_busy_machine_stretches_for_a_while() {
        let mut starved = Starvation::default();
        starved.note(7_000, Time(10_000));
        assert_eq!((starved.ms, starved.deaf_until), (0, Time(10_000)));
        starved.note(200, Time(10_300));
        starved.note(0, Time(11_000));
        assert_eq!(starved.ms, 200, "still busy");
        starved.note(0, Time(12_400));
        assert_eq!(starved.ms, 0);
    }
}
