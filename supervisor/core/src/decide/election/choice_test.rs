//! Goal: an election appoints nobody but a member that has every acknowledged commit, prefers as the operator says,
//! has a better one catch up first, and says who is missing. Method: member 0 is lost; seals come in one by one.

use super::*;
use crate::{
    report::Report,
    testing::{World, begin, name},
};

pub(super) fn electing(mut world: World, kind: ElectionKind) -> World {
    world.must(begin(2, kind));
    world
}

/// A world of these tiers in which everybody but member 0 is in the rule, k = 1.
pub(super) fn tiers(tiers: &[Tier]) -> World {
    let others: Vec<usize> = (1..tiers.len()).collect();
    electing(World::of_tiers(tiers).found(1, &others), ElectionKind::Failover)
}

fn three() -> World {
    electing(World::serving(3, 1), ElectionKind::Failover)
}

pub(super) fn switchover_to(number: usize) -> ElectionKind {
    ElectionKind::Switchover { to: Some(name(number)) }
}

/// The appointee, its cohort and the reason; `apply` has agreed.
pub(super) fn appointed(world: &mut World) -> (String, Vec<String>, String) {
    let wanted = world.step();
    let Command::Appoint { primary, setting, .. } = wanted.command else { panic!("{wanted:?}") };
    let cohort = setting.cohort.iter().map(|key| key.member.to_string()).collect();
    (primary.member.to_string(), cohort, wanted.reason)
}

#[test]
fn the_member_with_everything_is_appointed_at_once() {
    let mut world = three();
    world.hear(world.sealed_report(1, (1, 300)));
    world.hear(world.sealed_report(2, (1, 310)));
    let (primary, cohort, _) = appointed(&mut world);
    assert_eq!((primary.as_str(), cohort), ("m2", vec!["m1".to_owned()]));
}

/// What pg_rewind left is no server yet: it may confirm what it receives, but neither lead nor feed others.
#[test]
fn a_copy_that_is_not_consistent_joins_the_rule_and_is_not_appointed() {
    let mut world = tiers(&[Tier::Primary, Tier::Primary, Tier::Replica]);
    let mut copy = world.sealed_report(1, (1, 310));
    copy.seal.as_mut().unwrap().incomplete = true;
    world.hear(copy);
    world.hear(world.sealed_report(2, (1, 310)));
    let (primary, cohort, _) = appointed(&mut world);
    assert_eq!((primary.as_str(), cohort), ("m2", vec!["m1".to_owned()]));
}

#[test]
fn too_few_seals_appoint_nobody_and_the_incident_says_who_is_missing() {
    let mut world = three();
    world.hear(world.sealed_report(2, (1, 300)));
    assert!(world.finds("too-few-seals").contains("m1"));
    world.wait(3_000);
    world.hear(world.sealed_report(2, (1, 300)));
    assert!(matches!(world.step().command, Command::Note { .. }));
    let note = world.cluster().incidents.last().unwrap().notes[0].clone();
    assert!(note.contains("1 more of") && note.contains("m1#"), "{note}");
    world.finds("too-few-seals");
    world.wait(100_000);
    world.hear(world.sealed_report(2, (1, 300)));
    world.finds("too-few-seals");
}

#[test]
fn a_seal_that_does_not_count_is_refused_aloud() {
    // Any 2 of two: one seal that counts would do. Both are proven to have flushed 200.
    let mut world = electing(World::serving(3, 2), ElectionKind::Failover);
    // Below what it was proven to have: its directory came back old.
    world.hear(world.sealed_report(2, (1, 150)));
    assert!(world.finds("seal-refused").contains("came back old"));
    // Somebody else's seal counts for nobody.
    let mut stolen = world.sealed_report(2, (1, 300));
    stolen.seal.as_mut().unwrap().seal.key = world.key(1);
    world.hear(stolen);
    world.idle();
    let mut old = world.sealed_report(2, (1, 300));
    old.seal.as_mut().unwrap().seal.epoch = Epoch(1);
    world.hear(old);
    world.idle();
}

/// History B3.
#[test]
fn the_old_primarys_own_seal_lets_an_equal_member_take_over_alone() {
    let mut world = three();
    world.hear(world.dead_report(0, Some((1, 310))));
    world.hear(world.sealed_report(1, (1, 310)));
    let (primary, _, _) = appointed(&mut world);
    assert_eq!(primary, "m1");
}

