//! Goal: who is in the durability rule follows who keeps up, without ever falling below k. Method: reports over time;
//! each step that is wanted is agreed by `apply`, which keeps the rule wide until the proof.

use super::*;
use crate::{
    lsn::Lsn,
    report::{CanaryReport, PostgresReport},
    testing::{World, name},
};

/// The rule to which a change leads.
fn changes(world: &mut World) -> (Vec<String>, u32) {
    let wanted = world.step();
    let Command::BeginChange { to, .. } = wanted.command else { panic!("{wanted:?}") };
    (to.cohort.iter().map(|key| key.member.to_string()).collect(), to.k)
}

fn members(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// The change under way is proven by `by` and agreed.
fn proves(world: &mut World, streaming: &[usize], by: &[usize]) {
    let version = world.cluster().newest_rule().unwrap().version.0;
    let proof = world.proof(version, 500, by);
    world.hear(world.primary_report_with(streaming, |primary| primary.proof = Some(proof)));
    let wanted = world.step();
    assert!(matches!(wanted.command, Command::FinishChange { .. }), "{wanted:?}");
}

#[test]
fn a_rule_that_fits_is_left_alone() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    assert_eq!(world.idle(), []);
}

#[test]
fn a_standby_that_is_silent_leaves_and_comes_back() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    world.wait(2_999);
    world.hear_well(&[2]);
    world.idle();
    world.wait(1);
    world.hear_well(&[2]);
    assert_eq!(changes(&mut world), (members(&["m2"]), 1));
    world.hear_well(&[2]);
    world.finds("rule-change");
    assert_eq!(world.cluster().newest_rule().unwrap().setting.cohort.len(), 2, "wide until proven");
    proves(&mut world, &[2], &[2]);
    world.hear_well(&[1, 2]);
    assert_eq!(changes(&mut world), (members(&["m1", "m2"]), 1));
    assert_eq!(world.cluster().change, None, "adding needs no proof");
}

#[test]
fn a_standby_that_lags_leaves_and_comes_back_only_when_it_has_caught_up() {
    let lag = |world: &World, bytes: u64| {
        let mut report = world.primary_report(&[1, 2]);
        if let PostgresReport::Primary(primary) = &mut report.postgres {
            primary.flush_lsn = Lsn(1_000 + bytes);
            primary.standbys[1].flush_lsn = primary.flush_lsn;
        }
        report
    };
    let max = 64_u64 << 20;
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    world.wait(3_000);
    world.hear(lag(&world, max + 1));
    assert_eq!(changes(&mut world), (members(&["m2"]), 1));
    proves(&mut world, &[2], &[2]);
    world.hear(world.standby_report(1));
    // Within the bound but not caught up: it would fall out again at once.
    world.hear(lag(&world, max / 4 + 1));
    world.idle();
    world.hear(lag(&world, max / 4));
    assert_eq!(changes(&mut world), (members(&["m1", "m2"]), 1));
}

/// A canary that hangs because standbys are missing: the rule is narrowed, nobody fails over.
#[test]
fn a_canary_that_hangs_for_missing_standbys_narrows_the_rule() {
    let mut world = World::serving(4, 2);
    world.hear_well(&[1, 2, 3]);
    world.wait(3_000);
    let hung = CanaryReport { ok_age_ms: Some(3_000), confirmed_age_ms: Some(3_000), waiting_ms: 2_900, took_us: 500 };
    world.hear(world.primary_report_with(&[1, 2], |primary| primary.canary = hung));
    assert_eq!(changes(&mut world), (members(&["m1", "m2"]), 2));
}

/// Strict durability: with fewer than k left the rule keeps its members and commits wait.
#[test]
fn commits_wait_rather_than_the_rule_falling_below_k() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    world.wait(10_000);
    world.hear(world.primary_report(&[]));
    world.hear(world.standby_report(1));
    let (cohort, k) = changes(&mut world);
    assert_eq!((cohort.len(), k), (1, 1), "one place is kept, and k");
}

#[test]
fn too_few_members_are_reported() {
    let mut world = World::new(2).found(1, &[]);
    world.hear(world.primary_report(&[]));
    let text = world.finds("too-few-standbys");
    assert!(text.contains("nobody can confirm, 1 are needed"), "{text}");
}

/// S5.
#[test]
fn a_new_leader_gives_every_standby_its_time() {
    let mut world = World::serving(3, 1);
    world.seen.since = world.now;
    world.hear(world.primary_report(&[]));
    world.wait(2_999);
    world.hear(world.primary_report(&[]));
    world.idle();
}

#[test]
fn starvation_of_the_leader_stretches_the_time_of_standbys() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    world.wait(3_200);
    world.seen.starved_ms = 500;
    world.hear_well(&[2]);
    world.idle();
}

#[test]
fn backups_are_never_counted_and_emergency_hosts_only_when_needed() {
    let tiers = [Tier::Replica, Tier::Replica, Tier::Emergency, Tier::Backup];
    let mut world = World::of_tiers(&tiers).found(1, &[1]);
    world.hear_well(&[1, 2, 3]);
    world.idle();
    world.wait(3_000);
    world.hear_well(&[2, 3]);
    assert_eq!(changes(&mut world), (members(&["m2"]), 1));
}

