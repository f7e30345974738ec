//! Goal: a cluster is founded once, from all its members' directories or from the one primary that runs. Method: what
//! each member found, one by one.

use super::*;
use crate::{
    member::Tier,
    report::Report,
    testing::{World, name, spec},
};

fn found(world: &World, number: usize, postgres: PostgresReport) -> Report {
    Report { incarnation: None, postgres, ..world.report(number) }
}

fn empty(world: &mut World, numbers: &[usize]) {
    for number in numbers {
        world.hear(found(world, *number, PostgresReport::NoData));
    }
}

fn server(in_recovery: bool) -> PostgresReport {
    PostgresReport::Adoptable(Adoptable { system_identifier: 7, in_recovery, timeline: TimelineId(4), major: 17 })
}

fn founded(world: &mut World) -> (String, Start) {
    let wanted = world.step();
    let Command::Found { primary, start, .. } = wanted.command else { panic!("{wanted:?}") };
    (primary.member.to_string(), start)
}

#[test]
fn a_new_cluster_waits_for_everybody_expected() {
    let mut world = World::new(3);
    empty(&mut world, &[0, 2]);
    assert!(world.finds("waiting-for-members").contains("waiting for m1"));
    empty(&mut world, &[1]);
    assert_eq!(founded(&mut world), ("m0".to_owned(), Start::Initdb));
}

#[test]
fn reports_of_long_ago_found_nothing() {
    let mut world = World::new(3);
    empty(&mut world, &[0, 1, 2]);
    world.wait(3_001);
    world.finds("waiting-for-members");
}

#[test]
fn the_first_primary_is_the_preferred_member() {
    let mut world = World::of_tiers(&[Tier::Emergency, Tier::Replica, Tier::Primary, Tier::Backup]);
    empty(&mut world, &[0, 1, 2, 3]);
    assert_eq!(founded(&mut world), ("m2".to_owned(), Start::Initdb));
    let mut world = World::new(3);
    let mut preferred = spec(1, Tier::Replica);
    preferred.priority = 200;
    world.must(Command::RegisterMember { spec: preferred });
    empty(&mut world, &[0, 1, 2]);
    assert_eq!(founded(&mut world), ("m1".to_owned(), Start::Initdb));
}

/// A backup is never promoted, and never made primary either.
#[test]
fn a_cluster_of_backups_is_not_founded() {
    let mut world = World::of_tiers(&[Tier::Backup, Tier::Backup]);
    empty(&mut world, &[0, 1]);
    world.finds("only-backups");
}

#[test]
fn the_one_running_primary_is_adopted() {
    let mut world = World::new(3);
    empty(&mut world, &[0]);
    world.hear(found(&world, 1, server(false)));
    world.hear(found(&world, 2, server(true)));
    assert_eq!(founded(&mut world), ("m1".to_owned(), Start::Adopt));
    let cluster = world.cluster();
    assert_eq!((cluster.system_identifier, cluster.last_timeline), (Some(7), TimelineId(4)));
    assert_eq!(cluster.rules[0].setting.k, 0, "nothing is known of the setting under which it ran");
}

#[test]
fn two_running_primaries_are_left_alone() {
    let mut world = World::new(3);
    empty(&mut world, &[0]);
    world.hear(found(&world, 1, server(false)));
    world.hear(found(&world, 2, server(false)));
    assert!(world.finds("two-primaries").contains("m1, m2"));
}

#[test]
fn data_without_a_running_primary_is_left_alone() {
    let mut world = World::new(3);
    empty(&mut world, &[0, 1]);
    world.hear(found(&world, 2, server(true)));
    world.finds("no-primary-to-adopt");
}

#[test]
fn what_cannot_be_used_or_is_not_understood_is_left_alone() {
    let mut world = World::new(3);
    empty(&mut world, &[0, 1]);
    world.hear(found(&world, 2, PostgresReport::Unusable { why: "permission denied".to_owned() }));
    assert!(world.finds("unusable").contains("permission denied"));
    world.hear(found(&world, 2, PostgresReport::Starting));
    world.finds("unexpected");
}

#[test]
fn a_server_of_another_system_is_not_adopted() {
    let mut world = World::new(3);
    world.state.clusters.values_mut().next().unwrap().system_identifier = Some(8);
    empty(&mut world, &[0, 1]);
    world.hear(found(&world, 2, server(false)));
    world.finds("other-system");
}

/// It may be the one that runs as a primary.
#[test]
fn a_registered_member_is_waited_for_although_nobody_expects_it() {
    let mut world = World::new(2);
    world.must(Command::RegisterMember { spec: spec(2, Tier::Replica) });
    empty(&mut world, &[0, 1]);
    assert!(!world.cluster().expect.contains(&name(2)));
    assert!(world.finds("waiting-for-members").contains("waiting for m2"));
    world.must(Command::RequestLeave { member: name(2) });
    empty(&mut world, &[0, 1]);
    assert_eq!(founded(&mut world), ("m0".to_owned(), Start::Initdb));
}

#[test]
fn nothing_is_founded_while_paused_or_without_members() {
    let mut world = World::new(2);
    empty(&mut world, &[0, 1]);
    world.must(Command::Pause);
    world.finds("paused");
    let mut world = World::new(0);
    assert_eq!(world.finds("waiting-for-members"), "not founded yet: no member has registered");
}