#[test]
fn tier_and_priority_decide_between_equals() {
    let mut world = tiers(&[Tier::Primary, Tier::Replica, Tier::Primary]);
    world.hear(world.sealed_report(1, (1, 300)));
    world.hear(world.sealed_report(2, (1, 300)));
    assert_eq!(appointed(&mut world).0, "m2");

    let mut world = World::serving(3, 1);
    let mut spec = crate::testing::spec(2, Tier::Replica);
    spec.priority = 101;
    world.must(Command::RegisterMember { spec });
    let mut world = electing(world, ElectionKind::Failover);
    world.hear(world.sealed_report(1, (1, 300)));
    world.hear(world.sealed_report(2, (1, 300)));
    assert_eq!(appointed(&mut world).0, "m2");
}

#[test]
fn an_emergency_host_takes_over_only_when_nobody_else_can() {
    let mut world = tiers(&[Tier::Replica, Tier::Emergency, Tier::Emergency]);
    world.hear(world.sealed_report(1, (1, 300)));
    world.hear(world.sealed_report(2, (1, 300)));
    assert_eq!(appointed(&mut world).0, "m1");

    let mut world = tiers(&[Tier::Replica, Tier::Emergency, Tier::Replica]);
    world.hear(world.sealed_report(1, (1, 300)));
    world.hear(world.sealed_report(2, (1, 300)));
    assert_eq!(appointed(&mut world).0, "m2");
}

/// A replica that is there and has not sealed yet is waited for before an emergency host takes over.
#[test]
fn an_emergency_host_waits_for_a_replica_that_is_there() {
    let mut world = tiers(&[Tier::Replica, Tier::Emergency, Tier::Replica]);
    world.hear(world.dead_report(0, Some((1, 300))));
    world.hear(world.sealed_report(1, (1, 300)));
    world.hear(world.cut_off_report(2, None));
    world.idle();
    world.wait(PATIENCE_MS);
    world.hear(world.dead_report(0, Some((1, 300))));
    world.hear(world.sealed_report(1, (1, 300)));
    world.hear(world.cut_off_report(2, None));
    assert_eq!(appointed(&mut world).0, "m1");
}

#[test]
fn a_backup_is_never_appointed_nor_counted() {
    let mut world = World::of_tiers(&[Tier::Replica, Tier::Replica, Tier::Backup]).found(1, &[1]);
    world.begin(2);
    world.hear(world.dead_report(0, Some((1, 310))));
    world.hear(world.sealed_report(2, (1, 310)));
    world.idle();
    world.hear(world.sealed_report(1, (1, 310)));
    let (primary, cohort, _) = appointed(&mut world);
    assert_eq!(primary, "m1");
    assert!(!cohort.contains(&"m2".to_owned()), "{cohort:?}");
}

/// A seal is for good, its author is not: who fell silent since must not be appointed, nor put into the new rule.
#[test]
fn a_member_that_died_after_its_seal_is_not_appointed() {
    let mut world = three();
    world.hear(world.sealed_report(1, (1, 300)));
    world.wait(900);
    world.hear(world.sealed_report(2, (1, 300)));
    let (primary, cohort, _) = appointed(&mut world);
    assert_eq!((primary.as_str(), cohort), ("m2", Vec::new()));
}

/// The sentence says that the WAL that is needed is held by somebody who is silent.
#[test]
fn wal_held_by_a_silent_member_is_named() {
    let mut world = three();
    world.hear(world.sealed_report(1, (1, 310)));
    world.wait(900);
    world.hear(world.sealed_report(2, (1, 300)));
    let text = world.finds("too-few-seals");
    assert!(text.contains("m1#") && text.contains("silent"), "{text}");
}

#[test]
fn a_switchover_appoints_whom_the_operator_named() {
    let mut world = electing(World::serving(3, 1), switchover_to(2));
    world.hear(world.dead_report(0, Some((1, 300))));
    world.hear(world.sealed_report(1, (1, 300)));
    world.hear(world.cut_off_report(2, None));
    world.idle();
    world.hear(world.sealed_report(2, (1, 300)));
    let (primary, _, reason) = appointed(&mut world);
    assert_eq!(primary, "m2");
    assert!(!reason.contains("asked for"), "{reason}");
}

/// The operator reads in the incident why it was not whom they named.
#[test]
fn an_appointment_says_why_it_is_not_whom_the_operator_named() {
    type Case = fn(&World) -> Option<Report>;
    let cases: [(Case, &str); 4] = [
        (|_| None, "its agent is silent"),
        (|world| Some(world.cut_off_report(2, None)), "has not sealed"),
        (|world| Some(world.sealed_report(2, (1, 300))), "lacks WAL: it is at 1:0/12C"),
        (
            |world| {
                let mut report = world.sealed_report(2, (1, 310));
                report.seal.as_mut().unwrap().can_stream = false;
                Some(report)
            },
            "cannot stream",
        ),
    ];
    for (report, why) in cases {
        let forced = ElectionKind::Forced { to: Some(name(2)), old_primary_is_off: true, give_up: [].into() };
        for kind in [switchover_to(2), forced] {
            let mut world = electing(World::serving(3, 1), kind);
            world.notice();
            world.wait(PATIENCE_MS + 3_000);
            world.hear(world.dead_report(0, Some((1, 310))));
            world.hear(world.sealed_report(1, (1, 310)));
            if let Some(report) = report(&world) {
                world.hear(report);
            }
            let (primary, _, reason) = appointed(&mut world);
            assert_eq!(primary, "m1");
            assert!(reason.contains("m2 was asked for") && reason.contains(why), "{reason}");
            let incident = world.cluster().incidents.last().unwrap();
            assert!(incident.evidence.iter().any(|line| line.contains(why)), "{:?}", incident.evidence);
        }
    }
}

