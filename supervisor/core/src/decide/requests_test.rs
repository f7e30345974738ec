//! Goal: what an operator asks for is begun when it is safe, waits, or is dropped with the reason. Method: requests
//! agreed by `apply`, then one decision.

use super::*;
use crate::{
    id::Epoch,
    member::Tier,
    report::{PostgresReport, Report},
    rule::Setting,
    testing::{World, begin as begin_command, name},
};

fn ask(world: &mut World, kind: ElectionKind) {
    world.must(Command::RequestElection { kind });
}

fn switchover(to: Option<usize>) -> ElectionKind {
    ElectionKind::Switchover { to: to.map(name) }
}

fn begun(world: &mut World) -> ElectionKind {
    match world.step().command {
        Command::BeginElection { kind, .. } => kind,
        other => panic!("{other:?}"),
    }
}

fn dropped(world: &mut World) -> String {
    let wanted = world.step();
    assert_eq!(wanted.command, Command::DropRequest);
    assert_eq!(world.cluster().request_dropped.as_ref(), Some(&wanted.reason));
    wanted.reason
}

#[test]
fn a_switchover_begins_when_its_target_is_suitable() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    ask(&mut world, switchover(Some(2)));
    assert_eq!(begun(&mut world), switchover(Some(2)));
}

/// The old primary, killed once it is drained, recovers in a moment if a checkpoint was written before: waited for, within bounds.
#[test]
fn a_switchover_waits_for_a_checkpoint_but_not_for_ever() {
    let mut world = World::serving(3, 1);
    ask(&mut world, switchover(Some(2)));
    let old = |world: &World| world.primary_report_with(&[1, 2], |primary| primary.checkpoint_age_ms = Some(30_000));
    for _ in 0..2 {
        world.hear_well(&[1, 2]);
        world.hear(old(&world));
        assert!(world.finds("switchover-waits").contains("checkpoint"));
        world.wait(60_000);
    }
    world.wait(200_000);
    world.hear_well(&[1, 2]);
    world.hear(old(&world));
    assert_eq!(begun(&mut world), switchover(Some(2)));
}

#[test]
fn a_switchover_to_anyone_names_the_best() {
    let mut world = World::of_tiers(&[Tier::Primary, Tier::Replica, Tier::Primary]).found(1, &[1, 2]);
    world.hear_well(&[1, 2]);
    ask(&mut world, switchover(None));
    assert_eq!(begun(&mut world), switchover(Some(2)));
}

/// The operator's order of preference comes before the WAL that is still to be replayed.
#[test]
fn tier_and_priority_come_before_replay_debt() {
    let mut world = World::of_tiers(&[Tier::Primary, Tier::Replica, Tier::Primary]).found(1, &[1, 2]);
    world.hear_well(&[1, 2]);
    let mut report = world.standby_report(2);
    if let PostgresReport::Standby(standby) = &mut report.postgres {
        standby.flush_lsn = crate::lsn::Lsn(100 << 20);
    }
    world.hear(report);
    ask(&mut world, switchover(None));
    assert_eq!(begun(&mut world), switchover(Some(2)));
}

#[test]
fn a_switchover_to_somebody_unsuitable_is_dropped_with_the_reason() {
    type Spoil = fn(&mut World);
    let cases: [(Spoil, &str); 5] = [
        (
            |world| {
                let mut report = world.standby_report(2);
                if let PostgresReport::Standby(standby) = &mut report.postgres {
                    standby.streaming = false;
                }
                world.hear(report);
            },
            "does not stream",
        ),
        (
            |world| {
                let mut report = world.standby_report(2);
                if let PostgresReport::Standby(standby) = &mut report.postgres {
                    standby.replay_held = true;
                }
                world.hear(report);
            },
            "replay is paused",
        ),
        (|world| world.hear(Report { incarnation: None, ..world.standby_report(2) }), "not the one that counts"),
        (|world| world.hear(world.report(2)), "does not run as a standby"),
        (
            |world| {
                world.wait(3_001);
                world.hear(world.primary_report(&[1]));
            },
            "silent",
        ),
    ];
    for (spoil, why) in cases {
        let mut world = World::serving(3, 1);
        world.hear_well(&[1, 2]);
        spoil(&mut world);
        ask(&mut world, switchover(Some(2)));
        let reason = dropped(&mut world);
        assert!(reason.contains(why), "{reason}");
    }
}

