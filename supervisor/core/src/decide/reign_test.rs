//! Goal: a reign is recorded, opened and completed on evidence only. Method: member 1 was appointed for epoch 2 after
//! member 0; reports and times are given one by one, at the last moment too early and the first moment allowed.

use super::*;
use crate::{
    id::{Epoch, TimelineId},
    lsn::Lsn,
    report::Report,
    testing::{World, name},
    time::Time,
};

fn appointed() -> World {
    let mut world = World::serving(3, 1);
    world.succeed(2, 1, &[1, 2], (1, 300));
    world
}

fn promoted() -> World {
    let mut world = appointed();
    world.promoted(2, 2, 300);
    world
}

fn promotion() -> crate::reign::Promotion {
    crate::reign::Promotion { fork: Lsn(300), end: Lsn(320), marked: true }
}

#[test]
fn a_promotion_is_recorded_as_reported() {
    let mut world = appointed();
    world.hear(world.cut_off_report(1, None));
    world.finds("promoting");
    world.hear(world.primary_report(&[]));
    assert_eq!(world.look().command, None, "not out of recovery yet");
    world.hear(world.primary_report_with(&[], |primary| primary.promotion = Some(promotion())));
    let wanted = world.step();
    assert!(matches!(wanted.command, Command::RecordPromotion { timeline: TimelineId(2), .. }), "{wanted:?}");
    assert_eq!(world.cluster().reign().unwrap().promotion, Some(promotion()));
}

/// History A7.
#[test]
fn a_promotion_onto_another_timeline_is_not_recorded() {
    let mut world = appointed();
    world.hear(world.primary_report_with(&[], |primary| {
        primary.promotion = Some(promotion());
        primary.timeline = TimelineId(3);
    }));
    assert_eq!(world.step().command, Command::NoteTimeline { timeline: TimelineId(3) });
    world.finds("wrong-timeline");
}

/// Neither the primary of another epoch nor another data directory is the appointee.
#[test]
fn a_promotion_of_somebody_else_is_not_recorded() {
    let mut world = appointed();
    let other_epoch = world.primary_report_with(&[], |primary| {
        primary.promotion = Some(promotion());
        primary.epoch = Epoch(1);
    });
    world.hear(other_epoch);
    world.finds("promoting");
}

#[test]
fn an_appointee_that_never_promotes_is_replaced() {
    let mut world = appointed();
    world.hear(world.cut_off_report(1, None));
    world.finds("promoting");
    world.wait(60_000);
    world.hear(world.cut_off_report(1, None));
    world.finds("promoting");
    world.wait(1);
    world.hear(world.cut_off_report(1, None));
    assert!(matches!(world.step().command, Command::BeginElection { kind: ElectionKind::Failover, .. }));
}

/// `Open` is decided from this leader's own observations; the renewal is of the old epoch.
#[test]
fn the_door_opens_when_the_last_renewal_of_the_old_primary_has_run_out() {
    let mut world = promoted();
    let now = world.now;
    world.seen.since = Time(0);
    world.seen.appointed_seen = Some((Epoch(2), now.minus(10_000)));
    world.seen.last_renewal.insert(Epoch(1), now.minus(200));
    world.seen.last_renewal.insert(Epoch(2), now);
    world.hear(world.primary_report(&[]));
    // lease 1300 + margin 100 after the last renewal
    world.wait(1_199);
    world.hear(world.primary_report(&[]));
    world.finds("waiting-for-lease");
    assert_eq!(world.look().wake_at, Some(now.plus(1_200)));
    world.wait(1);
    world.hear(world.primary_report(&[]));
    assert_eq!(world.step().command, Command::Open { epoch: Epoch(2) });
}

/// The successor's door stays shut a millisecond short of `wait_ms` from now, and is looked at again when it is over.
fn outlasts_the_lease(world: &mut World, wait_ms: u64) {
    world.wait(wait_ms - 1);
    world.hear(world.primary_report(&[]));
    world.finds("waiting-for-lease");
    world.wait(1);
    world.hear(world.primary_report(&[]));
}

