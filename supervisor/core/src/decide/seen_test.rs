//! Goal: what one leader saw is agreed before it is needed: numbers of timelines, promotions by hand, flushed positions.
//! Method: members 1 and 2 stream from member 0 in epoch 1; reports tell what is new.

use super::*;
use crate::{
    command::RefusalCode,
    id::{Epoch, Incarnation},
    lsn::Lsn,
    observation::Observations,
    report::{DiscardedWal, TimelinesReport},
    testing::{World, name},
};

fn at(epoch: u64, lsn: u64) -> Position {
    Position::new(Epoch(epoch), Lsn(lsn))
}

/// The primary tells that its standbys have flushed up to `lsn` and that others than the canary wrote `by_others` bytes.
fn flushes(world: &mut World, of: &[(usize, u64)], by_others: u64) {
    let numbers: Vec<usize> = of.iter().map(|(number, _)| *number).collect();
    let report = world.primary_report_with(&numbers, |primary| {
        for (sender, (_, lsn)) in primary.standbys.iter_mut().zip(of) {
            sender.flushed_record = Some(Lsn(*lsn));
            sender.flush_lsn = Lsn(*lsn + 5);
        }
        primary.written_by_others = by_others;
    });
    world.hear(report);
    for number in numbers {
        world.hear(world.standby_report(number));
    }
}

fn proven(world: &World, number: usize) -> Option<Position> {
    world.cluster().members[&name(number)].proven
}

/// Review F13: the number that a standby took when it was promoted by hand is never allotted.
#[test]
fn a_number_that_anybody_holds_is_taken_before_the_next_appointment() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    let newest = |world: &World, number, newest| crate::report::Report {
        timelines: TimelinesReport { newest: TimelineId(newest), by_hand: None },
        ..world.report(number)
    };
    world.hear(newest(&world, 2, 2));
    assert_eq!(world.step().command, Command::NoteTimeline { timeline: TimelineId(2) });
    assert!(!matches!(world.look().command, Some(w) if matches!(w.command, Command::NoteTimeline { .. })), "once");
    // Also when the first word of it comes with the seals.
    world.begin(2);
    world.hear(world.sealed_report(1, (1, 300)));
    let late = crate::report::Report {
        timelines: TimelinesReport { newest: TimelineId(3), by_hand: None },
        ..world.sealed_report(2, (1, 300))
    };
    world.hear(late);
    assert_eq!(world.step().command, Command::NoteTimeline { timeline: TimelineId(3) });
    world.wait(2_000);
    world.hear(world.sealed_report(1, (1, 300)));
    world.hear(world.sealed_report(2, (1, 300)));
    let Command::Appoint { timeline, .. } = world.step().command else { panic!() };
    assert_eq!(timeline, TimelineId(4));
    assert_eq!(world.refused(Command::NoteTimeline { timeline: TimelineId(4) }), RefusalCode::Exists);
}

/// Numbers in between are reserved with a file each: one from nowhere must not cost the failover.
#[test]
fn a_number_far_off_is_left_out_of_account() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    let timelines = TimelinesReport { newest: TimelineId(u32::MAX), by_hand: None };
    world.hear(crate::report::Report { timelines, ..world.standby_report(2) });
    assert!(world.finds("timeline-far").contains("4294967295"));
    assert_eq!(world.refused(Command::NoteTimeline { timeline: TimelineId(u32::MAX) }), RefusalCode::BadValue);
}

#[test]
fn a_promotion_by_hand_is_noted_then_its_member_leaves_the_rule_and_is_made_anew() {
    let mut world = World::serving(3, 1);
    let found = ByHand {
        timeline: TimelineId(2),
        left: Some((TimelineId(1), Lsn(900))),
        end: Lsn(1_200),
        at: Some(crate::time::WallTime(77)),
    };
    let hurt = |world: &World| crate::report::Report {
        timelines: TimelinesReport { newest: TimelineId(2), by_hand: Some(found.clone()) },
        needs_new_incarnation: Some("it was promoted by hand".to_owned()),
        ..world.report(2)
    };
    let hear = |world: &mut World| {
        world.hear_well(&[1]);
        world.hear(hurt(world));
    };
    world.hear_well(&[1, 2]);
    hear(&mut world);
    assert!(matches!(world.step().command, Command::NoteTimeline { .. }));
    hear(&mut world);
    let Command::BeginChange { to, .. } = world.step().command else { panic!() };
    assert!(!to.cohort.contains(&world.key(2)), "at once, not after a time-out");
    hear(&mut world);
    assert!(matches!(world.step().command, Command::NotePromotedByHand { kept_in: None, .. }));
    hear(&mut world);
    world.finds("leaves-first");
    let report = world.primary_report_with(&[1], |primary| primary.proof = Some(world.proof(3, 500, &[1])));
    world.hear(report);
    assert!(matches!(world.step().command, Command::FinishChange { .. }));
    hear(&mut world);
    assert!(matches!(world.step().command, Command::NewIncarnation { .. }));
    assert_eq!(world.key(2).incarnation, Incarnation(4));
    let wal = DiscardedWal {
        epoch: Epoch(1),
        timeline: TimelineId(2),
        from: Lsn(900),
        to: Lsn(1_200),
        kept_in: "/kept".to_owned(),
        by_hand: true,
    };
    world.hear(crate::report::Report { discarded_wal: Some(wal), ..world.report(2) });
    let Command::NotePromotedByHand { kept_in, .. } = world.step().command else { panic!() };
    assert_eq!(kept_in.as_deref(), Some("/kept"));
    let known = world.cluster().members[&name(2)].promoted_by_hand.clone().unwrap();
    assert_eq!((known.found, known.kept_in.as_deref()), (found, Some("/kept")));
}

