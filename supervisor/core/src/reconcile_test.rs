//! Goal: what holds for every agent, whatever its role. Method: one `Local` each against an agreed state.

use super::*;
use crate::{
    command::Command,
    testing::{World, agent::running, begin, name},
};

#[test]
fn a_stranger_and_an_agent_that_has_not_looked_yet_do_nothing() {
    let world = World::serving(3, 1);
    let mut local = world.standby(1);
    local.me = name(7);
    world.rests(&local, "not-a-member");
    let local = Local { postgres: LocalPostgres::Unknown, ..world.primary() };
    world.rests(&local, "looking");
}

#[test]
fn nothing_is_done_before_a_cluster_is_founded() {
    let world = World::new(2);
    world.rests(&Local { postgres: LocalPostgres::NoData, marker: None, ..world.stopped(0) }, "not-founded");
}

#[test]
fn what_cannot_be_used_is_not_touched() {
    let world = World::serving(3, 1);
    let postgres = LocalPostgres::Unusable { why: "permission denied".to_owned() };
    assert_eq!(world.rests(&Local { postgres, ..world.stopped(1) }, "unusable"), "permission denied");
}

/// A long act is not disturbed, except by what ends a primary.
#[test]
fn only_a_fence_interrupts_a_long_act() {
    let mut world = World::serving(3, 1);
    world.rests(&Local { busy: true, ..world.stopped(1) }, "busy");
    let busy = Local { busy: true, ..world.primary() };
    world.rests(&busy, "busy");
    world.succeed(2, 1, &[1, 2], (1, 300));
    assert!(matches!(world.acts(&busy), Action::Fence { polite_ms: 0, .. }));
}

#[test]
fn a_restart_is_done_once_and_only_when_nothing_else_is_to_be_done() {
    let mut world = World::serving(3, 1);
    assert_eq!(world.plan(&world.standby(1)), Plan::default());
    world.must(Command::RequestRestart { member: name(1) });
    let local = world.standby(1);
    assert_eq!(world.acts(&local), Action::Restart { request: 1 });
    let mut done = local.clone();
    done.promise.restarted = 1;
    assert_eq!(world.plan(&done), Plan::default());
    world.rests(&Local { postgres: LocalPostgres::Starting, ..local.clone() }, "starting");
    world.begin(2);
    assert_eq!(world.acts(&local), Action::Seal { epoch: Epoch(2) });
    world.rests(&world.sealed(1, 2, (1, 300)), "sealed");
}

/// What is stopped is not restarted: a fenced primary least of all.
#[test]
fn a_restart_starts_nothing() {
    let mut world = World::serving(3, 1);
    world.must(Command::RequestRestart { member: name(0) });
    let mut local = world.stopped(0);
    local.promise.reigned = Epoch(1);
    world.rests(&local, "fenced");
}

/// While paused nobody would start a primary again.
#[test]
fn while_paused_a_standby_is_restarted_and_a_primary_is_not() {
    let mut world = World::serving(3, 1);
    world.must(Command::RequestRestart { member: name(0) });
    world.must(Command::RequestRestart { member: name(1) });
    assert_eq!(world.acts(&world.primary()), Action::Restart { request: 1 });
    world.must(Command::Pause);
    world.rests(&world.primary(), "restart-waits");
    assert_eq!(world.acts(&world.standby(1)), Action::Restart { request: 1 });
}

#[test]
fn the_margins_leave_time_to_kill_before_the_right_ends() {
    assert_eq!(stop_margins(1_500), (500, 250));
}

/// The fence on disk makes whatever starts a standby; without it a starting PostgreSQL may be a primary.
#[test]
fn a_starting_postgresql_counts_as_a_primary_unless_it_is_fenced() {
    let world = World::serving(3, 1);
    let starting = Local { postgres: LocalPostgres::Starting, ..world.stopped(1) };
    assert!(!runs_as_primary(&starting));
    assert!(runs_as_primary(&Local { fence_on_disk: false, ..starting }));
    assert!(runs_as_primary(&Local { postgres: running(false, 1), ..world.stopped(1) }));
    assert!(!runs_as_primary(&Local { postgres: running(true, 1), fence_on_disk: false, ..world.stopped(1) }));
}

/// History of the trials: the primary froze while the third member was being cloned from it. The copy never ended, and the
/// successor waited for that member.
#[test]
fn an_act_that_needs_another_server_is_overtaken_by_the_next_reign() {
    let mut world = World::serving(3, 1);
    let upstream =
        |world: &World, number: usize| Upstream { key: world.key(number), host: "h".to_owned(), port: 1, named: 0 };
    let copies = |world: &World, number: usize| {
        let (epoch, incarnation, upstream) = (Epoch(1), Incarnation(9), upstream(world, number));
        let clone = Action::Clone { epoch, upstream: upstream.clone(), incarnation };
        [clone, Action::Rewind { epoch, upstream, incarnation }]
    };
    let follows = Action::StartStandby { epoch: Epoch(1), following: Some((upstream(&world, 0), world.key(2))) };
    let (of_old, of_new) = (copies(&world, 0), copies(&world, 1));
    let overtaken = |world: &World, action: &Action| action.is_overtaken(world.cluster());
    assert!(!overtaken(&world, &follows) && !of_old.iter().any(|copy| overtaken(&world, copy)));
    // The election may find that its primary stands; but what starts behind it is to be sealed.
    world.must(begin(2, ElectionKind::Failover));
    assert!(overtaken(&world, &follows) && !of_old.iter().any(|copy| overtaken(&world, copy)));
    let nobody = Action::StartStandby { epoch: Epoch(2), following: None };
    assert!(!overtaken(&world, &nobody), "ordered by this election");
    let mut world = World::serving(3, 1);
    world.succeed(2, 1, &[1, 2], (1, 300));
    assert!(!of_old.iter().any(|copy| overtaken(&world, copy)), "there is nobody else to copy yet");
    world.promoted(2, 2, 300);
    assert!(overtaken(&world, &follows) && of_old.iter().all(|copy| overtaken(&world, copy)));
    assert!(!of_new.iter().any(|copy| overtaken(&world, copy)));
}
