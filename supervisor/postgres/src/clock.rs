//! CLOCK_BOOTTIME: the clock of leases and deadlines. It counts while the machine is suspended, so that a right to
//! serve runs out during a suspend; it never jumps with wall time.

use nix::time::{ClockId, clock_gettime};

/// Milliseconds since boot, suspends included.
#[must_use]
pub fn boottime_ms() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists on every Linux since 2.6.39");
    let whole = u64::try_from(now.tv_sec()).expect("time since boot is not negative") * 1000;
    whole + u64::try_from(now.tv_nsec()).expect("nanoseconds are not negative") / 1_000_000
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_does_not_go_back() {
        let first = super::boottime_ms();
        assert!(first > 0 && super::boottime_ms() >= first);
    }
}
