use super::*;
use crate::{
    command::Command,
    id::{Epoch, MemberId, TimelineId},
    incident::IncidentOutcome,
    reign::{ElectionKind, Start},
    rpo::Cause,
    rule::Setting,
    settings::Settings,
    testing::{World, begin, name},
    time::WallTime,
};
use std::collections::BTreeSet;

fn shown(unseen_ms: u64) -> Shown {
    Shown { until: WallTime(9_000), unseen_ms }
}

fn stretch(cause: Cause) -> Unproven {
    let detail = "synchronous_standby_names was ''".to_owned();
    Unproven { cause, detail, from: WallTime(1_000), until: Some(WallTime(2_000)), newest: 7, times: 1 }
}

fn note(epoch: u64, found: Vec<Unproven>, shown: Option<Shown>) -> Command {
    Command::NoteUnproven { epoch: Epoch(epoch), found, shown }
}

fn newest(world: &World) -> Verdict {
    verdict(world.cluster(), world.cluster().incidents.last().unwrap())
}

fn flag(world: &World) -> bool {
    world.cluster().incidents.last().unwrap().possible_data_loss
}

/// m0 reigned in epoch 1; m1 follows it in epoch 2 on the seals of m1 and m2.
fn failover(world: &mut World) {
    world.succeed(2, 1, &[1, 2], (1, 300));
}

#[test]
fn a_rule_that_was_shown_in_force_to_the_end_loses_nothing() {
    let mut world = World::serving(3, 1);
    world.begin(2);
    assert_eq!(newest(&world), Verdict::Open);
    world.must(note(1, Vec::new(), Some(shown(300))));
    let appoint = world.appoint(2, 1, 2, vec![world.seal(2, 1, (1, 300)), world.seal(2, 2, (1, 300))]);
    world.must(appoint);
    assert_eq!(newest(&world), Verdict::NoneLost(Ground::Rule(shown(300))));
    assert!(!flag(&world));
    let said = newest(&world).sentence(false, |at| at.0.to_string());
    assert!(said.starts_with("none: ") && said.contains("until 9000, 300 ms before the election"), "{said}");
}

/// The first history of the issue: a line in postgresql.conf, both standbys frozen, 20 commits, the primary killed.
#[test]
fn any_stretch_without_the_rule_makes_it_not_proven() {
    for cause in [
        Cause::RuleNotInForce,
        Cause::CommitLowered,
        Cause::ReloadByOthers,
        Cause::UnsafeSetting,
        Cause::NameTakenTwice,
        Cause::ReleasedByHand,
        Cause::NotSeen,
    ] {
        let mut world = World::serving(3, 1);
        world.must(note(1, vec![stretch(cause)], None));
        world.begin(2);
        world.must(note(1, Vec::new(), Some(shown(10))));
        let appoint = world.appoint(2, 1, 2, vec![world.seal(2, 1, (1, 300)), world.seal(2, 2, (1, 300))]);
        world.must(appoint);
        assert_eq!(newest(&world), Verdict::NotProven(vec![stretch(cause)]));
        assert!(flag(&world));
        let said = newest(&world).sentence(true, |at| at.0.to_string());
        assert!(said.contains("from 1000 to 2000: synchronous_standby_names was ''"), "{said}");
    }
}

/// The old primary's agent comes back and tells what its leader never heard: the incident is closed by then.
#[test]
fn evidence_that_comes_late_turns_the_verdict() {
    let mut world = World::serving(3, 1);
    world.begin(2);
    world.must(note(1, Vec::new(), Some(shown(10))));
    let appoint = world.appoint(2, 1, 2, vec![world.seal(2, 1, (1, 300)), world.seal(2, 2, (1, 300))]);
    world.must(appoint);
    world.promoted(2, 2, 300);
    world.must(Command::Open { epoch: Epoch(2) });
    world.completed(2, &[2]);
    assert_eq!(world.cluster().incidents.last().unwrap().outcome, IncidentOutcome::Moved);
    assert!(!flag(&world));
    world.must(note(1, vec![stretch(Cause::RuleNotInForce)], None));
    assert!(flag(&world));
    assert!(matches!(newest(&world), Verdict::NotProven(_)));
    world.refused(note(1, vec![stretch(Cause::RuleNotInForce)], None));
}

