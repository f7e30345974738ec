use super::*;
use crate::{
    id::Epoch,
    report::{LeaderClock, Report},
    rpo::{Cause, Verdict, verdict},
    testing::World,
};

fn said(id: u64, cause: Cause, began_ago_ms: u64, ended_ago_ms: Option<u64>) -> UnprovenReport {
    UnprovenReport { epoch: Epoch(1), id, cause, detail: "by hand".to_owned(), began_ago_ms, ended_ago_ms }
}

fn shown(world: &World, unproven: Vec<UnprovenReport>) -> Report {
    let ago = unproven.iter().all(|said| said.ended_ago_ms.is_some()).then_some(100);
    let report = world.primary_report_with(&[1, 2], |primary| primary.shown_ago_ms = ago);
    Report { unproven, echo: echo(world, 0), ..report }
}

/// Nothing of the network's slowness is known but that the answer before this report came `ago_ms` before it was sent.
fn echo(world: &World, ago_ms: u64) -> Option<(LeaderClock, u64)> {
    let at = world.now.minus(ago_ms);
    Some((LeaderClock { node: world.seen.me, since: world.seen.since, at }, ago_ms))
}

fn noted(world: &mut World) -> Vec<Unproven> {
    let wanted = world.step();
    assert!(matches!(wanted.command, Command::NoteUnproven { .. }), "{wanted:?}");
    world.cluster().reigns[0].unproven.clone()
}

#[test]
fn a_healthy_cluster_writes_nothing() {
    let mut world = World::serving(3, 1);
    for _ in 0..50 {
        world.wait(250);
        world.hear_well(&[1, 2]);
        world.hear(shown(&world, Vec::new()));
        world.idle();
    }
}

#[test]
fn what_begins_is_agreed_at_once_and_what_flaps_in_batches() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    world.hear(shown(&world, vec![said(7, Cause::RuleNotInForce, 200, None)]));
    let known = noted(&mut world);
    assert_eq!((known[0].from, known[0].until), (WallTime(49_800), None));
    world.idle();
    let mut entries = 0;
    for turn in 0..100_u64 {
        world.wait(250);
        world.hear_well(&[1, 2]);
        let over = turn % 2 == 0;
        world.hear(shown(&world, vec![said(7 + turn / 2, Cause::RuleNotInForce, 250, over.then_some(10))]));
        if world.look().command.is_some() {
            world.step();
            entries += 1;
        }
    }
    assert!((3..=6).contains(&entries), "{entries} entries in 25 s");
    world.hear(shown(&world, vec![said(99, Cause::CommitLowered, 200, None)]));
    noted(&mut world);
}

/// The leader has the report, the primary dies: it is agreed before anybody is appointed.
#[test]
fn what_was_reported_is_agreed_before_the_appointment() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    world.hear(shown(&world, vec![said(7, Cause::RuleNotInForce, 200, Some(100))]));
    noted(&mut world);
    // Within the pause: the same comes again and ends with the primary's life.
    world.hear(shown(&world, vec![said(8, Cause::RuleNotInForce, 50, None)]));
    world.idle();
    world.begin(2);
    world.wait(20);
    world.hear(Report { unproven: vec![said(8, Cause::RuleNotInForce, 70, Some(5))], ..world.dead_report(0, None) });
    let known = noted(&mut world);
    assert_eq!(known.len(), 2);
    world.hear(world.sealed_report(1, (1, 300)));
    world.hear(world.sealed_report(2, (1, 300)));
    assert!(matches!(world.step().command, Command::Appoint { .. }));
    assert!(world.cluster().incidents[0].possible_data_loss);
}

/// Until when it was shown in force is noted in the election; by the next leader too, from what the others heard.
#[test]
fn the_next_leader_knows_from_the_others_until_when_the_rule_was_shown() {
    for heard_itself in [true, false] {
        let mut world = World::serving(3, 1);
        let from_others = |world: &World, n| Report {
            shown_to_leader: Some((Epoch(1), 700)),
            echo: echo(world, 30),
            ..world.sealed_report(n, (1, 300))
        };
        if heard_itself {
            world.hear(shown(&world, Vec::new()));
            world.wait(500);
        }
        world.begin(2);
        world.notice();
        world.hear(from_others(&world, 1));
        let Command::NoteUnproven { shown: Some(shown), found, .. } = world.step().command else { panic!() };
        assert!(found.is_empty());
        assert_eq!(shown.unseen_ms, if heard_itself { 600 } else { 700 });
        world.hear(from_others(&world, 2));
        assert!(matches!(world.step().command, Command::Appoint { .. }));
        let incident = &world.cluster().incidents[0];
        assert!(matches!(verdict(world.cluster(), incident), Verdict::NoneLost(_)));
        assert!(!incident.possible_data_loss);
    }
}