/// Keeps S5: a leader that has just begun to listen has heard of nobody, which says nothing about them.
#[test]
fn a_new_leader_hears_of_the_members_before_it_judges_a_switchover() {
    for to in [Some(2), None] {
        let mut world = World::serving(3, 1);
        world.seen = Observations { since: world.now, ..Observations::new(world.seen.me, world.now) };
        ask(&mut world, switchover(to));
        world.hear(world.primary_report(&[1, 2]));
        world.wait(7);
        assert!(world.finds("switchover-waits").contains("has heard of"));
        world.hear_well(&[1, 2]);
        assert!(matches!(begun(&mut world), ElectionKind::Switchover { to: Some(_) }));
    }
}

/// It does not wait for ever for one that is dead.
#[test]
fn a_new_leader_drops_a_switchover_to_somebody_who_stays_silent() {
    let mut world = World::serving(3, 1);
    world.seen = Observations::new(world.seen.me, world.now);
    ask(&mut world, switchover(Some(2)));
    world.wait(world.cluster().settings.suspect_ms + 1);
    world.hear(world.primary_report(&[1]));
    assert!(dropped(&mut world).contains("m2: silent"));
}

/// Outside the rule it may lack acknowledged commits, and would make the planned change wait for its catching up.
#[test]
fn a_switchover_to_a_member_outside_the_rule_is_dropped() {
    let mut world = World::new(3).found(1, &[1]);
    world.hear(world.primary_report(&[1]));
    world.hear(world.standby_report(1));
    world.hear(world.standby_report(2));
    ask(&mut world, switchover(Some(2)));
    assert!(dropped(&mut world).contains("not in the durability rule"));
}

#[test]
fn a_switchover_waits_for_the_present_reign_to_be_complete() {
    let mut world = World::serving(3, 1);
    world.succeed(2, 1, &[1, 2], (1, 300));
    world.promoted(2, 2, 300);
    world.must(Command::Open { epoch: Epoch(2) });
    ask(&mut world, switchover(Some(2)));
    world.hear_well(&[2]);
    world.finds("switchover-waits");
    world.completed(2, &[2]);
    world.hear_well(&[2]);
    assert_eq!(begun(&mut world), switchover(Some(2)));
}

#[test]
fn a_switchover_waits_for_a_rule_change() {
    let mut world = World::serving(3, 1);
    let to = Setting::new(1, world.keys(&[2]));
    world.must(Command::BeginChange { epoch: Epoch(1), to });
    ask(&mut world, switchover(Some(2)));
    world.hear_well(&[1, 2]);
    world.finds("switchover-waits");
}

/// A planned change is the operator's own: it works while paused.
#[test]
fn a_switchover_works_while_paused() {
    let mut world = World::serving(3, 1);
    world.must(Command::Pause);
    world.hear_well(&[1, 2]);
    ask(&mut world, switchover(Some(1)));
    assert_eq!(begun(&mut world), switchover(Some(1)));
}

/// History A16: the record names who is given up.
#[test]
fn a_forced_failover_names_the_members_given_up() {
    let mut world = World::serving(3, 1);
    let kind = ElectionKind::Forced { to: Some(name(2)), old_primary_is_off: true, give_up: [name(1)].into() };
    ask(&mut world, kind.clone());
    let wanted = world.step();
    assert!(matches!(&wanted.command, Command::BeginElection { kind: begun, .. } if *begun == kind), "{wanted:?}");
    let incident = world.cluster().incidents.last().unwrap();
    assert!(incident.possible_data_loss);
    assert!(incident.evidence.iter().any(|line| line.contains("m1 is given up")), "{:?}", incident.evidence);
    assert!(incident.evidence.iter().any(|line| line.contains("m0 is off")), "{:?}", incident.evidence);
}

