//! What people do to standbys. They are promoted by hand, seen or unseen, and their directories go back to copies;
//! then the primary dies.

use super::{Scenario, Timed, fault, plan};
use crate::{
    fault::{Fault, Target},
    rng::Rng,
};

/// How long the faults go on, in true milliseconds.
const ACTIVE_MS: u64 = 90_000;

/// The scenario of a seed, with its faults replaced by what hands do.
#[must_use]
pub fn standbys(seed: u64) -> Scenario {
    let mut scenario = plan(seed);
    let rng = Rng::new(seed, 6);
    let count = scenario.hosts.len();
    scenario.active_ms = ACTIVE_MS;
    scenario.adopt = None;
    scenario.faults.clear();
    let mut at_ms = rng.range(4_000, 6_000);
    while at_ms < ACTIVE_MS - 14_000 {
        let mut push = |after: u64, fault: Fault| scenario.faults.push(Timed { at_ms: at_ms + after, fault });
        let host = rng.index(count);
        at_ms += match rng.index(8) {
            0..=2 => unseen(&rng, host, &mut push),
            3 | 4 => seen(&rng, host, &mut push),
            5 | 6 => put_back(&rng, host, rng.index(count), &mut push),
            _ => {
                push(0, fault(&rng, count));
                rng.range(500, 3_000)
            }
        };
    }
    scenario
}

/// Nobody hears of the number before the next primary is allotted it; then that one dies, too.
fn unseen(rng: &Rng, host: usize, push: &mut impl FnMut(u64, Fault)) -> u64 {
    let away = rng.range(2_000, 6_000);
    push(0, Fault::Isolate(Target::Host(host), away));
    push(rng.range(50, 400), Fault::PromoteByHand(Target::Host(host)));
    push(rng.range(200, 900), Fault::KillPostgres(Target::Primary));
    let again = away + rng.range(200, 3_000);
    push(again, end(rng));
    again + rng.range(4_000, 9_000)
}

/// While all is well, or as it ceases to be.
fn seen(rng: &Rng, host: usize, push: &mut impl FnMut(u64, Fault)) -> u64 {
    push(0, Fault::PromoteByHand(Target::Host(host)));
    push(rng.range(0, 3_000), end(rng));
    rng.range(6_000, 12_000)
}

/// One standby alone confirms for a while; then its directory goes back to a copy, and the primary dies.
fn put_back(rng: &Rng, host: usize, other: usize, push: &mut impl FnMut(u64, Fault)) -> u64 {
    let age = rng.range(7_000, 9_000);
    push(0, Fault::PutBack(Target::Host(host), age));
    push(age - rng.range(300, 2_000), Fault::Cut(Target::Primary, other, rng.range(2_000, 4_000)));
    push(age + rng.range(0, 60), end(rng));
    age + rng.range(5_000, 9_000)
}

fn end(rng: &Rng) -> Fault {
    if rng.chance(50) {
        Fault::KillPostgres(Target::Primary)
    } else {
        Fault::PowerOff(Target::Primary, rng.range(1_500, 4_000))
    }
}