#[test]
fn a_primary_that_nobody_saw_for_long_or_at_all_is_not_proven() {
    let mut world = World::serving(3, 1);
    failover(&mut world);
    assert!(matches!(newest(&world), Verdict::NotProven(doubts) if doubts[0].cause == Cause::NotSeen));
    assert!(flag(&world));
    let mut world = World::serving(3, 1);
    let long = unseen_max_ms(&Settings { lease_ms: 1_300, ..Settings::default() }) + 1;
    world.begin(2);
    world.must(note(1, Vec::new(), Some(shown(long))));
    let appoint = world.appoint(2, 1, 2, vec![world.seal(2, 1, (1, 300)), world.seal(2, 2, (1, 300))]);
    world.must(appoint);
    let Verdict::NotProven(doubts) = newest(&world) else { panic!("{:?}", newest(&world)) };
    assert_eq!((doubts[0].cause, doubts[0].from), (Cause::NotSeen, WallTime(9_000)));
}

/// m1 was appointed and died before its door was opened: nobody could commit there, and m0 was seen to the end.
#[test]
fn a_successor_that_was_never_opened_acknowledged_nothing() {
    let appointed = || {
        let mut world = World::serving(4, 1);
        world.begin(2);
        world.must(note(1, Vec::new(), Some(shown(300))));
        let seals = (1..4).map(|n| world.seal(2, n, (1, 300))).collect();
        let appoint = world.appoint(2, 1, 2, seals);
        world.must(appoint);
        world
    };
    let mut world = appointed();
    world.begin(3);
    let seals = (1..4).map(|n| world.seal(3, n, (1, 300))).collect();
    let appoint = world.appoint(3, 2, 3, seals);
    world.must(appoint);
    assert_eq!(newest(&world), Verdict::NoneLost(Ground::Rule(shown(300))));
    assert!(!flag(&world));
    // Once it was open, it has to have been seen.
    let mut world = appointed();
    world.promoted(2, 2, 300);
    world.must(Command::Open { epoch: Epoch(2) });
    world.completed(2, &[2]);
    world.begin(3);
    let appoint = world.appoint(3, 2, 3, vec![world.seal(3, 2, (2, 400)), world.seal(3, 3, (2, 400))]);
    world.must(appoint);
    assert!(matches!(newest(&world), Verdict::NotProven(doubts) if doubts[0].cause == Cause::NotSeen));
}

/// All that it wrote is there, whoever had confirmed it: but not what it acknowledged before it was on its own disk.
#[test]
fn the_former_primarys_own_wal_proves_what_a_rule_cannot() {
    for (cause, none_lost) in
        [(Cause::RuleNotInForce, true), (Cause::CommitLowered, false), (Cause::UnsafeSetting, false)]
    {
        let mut world = World::serving(3, 1);
        world.must(note(1, vec![stretch(cause)], None));
        world.must(begin(2, ElectionKind::Switchover { to: Some(name(1)) }));
        let seals = (0..3).map(|n| world.seal(2, n, (1, 300))).collect();
        let appoint = world.appoint(2, 1, 2, seals);
        world.must(appoint);
        let expected = Verdict::NoneLost(Ground::OwnWal(MemberId("m0".to_owned())));
        assert_eq!(newest(&world) == expected, none_lost, "{cause:?}");
        assert_eq!(flag(&world), !none_lost, "{cause:?}");
    }
    // It had more than its successor.
    let mut world = World::serving(3, 1);
    world.must(note(1, vec![stretch(Cause::RuleNotInForce)], None));
    world.begin(2);
    let seals = vec![world.seal(2, 0, (1, 400)), world.seal(2, 1, (1, 300)), world.seal(2, 2, (1, 300))];
    let appoint = world.appoint(2, 1, 2, seals);
    world.must(appoint);
    assert!(flag(&world));
}