/// S5: a new leader knows of no renewal that its predecessor granted.
#[test]
fn a_new_leader_waits_a_whole_lease_before_it_opens() {
    let mut world = promoted();
    world.seen.since = world.now;
    world.seen.appointed_seen = Some((Epoch(2), Time(0)));
    outlasts_the_lease(&mut world, 1_400);
    assert_eq!(world.step().command, Command::Open { epoch: Epoch(2) });
}

/// The old primary froze before it heard that the lease is shorter now: it goes on to count by the longer one, and so
/// must its successor (S3; found by the simulation).
#[test]
fn a_shortened_lease_is_waited_for_at_its_old_length() {
    let mut world = World::serving(3, 1);
    world.set(|settings| settings.lease_ms = 2_000);
    world.set(|settings| settings.lease_ms = 1_300);
    world.succeed(2, 1, &[1, 2], (1, 300));
    world.promoted(2, 2, 300);
    world.seen.since = world.now;
    world.seen.appointed_seen = Some((Epoch(2), Time(0)));
    outlasts_the_lease(&mut world, 2_100);
    assert_eq!(world.step().command, Command::Open { epoch: Epoch(2) });
    assert_eq!(world.cluster().shortened_lease_ms, 0, "the next primary has heard of it");
}

/// The canary's right: sealed members that took WAL until just now confirm a canary that began just now.
#[test]
fn the_door_waits_for_what_the_seals_say_of_the_canary() {
    let mut world = World::serving(3, 1);
    world.begin(2);
    let mut quiet = world.sealed_report(1, (1, 300));
    quiet.seal.as_mut().unwrap().quiet_ms = 1_000;
    world.hear(quiet);
    let mut late = world.sealed_report(2, (1, 300));
    late.seal.as_mut().unwrap().quiet_ms = 400;
    world.hear(late);
    assert!(matches!(world.step().command, Command::Appoint { .. }));
    world.promoted(2, 2, 300);
    let decided_at = world.now;
    outlasts_the_lease(&mut world, 1_000);
    assert_eq!(world.now, decided_at.minus(400).plus(1_400));
    assert_eq!(world.step().command, Command::Open { epoch: Epoch(2) });
}

#[test]
fn the_door_opens_at_once_when_the_old_primary_is_fenced() {
    let mut world = promoted();
    world.seen.since = world.now;
    world.hear(world.primary_report(&[]));
    world.hear(Report { fenced: Some(Epoch(1)), ..world.report(0) });
    assert_eq!(world.step().command, Command::Open { epoch: Epoch(2) });
}

#[test]
fn a_fence_command_that_succeeded_opens_the_door() {
    let mut world = promoted();
    world.seen.since = world.now;
    world.hear(world.primary_report(&[]));
    world.seen.fence_commands_done.insert(name(0), Epoch(0));
    world.finds("waiting-for-lease");
    world.seen.fence_commands_done.insert(name(0), Epoch(1));
    assert_eq!(world.step().command, Command::Open { epoch: Epoch(2) });
    let incident = world.cluster().incidents.last().unwrap();
    assert!(incident.evidence.iter().any(|line| line.contains("the fence command for m0 succeeded")), "{incident:?}");
}

/// History A14: where a hypervisor may stop a guest, its clock has no rate, and time is no fence.
#[test]
fn without_fencing_by_time_the_door_waits_for_a_fence() {
    let mut world = promoted();
    world.set(|settings| settings.fence_by_time = false);
    world.wait(1_000_000);
    world.hear(world.primary_report(&[]));
    assert!(world.finds("waiting-for-fence").contains("fence command"));
    world.seen.fence_commands_done.insert(name(0), Epoch(1));
    assert_eq!(world.step().command, Command::Open { epoch: Epoch(2) });
}