/// With nobody else to confirm commits it is made anew at once: the change could not be proven before.
#[test]
fn the_last_standby_of_a_rule_is_made_anew_at_once() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    world.wait(10_000);
    let hear = |world: &mut World| {
        world.hear(world.primary_report(&[]));
        let needs = Some("x".to_owned());
        world.hear(crate::report::Report { needs_new_incarnation: needs, ..world.report(2) });
    };
    hear(&mut world);
    assert!(matches!(world.step().command, Command::BeginChange { .. }));
    hear(&mut world);
    assert!(matches!(world.step().command, Command::NewIncarnation { .. }));
}

/// Review F14: member 1 alone confirmed a commit; its directories go back to a copy of before; the primary's host dies.
#[test]
fn a_directory_that_came_back_old_is_refused_and_its_commit_not_lost() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    let before = proven(&world, 1);
    flushes(&mut world, &[(1, 5_000), (2, 1_000)], 10_000);
    world.notice();
    world.begin(2);
    world.wait(100);
    world.notice();
    // The copy is as new as anything that was proven, and older than what was flushed.
    let copy = before.map_or(2_000, |p| p.lsn.0 + 1_000);
    world.hear(world.sealed_report(1, (1, copy)));
    world.hear(world.sealed_report(2, (1, 1_000)));
    let Command::NoteFlushed { .. } = world.step().command else { panic!() };
    assert_eq!((proven(&world, 1), proven(&world, 0)), (Some(at(1, 5_000)), Some(at(1, 5_000))));
    world.wait(5_000);
    world.hear(world.sealed_report(1, (1, copy)));
    world.hear(world.sealed_report(2, (1, 1_000)));
    let refused = world.look().findings.into_iter().find(|f| f.code == "seal-refused").unwrap();
    assert!(refused.text.contains("came back old"), "{refused:?}");
    let seals = vec![world.seal(2, 1, (1, copy)), world.seal(2, 2, (1, 1_000))];
    for appointee in [1, 2] {
        let command = world.appoint(2, appointee, 2, seals.clone());
        assert_eq!(world.refused(command), RefusalCode::BadSeal);
    }
}

/// In quiet times at most one entry in some seconds; none for what only the canary writes.
#[test]
fn flushed_positions_are_agreed_seldom_and_never_for_canaries_alone() {
    let mut world = World::serving(3, 1);
    flushes(&mut world, &[(1, 1_000), (2, 1_000)], 0);
    world.notice();
    world.wait(EVERY_MS);
    flushes(&mut world, &[(1, 1_000), (2, 1_000)], 0);
    assert!(matches!(world.step().command, Command::NoteFlushed { .. }), "a new leader knows nothing of before");
    let notes = |world: &mut World, step: u64, others: u64| {
        let mut notes = 0;
        for round in 1..=240_u64 {
            world.wait(250);
            let lsn = proven(world, 1).unwrap().lsn.0.max(1_000 + round) + step;
            flushes(world, &[(1, lsn), (2, lsn)], others * round);
            if let Some(wanted) = world.look().command {
                assert!(matches!(wanted.command, Command::NoteFlushed { .. }), "{wanted:?}");
                world.step();
                notes += 1;
            }
        }
        notes
    };
    assert_eq!(notes(&mut world, 150, 0), 0, "a minute of canaries");
    let busy = notes(&mut world, 10_000, 10_000);
    assert!((9..=12).contains(&busy), "a busy minute makes {busy}");
}

/// Of a member that does not stream, of another incarnation, and at or before the end of recovery nothing is believed
/// (histories A3, A6).
#[test]
fn only_what_was_surely_flushed_on_the_reigns_timeline_is_remembered() {
    let mut world = World::serving(3, 1);
    let report = world.primary_report_with(&[1, 2], |primary| {
        for sender in &mut primary.standbys {
            sender.flushed_record = Some(Lsn(5_000));
            sender.flush_lsn = Lsn(5_000);
        }
        primary.standbys[0].streaming = false;
        primary.standbys[1].key.incarnation = Incarnation(77);
    });
    world.hear(report);
    assert_eq!(world.seen.flushed.len(), 0);
    for (record, flushed) in [(100, 5_000), (5_000, 4_999)] {
        let report = world.primary_report_with(&[1], |primary| {
            primary.standbys[0].flushed_record = Some(Lsn(record));
            primary.standbys[0].flush_lsn = Lsn(flushed);
        });
        world.hear(report);
    }
    assert_eq!(world.seen.flushed.len(), 0);
    let other = world.primary_report_with(&[1], |primary| {
        primary.standbys[0].flushed_record = Some(Lsn(5_000));
        primary.standbys[0].flush_lsn = Lsn(5_000);
        primary.timeline = TimelineId(9);
    });
    world.hear(other);
    assert_eq!(world.seen.flushed.len(), 0);
    let mut agreed = world.cluster().clone();
    assert_eq!(Observations::default().unnoted(&agreed), []);
    flushes(&mut world, &[(1, 5_000)], 0);
    assert_eq!(world.seen.unnoted(&agreed).len(), 2);
    agreed.members.get_mut(&name(1)).unwrap().incarnation = Incarnation(9);
    assert_eq!(world.seen.unnoted(&agreed).len(), 1, "remade since");
}
