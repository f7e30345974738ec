//! Goal: every row of the design's table "Detection and decision" that concerns the primary. Method: a cluster that
//! was well is given the reports of one row; what the leader wants is agreed by `apply`, or a finding says why not.

use super::*;
use crate::testing::{World, name};

/// Member 0 was last heard 900 ms ago, longer than `suspect_ms`; the others say what the test says.
fn silent() -> World {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    world.wait(900);
    world
}

fn begun(world: &mut World) -> ElectionKind {
    match world.step().command {
        Command::BeginElection { kind, .. } => kind,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_primary_that_reports_is_left_alone() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    assert_eq!(world.idle(), []);
}

#[test]
fn a_dead_postmaster_begins_an_election_at_once() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    world.hear(world.dead_report(0, None));
    let wanted = world.step();
    let Command::BeginElection { epoch, kind, noticed_at } = wanted.command else { panic!("{wanted:?}") };
    assert_eq!((epoch.0, kind, noticed_at), (2, ElectionKind::Failover, WallTime(50_000)));
    assert!(wanted.evidence[0].contains("PostgreSQL died"), "{:?}", wanted.evidence);
}

/// It may only be starting again; and the fence of an older reign says nothing of this one.
#[test]
fn a_stopped_postmaster_that_is_not_fenced_is_not_dead() {
    for fenced in [None, Some(crate::id::Epoch(0))] {
        let mut world = World::serving(3, 1);
        world.hear_well(&[1, 2]);
        world.hear(Report { fenced, ..world.dead_report(0, None) });
        world.idle();
    }
}

#[test]
fn another_data_directory_on_the_primary_ends_its_reign() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    world.hear(Report { incarnation: None, postgres: PostgresReport::NoData, ..world.report(0) });
    assert_eq!(begun(&mut world), ElectionKind::Failover);
}

#[test]
fn crash_policy_restart_asks_for_the_same_primary_again() {
    let mut world = World::serving(3, 1);
    world.set(|settings| settings.crash_policy = CrashPolicy::Restart);
    world.hear_well(&[1, 2]);
    world.hear(world.dead_report(0, None));
    assert_eq!(begun(&mut world), ElectionKind::Renewal);
}

/// A lost host cannot be restarted in place, whatever the policy.
#[test]
fn crash_policy_restart_does_not_wait_for_a_lost_host() {
    let mut world = World::serving(3, 1);
    world.set(|settings| settings.crash_policy = CrashPolicy::Restart);
    world.hear_well(&[1, 2]);
    world.wait(900);
    world.hear(world.cut_off_report(1, Some(false)));
    world.hear(world.cut_off_report(2, Some(false)));
    assert_eq!(begun(&mut world), ElectionKind::Failover);
}

#[test]
fn a_silent_agent_whose_port_answers_nobody_is_a_lost_host() {
    let mut world = silent();
    world.hear(world.cut_off_report(1, Some(false)));
    world.hear(world.cut_off_report(2, Some(false)));
    let wanted = world.step();
    let Command::BeginElection { kind, noticed_at, .. } = wanted.command else { panic!("{wanted:?}") };
    assert_eq!((kind, noticed_at), (ElectionKind::Failover, WallTime(49_100)), "noticed when it fell silent");
    assert_eq!(wanted.evidence.len(), 3, "{:?}", wanted.evidence);
}

#[test]
fn a_silent_agent_whose_standbys_stream_is_only_an_agent_lost() {
    for streaming in [1, 2] {
        let mut world = silent();
        world.hear(world.cut_off_report(3 - streaming, Some(false)));
        world.hear(world.standby_report(streaming));
        let text = world.finds("agent-lost");
        assert!(text.contains(&format!("m{streaming} still receives")), "{text}");
    }
}

#[test]
fn a_silent_agent_whose_port_answers_somebody_is_only_an_agent_lost() {
    for answered in [1, 2] {
        let mut world = silent();
        world.hear(world.cut_off_report(3 - answered, Some(false)));
        world.hear(world.cut_off_report(answered, Some(true)));
        world.finds("agent-lost");
    }
}

/// A walreceiver that is connected and gets nothing is no sign of life: an idle primary writes its canary.
#[test]
fn a_connection_without_wal_is_no_sign_of_life() {
    let mut world = silent();
    for number in [1, 2] {
        let mut report = world.cut_off_report(number, Some(false));
        if let PostgresReport::Standby(standby) = &mut report.postgres {
            standby.streaming = true;
        }
        world.hear(report);
    }
    assert_eq!(begun(&mut world), ElectionKind::Failover);
}