/// An election that cannot end is left by force.
#[test]
fn a_forced_failover_replaces_an_election_that_cannot_end() {
    let mut world = World::serving(3, 1);
    world.begin(2);
    world.hear(world.sealed_report(2, (1, 300)));
    let kind = ElectionKind::Forced { to: None, old_primary_is_off: true, give_up: [name(1)].into() };
    ask(&mut world, kind.clone());
    let wanted = world.step();
    assert!(matches!(&wanted.command, Command::BeginElection { epoch: Epoch(3), kind: k, .. } if *k == kind));
    assert!(!wanted.evidence.is_empty());
    world.hear(world.sealed_report(2, (1, 300)));
    world.wait(2_000);
    world.hear(world.sealed_report(2, (1, 300)));
    let wanted = world.step();
    assert!(matches!(&wanted.command, Command::Appoint { primary, .. } if *primary == world.key(2)), "{wanted:?}");
}

/// Asked twice is not meant twice: the second request must not end the reign that the first one brought.
#[test]
fn a_forced_failover_asked_for_twice_happens_once() {
    let mut world = World::serving(3, 1);
    let kind = ElectionKind::Forced { to: None, old_primary_is_off: true, give_up: [].into() };
    ask(&mut world, kind.clone());
    world.step();
    ask(&mut world, kind);
    assert!(dropped(&mut world).contains("under way"));
}

#[test]
fn a_request_is_begun_with_the_next_epoch_of_the_state() {
    let mut world = World::serving(3, 1);
    world.must(begin_command(2, ElectionKind::Failover));
    world.must(begin_command(3, ElectionKind::Failover));
    ask(&mut world, ElectionKind::Forced { to: None, old_primary_is_off: false, give_up: [].into() });
    assert!(matches!(world.step().command, Command::BeginElection { epoch: Epoch(4), .. }));
}

/// Any 2 of three others: with the third silent, nobody would confirm after the change what is confirmed before it.
#[test]
fn a_switchover_after_which_too_few_could_confirm_is_dropped_before_anything_stops() {
    let mut world = World::serving(4, 2);
    for (there, drops) in [(&[1, 2][..], false), (&[1][..], true)] {
        world.wait(10_000);
        world.hear_well(there);
        ask(&mut world, switchover(Some(1)));
        if drops {
            let why = dropped(&mut world);
            assert!(
                why.contains("2 other members") && why.contains("m2: silent") && why.contains("m3: silent"),
                "{why}"
            );
        } else {
            let wanted = world.look().command.expect("a switchover");
            assert!(matches!(wanted.command, Command::BeginElection { .. }), "{wanted:?}");
            world.must(Command::DropRequest);
        }
    }
}

/// A refusal says of each member why not, and of a member that was named whether another one could.
#[test]
fn a_dropped_switchover_names_each_member_and_its_reason() {
    let mut world = World::of_tiers(&[Tier::Replica, Tier::Replica, Tier::Backup]).found(1, &[1]);
    world.hear(world.primary_report(&[1]));
    world.hear(world.report(1));
    world.hear(world.standby_report(2));
    ask(&mut world, switchover(None));
    let why = dropped(&mut world);
    for part in ["m0: it is the primary", "m1: it does not run as a standby", "m2: its tier is backup"] {
        assert!(why.contains(part), "{why}");
    }
    let mut world = World::new(3).found(1, &[1]);
    world.hear_well(&[1, 2]);
    ask(&mut world, switchover(Some(2)));
    let why = dropped(&mut world);
    assert!(why.contains("not in the durability rule") && why.contains("m1 could"), "{why}");
}
