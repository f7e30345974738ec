//! Goal: a fence waits for nothing, what waits for others holds nobody up, and what fails or takes a while is not tried
//! again too soon. Method: the worker's questions one by one; then a loop that fails for a while, by the clock.

use super::*;
use crate::{
    id::{Epoch, RuleVersion},
    lsn::Lsn,
    rule::Setting,
    testing::World,
};

const NOW: Time = Time(100_000);

fn seal() -> Action {
    Action::Seal { epoch: Epoch(2) }
}

fn fence() -> Action {
    Action::Fence { epoch: Epoch(1), polite_ms: 0, why: "its right is over".to_owned() }
}

fn start() -> Action {
    Action::StartStandby { epoch: Epoch(1), following: None }
}

fn prove() -> Action {
    Action::Prove { epoch: Epoch(1), setting: Setting::new(1, []), version: RuleVersion(1) }
}

fn clone_from(world: &World) -> Action {
    let upstream = crate::reconcile::Upstream { key: world.key(0), host: "h".to_owned(), port: 5432, named: 0 };
    Action::Clone { epoch: Epoch(1), upstream, incarnation: crate::id::Incarnation(2) }
}

const fn act(again: bool) -> Do<u8> {
    Do::Act { again, scene: None }
}

fn worker() -> Worker<u8> {
    Worker::default()
}

#[test]
fn a_fence_waits_for_nothing() {
    let mut worker = worker();
    let _ = worker.next(&seal(), false, NOW);
    worker.begun(&seal(), false, NOW);
    for again in 0..5 {
        assert_eq!(worker.next(&fence(), true, NOW.plus(again)), (Do::Fence, None));
    }
}

#[test]
fn an_act_that_takes_a_while_is_not_done_twice_within_its_pause_and_holds_up_no_other() {
    let mut worker = worker();
    assert_eq!(worker.next(&seal(), false, NOW), (act(false), None));
    worker.begun(&seal(), false, NOW.plus(1));
    let until = NOW.plus(1 + RETRY_MS);
    assert_eq!(worker.next(&seal(), false, NOW.plus(2)), (Do::Nothing, Some(until)));
    assert_eq!(worker.done(&seal(), NOW.plus(40)), 0);
    assert_eq!(worker.next(&seal(), false, until.minus(1)), (Do::Nothing, Some(until)), "also when it ended well");
    assert_eq!(worker.next(&start(), false, NOW.plus(50)), (act(false), None));
    assert_eq!(worker.next(&seal(), false, until), (act(false), None));
}

#[test]
fn an_act_that_ended_at_once_may_follow_at_once() {
    let mut worker = worker();
    worker.begun(&seal(), false, NOW);
    worker.begun(&start(), true, NOW);
    assert_eq!(worker.next(&seal(), false, NOW), (act(false), None));
}

#[test]
fn what_waits_for_others_runs_once_and_beside_the_rest() {
    let mut worker = worker();
    assert_eq!(worker.next(&prove(), false, NOW), (Do::Aside, None));
    assert_eq!(worker.next(&seal(), true, NOW), (act(false), None), "nothing waits for it");
    assert_eq!(worker.next(&prove(), true, NOW.plus(1_000)), (Do::Nothing, None), "it runs");
    assert_eq!(worker.next(&prove(), false, NOW.plus(49)), (Do::Nothing, None), "it has just begun");
    assert_eq!(worker.next(&Action::Checkpoint { epoch: Epoch(1) }, false, NOW.plus(50)), (Do::Aside, None));
}

/// Wants `action` all the time for a minute, and it fails each time; when it was tried, in milliseconds from the start.
fn tries(action: &Action) -> Vec<u64> {
    let mut worker = worker();
    let mut tries = Vec::new();
    for ms in 0..60_000 {
        let now = NOW.plus(ms);
        worker.brake.forget(now);
        if let (Do::Act { again, scene }, _) = worker.next(action, false, now) {
            assert_eq!(again, !tries.is_empty(), "people hear of each failure once");
            worker.begun(action, true, now);
            assert_eq!(worker.failed(action, "connection refused", scene, now), !again);
            tries.push(ms);
        }
    }
    tries
}

