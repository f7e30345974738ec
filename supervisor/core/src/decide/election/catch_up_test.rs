//! Goal: a better placed member fetches what it lacks from the best one, and is appointed then; what dies meanwhile
//! holds nobody up. Method: as in `choice_test`, with seals at different positions.

use super::{
    tests::{appointed, electing, switchover_to, tiers},
    *,
};
use crate::testing::World;

fn ordered(world: &mut World) -> (String, String) {
    let wanted = world.step();
    let Command::CatchUp { order, .. } = wanted.command else { panic!("{wanted:?}") };
    (order.member.member.to_string(), order.source.member.to_string())
}

/// Design, choice: a better placed member catches up from the best one, and is appointed then.
#[test]
fn a_better_placed_member_catches_up_first() {
    for worse in [Tier::Emergency, Tier::Replica] {
        let mut world = tiers(&[Tier::Primary, worse, Tier::Primary]);
        world.hear(world.sealed_report(1, (1, 310)));
        world.hear(world.sealed_report(2, (1, 300)));
        assert_eq!(ordered(&mut world), ("m2".to_owned(), "m1".to_owned()));
        world.finds("catching-up");
        world.hear(world.sealed_report(2, (1, 310)));
        let (primary, cohort, _) = appointed(&mut world);
        assert_eq!(primary, "m2");
        assert!(cohort.contains(&"m1".to_owned()), "k = 1 needs it: {cohort:?}");
    }
}

/// Emergency hosts take over when nobody else can be promoted: not because somebody else needs a moment longer.
#[test]
fn an_emergency_host_waits_for_a_catch_up_under_way() {
    let again = |world: &mut World| {
        world.hear(world.sealed_report(1, (1, 310)));
        world.hear(world.sealed_report(2, (1, 300)));
    };
    let mut world = tiers(&[Tier::Replica, Tier::Emergency, Tier::Replica]);
    again(&mut world);
    ordered(&mut world);
    world.wait(CATCH_UP_MS - 1);
    again(&mut world);
    world.finds("catching-up");
    world.wait(1);
    again(&mut world);
    assert_eq!(appointed(&mut world).0, "m1");

    // It fell silent: there is nothing to wait for.
    let mut world = tiers(&[Tier::Replica, Tier::Emergency, Tier::Replica]);
    again(&mut world);
    ordered(&mut world);
    world.wait(PATIENCE_MS);
    world.hear(world.sealed_report(1, (1, 310)));
    assert_eq!(appointed(&mut world).0, "m1");
}

/// A source that falls silent gives nothing any more: another one, or the member that has enough without it.
#[test]
fn a_catch_up_whose_source_dies_takes_another_source() {
    let mut world = tiers(&[Tier::Primary, Tier::Emergency, Tier::Emergency, Tier::Primary]);
    world.hear(world.sealed_report(1, (1, 310)));
    world.hear(world.sealed_report(2, (1, 310)));
    world.hear(world.sealed_report(3, (1, 300)));
    let (member, source) = ordered(&mut world);
    assert_eq!((member.as_str(), source.as_str()), ("m3", "m1"));
    world.wait(900);
    world.hear(world.sealed_report(2, (1, 310)));
    world.hear(world.sealed_report(3, (1, 300)));
    assert_eq!(ordered(&mut world), ("m3".to_owned(), "m2".to_owned()));
}

/// History B4: the seal of a source that died still counts; only its WAL is out of reach.
#[test]
fn a_catch_up_whose_only_source_dies_ends_with_whoever_has_enough() {
    // Any 2 of three: two seals close the rule, so the lost source may be left out of Q.
    let mut world = electing(World::serving(4, 2), switchover_to(3));
    world.hear(world.sealed_report(1, (1, 310)));
    world.hear(world.sealed_report(2, (1, 300)));
    world.hear(world.sealed_report(3, (1, 290)));
    assert_eq!(ordered(&mut world).0, "m3");
    world.wait(900);
    world.hear(world.sealed_report(2, (1, 300)));
    world.hear(world.sealed_report(3, (1, 300)));
    let (primary, _, _) = appointed(&mut world);
    assert_eq!(primary, "m3");
}

#[test]
fn whom_the_operator_named_catches_up_first() {
    let mut world = electing(World::serving(3, 1), switchover_to(2));
    world.hear(world.sealed_report(1, (1, 310)));
    world.hear(world.sealed_report(2, (1, 300)));
    assert_eq!(ordered(&mut world), ("m2".to_owned(), "m1".to_owned()));
    world.hear(world.sealed_report(2, (1, 312)));
    assert_eq!(appointed(&mut world).0, "m2");
}

/// Found by the simulation (`--hands`, seed 2717): with one seal more it had enough where it had sealed, and was moved on to
/// the next timeline while it was appointed.
#[test]
fn who_is_moved_to_another_timeline_is_not_appointed_at_its_old_seal() {
    let mut world = tiers(&[Tier::Primary, Tier::Replica, Tier::Primary]);
    world.hear(world.sealed_report(1, (1, 310)));
    world.hear(world.sealed_report(2, (1, 300)));
    ordered(&mut world);
    let election = world.state.clusters.values_mut().next().unwrap().election.as_mut().unwrap();
    // Its own seal is of the epoch before the source's.
    election.catch_up.as_mut().unwrap().target.epoch = Epoch(2);
    world.hear(world.sealed_report(2, (1, 310)));
    world.finds("catching-up");
    world.wait(PATIENCE_MS);
    world.hear(world.sealed_report(1, (1, 310)));
    world.hear(world.sealed_report(2, (1, 310)));
    assert_eq!(appointed(&mut world).0, "m2");
}
