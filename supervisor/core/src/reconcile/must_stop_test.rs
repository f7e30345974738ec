//! Goal: a primary that must stop is fenced at once, and only then. Method: the primary of a well cluster, with one
//! thing changed; times at the last moment too early and the first moment that counts.

use super::{
    tests::{fences, serving},
    *,
};
use crate::{
    command::Command,
    id::{Epoch, Incarnation},
    lease::Right,
    reign::ElectionKind,
    testing::{World, agent::running, begin},
};

#[test]
fn a_newer_epoch_fences_the_old_primary_at_once() {
    let mut world = serving();
    let local = world.primary();
    world.succeed(2, 1, &[1, 2], (1, 300));
    assert_eq!(fences(&world, &local).0, 0);
    // Also the member that is to reign again: it was not promoted in the new epoch.
    let mut world = serving();
    let local = world.primary();
    world.succeed(2, 1, &[1, 2], (1, 300));
    world.promoted(2, 2, 300);
    world.begin(3);
    let seals = vec![world.seal(3, 0, (2, 400)), world.seal(3, 1, (2, 400)), world.seal(3, 2, (2, 400))];
    let command = world.appoint(3, 0, 3, seals);
    world.must(command);
    assert_eq!(fences(&world, &local).0, 0);
}

#[test]
fn a_member_that_is_not_the_primary_never_runs_as_one() {
    let world = serving();
    let mut local = world.stopped(1);
    local.postgres = running(false, 1);
    local.promise.reigned = Epoch(1);
    assert!(fences(&world, &local).1.contains("m0 is the primary"));
    local.postgres = LocalPostgres::Starting;
    local.fence_on_disk = false;
    assert_eq!(fences(&world, &local).0, 0);
}

/// History A9.
#[test]
fn a_data_directory_that_does_not_count_is_fenced() {
    let world = serving();
    let mut local = world.primary();
    local.marker.as_mut().unwrap().incarnation = Incarnation(99);
    assert!(fences(&world, &local).1.contains("not the one that counts"));
    let mut local = world.primary();
    local.marker.as_mut().unwrap().cluster = crate::id::ClusterId::from("other");
    assert!(fences(&world, &local).1.contains("not the one that counts"));
}

/// It is nobody's business: a server without pgvigil's mark is only looked at.
#[test]
fn an_unmarked_primary_is_not_fenced() {
    let world = serving();
    let local = Local { marker: None, ..world.primary() };
    assert_eq!(world.plan(&local).action, None);
}

#[test]
fn a_hung_canary_with_enough_standbys_is_the_servers_fault() {
    let mut world = serving();
    let hung = |world: &World, waiting: u64, enough: Option<u64>| Local {
        canary_waiting_ms: waiting,
        standbys_enough_since: enough.map(|ms| world.now.minus(ms)),
        ..world.primary()
    };
    assert!(fences(&world, &hung(&world, 5_000, Some(5_000))).1.contains("hung for 5000 ms"));
    assert_eq!(world.plan(&hung(&world, 4_999, Some(60_000))).action, None, "not long enough");
    assert_eq!(world.plan(&hung(&world, 60_000, Some(4_999))).action, None, "standbys were missing until then");
    assert_eq!(world.plan(&hung(&world, 60_000, None)).action, None, "standbys are missing");
    // A kill is only good for a failover.
    world.set(|settings| settings.automatic_failover = false);
    assert_eq!(world.plan(&hung(&world, 60_000, Some(60_000))).action, None);
    world.set(|settings| settings.automatic_failover = true);
    world.must(Command::Pause);
    assert_eq!(world.plan(&hung(&world, 60_000, Some(60_000))).action, None);
}

/// Lease 1300: politely from 433 ms before the end, killed from 216 ms before it.
#[test]
fn a_right_that_runs_out_stops_the_primary_first_politely_then_not() {
    let world = serving();
    let with_left = |left: u64| {
        let right = Right { renewed_sent_at: Some(world.now.minus(1_300 - left)), canary_began_at: None };
        Local { right, ..world.primary() }
    };
    assert_eq!(world.plan(&with_left(434)), Plan::default());
    assert_eq!(fences(&world, &with_left(433)).0, 433 - 216);
    assert_eq!(fences(&world, &with_left(217)).0, 1);
    assert_eq!(fences(&world, &with_left(216)).0, 0);
    assert_eq!(fences(&world, &with_left(0)).0, 0);
    // A canary is a right as good as a renewal.
    let mut local = with_left(0);
    local.right.canary_began_at = Some(world.now);
    assert_eq!(world.plan(&local), Plan::default());
}

#[test]
fn a_right_that_runs_out_stops_no_paused_and_no_closed_primary() {
    let mut world = serving();
    let mut local = world.primary();
    local.right.renewed_sent_at = Some(Time(0));
    world.must(Command::Pause);
    assert_eq!(world.plan(&local), Plan::default());
    world.must(Command::Resume);
    assert_eq!(fences(&world, &local).0, 0);
    local.in_force.as_mut().unwrap().door_open = false;
    assert!(!matches!(world.plan(&local).action, Some(Action::Fence { .. })));
}

#[test]
fn an_election_that_ends_the_reign_stops_its_primary() {
    let mut world = serving();
    world.must(begin(2, ElectionKind::Switchover { to: None }));
    assert_eq!(fences(&world, &world.primary()).0, 1_500, "politely: standbys drain it");
    let mut world = serving();
    world.must(begin(2, ElectionKind::Forced { to: None, old_primary_is_off: false, give_up: [].into() }));
    assert_eq!(fences(&world, &world.primary()).0, 0);
    for kind in [ElectionKind::Failover, ElectionKind::Renewal] {
        let mut world = serving();
        world.must(begin(2, kind));
        world.rests(&world.primary(), "standing");
    }
}

#[test]
fn a_primary_that_is_gone_is_fenced_and_not_started_again() {
    let world = serving();
    let mut local = world.stopped(0);
    local.promise.reigned = Epoch(1);
    local.fence_on_disk = false;
    assert_eq!(fences(&world, &local).0, 0);
    local.fence_on_disk = true;
    world.rests(&local, "fenced");
    // Started by somebody else, behind the fence: a standby now.
    local.postgres = running(true, 1);
    assert_eq!(fences(&world, &local).0, 0);
}