/// Epoch 2 is opened and never complete: what epoch 1 acknowledged without the rule may be missing from all that follows.
#[test]
fn stretches_of_a_reign_whose_rule_is_still_open_count() {
    let mut world = World::serving(4, 1);
    world.must(note(1, vec![stretch(Cause::CommitLowered)], None));
    world.succeed(2, 1, &[1, 2, 3], (1, 300));
    world.promoted(2, 2, 300);
    world.must(Command::Open { epoch: Epoch(2) });
    world.begin(3);
    world.must(note(2, Vec::new(), Some(shown(10))));
    let seals = (1..4).map(|n| world.seal(3, n, (1, 300))).collect();
    let appoint = world.appoint(3, 2, 3, seals);
    world.must(appoint);
    assert!(flag(&world));
    // Once k of its standbys have all that it had, they do not.
    let mut world = World::serving(4, 1);
    world.must(note(1, vec![stretch(Cause::CommitLowered)], None));
    world.succeed(2, 1, &[1, 2, 3], (1, 300));
    world.promoted(2, 2, 300);
    world.must(Command::Open { epoch: Epoch(2) });
    world.completed(2, &[2]);
    world.begin(3);
    world.must(note(2, Vec::new(), Some(shown(10))));
    let appoint = world.appoint(3, 2, 3, vec![world.seal(3, 2, (2, 400)), world.seal(3, 3, (2, 400))]);
    world.must(appoint);
    assert!(!flag(&world), "{:?}", newest(&world));
}

#[test]
fn members_that_were_given_up_count_for_this_election_and_for_one_that_overtakes_it() {
    let mut world = World::serving(3, 1);
    let give_up = BTreeSet::from([name(2)]);
    world.must(begin(2, ElectionKind::Forced { to: None, old_primary_is_off: true, give_up }));
    assert!(flag(&world));
    world.begin(3);
    assert!(!flag(&world), "nothing is appointed");
    world.must(note(1, Vec::new(), Some(shown(10))));
    let appoint = world.appoint(3, 1, 2, vec![world.seal(3, 1, (1, 300))]);
    world.must(appoint);
    assert!(flag(&world));
    assert!(matches!(newest(&world), Verdict::NotProven(doubts) if doubts[0].cause == Cause::Forced));
}

#[test]
fn an_adopted_cluster_is_not_proven_for_the_time_before_its_rule() {
    let mut world = World::new(3);
    let primary = world.key(0);
    world.must(Command::Found {
        primary,
        start: crate::reign::Start::Adopt,
        timeline: crate::id::TimelineId(1),
        system_identifier: Some(7),
        setting: crate::rule::Setting::new(0, []),
    });
    assert_eq!(world.cluster().reign().unwrap().unproven[0].until, None);
    world.promoted(1, 1, 100);
    world.must(Command::Open { epoch: Epoch(1) });
    let to = crate::rule::Setting::new(1, world.keys(&[1, 2]));
    world.change(to);
    let unproven = &world.cluster().reign().unwrap().unproven[0];
    assert_eq!((unproven.cause, unproven.until), (Cause::NoRule, Some(WallTime(60_000))));
}

/// Found by the simulation (`--hands`, seeds 2614 and 5026): the primary of epoch 1 crashed, unseen for long, and went on in epoch 2 with
/// what only it had; then it was lost.
#[test]
fn what_a_primary_carried_on_by_itself_is_judged_with_the_reign_before() {
    let mut world = World::serving(3, 1);
    world.begin(2);
    let seals = vec![world.seal(2, 0, (1, 400)), world.seal(2, 1, (1, 300))];
    let (setting, primary) = (Setting::new(1, [world.key(1)]), world.key(0));
    let timeline = TimelineId(1);
    world.must(Command::Appoint { epoch: Epoch(2), primary, start: Start::Continue, timeline, setting, seals });
    world.promoted(2, 1, 400);
    world.begin(3);
    world.must(note(2, Vec::new(), Some(shown(300))));
    let seals = vec![world.seal(3, 1, (1, 300)), world.seal(3, 2, (1, 300))];
    let appoint = world.appoint(3, 1, 2, seals);
    world.must(appoint);
    assert!(matches!(newest(&world), Verdict::NotProven(doubts) if doubts[0].cause == Cause::NotSeen));
    assert!(flag(&world));
}