/// Who answers fences itself, and sooner: only a silent host is stopped from outside, until it is known to be fenced.
#[test]
fn the_fence_command_is_for_a_silent_former_primary_only() {
    let mut world = promoted();
    let shot = |world: &World| {
        let debts = crate::lease::to_fence(world.cluster(), &world.seen, world.now);
        debts.into_iter().map(|debt| (debt.primary.member, debt.epoch)).collect::<Vec<_>>()
    };
    world.hear(world.report(0));
    assert_eq!(shot(&world), []);
    world.wait(world.cluster().settings.suspect_ms + 1);
    assert_eq!(shot(&world), [(name(0), Epoch(1))]);
    world.seen.deaf_until = world.now;
    assert_eq!(shot(&world), [], "a leader that was paused has heard nobody");
    world.seen.deaf_until = Time(0);
    world.seen.fence_commands_done.insert(name(0), Epoch(1));
    assert_eq!(shot(&world), []);
    world.seen.fence_commands_done.clear();
    world.must(Command::Open { epoch: Epoch(2) });
    assert_eq!(shot(&world), []);
}

/// History B8: time does not fence a primary that may run unguarded.
#[test]
fn the_door_stays_closed_while_the_old_primary_may_run_unguarded() {
    let mut world = World::serving(3, 1);
    world.must(Command::Pause);
    world.must(Command::Resume);
    world.succeed(2, 1, &[1, 2], (1, 300));
    world.promoted(2, 2, 300);
    world.wait(1_000_000);
    world.hear(world.primary_report(&[]));
    world.finds("waiting-for-fence");
    world.hear(Report { fenced: Some(Epoch(1)), ..world.report(0) });
    assert_eq!(world.step().command, Command::Open { epoch: Epoch(2) });
}

/// History A16: the old primary and a standby that was given up may go on confirming each other's canaries for ever.
#[test]
fn the_door_stays_closed_while_a_member_that_was_given_up_may_confirm_for_the_old_primary() {
    for (give_up, waits) in [(Some(1), true), (None, false)] {
        let mut world = World::serving(3, 1);
        let give_up = give_up.map(crate::testing::name).into_iter().collect();
        world.must(crate::testing::begin(2, ElectionKind::Forced { to: None, old_primary_is_off: false, give_up }));
        let seals = if waits { vec![2] } else { vec![1, 2] };
        let seals = seals.into_iter().map(|member| world.seal(2, member, (1, 300))).collect();
        let command = world.appoint(2, 2, 2, seals);
        world.must(command);
        let debt = world.cluster().fence_debts[0].clone();
        let fenced = |world: &World| crate::lease::fenced(world.cluster(), &world.seen, &debt, Epoch(2));
        assert_eq!(matches!(fenced(&world), crate::lease::Fenced::Never(_)), waits);
        world.hear(Report { fenced: Some(Epoch(1)), ..world.report(0) });
        assert!(matches!(fenced(&world), crate::lease::Fenced::Yes(_)));
    }
}

/// Every former primary counts: the one before the last may still serve as well.
#[test]
fn the_door_waits_for_every_former_primary() {
    let mut world = promoted();
    world.must(Command::Open { epoch: Epoch(2) });
    world.must(crate::testing::begin(3, ElectionKind::Failover));
    let seals = vec![world.seal(3, 1, (2, 400)), world.seal(3, 2, (2, 400))];
    let command = world.appoint(3, 2, 3, seals);
    world.must(command);
    world.promoted(3, 3, 400);
    world.seen.since = world.now;
    world.hear(world.primary_report(&[]));
    // The newest one is fenced as of an older reign only.
    world.hear(Report { fenced: Some(Epoch(1)), ..world.report(1) });
    world.finds("waiting-for-lease");
    world.hear(Report { fenced: Some(Epoch(2)), ..world.report(1) });
    assert_eq!(world.step().command, Command::Open { epoch: Epoch(3) });
}

/// PostgreSQL's trap of crash restart: closed until k standbys have the end of recovery.
#[test]
fn a_primary_restarted_in_place_opens_only_when_complete() {
    let mut world = World::serving(3, 1);
    world.begin(2);
    let seals = vec![world.seal(2, 0, (1, 400))];
    world.must(Command::Appoint {
        epoch: Epoch(2),
        primary: world.key(0),
        start: crate::reign::Start::Continue,
        timeline: TimelineId(1),
        setting: crate::rule::Setting::new(1, world.keys(&[1])),
        seals,
    });
    world.promoted(2, 1, 400);
    world.hear_well(&[1]);
    world.finds("incomplete");
    let proof = world.proof(1, 401, &[1]);
    world.hear(world.primary_report_with(&[1], |primary| primary.proof = Some(proof)));
    assert!(matches!(world.step().command, Command::CompleteRule { .. }));
    assert_eq!(world.step().command, Command::Open { epoch: Epoch(2) });
}

