//! The clock of histories.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC in microseconds: the same in every process of this machine, unmoved by changes of the wall clock.
pub fn now_us() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has CLOCK_MONOTONIC");
    now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1_000
}

/// The wall clock in microseconds since 1970.
pub fn wall_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// A moment of the wall clock on this clock; wrong by as much as the wall clock was moved since.
pub fn of_wall_us(wall: u64) -> u64 {
    (now_us() + wall).saturating_sub(wall_us())
}
