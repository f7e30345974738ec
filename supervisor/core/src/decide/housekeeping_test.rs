//! Goal: what is not urgent is done once, in order, and never for a member that still counts. Method: one report each.

use super::*;
use crate::{
    id::{Epoch, TimelineId},
    lsn::Lsn,
    report::{DiscardedWal, Report},
    testing::{World, name},
};

/// Member 1 reigns in epoch 2, open and complete; member 0 is to come back.
fn moved() -> World {
    let mut world = World::serving(3, 1);
    world.succeed(2, 1, &[1, 2], (1, 300));
    world.promoted(2, 2, 300);
    world.must(Command::Open { epoch: Epoch(2) });
    world.completed(2, &[2]);
    world.hear_well(&[2]);
    world
}

fn needs(world: &World, number: usize) -> Report {
    Report { needs_new_incarnation: Some("its WAL has diverged".to_owned()), ..world.report(number) }
}

#[test]
fn an_agent_that_must_remake_its_directory_gets_a_new_incarnation() {
    let mut world = moved();
    let old = world.key(0);
    world.hear(needs(&world, 0));
    let wanted = world.step();
    assert_eq!(wanted.command, Command::NewIncarnation { member: name(0), replaces: old.incarnation });
    assert!(wanted.reason.contains("its WAL has diverged"), "{}", wanted.reason);
    assert!(world.key(0).incarnation > old.incarnation);
    // The same words again are about the directory that was given up.
    world.hear(Report { incarnation: Some(old.incarnation), ..needs(&world, 0) });
    world.idle();
}

/// Asked for in the moment between `Open` and `CompleteRule`, it would have to be cloned beside its old directory.
#[test]
fn a_directory_waits_for_the_older_rules_to_be_closed_but_not_for_ever() {
    let mut world = World::serving(3, 1);
    world.succeed(2, 1, &[1, 2], (1, 300));
    world.promoted(2, 2, 300);
    world.must(Command::Open { epoch: Epoch(2) });
    let wants = |world: &mut World| {
        world.hear_well(&[2]);
        world.hear(needs(world, 0));
        let wanted = world.look().command;
        wanted.is_some_and(|wanted| matches!(wanted.command, Command::NewIncarnation { .. }))
    };
    assert!(!wants(&mut world));
    assert!(world.look().wake_at.is_some());
    world.wait(PATIENCE_MS - 1);
    assert!(!wants(&mut world));
    world.wait(1);
    assert!(wants(&mut world));
}

/// Its commits wait for whoever is made anew: at once, then.
#[test]
fn a_directory_does_not_wait_for_rules_that_nobody_else_can_close() {
    let mut world = World::serving(3, 1);
    world.succeed(2, 1, &[1, 2], (1, 300));
    world.promoted(2, 2, 300);
    world.must(Command::Open { epoch: Epoch(2) });
    world.hear_well(&[2]);
    world.wait(world.cluster().settings.suspect_ms + 1);
    world.hear_well(&[]);
    world.hear(needs(&world, 0));
    assert!(matches!(world.step().command, Command::NewIncarnation { .. }));
}

/// Its wish was computed from a state in which the directory may not have counted yet.
#[test]
fn a_wish_from_an_older_state_is_not_followed() {
    let mut world = moved();
    let report = needs(&world, 0);
    world.set(|settings| settings.lease_ms = 1_500);
    world.hear(report);
    world.hear_well(&[2]);
    world.idle();
}

#[test]
fn the_primary_is_never_made_anew() {
    let mut world = moved();
    world.hear(Report { needs_new_incarnation: Some("?".to_owned()), ..world.primary_report(&[2]) });
    world.idle();
}

#[test]
fn nothing_is_made_anew_before_there_is_a_primary_to_copy() {
    let mut world = World::serving(3, 1);
    world.succeed(2, 1, &[1, 2], (1, 300));
    world.hear(needs(&world, 0));
    world.hear(world.cut_off_report(1, None));
    world.idle();
}

/// While paused pgvigil destroys nothing of its own accord; what an operator asks for by name is done.
#[test]
fn while_paused_only_the_operator_has_a_directory_made_anew() {
    let mut world = moved();
    world.must(Command::Pause);
    world.hear_well(&[2]);
    world.hear(needs(&world, 0));
    world.idle();
    world.must(Command::RequestReinit { member: name(0) });
    assert!(matches!(world.step().command, Command::NewIncarnation { .. }));
}

#[test]
fn a_reinit_that_was_asked_for_needs_no_word_of_the_agent() {
    let mut world = moved();
    world.must(Command::RequestReinit { member: name(2) });
    world.hear_well(&[2]);
    let wanted = world.step();
    assert!(matches!(&wanted.command, Command::NewIncarnation { member, .. } if *member == name(2)), "{wanted:?}");
    assert!(!world.cluster().members[&name(2)].reinit_requested);
}

#[test]
fn wal_left_behind_is_noted_once_at_the_incident_that_left_it() {
    let mut world = moved();
    let wal = DiscardedWal {
        epoch: Epoch(1),
        timeline: TimelineId(1),
        from: Lsn(300),
        to: Lsn(364),
        kept_in: "/kept".to_owned(),
        by_hand: false,
    };
    world.hear(Report { discarded_wal: Some(wal.clone()), ..world.report(0) });
    assert!(matches!(world.step().command, Command::Note { incident: Epoch(2), .. }));
    let note = world.cluster().incidents.last().unwrap().notes.last().unwrap().clone();
    assert!(note.contains("64 bytes") && note.contains("/kept"), "{note}");
    world.hear(Report { discarded_wal: Some(wal), ..world.report(0) });
    world.idle();
}

#[test]
fn a_member_that_leaves_is_forgotten_only_when_no_rule_names_it() {
    let mut world = World::serving(3, 1);
    world.must(Command::RequestLeave { member: name(2) });
    world.hear_well(&[1, 2]);
    assert!(matches!(world.step().command, Command::BeginChange { .. }));
    let proof = world.proof(world.cluster().newest_rule().unwrap().version.0, 500, &[1]);
    world.hear(world.primary_report_with(&[1], |primary| primary.proof = Some(proof)));
    assert!(matches!(world.step().command, Command::FinishChange { .. }));
    world.hear_well(&[1]);
    assert_eq!(world.step().command, Command::Forget { member: name(2) });
    assert!(!world.cluster().members.contains_key(&name(2)));
}

/// History B8.
#[test]
fn the_guard_is_confirmed_by_a_report_from_after_the_pause() {
    let mut world = World::serving(3, 1);
    world.must(Command::Pause);
    world.hear_well(&[1, 2]);
    world.idle();
    let before = world.primary_report(&[1, 2]);
    world.must(Command::Resume);
    world.hear(before);
    world.finds("unguarded");
    world.hear(Report { guard_armed: false, ..world.primary_report(&[1, 2]) });
    world.finds("unguarded");
    world.hear(world.primary_report(&[1, 2]));
    assert_eq!(world.step().command, Command::ConfirmGuard { epoch: Epoch(1) });
}
