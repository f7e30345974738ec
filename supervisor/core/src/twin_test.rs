//! Goal: a walsender that is not the member's is told from one that is, and costs its name its place in the rule; what
//! happens to healthy members every day does not. Method: reports over time with the rows of `pg_stat_replication`.

use super::*;
use crate::{
    command::Command,
    id::Epoch,
    rpo::Cause,
    testing::{World, name, remote, walsender},
};
use std::collections::BTreeSet;

/// The primary reports with another list of walsenders under m1's name.
fn primary_sees(world: &mut World, rows: Vec<Walsender>) {
    world.hear(world.primary_report_with(&[1, 2], |primary| primary.standbys[0].walsenders = rows));
}

fn standby_says(world: &mut World, receiver: Receiver) {
    let mut report = world.standby_report(1);
    if let PostgresReport::Standby(standby) = &mut report.postgres {
        standby.receiver = receiver;
    }
    world.hear(report);
}

/// A copy's walsender, connected `age_ms` ago.
fn copy(age_ms: u64) -> Walsender {
    Walsender { pid: 900, from: Some(Remote { address: "10.0.0.9".to_owned(), port: 51_000 }), age_ms, quiet_ms: 50 }
}

fn is_renamed(world: &mut World) -> String {
    let noted = world.step();
    let Command::NoteUnproven { found, .. } = &noted.command else { panic!("{noted:?}") };
    assert_eq!((found[0].cause, found[0].until), (Cause::NameTakenTwice, None));
    let wanted = world.step();
    let members = BTreeSet::from([name(1)]);
    assert_eq!(wanted.command, Command::Rename { epoch: Epoch(1), members }, "{}", wanted.reason);
    wanted.evidence.join("; ")
}

fn serving() -> World {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    world.idle();
    world
}

#[test]
fn two_that_both_reply_cost_the_name_its_place() {
    let mut world = serving();
    world.hear(world.standby_report(2));
    primary_sees(&mut world, vec![walsender(1, 60_000), copy(300)]);
    world.idle();
    primary_sees(&mut world, vec![walsender(1, 60_300), copy(600)]);
    let text = is_renamed(&mut world);
    assert!(text.contains("two walsenders of the same name") && text.contains("10.0.0.9:51000"), "{text}");
    let cluster = world.cluster();
    let rule = cluster.newest_rule().unwrap();
    assert_eq!(
        (cluster.members[&name(1)].named, rule.version, rule.setting.k),
        (1, cluster.reign().unwrap().version, 1)
    );
    assert_eq!(cluster.change.as_ref().unwrap().to, rule.setting, "until it is proven that nobody counts the old name");
    assert_eq!(cluster.sync_name(&world.key(1), Epoch(1)), "pgvigil_m1_i2_e1_n1");
    assert_eq!(cluster.sync_name(&world.key(2), Epoch(1)), "pgvigil_m2_i3_e1");
    // A report of before says nothing about the new name.
    let mut old = world.primary_report(&[1, 2]);
    if let PostgresReport::Primary(primary) = &mut old.postgres {
        primary.standbys[0].named = 0;
        primary.standbys[0].walsenders = vec![walsender(1, 60_300), copy(600)];
    }
    world.hear(old);
    world.finds("rule-change");
}

/// A doubt about a primary that has died since stays as it was: the leader is not woken for it any more, let alone counts
/// itself late for it, and deaf.
#[test]
fn a_doubt_that_outlives_the_primary_wakes_nobody() {
    let mut world = serving();
    world.hear(world.standby_report(2));
    primary_sees(&mut world, vec![walsender(1, 60_000), copy(300)]);
    for _ in 0..100 {
        world.wait(100);
        let _every_look_checks_when_it_wakes = world.look();
    }
}

/// The primary's host dies, and the walreceivers notice: its last report, in which they stream, tells of no later moment.
#[test]
fn the_last_word_of_a_primary_that_died_costs_nobody_its_name() {
    let mut world = serving();
    primary_sees(&mut world, vec![walsender(1, 60_000)]);
    // To the end of the time for which the last report of a primary counts.
    for ms in [10].into_iter().chain([95; 8]) {
        world.wait(ms);
        world.hear(world.standby_report(2));
        standby_says(&mut world, Receiver::Absent);
        world.idle();
        let member = world.cluster().members[&name(1)].clone();
        assert!(!world.seen.doubt(&member).is_some_and(|doubt| doubt.sure));
    }
}

/// The walsender of a connection that broke lives on until its time-out; the member has come back beside it.
#[test]
fn one_that_came_back_beside_its_broken_connection_is_left_alone() {
    let mut world = serving();
    let again =
        |age_ms| Walsender { pid: 777, from: Some(Remote { port: 40_001, ..remote(1) }), ..walsender(1, age_ms) };
    let broken = |quiet_ms| Walsender { quiet_ms, ..walsender(1, 60_000 + quiet_ms) };
    for step in 0..20 {
        world.wait(250);
        primary_sees(&mut world, vec![broken(400 + 250 * step), again(100 + 250 * step)]);
        world.hear(world.standby_report(2));
        // Its own report may still name the connection of before for a moment.
        let port = if step < 2 { 40_000 } else { 40_001 };
        standby_says(&mut world, Receiver::Connected(Remote { port, ..remote(1) }));
        world.idle();
    }
}

