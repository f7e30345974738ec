//! Goal: WAL is an agreed timeline's by its history file's content. Method: member 1 reigns in epoch 2 on timeline 2,
//! which left timeline 1 at 300; others claim to be on a timeline of that number.

use super::*;
use crate::{
    command::Command,
    testing::{World, begin, name},
};

fn own(timeline: u32, text: &str, end: u64) -> OwnEnd {
    OwnEnd { history: TimelineHistory::parse(TimelineId(timeline), text).unwrap(), end: Lsn(end) }
}

fn promoted() -> World {
    let mut world = World::serving(3, 1);
    world.succeed(2, 1, &[1, 2], (1, 300));
    world.promoted(2, 2, 300);
    world
}

fn told(world: &World, number: usize, own: &OwnEnd) -> Result<Position, Astray> {
    place(world.cluster(), &world.key(number), own)
}

fn at(epoch: u64, lsn: u64) -> Position {
    Position::new(Epoch(epoch), Lsn(lsn))
}

const MARKED: &str = "1\t0/12C\tno recovery target specified, pgvigil epoch 2\n";

#[test]
fn the_agreed_timeline_is_known_by_parent_fork_and_mark() {
    let world = promoted();
    assert_eq!(told(&world, 2, &own(2, MARKED, 400)), Ok(at(2, 400)));
    assert_eq!(told(&world, 2, &own(1, "", 310)), Ok(at(1, 310)));
    for (text, agreed_to) in [
        ("1\t0/100\tx, pgvigil epoch 2\n", 0x100),
        ("1\t0/12C\tno recovery target specified\n", 300),
        ("1\t0/12C\tx, pgvigil epoch 3\n", 300),
        ("1\t0/12C\tx # pgvigil epoch 2\n", 300),
    ] {
        let astray = told(&world, 2, &own(2, text, 400)).unwrap_err();
        assert_eq!((astray.agreed_to, astray.by_hand), (Some(at(1, agreed_to)), true), "{text}");
        assert!(astray.why.contains("timeline of that number that m1 was allotted in epoch 2"), "{}", astray.why);
    }
    let astray = told(&world, 2, &own(3, "1\t0/12C\tx, pgvigil epoch 2\n2\t0/200\tx\n", 0x300)).unwrap_err();
    assert_eq!((astray.agreed_to, astray.left), (Some(at(2, 0x200)), Some((TimelineId(2), Lsn(0x200)))));
    assert!(astray.why.contains("never allotted"), "{}", astray.why);
}

/// Before its promotion is recorded nobody follows: only the appointee itself can be on the timeline it was allotted.
#[test]
fn an_unrecorded_promotion_is_the_appointees_alone() {
    let mut world = World::serving(3, 1);
    world.succeed(2, 1, &[1, 2], (1, 300));
    let fresh = own(2, "1\t0/12C\tno recovery target specified\n", 400);
    assert_eq!(told(&world, 1, &fresh), Ok(at(2, 400)));
    assert_eq!(told(&world, 2, &fresh).unwrap_err().agreed_to, Some(at(1, 300)));
    assert!(told(&world, 1, &own(2, "1\t0/12B\tx\n", 400)).is_err(), "it sealed at more than that");
    // Its next directory is another's.
    world.must(Command::BeginElection {
        epoch: Epoch(3),
        kind: crate::reign::ElectionKind::Failover,
        noticed_at: crate::time::WallTime(0),
    });
    let next = MemberKey::new(name(1), crate::id::Incarnation(99));
    assert!(place(world.cluster(), &next, &fresh).is_err());
}

/// A reign that an older build agreed on has no mark to look for: parents and forks are compared all the way.
#[test]
fn without_a_mark_parents_and_forks_are_compared() {
    let mut world = promoted();
    world.must(begin(3, crate::reign::ElectionKind::Failover));
    let seals = vec![world.seal(3, 1, (2, 400)), world.seal(3, 2, (2, 400))];
    let command = world.appoint(3, 2, 3, seals);
    world.must(command);
    world.promoted(3, 3, 400);
    let mut agreed = world.cluster().clone();
    for promotion in agreed.reigns.iter_mut().filter_map(|reign| reign.promotion.as_mut()) {
        promotion.marked = false;
    }
    let told = |text: &str| place(&agreed, &world.key(0), &own(3, text, 500));
    assert_eq!(told("1\t0/12C\tx\n2\t0/190\tx\n"), Ok(at(3, 500)));
    assert_eq!(told("1\t0/100\tx\n2\t0/190\tx\n").unwrap_err().agreed_to, Some(at(1, 0x100)));
    assert_eq!(told("1\t0/12C\tx\n2\t0/180\tx\n").unwrap_err().agreed_to, Some(at(2, 0x180)));
    assert_eq!(told("1\t0/190\tx\n").unwrap_err().agreed_to, Some(at(1, 0x190)));
}

/// A primary whose pgvigil is older marks nothing, and does not say that it did: its standbys are on its timeline all the
/// same, and their seals count in full.
#[test]
fn a_promotion_by_an_older_build_is_known_without_a_mark() {
    let mut world = World::serving(3, 1);
    world.succeed(2, 1, &[1, 2], (1, 300));
    let told_so = r#"{"epoch":2,"timeline":2,"promotion":{"fork":300,"end":300},"system_identifier":7}"#;
    let command = serde_json::from_str::<Command>(&format!(r#"{{"record-promotion":{told_so}}}"#)).unwrap();
    world.must(command);
    let bare = own(2, "1\t0/12C\tno recovery target specified\n", 400);
    assert_eq!(told(&world, 2, &bare), Ok(at(2, 400)));
}

/// Case 63: after more failovers than are remembered, a member that was away for them is no member promoted by hand.
#[test]
fn a_timeline_that_is_no_longer_remembered_is_not_called_a_promotion_by_hand() {
    let world = promoted();
    let mut agreed = world.cluster().clone();
    let last = agreed.reigns.pop().unwrap();
    for number in 0..REIGNS_MAX as u64 {
        let timeline = TimelineId(10 + u32::try_from(number).unwrap());
        agreed.reigns.push(Reign { epoch: Epoch(10 + number), timeline, ..last.clone() });
    }
    let astray = place(&agreed, &world.key(2), &own(2, MARKED, 400)).unwrap_err();
    assert!(!astray.by_hand);
    assert!(place(&agreed, &world.key(2), &own(999, MARKED, 400)).unwrap_err().by_hand);
}
