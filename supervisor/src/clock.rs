//! The clocks: the only place of this crate that reads one.

use pgvigil_consensus::grid;
use pgvigil_core::time::{Time, WallTime};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// `CLOCK_BOOTTIME`: it also counts while the host is suspended. All decisions use it.
#[must_use]
pub fn now() -> Time {
    Time(pgvigil_postgres::boottime_ms())
}

/// When a loop that has something to do at `due` wakes up: then, but after `longest_ms` at the next moment that it shares
/// with others at the latest. The same moment on the clock of decisions and on Tokio's.
#[must_use]
pub fn wake_up(due: Time, longest_ms: u64) -> (Time, Instant) {
    let (now, instant) = (now(), Instant::now());
    let shared = grid::from(instant + Duration::from_millis(longest_ms));
    let wait = u64::try_from((shared - instant).as_millis()).unwrap_or(u64::MAX);
    let latest = now.plus(wait + 1);
    if due < latest { (due, instant + Duration::from_millis(due.since(now))) } else { (latest, shared) }
}

/// The wall clock, for people. Nothing is decided by it; it may jump.
#[must_use]
pub fn wall() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