#[test]
fn one_that_is_not_the_members_own_costs_the_name_its_place() {
    for (says, word) in [
        (Receiver::Connected(remote(1)), "its own walreceiver is connected from 10.0.0.1:40000"),
        (Receiver::Absent, "its own server has no walreceiver"),
    ] {
        let mut world = serving();
        for step in 0..3 {
            world.hear(world.standby_report(2));
            standby_says(&mut world, says.clone());
            primary_sees(&mut world, vec![copy(100 + 250 * step)]);
            world.idle();
            world.wait(250);
        }
        primary_sees(&mut world, vec![copy(850)]);
        let text = is_renamed(&mut world);
        assert!(text.contains(word), "{text}");
    }
}

/// Behind a proxy the two ends never name one connection alike: that they differ says nothing.
#[test]
fn addresses_that_were_never_alike_are_no_evidence() {
    let mut world = World::serving(3, 1);
    for step in 0..40 {
        world.hear(world.standby_report(2));
        standby_says(&mut world, Receiver::Connected(remote(7)));
        primary_sees(&mut world, vec![walsender(1, 60_000 + 250 * step)]);
        world.idle();
        world.wait(250);
    }
}

/// Its host is gone, its copy streams in its place; a member whose pgvigil alone is gone keeps its connection.
#[test]
fn a_silent_members_new_connection_is_believed_for_a_while_only() {
    let mut world = serving();
    for step in 0..40 {
        world.wait(250);
        world.hear(world.standby_report(2));
        primary_sees(&mut world, vec![walsender(1, 60_000 + 250 * step)]);
        world.idle();
    }
    let began = world.now;
    let renamed = (0..20).find(|step| {
        world.wait(250);
        world.hear(world.standby_report(2));
        primary_sees(&mut world, vec![copy(100 + 250 * step)]);
        matches!(world.look().command, Some(wanted) if matches!(wanted.command, Command::NoteUnproven { .. }))
    });
    assert!(renamed.is_some());
    assert_eq!(world.now.since(began), 3_250, "standby_timeout_ms after it was first seen");
}

/// A copy that streams while its original is down must not bring the name into the rule.
#[test]
fn a_walsender_alone_brings_nobody_into_the_rule() {
    let mut world = World::new(3).found(1, &[2]);
    for _ in 0..4 {
        world.hear(world.standby_report(2));
        primary_sees(&mut world, vec![copy(60_000)]);
        world.idle();
        world.wait(250);
    }
    let mut report = world.standby_report(1);
    if let PostgresReport::Standby(standby) = &mut report.postgres {
        (standby.streaming, standby.receiver) = (false, Receiver::Unknown);
    }
    world.hear(report);
    world.idle();
}

/// What follows a name that a copy takes again at once: no name a second, but out of the rule where others suffice.
#[test]
fn a_name_that_is_taken_again_and_again_leaves_the_rule() {
    let mut world = serving();
    primary_sees(&mut world, vec![walsender(1, 60_000), copy(600)]);
    is_renamed(&mut world);
    let version = world.cluster().newest_rule().unwrap().version.0;
    let proof = world.proof(version, 500, &[1]);
    world.hear(world.primary_report_with(&[1, 2], |primary| primary.proof = Some(proof)));
    assert!(matches!(world.step().command, Command::FinishChange { .. }));
    assert!(world.cluster().reign().unwrap().unproven[0].until.is_some(), "nothing is confirmed under the old name");
    world.wait(1_000);
    world.hear(world.standby_report(2));
    primary_sees(&mut world, vec![walsender(1, 1_000), copy(700)]);
    assert!(matches!(world.step().command, Command::NoteUnproven { .. }));
    let wanted = world.step();
    let Command::BeginChange { to, .. } = wanted.command else { panic!("{wanted:?}") };
    assert_eq!(to.cohort, [world.key(2)].into());
    primary_sees(&mut world, vec![walsender(1, 1_000), copy(700)]);
    world.finds("name-taken-twice");
    world.wait(30_000);
    world.hear(world.standby_report(2));
    primary_sees(&mut world, vec![walsender(1, 30_000), copy(700)]);
    let wanted = world.step();
    assert!(matches!(wanted.command, Command::Rename { .. }), "{wanted:?}");
}

#[test]
fn while_paused_it_is_only_said() {
    let mut world = serving();
    world.must(Command::Pause);
    primary_sees(&mut world, vec![walsender(1, 60_000), copy(600)]);
    assert!(matches!(world.step().command, Command::NoteUnproven { .. }), "what may be lost is known nonetheless");
    assert!(world.finds("name-taken-twice").contains("while paused"));
}

#[test]
fn a_new_name_is_refused_where_no_rule_can_change() {
    use crate::command::RefusalCode;
    let rename = |epoch, number| Command::Rename { epoch: Epoch(epoch), members: [name(number)].into() };
    let mut world = serving();
    assert_eq!(world.refused(rename(2, 1)), RefusalCode::WrongEpoch);
    assert_eq!(world.refused(rename(1, 0)), RefusalCode::BadValue);
    assert_eq!(world.refused(rename(1, 7)), RefusalCode::UnknownMember);
    world.begin(2);
    assert_eq!(world.refused(rename(1, 1)), RefusalCode::WrongPhase);
}

/// The member itself goes over to the new name where it streams, without anything being read or stopped.
#[test]
fn the_member_goes_on_under_its_new_name() {
    use crate::reconcile::Action;
    let mut world = serving();
    let local = world.standby(1);
    world.must(Command::Rename { epoch: Epoch(1), members: [name(1)].into() });
    let Action::Follow { upstream, .. } = world.acts(&local) else { panic!("{:?}", world.acts(&local)) };
    assert_eq!(upstream.named, 1);
}
