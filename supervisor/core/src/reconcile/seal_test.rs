//! Goal: during an election a member seals, and then does nothing but what the election orders. Method: one `Local`
//! each against an election for epoch 2.

use super::*;
use crate::{
    command::Command,
    id::{Epoch, Incarnation},
    lsn::Lsn,
    position::Position,
    reign::CatchUp,
    testing::{World, agent::running, begin, name},
};

fn electing(kind: ElectionKind) -> World {
    let mut world = World::serving(3, 1);
    world.must(begin(2, kind));
    world
}

#[test]
fn every_member_with_a_counted_directory_seals() {
    let world = electing(ElectionKind::Failover);
    assert_eq!(world.acts(&world.standby(1)), Action::Seal { epoch: Epoch(2) });
    assert_eq!(world.acts(&world.stopped(1)), Action::Seal { epoch: Epoch(2) });
    // A seal for another election is not one for this.
    assert_eq!(world.acts(&world.sealed(1, 1, (1, 300))), Action::Seal { epoch: Epoch(2) });
}

#[test]
fn what_does_not_count_or_is_not_there_does_not_seal() {
    let world = electing(ElectionKind::Failover);
    let mut foreign = world.stopped(1);
    foreign.marker.as_mut().unwrap().incarnation = Incarnation(1);
    world.rests(&foreign, "nothing-to-seal");
    world.rests(&Local { marker: None, ..world.stopped(1) }, "nothing-to-seal");
    world.rests(&Local { postgres: LocalPostgres::NoData, ..world.stopped(1) }, "cannot-seal-yet");
}

/// History of the trials (57): killed in its first recovery after a rewind, and then its primary died. What it lacked only
/// that one had, so it never came up, and without its seal nobody could be appointed.
#[test]
fn a_server_that_does_not_come_up_is_sealed_all_the_same() {
    let world = electing(ElectionKind::Failover);
    let since = |ms: u64| Local {
        postgres: LocalPostgres::Starting,
        election_since: Some(world.now.minus(ms)),
        ..world.stopped(1)
    };
    world.rests(&since(0), "cannot-seal-yet");
    assert_eq!(world.plan(&since(STARTING_MS - 1)).wake_at, Some(world.now.plus(1)));
    assert_eq!(world.acts(&since(STARTING_MS)), Action::Seal { epoch: Epoch(2) });
}

/// History A13: the fence is on disk before it is called dead, and before it seals.
#[test]
fn the_old_primary_is_fenced_before_it_seals() {
    let world = electing(ElectionKind::Failover);
    let mut local = world.stopped(0);
    local.promise.reigned = Epoch(1);
    local.fence_on_disk = false;
    assert!(matches!(world.acts(&local), Action::Fence { epoch: Epoch(1), polite_ms: 0, .. }));
    local.fence_on_disk = true;
    assert_eq!(world.acts(&local), Action::Seal { epoch: Epoch(2) });
}

#[test]
fn a_sealed_member_does_nothing_but_what_the_election_orders() {
    let mut world = electing(ElectionKind::Failover);
    world.must(Command::RequestRestart { member: name(1) });
    let local = world.sealed(1, 2, (1, 300));
    world.rests(&local, "sealed");
    let order = |world: &World, source: usize, target: u64| CatchUp {
        member: world.key(1),
        source: world.key(source),
        target: Position::new(Epoch(1), Lsn(target)),
    };
    world.must(Command::CatchUp { epoch: Epoch(2), order: order(&world, 2, 310) });
    let Action::CatchUp { epoch, source } = world.acts(&local) else { panic!("no catch-up") };
    assert_eq!((epoch, source.key, source.port), (Epoch(2), world.key(2), 5_002));
    world.rests(&world.sealed(1, 2, (1, 310)), "sealed");
    // The order is another's, and of an unsealed member nothing but the seal is wanted.
    world.rests(&world.sealed(2, 2, (1, 300)), "sealed");
    assert_eq!(world.acts(&world.standby(1)), Action::Seal { epoch: Epoch(2) });
}

/// A sealed member that stops stays stopped: it starts when it is appointed, or follows the next reign.
#[test]
fn a_sealed_member_that_stops_stays_stopped() {
    let world = electing(ElectionKind::Failover);
    let local = Local { postgres: LocalPostgres::Stopped { crashed: true }, ..world.sealed(1, 2, (1, 300)) };
    world.rests(&local, "sealed");
}

#[test]
fn in_a_switchover_a_standby_drains_the_old_primary_before_it_seals() {
    let world = electing(ElectionKind::Switchover { to: None });
    let since = |ms: u64| Local { election_since: Some(world.now.minus(ms)), ..world.standby(1) };
    world.rests(&since(0), "draining");
    assert_eq!(world.plan(&since(2_999)).wake_at, Some(world.now.plus(1)));
    assert_eq!(world.acts(&since(3_000)), Action::Seal { epoch: Epoch(2) });
    // The stream ended: everything was taken.
    let mut local = since(0);
    if let LocalPostgres::Running(running) = &mut local.postgres {
        running.streaming = false;
    }
    assert_eq!(world.acts(&local), Action::Seal { epoch: Epoch(2) });
    // A failover drains nobody.
    let world = electing(ElectionKind::Failover);
    assert_eq!(world.acts(&world.standby(1)), Action::Seal { epoch: Epoch(2) });
}

/// While it drains, a sealed member that was ordered to catch up does so.
#[test]
fn a_catch_up_in_a_switchover_is_not_taken_for_draining() {
    let mut world = electing(ElectionKind::Switchover { to: None });
    let order = CatchUp { member: world.key(1), source: world.key(2), target: Position::new(Epoch(1), Lsn(310)) };
    world.must(Command::CatchUp { epoch: Epoch(2), order });
    let mut local = world.sealed(1, 2, (1, 300));
    local.postgres = running(true, 1);
    assert!(matches!(world.acts(&local), Action::CatchUp { .. }));
}

/// History of the trials: the election asked a half rewound directory for its position for ever.
#[test]
fn a_half_made_directory_has_nothing_to_seal() {
    let world = electing(ElectionKind::Failover);
    let mut local = world.stopped(2);
    local.directory.half_made = Some("cut off".to_owned());
    world.rests(&local, "nothing-to-seal");
    local.directory.half_made = None;
    local.directory.lacks_wal = Some("no such segment".to_owned());
    assert!(matches!(world.acts(&local), Action::Seal { .. }), "somebody may have brought it back");
}
