//! Goal: the shipped core holds S1, S2 and S3 in every small world, and a failover completes from every state.
//! Method: exhaustive search of each small size, one test each, so that a failure names its world.

use pgvigil_model::{clocked, report, run::check, service::Unguarded, sizes};

fn holds(name: &str) {
    let size = sizes::ALL.iter().find(|size| size.name == name).unwrap_or_else(|| panic!("no size {name}"));
    let outcome = check(*size, |states, depth, took| eprintln!("{name}: {states} states, depth {depth}, {took:?}"));
    assert!(outcome.good(), "{}", report::outcome(&outcome));
}

macro_rules! small {
    ($($test:ident $name:literal)*) => {
        const TESTED: &[&str] = &[$($name),*];
        $(#[test]
        fn $test() {
            holds($name);
        })*
    };
}

small! {
    three_one_failover "three-one-failover"
    three_late_plans "three-late-plans"
    three_renewal "three-renewal"
    three_change "three-change"
    three_change_failover "three-change-failover"
    three_wipe "three-wipe"
    three_catch_up "three-catch-up"
    three_renewed_twice "three-renewed-twice"
    three_both "three-both"
    three_doors "three-doors"
    three_rollback "three-rollback"
    three_two_failovers "three-two-failovers"
    five_one_failover "five-one-failover"
}

#[test]
fn every_small_size_is_tested() {
    let small: Vec<&str> =
        sizes::ALL.iter().filter(|size| size.class == sizes::Class::Small).map(|size| size.name).collect();
    assert_eq!(small, TESTED);
}

#[test]
fn no_stale_primary_serves() {
    let outcome = clocked::check(Unguarded::Nothing, |_, _, _| ());
    assert!(outcome.good(), "{}{}", clocked::lines(&outcome), outcome.story.join("\n"));
}