/// In a planned change whoever was named drains the old primary first, which may take `switchover_drain_ms`.
#[test]
fn a_switchover_waits_for_its_target_as_long_as_it_may_drain() {
    let mut world = electing(World::serving(3, 1), switchover_to(2));
    world.notice();
    world.wait(PATIENCE_MS + 2_999);
    world.hear(world.dead_report(0, Some((1, 300))));
    world.hear(world.sealed_report(1, (1, 300)));
    world.hear(world.cut_off_report(2, None));
    world.idle();
    world.wait(1);
    assert_eq!(appointed(&mut world).0, "m1");
}

/// The new rule takes in whoever is there, so that it can be satisfied at once.
#[test]
fn a_member_that_is_about_to_seal_is_waited_for_only_when_the_new_rule_needs_it() {
    let mut world = three();
    world.hear(world.dead_report(0, Some((1, 300))));
    world.hear(world.sealed_report(1, (1, 300)));
    world.hear(world.cut_off_report(2, None));
    assert!(world.finds("waiting-for-seals").contains("m2"));
    world.wait(PATIENCE_MS);
    world.hear(world.dead_report(0, Some((1, 300))));
    world.hear(world.sealed_report(1, (1, 300)));
    world.hear(world.cut_off_report(2, None));
    let (primary, cohort, _) = appointed(&mut world);
    assert_eq!((primary.as_str(), cohort), ("m1", vec!["m0".to_owned()]), "the old primary, stopped, is what is left");
}

/// Member 1 alone is in the rule: the third is off, or is being made anew.
fn without_the_third(kind: ElectionKind) -> World {
    let mut world = electing(World::new(3).found(1, &[1]), kind);
    world.notice();
    world
}

/// The two agents that are there, at an election in which member 1 has sealed and member 0 may have.
fn both_heard(world: &mut World, old_primary: Option<(u64, u64)>) {
    world.hear(world.dead_report(0, old_primary));
    world.hear(world.sealed_report(1, (1, 300)));
}

/// Trial T2.7: the third member off, the target's seal comes first. Appointed at once, it would get a rule of nobody, and
/// writes stand until it is formed anew.
#[test]
fn an_appointment_waits_for_the_old_primary_when_nobody_else_could_confirm() {
    for kind in [switchover_to(1), ElectionKind::Failover] {
        let mut world = without_the_third(kind);
        both_heard(&mut world, None);
        assert!(world.finds("waiting-for-seals").contains("m0"));
        both_heard(&mut world, Some((1, 300)));
        let (primary, cohort, reason) = appointed(&mut world);
        assert_eq!((primary.as_str(), cohort), ("m1", vec!["m0".to_owned()]));
        assert!(reason.contains("any 1 of m0"), "{reason}");
    }
}

/// In a planned change as long as the old primary may drain; and then whoever is left is appointed, with a plain word.
#[test]
fn an_old_primary_that_does_not_seal_is_waited_for_within_bounds() {
    for (kind, patience) in [(switchover_to(1), PATIENCE_MS + 3_000), (ElectionKind::Failover, PATIENCE_MS)] {
        let mut world = without_the_third(kind);
        world.wait(patience - 1);
        both_heard(&mut world, None);
        world.finds("waiting-for-seals");
        world.wait(1);
        both_heard(&mut world, None);
        let (primary, cohort, reason) = appointed(&mut world);
        assert_eq!((primary.as_str(), cohort.len()), ("m1", 0));
        assert!(reason.contains("commits wait"), "{reason}");
    }
}

/// Its host is lost, or its directory is another one: no seal that counts is on its way.
#[test]
fn an_old_primary_that_cannot_seal_is_not_waited_for() {
    let mut world = without_the_third(ElectionKind::Failover);
    world.hear(world.sealed_report(1, (1, 300)));
    assert_eq!(appointed(&mut world).0, "m1");

    let mut world = without_the_third(ElectionKind::Failover);
    world.hear(Report { incarnation: None, ..world.dead_report(0, None) });
    world.hear(world.sealed_report(1, (1, 300)));
    assert_eq!(appointed(&mut world).0, "m1");
}
