//! The clocks: the only place of this crate that reads one.

use pgvigil_core::time::{Time, WallTime};
use std::time::{SystemTime, UNIX_EPOCH};

/// `CLOCK_BOOTTIME`: it also counts while the host is suspended. All decisions use it.
#[must_use]
pub fn now() -> Time {
    Time(pgvigil_postgres::boottime_ms())
}

/// The wall clock, for people. Nothing is decided by it; it may jump.
#[must_use]
pub fn wall() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
