//! Goal: the same primary goes on only where that loses nothing: restarted in place, or because its election is called
//! off. Method: member 0 is the primary of the last reign, dead with its agent alive, or still standing.

use super::super::*;
use crate::{
    report::PostgresReport,
    testing::{World, begin, name},
};

fn electing(kind: ElectionKind) -> World {
    let mut world = World::serving(3, 1);
    world.must(begin(2, kind));
    world
}

/// Everybody's newest words again, later: nobody has fallen silent.
fn wait(world: &mut World, ms: u64) {
    world.wait(ms);
    let again: Vec<_> = world.seen.reports.values().map(|seen| seen.report.clone()).collect();
    for report in again {
        world.hear(report);
    }
}

fn appointed(world: &mut World) -> (String, Start, Vec<String>) {
    let wanted = world.step();
    let Command::Appoint { primary, start, setting, .. } = wanted.command else { panic!("{wanted:?}") };
    let cohort = setting.cohort.iter().map(|key| key.member.to_string()).collect();
    (primary.member.to_string(), start, cohort)
}

#[test]
fn a_dead_primary_restarts_in_place_when_nobody_may_take_over() {
    let mut world = electing(ElectionKind::Failover);
    world.hear(world.dead_report(0, Some((1, 300))));
    let text = world.finds("waiting-for-seals");
    assert!(!text.contains("waiting for  before"), "{text}");
    assert!(text.contains("somebody who could take over"), "{text}");
    wait(&mut world, PATIENCE_MS);
    assert_eq!(appointed(&mut world), ("m0".to_owned(), Start::Continue, Vec::new()));
    assert!(!world.cluster().reign().unwrap().open, "closed until its rule is complete");
}

#[test]
fn crash_policy_restart_appoints_the_same_primary_as_soon_as_all_have_sealed() {
    let mut world = electing(ElectionKind::Renewal);
    world.hear(world.dead_report(0, Some((1, 300))));
    world.hear(world.sealed_report(1, (1, 300)));
    world.hear(world.cut_off_report(2, None));
    assert!(world.finds("waiting-for-seals").contains("waiting for m2 before"));
    world.hear(world.sealed_report(2, (1, 290)));
    assert_eq!(appointed(&mut world), ("m0".to_owned(), Start::Continue, vec!["m1".to_owned(), "m2".to_owned()]));
}

/// History A10: its WAL came back shorter than what a standby had flushed.
#[test]
fn a_primary_that_came_back_short_of_a_standby_does_not_restart() {
    let mut world = electing(ElectionKind::Renewal);
    world.hear(world.dead_report(0, Some((1, 300))));
    world.hear(world.sealed_report(1, (1, 301)));
    world.hear(world.sealed_report(2, (1, 300)));
    assert_eq!(appointed(&mut world).0, "m1");

    // Nobody who is ahead may be promoted: the operator is told, nothing is restarted.
    let mut world = World::of_tiers(&[Tier::Replica, Tier::Replica, Tier::Backup]).found(1, &[1]);
    world.must(begin(2, ElectionKind::Renewal));
    world.hear(world.dead_report(0, Some((1, 300))));
    world.hear(world.sealed_report(2, (1, 301)));
    wait(&mut world, PATIENCE_MS);
    assert!(world.finds("primary-behind").contains("m2"));
}

/// A renewal whose primary died meanwhile is a failover.
#[test]
fn a_renewal_whose_primary_is_gone_promotes_somebody() {
    let mut world = electing(ElectionKind::Renewal);
    world.hear(world.sealed_report(1, (1, 300)));
    world.hear(world.sealed_report(2, (1, 300)));
    let (primary, start, _) = appointed(&mut world);
    assert_eq!((primary.as_str(), start), ("m1", Start::Promote));
}

/// History B2: an election that finds the primary well, and too few to replace it, is called off.
#[test]
fn an_election_that_finds_the_primary_standing_is_called_off() {
    let mut world = electing(ElectionKind::Failover);
    world.hear(world.standing_report((1, 300)));
    world.hear(world.sealed_report(1, (1, 290)));
    world.finds("waiting-for-seals");
    wait(&mut world, PATIENCE_MS);
    assert_eq!(appointed(&mut world), ("m0".to_owned(), Start::Continue, vec!["m1".to_owned()]));
    assert!(world.cluster().reign().unwrap().open, "its door stayed open");
}

/// A primary that stood and fell silent since is not re-appointed, and one that was never promoted cannot go on.
#[test]
fn a_primary_that_fell_silent_or_was_never_promoted_does_not_go_on() {
    let mut world = electing(ElectionKind::Failover);
    world.notice();
    world.hear(world.standing_report((1, 300)));
    world.wait(PATIENCE_MS);
    world.hear(world.sealed_report(1, (1, 290)));
    world.finds("too-few-seals");

    let mut world = electing(ElectionKind::Failover);
    world.notice();
    world.hear(world.dead_report(0, Some((1, 300))));
    world.wait(PATIENCE_MS);
    world.idle();

    let mut world = World::serving(3, 1);
    world.succeed(2, 1, &[1, 2], (1, 300));
    world.must(begin(3, ElectionKind::Failover));
    world.hear(world.sealed_report(1, (1, 300)));
    wait(&mut world, PATIENCE_MS);
    world.finds("too-few-seals");
}

/// A clean switchover that finds no successor starts its old primary again rather than nobody.
#[test]
fn a_switchover_without_a_successor_restarts_the_old_primary() {
    let mut world = electing(ElectionKind::Switchover { to: Some(name(2)) });
    let mut stopped = world.dead_report(0, Some((1, 300)));
    stopped.postgres = PostgresReport::Stopped { crashed: false };
    world.hear(stopped);
    world.notice();
    wait(&mut world, PATIENCE_MS);
    assert_eq!(appointed(&mut world), ("m0".to_owned(), Start::Continue, Vec::new()));
}
