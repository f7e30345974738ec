//! People's hands: the rule is taken out of force on a running primary, as by a line in its configuration, and soon after
//! something happens to it; amid the ordinary faults.

use super::{Scenario, Timed, plan};
use crate::{
    fault::{Fault, Target},
    rng::Rng,
};

/// The scenario of a seed, with such hands in it.
#[must_use]
pub fn hands(seed: u64) -> Scenario {
    let mut scenario = plan(seed);
    let rng = Rng::new(seed, 5);
    let count = scenario.hosts.len();
    let mut at_ms = rng.range(6_000, 8_000);
    while at_ms < scenario.active_ms {
        let mut push = |after: u64, fault: Fault| scenario.faults.push(Timed { at_ms: at_ms + after, fault });
        // Its standbys lag, or get nothing any more.
        match rng.index(4) {
            0 => push(0, Fault::Isolate(Target::Primary, rng.range(1_000, 4_000))),
            1 | 2 => push(0, Fault::Slow(Target::Primary, rng.range(300_000, 900_000), 4_000)),
            _ => (0..count).for_each(|host| push(0, Fault::Cut(Target::Primary, host, 3_000))),
        }
        let first = rng.range(5, 600);
        push(first, Fault::Weaken(Target::Primary));
        let then = first + rng.range(20, 1_500);
        match rng.index(5) {
            0 => push(then, Fault::KillPostgres(Target::Primary)),
            1 | 2 => push(then, Fault::PowerOff(Target::Primary, rng.range(500, 6_000))),
            3 => push(first + rng.range(0, 300), Fault::KillAgent(Target::Primary, rng.range(50, 800))),
            _ => push(then, Fault::Switchover(None)),
        }
        if rng.chance(40) {
            push(then + rng.range(10, 700), Fault::PowerOff(Target::Primary, rng.range(500, 3_000)));
        }
        at_ms += rng.range(5_000, 12_000);
    }
    scenario.faults.sort_by_key(|timed| timed.at_ms);
    scenario
}
