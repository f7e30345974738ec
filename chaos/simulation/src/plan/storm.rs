//! A storm: two simulated minutes in which the primary is struck every second or two, amid the other faults. Made for
//! numbers: it gets through several times as many failovers in an hour as the ordinary plan does.

use super::{Scenario, Timed, fault, plan};
use crate::{
    fault::{Fault, Target},
    rng::Rng,
};
use pgvigil_core::settings::CrashPolicy;

/// How long the faults go on, in true milliseconds.
const ACTIVE_MS: u64 = 120_000;

/// The scenario of a seed, with its faults replaced by a storm.
#[must_use]
pub fn storm(seed: u64) -> Scenario {
    let mut scenario = plan(seed);
    let rng = Rng::new(seed, 4);
    let count = scenario.hosts.len();
    scenario.active_ms = ACTIVE_MS;
    scenario.adopt = None;
    scenario.settings.crash_policy = CrashPolicy::Failover;
    scenario.faults.clear();
    let mut at_ms = rng.range(3_000, 5_000);
    let pace = rng.pick(&[700, 1_200, 2_000]);
    while at_ms < ACTIVE_MS {
        let what = if rng.chance(80) { strike(&rng, count) } else { fault(&rng, count) };
        scenario.faults.push(Timed { at_ms, fault: what });
        at_ms += rng.range(pace / 3, 2 * pace);
    }
    scenario
}

/// Something that ends a reign, or the right to serve in it.
fn strike(rng: &Rng, count: usize) -> Fault {
    match rng.index(16) {
        0..=6 => Fault::KillPostgres(Target::Primary),
        7 | 8 => Fault::PowerOff(Target::Primary, rng.range(500, 3_000)),
        9 => Fault::FreezeHost(Target::Primary, rng.range(500, 4_000)),
        10 => Fault::Isolate(Target::Primary, rng.range(500, 4_000)),
        11 => Fault::FreezePostgres(Target::Primary, rng.range(500, 4_000)),
        12 | 13 => Fault::Switchover(rng.chance(50).then(|| rng.index(count))),
        _ => Fault::Force(rng.chance(50).then(|| rng.index(count))),
    }
}
