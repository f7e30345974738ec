//! The clock of histories.

use nix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC in microseconds: the same in every process of this machine, unmoved by changes of the wall clock.
pub fn now_us() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has CLOCK_MONOTONIC");
    now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1_000
}
