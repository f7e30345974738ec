//! Goal: elections that come to nothing follow each other ever more slowly, and at once when the cause may be gone.
//! Method: member after member is appointed and dies before its rule is complete.

use super::*;
use crate::{
    command::Command,
    id::Epoch,
    report::Report,
    testing::{World, name},
    time::Time,
};

/// The primary of the present reign is dead, everybody's agent is there.
fn hear_dead(world: &mut World, room: bool) {
    let primary = world.cluster().reign().unwrap().primary.member.clone();
    for number in 0..3 {
        let report = if name(number) == primary {
            world.dead_report(number, None)
        } else {
            world.cut_off_report(number, Some(false))
        };
        world.hear(Report { disk_full: !room, ..report });
    }
}

/// When the next election begins, at most `limit` milliseconds from now; it is begun, and member 1 or 2 appointed.
fn next_election(world: &mut World, limit: u64) -> Option<Time> {
    let end = world.now.plus(limit);
    while world.now < end {
        hear_dead(world, false);
        if matches!(world.look().command, Some(wanted) if matches!(wanted.command, Command::BeginElection { .. })) {
            let at = world.now;
            world.step();
            let epoch = world.cluster().epoch.0;
            let appointee = 1 + usize::try_from(epoch % 2).unwrap();
            let seals = [0, 1, 2].map(|n| world.seal(epoch, n, (1, 300))).to_vec();
            let timeline = world.cluster().last_timeline.next().0;
            let command = world.appoint(epoch, appointee, timeline, seals);
            world.must(command);
            world.notice();
            return Some(at);
        }
        world.wait(100);
    }
    None
}

fn after_fruitless(count: u32) -> World {
    let mut world = World::serving(3, 1);
    hear_dead(&mut world, false);
    while fruitless(world.cluster()) < count {
        next_election(&mut world, 40_000).expect("an election");
    }
    world
}

/// Trial T2.9: 21 and 50 elections within 5 s of each other on full disks.
#[test]
fn elections_that_come_to_nothing_are_begun_ever_more_slowly() {
    let mut world = World::serving(3, 1);
    let mut at = Vec::new();
    for _ in 0..12 {
        let appointed = world.now;
        let begun = next_election(&mut world, 40_000).expect("an election");
        at.push(begun.since(appointed));
    }
    assert!(at[..3].iter().all(|pause| *pause == 0), "the first ones are not held back: {at:?}");
    assert_eq!(at[3..9], [1_000, 2_000, 4_000, 8_000, 16_000, 30_000]);
    assert!(at[9..].iter().all(|pause| *pause == 30_000), "{at:?}");
}

/// A reign that was completed was no failure.
#[test]
fn a_reign_that_was_completed_ends_the_count() {
    let mut world = after_fruitless(5);
    let reign = world.cluster().reign().unwrap().clone();
    world.promoted(reign.epoch.0, reign.timeline.0, 300);
    world.completed(reign.epoch.0, &[0]);
    assert_eq!(fruitless(world.cluster()), 0);
    hear_dead(&mut world, false);
    assert!(matches!(world.step().command, Command::BeginElection { .. }));
}

#[test]
fn a_braked_election_begins_at_once_when_the_cause_may_be_gone() {
    let begins = |change: &dyn Fn(&mut World)| {
        let mut world = after_fruitless(7);
        hear_dead(&mut world, false);
        assert!(world.finds("election-braked").contains("the last 7 changes of primary came to nothing"));
        change(&mut world);
        matches!(world.look().command, Some(wanted) if matches!(wanted.command, Command::BeginElection { .. }))
    };
    assert!(!begins(&|_| {}));
    assert!(begins(&|world| hear_dead(world, true)), "there is room again");
    assert!(begins(&|world| world.set(|settings| settings.restart_timeout_ms += 1)), "an operator's settings");
    assert!(begins(&|world| {
        let kind = crate::reign::ElectionKind::Forced { to: None, old_primary_is_off: true, give_up: [].into() };
        world.must(Command::RequestElection { kind });
    }));
}

/// An appointee that does not get anywhere: neither its own success nor an operator's word waits for the brake.
#[test]
fn a_promotion_that_succeeds_and_a_forced_failover_are_not_held_back() {
    let stuck = || {
        let mut world = after_fruitless(7);
        world.set(|settings| settings.restart_timeout_ms = 5_000);
        world.notice();
        world.wait(5_001);
        world.hear(world.primary_report_with(&[], |primary| primary.promotion = None));
        world.seen.stage = Some((world.cluster().epoch, Stage::of(world.cluster(), &world.seen, world.now)));
        assert!(world.finds("election-braked").contains("did not become primary"));
        world
    };
    let mut world = stuck();
    let promotion = crate::reign::Promotion { fork: crate::lsn::Lsn(300), end: crate::lsn::Lsn(300), marked: true };
    world.hear(world.primary_report_with(&[], |primary| primary.promotion = Some(promotion)));
    assert!(matches!(world.step().command, Command::RecordPromotion { .. }));
    let mut world = stuck();
    let kind = crate::reign::ElectionKind::Forced { to: None, old_primary_is_off: true, give_up: [].into() };
    world.must(Command::RequestElection { kind });
    assert!(matches!(world.step().command, Command::BeginElection { .. }));
}

/// Somebody who comes back may be the one that was missing.
#[test]
fn a_member_that_comes_back_ends_the_brake() {
    let mut world = after_fruitless(7);
    world.wait(world.cluster().settings.standby_timeout_ms + 1);
    let primary = world.cluster().reign().unwrap().primary.clone();
    let number = (0..3).find(|n| world.key(*n) == primary).unwrap();
    let other = (0..3).find(|n| *n != number && *n != 0).unwrap();
    // Member 0 is silent when the next reign comes to nothing.
    world.hear(Report { disk_full: true, ..world.dead_report(number, None) });
    world.hear(Report { disk_full: true, ..world.cut_off_report(other, Some(false)) });
    world.seen.stage = Some((world.cluster().epoch, Stage::of(world.cluster(), &world.seen, world.now)));
    world.finds("election-braked");
    world.hear(Report { disk_full: true, ..world.cut_off_report(0, Some(false)) });
    assert!(matches!(world.step().command, Command::BeginElection { epoch: Epoch(_), .. }));
}
