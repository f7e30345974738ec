//! Common moments for everything in this process that is periodic and need not be exact: one wake-up does for all of it.
//!
//! An idle node costs what its wake-ups cost. Loops with beats of their own wake it once each; and Tokio looks at a timer
//! that is further away twice: when its wheel of 64 slots of a millisecond comes to it, and when it is due. So whatever
//! may wait does so until the next end of such a wheel, counted from when the runtime was made: then both are the same
//! moment, and the same one for every loop. Were Tokio to change its wheel, this would cost wake-ups, nothing else.

use std::sync::OnceLock;
use std::time::Duration;
use tokio::time::Instant;

/// Between two common moments.
const SPACING: Duration = Duration::from_millis(64);
/// Timers are rounded up to milliseconds: a little before the moment is in its millisecond.
const BEFORE: Duration = Duration::from_micros(500);

static BEGINNING: OnceLock<Instant> = OnceLock::new();

/// To be called as soon as the runtime is made, from which its timers count.
pub fn begin() {
    BEGINNING.get_or_init(Instant::now);
}

/// The first common moment at `earliest` or up to 64 ms after it.
#[must_use]
pub fn from(earliest: Instant) -> Instant {
    let beginning = *BEGINNING.get_or_init(Instant::now);
    let passed = earliest.saturating_duration_since(beginning) + BEFORE;
    let spacings = passed.as_nanos().div_ceil(SPACING.as_nanos());
    beginning + SPACING * u32::try_from(spacings).unwrap_or(u32::MAX) - BEFORE
}

/// For something that happens once per `period`: the common moment nearest to `due`, half their spacing before or after
/// it; `due` itself where the period is too short for that.
#[must_use]
pub fn nearest(due: Instant, period: Duration) -> Instant {
    if period < SPACING * 3 / 2 {
        return due;
    }
    due.checked_sub(SPACING / 2).map_or(due, from)
}

/// The first common moment after at least `pause`.
#[must_use]
pub fn after(pause: Duration) -> Instant {
    from(Instant::now() + pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_common_and_never_early() {
        begin();
        let now = Instant::now();
        for micros in (0..500_000).step_by(777) {
            let earliest = now + Duration::from_micros(micros);
            let moment = from(earliest);
            assert!(moment >= earliest && moment < earliest + SPACING, "{micros}");
            assert_eq!(from(moment), moment, "a moment is its own");
        }
        let due = now + SPACING * 5;
        let nearest = nearest(due, Duration::from_millis(100));
        assert!(nearest + SPACING / 2 >= due && nearest < due + SPACING / 2 + BEFORE);
        assert_eq!(super::nearest(due, Duration::from_millis(50)), due);
        let (one, other) = (from(now + SPACING), from(now + SPACING * 3));
        assert_eq!(other - one, SPACING * 2);
    }
}