#[test]
fn nobody_is_declared_lost_before_a_peer_has_looked() {
    let mut world = silent();
    world.hear(world.cut_off_report(1, None));
    world.hear(world.cut_off_report(2, None));
    world.finds("primary-suspect");
    let soon = world.now.plus(200);
    assert!(world.look().wake_at.is_some_and(|at| at <= soon));
}

#[test]
fn a_probe_of_another_member_or_of_long_ago_is_no_evidence() {
    for old in [false, true] {
        let mut world = silent();
        for number in [1, 2] {
            let mut report = world.cut_off_report(number, Some(false));
            let probe = report.probe.as_mut().unwrap();
            if old {
                probe.age_ms = 1_700;
            } else {
                probe.member = name(number);
            }
            world.hear(report);
        }
        world.finds("primary-suspect");
    }
}

/// What a peer saw before it fell silent itself is no evidence either.
#[test]
fn a_probe_of_a_peer_that_is_silent_itself_is_no_evidence() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    world.hear(world.cut_off_report(1, Some(false)));
    world.hear(world.cut_off_report(2, Some(false)));
    world.wait(900);
    world.finds("primary-suspect");
}

/// S5.
#[test]
fn silence_before_this_leader_listened_is_no_evidence() {
    let mut world = World::serving(3, 1);
    world.seen.since = world.now;
    world.wait(799);
    world.hear(world.cut_off_report(1, Some(false)));
    world.hear(world.cut_off_report(2, Some(false)));
    world.idle();
    world.wait(2);
    assert_eq!(begun(&mut world), ElectionKind::Failover);
}

/// A leader that was paused itself has heard nobody meanwhile.
#[test]
fn silence_during_this_leaders_own_pause_is_no_evidence() {
    let mut world = silent();
    world.seen.deaf_until = world.now;
    world.hear(world.cut_off_report(1, Some(false)));
    world.hear(world.cut_off_report(2, Some(false)));
    world.idle();
    world.wait(801);
    world.hear(world.cut_off_report(1, Some(false)));
    world.hear(world.cut_off_report(2, Some(false)));
    assert_eq!(begun(&mut world), ElectionKind::Failover);
}

#[test]
fn starvation_of_the_leader_stretches_its_time_out() {
    let mut world = silent();
    world.seen.starved_ms = 200;
    world.hear(world.cut_off_report(1, Some(false)));
    world.hear(world.cut_off_report(2, Some(false)));
    world.idle();
    world.wait(101);
    assert_eq!(begun(&mut world), ElectionKind::Failover);
}

#[test]
fn a_paused_cluster_fails_over_for_nothing() {
    let mut world = World::serving(3, 1);
    world.must(Command::Pause);
    world.hear_well(&[1, 2]);
    world.hear(world.dead_report(0, None));
    assert!(world.finds("paused").contains("m0 is dead"));
}

#[test]
fn without_automatic_failover_the_operator_is_told_what_to_do() {
    let mut world = World::serving(3, 1);
    world.set(|settings| settings.automatic_failover = false);
    world.hear_well(&[1, 2]);
    world.hear(world.dead_report(0, None));
    assert!(world.finds("manual").contains("ask for a failover"));
}

/// An election that cannot end would only take away the lease of a primary that may still serve.
#[test]
fn a_lost_host_is_not_replaced_when_too_few_can_seal() {
    let mut world = silent();
    world.hear(world.cut_off_report(1, Some(false)));
    let text = world.finds("too-few-members");
    assert!(text.contains("m2"), "{text}");
}

/// Its own seal closes every rule: a dead primary whose agent answers is worth an election even alone.
#[test]
fn a_dead_primary_whose_agent_answers_is_worth_an_election_alone() {
    let mut world = World::serving(3, 1);
    world.hear(world.dead_report(0, None));
    assert_eq!(begun(&mut world), ElectionKind::Failover);
}

#[test]
fn nothing_fails_over_from_a_first_primary_that_is_still_being_made() {
    let mut world = World::new(3);
    world.must(Command::Found {
        primary: world.key(0),
        start: crate::reign::Start::Initdb,
        timeline: crate::id::TimelineId(1),
        system_identifier: None,
        setting: crate::rule::Setting::new(1, []),
    });
    world.hear(Report { fenced: Some(crate::id::Epoch(1)), ..world.report(0) });
    world.wait(5_000);
    world.finds("promoting");
}

/// An appointee that dies before it is promoted is replaced like any primary.
#[test]
fn an_appointee_that_dies_before_its_promotion_is_replaced() {
    let mut world = World::serving(3, 1);
    world.succeed(2, 1, &[1, 2], (1, 300));
    world.hear(world.dead_report(1, None));
    world.hear(world.cut_off_report(2, None));
    assert_eq!(begun(&mut world), ElectionKind::Failover);
}