#[test]
fn what_fails_is_tried_ever_more_rarely_and_writes_wait_least() {
    let pauses = |action: &Action| tries(action).windows(2).map(|two| two[1] - two[0]).collect::<Vec<u64>>();
    let world = World::serving(2, 1);
    assert_eq!(pauses(&seal())[..6], [300, 300, 300, 600, 1_000, 1_000]);
    assert_eq!(pauses(&start())[3..9], [600, 1_200, 2_400, 4_800, 9_600, 10_000]);
    assert_eq!(pauses(&clone_from(&world))[7..], [9_600, 19_200]);
}

#[test]
fn an_act_that_fails_slowly_is_held_back_from_its_end() {
    let mut worker = worker();
    worker.begun(&start(), false, NOW);
    let end = NOW.plus(60_000);
    assert!(worker.failed(&start(), "out of memory", None, end));
    assert_eq!(worker.next(&start(), false, end.plus(1)), (Do::Nothing, Some(end.plus(RETRY_MS))));
    assert_eq!(worker.next(&start(), false, end.plus(RETRY_MS)), (act(true), None));
}

#[test]
fn a_start_that_does_not_last_is_held_back_like_one_that_fails() {
    let (mut worker, mut now, mut pauses) = (worker(), NOW, Vec::new());
    for _ in 0..6 {
        assert!(matches!(worker.next(&start(), false, now), (Do::Act { .. }, None)));
        worker.begun(&start(), true, now);
        worker.done(&start(), now);
        // It died, and is wanted again.
        let (turn, again_at) = worker.next(&start(), false, now.plus(10));
        assert_eq!(turn, Do::Nothing);
        pauses.extend(again_at.map(|at| at.since(now)));
        now = now.plus(pauses.last().copied().unwrap_or_default());
    }
    assert_eq!(pauses, [300, 300, 300, 600, 1_200, 2_400]);
}

#[test]
fn another_word_of_an_operator_takes_the_brake_off() {
    let mut world = World::serving(2, 1);
    let me = world.standby(1).me;
    let first = Orders::of(world.cluster(), &me);
    assert_eq!(first, Orders::of(world.cluster(), &me));
    let mut all = vec![first.clone()];
    world.set(|settings| settings.heartbeat_ms += 1);
    all.push(Orders::of(world.cluster(), &me));
    let mut agreed = world.cluster().clone();
    agreed.paused = Some("maintenance".to_owned());
    all.push(Orders::of(&agreed, &me));
    for change in [0, 1, 2] {
        let mut agreed = world.cluster().clone();
        if let Some(member) = agreed.members.get_mut(&me) {
            match change {
                0 => member.restart_request += 1,
                1 => member.reinit_requested = true,
                _ => member.leaving = true,
            }
        }
        all.push(Orders::of(&agreed, &me));
    }
    for (number, one) in all.iter().enumerate() {
        assert!(all[..number].iter().all(|other| other != one), "{one:?}");
    }
    let mut worker: Worker<Orders> = Worker::default();
    worker.failed(&start(), "no", Some(first), NOW);
    assert_eq!(worker.next(&start(), false, NOW.plus(1)).0, Do::Nothing);
    assert!(worker.brake.look(all.remove(1), NOW.plus(2)));
    assert!(matches!(worker.next(&start(), false, NOW.plus(2)).0, Do::Act { again: true, .. }));
}

#[test]
fn while_an_act_is_under_way_no_other_is_planned() {
    let world = World::serving(2, 1);
    let mut local = world.stopped(1);
    local.wal_end = Some((crate::position::Position::new(Epoch(1), Lsn(1)), crate::id::TimelineId(1)));
    let mut worker = worker();
    assert!(worker.plan(world.cluster(), &mut local, false, None, world.now).action.is_some());
    let plan = worker.plan(world.cluster(), &mut local, true, Some(world.now.minus(70)), world.now);
    assert_eq!((plan.action, local.busy, local.canary_waiting_ms), (None, true, 70));
}

#[test]
fn a_primary_is_looked_at_more_often() {
    let world = World::serving(2, 1);
    let starting = Local { postgres: LocalPostgres::Starting, ..world.stopped(0) };
    let ticks = [world.primary(), starting, world.standby(1), world.stopped(1)].map(|local| tick_ms(&local));
    assert_eq!(ticks, [100, 100, 500, 500]);
}