#[test]
fn older_rules_are_closed_on_proof_only() {
    let mut world = promoted();
    world.must(Command::Open { epoch: Epoch(2) });
    let not_enough = [
        world.proof(2, 301, &[2]), // of another setting
        world.proof(1, 300, &[2]), // not beyond the end of recovery
        world.proof(1, 301, &[0]), // by a member that is not in the rule
        world.proof(1, 301, &[]),
    ];
    for proof in not_enough {
        world.hear(world.primary_report_with(&[2], |primary| primary.proof = Some(proof)));
        world.finds("incomplete");
    }
    world.hear(world.primary_report_with(&[2], |primary| primary.proof = None));
    world.finds("incomplete");
    let proof = world.proof(1, 301, &[2]);
    world.hear(world.primary_report_with(&[2], |primary| primary.proof = Some(proof)));
    assert!(matches!(world.step().command, Command::CompleteRule { .. }));
    assert_eq!(world.cluster().rules.len(), 1);
}

/// History B7: S' holds a member that died; another one streams.
#[test]
fn a_rule_that_cannot_be_satisfied_is_formed_anew() {
    let mut world = promoted();
    world.must(Command::Open { epoch: Epoch(2) });
    world.hear_well(&[0]);
    world.finds("incomplete");
    world.wait(5_999);
    world.hear_well(&[0]);
    world.finds("incomplete");
    world.wait(1);
    world.hear_well(&[0]);
    let wanted = world.step();
    assert!(matches!(wanted.command, Command::BeginElection { kind: ElectionKind::Renewal, .. }), "{wanted:?}");
    world.hear(world.standing_report((2, 350)));
    world.hear(world.sealed_report(0, (2, 350)));
    let wanted = world.step();
    let Command::Appoint { primary, setting, start, .. } = wanted.command else { panic!("{wanted:?}") };
    assert_eq!((primary, start), (world.key(1), crate::reign::Start::Continue));
    assert_eq!(setting.cohort, [world.key(0)].into());
    assert!(world.cluster().reign().unwrap().open, "its door stayed open");
}

#[test]
fn a_rule_that_can_still_be_satisfied_is_not_formed_anew() {
    let mut world = promoted();
    world.must(Command::Open { epoch: Epoch(2) });
    for _ in 0..3 {
        world.hear_well(&[0, 2]);
        world.finds("incomplete");
        world.wait(6_000);
    }
}

/// A rule never counts a backup, so forming it anew for one would go on for ever.
#[test]
fn a_rule_is_not_formed_anew_for_backups() {
    let tiers = [Tier::Replica, Tier::Replica, Tier::Replica, Tier::Backup];
    let mut world = World::of_tiers(&tiers).found(1, &[1, 2]);
    world.succeed(2, 1, &[1, 2], (1, 300));
    world.promoted(2, 2, 300);
    world.must(Command::Open { epoch: Epoch(2) });
    for _ in 0..3 {
        world.hear_well(&[3]);
        world.finds("incomplete");
        world.wait(6_000);
    }
    world.hear_well(&[0, 3]);
    let wanted = world.step();
    assert!(matches!(wanted.command, Command::BeginElection { kind: ElectionKind::Renewal, .. }), "{wanted:?}");
}

/// The last member that was left was appointed to a rule of nobody: whoever streams from it is counted at once.
#[test]
fn a_rule_that_names_too_few_is_formed_anew_as_soon_as_somebody_streams() {
    let mut world = World::new(3).found(1, &[1]);
    world.succeed(2, 1, &[1], (1, 300));
    world.promoted(2, 2, 300);
    world.must(Command::Open { epoch: Epoch(2) });
    world.hear_well(&[]);
    assert!(world.finds("incomplete").contains("commits wait"));
    world.hear_well(&[0]);
    let wanted = world.step();
    assert!(matches!(wanted.command, Command::BeginElection { kind: ElectionKind::Renewal, .. }), "{wanted:?}");
}