/// Its agent was not heard before it died; it comes back as a standby of the next primary with what it had written down.
#[test]
fn a_former_primary_tells_late() {
    let mut world = World::serving(3, 1);
    world.succeed(2, 1, &[1, 2], (1, 300));
    world.promoted(2, 2, 300);
    world.must(Command::Open { epoch: Epoch(2) });
    world.completed(2, &[2]);
    world.hear_well(&[]);
    let late = vec![said(7, Cause::ReloadByOthers, 5_000, Some(4_800))];
    world.hear(Report { unproven: late.clone(), ..world.standby_report(0) });
    assert_eq!(noted(&mut world)[0].cause, Cause::ReloadByOthers);
    // What another member says of a reign that was not its own is no evidence.
    world.hear(Report { unproven: vec![said(9, Cause::CommitLowered, 5_000, None)], ..world.standby_report(2) });
    assert!(!matches!(world.look().command.map(|w| w.command), Some(Command::NoteUnproven { .. })));
}

/// Its agent was killed with what it had seen begin; the rule is in force again.
#[test]
fn a_stretch_of_which_the_agent_knows_nothing_any_more_ends_when_the_rule_is_shown() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    world.hear(shown(&world, vec![said(7, Cause::RuleNotInForce, 200, None)]));
    noted(&mut world);
    world.idle();
    world.wait(6_000);
    world.hear_well(&[1, 2]);
    world.hear(shown(&world, Vec::new()));
    assert_eq!(noted(&mut world)[0].until, Some(WallTime(49_900)));
    world.idle();
}

/// A report that lay on its way for long shows nothing of that time, and one that answers another leader nothing at all.
#[test]
fn a_slow_network_makes_nothing_shown_later_than_it_was() {
    let mut world = World::serving(3, 1);
    let (now, node, since) = (world.now, world.seen.me, world.seen.since);
    let late =
        Report { echo: Some((LeaderClock { node, since, at: now.minus(900) }, 50)), ..shown(&world, Vec::new()) };
    let other = Report { echo: Some((LeaderClock { node, since: now, at: now }, 0)), ..late.clone() };
    world.hear(other);
    assert_eq!(world.seen.rule_shown, None);
    world.hear(late);
    assert_eq!(world.seen.rule_shown, Some((Epoch(1), now.minus(950))));
}

/// Found by the simulation (`--hands`, seed 490): nothing could be agreed when it was said, and who had said it lost power.
#[test]
fn what_was_said_and_not_agreed_outlives_the_agent_that_said_it() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    world.hear(shown(&world, vec![said(7, Cause::RuleNotInForce, 200, None)]));
    world.wait(250);
    world.hear(shown(&world, Vec::new()));
    let known = noted(&mut world);
    // The wall clock of these tests stands still.
    assert_eq!((known[0].from, known[0].until), (WallTime(49_550), Some(WallTime(50_000))));
    world.wait(250);
    world.hear(shown(&world, Vec::new()));
    world.idle();
}

/// Found by the simulation (`--hands`, seeds 1726 and 2347): backends did not wait by the rule yet when the canary was
/// acknowledged; and what a slow network delivered was taken for later than it was.
#[test]
fn rpo_0_holds_again_once_standbys_have_a_canary_that_began_after_the_doubt() {
    let mut world = World::serving(3, 1);
    world.hear_well(&[1, 2]);
    world.hear(shown(&world, vec![said(7, Cause::RuleNotInForce, 200, Some(100))]));
    assert_eq!(noted(&mut world)[0].until, Some(WallTime(49_900)));
    let mut holds = |confirmed_age_ms, delay| {
        let mut report = shown(&world, Vec::new());
        let PostgresReport::Primary(primary) = &mut report.postgres else { unreachable!() };
        primary.canary = crate::report::CanaryReport { ok_age_ms: Some(1), confirmed_age_ms, ..primary.canary };
        let clock = LeaderClock { node: world.seen.me, since: world.seen.since, at: world.now.minus(delay) };
        report.echo = Some((clock, 0));
        world.hear(report);
        rpo::doubts_now(world.cluster(), &world.seen, world.now, true).is_empty()
    };
    assert!(!holds(None, 0), "acknowledged, and nobody is seen to have it");
    assert!(!holds(Some(100), 0), "it began in doubt");
    assert!(!holds(Some(50), 200), "it may have");
    assert!(holds(Some(50), 0));
}