#[test]
fn a_member_that_leaves_or_is_made_anew_leaves_the_rule() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    world.must(Command::RequestLeave { member: name(1) });
    world.hear_well(&[1, 2]);
    assert_eq!(changes(&mut world), (members(&["m2"]), 1));

    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    let old = world.key(1);
    world.must(Command::NewIncarnation { member: name(1), replaces: old.incarnation });
    world.hear_well(&[2]);
    assert_eq!(changes(&mut world), (members(&["m2"]), 1));
    assert!(world.cluster().newest_rule().unwrap().setting.cohort.contains(&old), "until proven the old one counts");
}

/// A change that waits for a member that fails meanwhile is redirected; nobody who is only missing holds it up.
#[test]
fn a_change_is_redirected_when_a_member_of_its_wish_fails() {
    let mut world = World::serving(4, 1);
    world.hear_well(&[1, 2, 3]);
    world.wait(3_000);
    world.hear_well(&[2, 3]);
    assert_eq!(changes(&mut world), (members(&["m2", "m3"]), 1));
    world.wait(3_000);
    world.hear_well(&[3]);
    assert_eq!(changes(&mut world), (members(&["m3"]), 1));
    let rule = world.cluster().newest_rule().unwrap();
    assert_eq!(rule.setting.cohort.len(), 3, "wide over all that any walsender may hold");
    proves(&mut world, &[3], &[3]);
}

#[test]
fn a_change_is_finished_on_the_proof_of_its_own_version_only() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    world.wait(3_000);
    world.hear_well(&[2]);
    changes(&mut world);
    let version = world.cluster().newest_rule().unwrap().version.0;
    for proof in [world.proof(version - 1, 500, &[2]), world.proof(version, 500, &[1]), world.proof(version, 500, &[])]
    {
        world.hear(world.primary_report_with(&[2], |primary| primary.proof = Some(proof)));
        world.finds("rule-change");
    }
    proves(&mut world, &[2], &[2]);
}

#[test]
fn k_is_raised_and_lowered_as_the_operator_says() {
    let mut world = World::serving(3, 1);
    world.set(|settings| settings.sync_standbys = 2);
    world.hear_well(&[1, 2]);
    assert_eq!(changes(&mut world), (members(&["m1", "m2"]), 2));
    assert_eq!(world.cluster().newest_rule().unwrap().setting.k, 1, "raised in PostgreSQL and proven first");
    proves(&mut world, &[1, 2], &[1, 2]);
    world.set(|settings| settings.sync_standbys = 1);
    world.hear_well(&[1, 2]);
    assert_eq!(changes(&mut world), (members(&["m1", "m2"]), 1));
    assert_eq!(world.cluster().change, None);
}

#[test]
fn no_change_begins_while_paused_or_while_an_older_rule_is_open() {
    let mut world = World::serving(3, 1);
    world.must(Command::Pause);
    world.hear_well(&[1, 2]);
    world.wait(10_000);
    world.hear_well(&[2]);
    world.idle();

    let mut world = World::serving(4, 1);
    world.succeed(2, 1, &[1, 2, 3], (1, 300));
    world.promoted(2, 2, 300);
    world.must(Command::Open { epoch: crate::id::Epoch(2) });
    world.hear_well(&[2]);
    world.wait(5_000);
    world.hear_well(&[2]);
    world.finds("incomplete");
}

/// A report under another epoch is no evidence on this reign's standbys.
#[test]
fn a_primary_report_of_another_epoch_changes_nothing() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    world.wait(10_000);
    world.hear(world.primary_report_with(&[2], |primary| primary.epoch = crate::id::Epoch(9)));
    world.idle();
}

/// An adopted cluster waited for nobody so far: it begins to when somebody can confirm, not before.
#[test]
fn an_adopted_cluster_waits_for_standbys_only_once_there_are_some() {
    let mut world = World::new(3);
    let primary = world.key(0);
    world.must(Command::Found {
        primary,
        start: crate::reign::Start::Adopt,
        timeline: crate::id::TimelineId(1),
        system_identifier: Some(7),
        setting: Setting::new(0, []),
    });
    world.promoted(1, 1, 100);
    world.must(Command::Open { epoch: crate::id::Epoch(1) });
    world.hear_well(&[]);
    let text = world.finds("too-few-standbys");
    assert!(text.contains("do not wait for standbys yet"), "{text}");
    assert_eq!(world.cluster().change, None);
    world.hear_well(&[1]);
    assert_eq!(changes(&mut world), (members(&["m1"]), 1));
}

/// A wish for more members than there are can never be proven; those who join later make it one that can.
#[test]
fn a_wish_that_was_too_large_grows_with_those_who_join() {
    let mut world = World::new(3).found(1, &[1]);
    world.set(|settings| settings.sync_standbys = 2);
    world.hear_well(&[1]);
    assert_eq!(changes(&mut world), (members(&["m1"]), 2));
    world.hear_well(&[1]);
    world.finds("rule-change");
    world.hear_well(&[1, 2]);
    assert_eq!(changes(&mut world), (members(&["m1", "m2"]), 2));
    proves(&mut world, &[1, 2], &[1, 2]);
}

/// T1.1: a primary that can only be seen from outside shows no standbys; nobody leaves the rule for that.
#[test]
fn nobody_leaves_the_rule_of_a_primary_that_cannot_be_asked() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    world.wait(3_000);
    world.hear(world.primary_report_with(&[], |primary| primary.unasked_ms = Some(3_000)));
    world.finds("cannot-ask");
    let doubts = crate::rpo::doubts_now(world.cluster(), &world.seen, world.now, true);
    assert!(
        doubts.iter().any(|why| why.contains("let pgvigil in no more")),
        "changes by hand are not seen: {doubts:?}"
    );
}
