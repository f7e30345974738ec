//! Goal: a member follows the primary of the reign only with WAL that belongs to its history, and is made anew
//! otherwise, never over evidence. Method: member 1 reigns in epoch 2 on timeline 2, forked at 300; the others return.

use super::*;
use crate::{
    command::Command,
    id::{ClusterId, Incarnation},
    lineage::OwnEnd,
    local::InForce,
    lsn::Lsn,
    position::Position,
    report::Adoptable,
    testing::{World, agent::running, begin, name, spec},
    timeline::TimelineHistory,
};

/// Member 1 reigns in epoch 2, promoted; the rule of epoch 1 is still open.
fn promoted() -> World {
    let mut world = World::serving(3, 1);
    world.succeed(2, 1, &[1, 2], (1, 300));
    world.promoted(2, 2, 300);
    world
}

/// The same, and only its own rule is open.
fn complete() -> World {
    let mut world = promoted();
    world.must(Command::Open { epoch: Epoch(2) });
    world.completed(2, &[2]);
    world
}

fn ends(local: Local, began: u64, lsn: u64, timeline: u32) -> Local {
    Local { wal_end: Some((Position::new(Epoch(began), Lsn(lsn)), TimelineId(timeline))), ..local }
}

fn remade(world: &World, local: &Local) -> String {
    let plan = world.plan(local);
    assert_eq!(plan.action, None);
    plan.needs_new_incarnation.unwrap_or_else(|| panic!("{:?}", plan.findings))
}

fn follows(world: &World, local: &Local) {
    match world.acts(local) {
        Action::Follow { epoch, upstream, key } => {
            let reign = world.cluster().reign().unwrap();
            assert_eq!((epoch, &upstream.key, key), (reign.epoch, &reign.primary, world.key_of(&local.me)));
        }
        other => panic!("{other:?}"),
    }
}

impl World {
    fn key_of(&self, member: &crate::id::MemberId) -> crate::id::MemberKey {
        self.cluster().key_of(member).unwrap()
    }
}

#[test]
fn a_standby_that_follows_is_left_alone() {
    let world = promoted();
    assert_eq!(world.plan(&world.standby(2)), Plan::default());
}

#[test]
fn nobody_follows_a_primary_that_is_not_promoted_yet() {
    let mut world = World::serving(3, 1);
    world.succeed(2, 1, &[1, 2], (1, 300));
    world.rests(&ends(world.sealed(2, 2, (1, 300)), 1, 300, 1), "waiting-for-primary");
    world.rests(&ends(world.stopped(2), 1, 300, 1), "waiting-for-primary");
}

/// History A6: PostgreSQL compares LSNs without timelines.
#[test]
fn a_standby_follows_only_with_wal_that_ends_at_or_before_the_fork() {
    let world = promoted();
    let sealed = Local { wal_end: None, ..world.sealed(2, 2, (1, 300)) };
    assert_eq!(world.acts(&sealed), Action::ReadWalEnd { epoch: Epoch(2) }, "unknown: read first");
    follows(&world, &ends(sealed.clone(), 1, 300, 1));
    follows(&world, &ends(sealed.clone(), 2, 400, 2));
    assert!(remade(&world, &ends(sealed.clone(), 1, 301, 1)).contains("ended at 0/12C"));
    assert!(remade(&world, &ends(sealed, 3, 10, 3)).contains("not in the history"));
}

#[test]
fn a_stopped_standby_is_started_only_with_wal_that_belongs() {
    let world = promoted();
    let stopped = world.stopped(2);
    assert_eq!(world.acts(&stopped), Action::ReadWalEnd { epoch: Epoch(2) });
    let Action::StartStandby { epoch, following: Some((upstream, key)) } =
        world.acts(&ends(stopped.clone(), 1, 300, 1))
    else {
        panic!("not started")
    };
    assert_eq!((epoch, upstream.key, key), (Epoch(2), world.key(1), world.key(2)));
    remade(&world, &ends(stopped, 1, 301, 1));
}

/// History of the trials (57): killed in its first recovery after a rewind, a member waited for WAL that only a primary had
/// which was dead by then, and nobody told it of the next one.
#[test]
fn a_server_that_waits_for_wal_of_another_primary_is_ended() {
    let world = promoted();
    let starts = |in_force: Option<InForce>, since: Option<Time>| Local {
        postgres: LocalPostgres::Starting,
        in_force,
        starting_since: since,
        ..world.stopped(2)
    };
    let following = world.standby(2).in_force.unwrap();
    let long_ago = Some(world.now.minus(STARTING_MS));
    // Under an older name too: it comes up, and changes over then.
    world.rests(&starts(Some(InForce { epoch: Epoch(1), ..following.clone() }), long_ago), "starting");
    let other = Some(InForce { epoch: Epoch(1), upstream: Some(world.key(0)), ..following.clone() });
    assert_eq!(world.acts(&starts(other, None)), Action::ReadWalEnd { epoch: Epoch(2) });
    let nobody = Some(InForce { upstream: None, ..following });
    assert_eq!(world.acts(&starts(nobody.clone(), long_ago)), Action::ReadWalEnd { epoch: Epoch(2) });
    let soon = world.plan(&starts(nobody.clone(), Some(world.now.minus(STARTING_MS - 1))));
    assert_eq!((soon.action, soon.wake_at), (None, Some(world.now.plus(1))));
    // It lets nobody in for another reason, for all that is known: it may serve.
    world.rests(&starts(nobody, None), "starting");
}

/// It was never looked at: a directory that was given up was kept as long as its server was starting.
#[test]
fn a_server_that_starts_in_a_replaced_directory_is_no_reason_to_keep_it() {
    let world = complete();
    let mut local = Local { postgres: LocalPostgres::Starting, ..world.stopped(2) };
    local.marker.as_mut().unwrap().incarnation = Incarnation(1);
    assert!(matches!(world.acts(&local), Action::Clone { epoch: Epoch(2), .. }));
    local.marker = None;
    world.rests(&local, "starting");
}

/// Following somebody else, or under the names of another epoch, is not following.
#[test]
fn a_standby_of_another_reign_changes_over() {
    let world = promoted();
    let following = world.standby(2).in_force.unwrap();
    let wrong = [
        InForce { epoch: Epoch(1), ..following.clone() },
        InForce { upstream: Some(world.key(0)), ..following.clone() },
        InForce { upstream: None, ..following.clone() },
        InForce { door_open: false, ..following },
    ];
    for in_force in wrong {
        let local = Local { in_force: Some(in_force), ..world.standby(2) };
        assert_eq!(world.acts(&local), Action::ReadWalEnd { epoch: Epoch(2) });
        follows(&world, &ends(local, 1, 300, 1));
    }
}

/// The history of a chain of promotions, each from the timeline on which its appointee stood.
#[test]
fn the_history_leads_through_the_promotions_that_happened() {
    let mut world = promoted();
    // Epoch 3: member 2, appointed from timeline 1 at 300, never promoted: timeline 3 is nobody's ancestor.
    world.succeed(3, 2, &[1, 2], (2, 350));
    world.must(begin(4, crate::reign::ElectionKind::Failover));
    let seals = vec![world.seal(4, 1, (2, 400)), world.seal(4, 2, (2, 400))];
    let command = world.appoint(4, 2, 4, seals);
    world.must(command);
    world.promoted(4, 4, 400);
    let history = history_of(world.cluster(), world.cluster().reign().unwrap());
    let ancestors: Vec<_> = history.ancestors.iter().map(|a| (a.timeline.0, a.end.0)).collect();
    assert_eq!(ancestors, [(1, 300), (2, 400)]);
    let local = world.sealed(0, 4, (1, 300));
    follows(&world, &ends(local.clone(), 1, 300, 1));
    follows(&world, &ends(local.clone(), 2, 400, 2));
    remade(&world, &ends(local.clone(), 2, 401, 2));
    remade(&world, &ends(local, 3, 360, 3));
}

#[test]
fn an_empty_directory_is_cloned_into_when_new_and_a_loss_when_used() {
    let mut world = complete();
    let empty = |world: &World, n| Local { postgres: LocalPostgres::NoData, marker: None, ..world.stopped(n) };
    assert!(remade(&world, &empty(&world, 2)).contains("came back empty"));
    world.must(Command::RegisterMember { spec: spec(3, crate::member::Tier::Replica) });
    let Action::Clone { epoch, upstream, incarnation } = world.acts(&empty(&world, 3)) else { panic!("no clone") };
    assert_eq!((epoch, upstream.key, incarnation), (Epoch(2), world.key(1), world.key(3).incarnation));
}

/// A new incarnation was agreed for it. While a rule of an older epoch is open, what is there may be evidence.
#[test]
fn an_old_directory_is_rewound_only_when_no_older_rule_is_open() {
    let returning = |mut world: World| {
        let old = world.key(0).incarnation;
        world.must(Command::NewIncarnation { member: name(0), replaces: old });
        let mut local = ends(world.stopped(0), 1, 310, 1);
        local.marker.as_mut().unwrap().incarnation = old;
        (world, local)
    };
    let (world, local) = returning(promoted());
    assert!(matches!(world.acts(&local), Action::Clone { .. }), "beside it");
    let (world, local) = returning(complete());
    let Action::Rewind { incarnation, .. } = world.acts(&local) else { panic!("not rewound") };
    assert_eq!(incarnation, world.key(0).incarnation);
    // A reinit that was asked for wants everything fresh: its WAL is not known to have diverged.
    assert!(matches!(world.acts(&ends(local.clone(), 1, 300, 1)), Action::Clone { .. }));
    assert!(matches!(world.acts(&Local { wal_end: None, ..local }), Action::Clone { .. }));
}

/// What pg_rewind made of a source that is gone since: its pages are ahead of all WAL that anybody has.
#[test]
fn a_copy_that_needs_wal_beyond_the_fork_is_made_anew() {
    let world = promoted();
    let copy = |began: u64, lsn: u64, timeline: u32| {
        let mut local = ends(world.stopped(2), 1, 300, 1);
        local.directory.needs = Some((Position::new(Epoch(began), Lsn(lsn)), TimelineId(timeline)));
        local
    };
    for local in [copy(1, 300, 1), copy(2, 900, 2)] {
        assert!(matches!(world.acts(&local), Action::StartStandby { following: Some(_), .. }));
        made_anew(world.cluster(), &local).unwrap();
    }
    for local in [copy(1, 301, 1), copy(3, 10, 3)] {
        assert!(remade(&world, &local).contains("consistent only from"));
        assert!(made_anew(world.cluster(), &local).is_err());
    }
    assert!(made_anew(world.cluster(), &Local { wal_end: None, ..copy(2, 900, 2) }).is_err(), "unread");
}

/// Half rewound, or without the WAL that it cannot start without: never down for good, and never rewound.
#[test]
fn a_ruined_directory_is_made_anew_by_a_clone() {
    let mut world = complete();
    let half_made = |local: Local| {
        let directory = crate::local::Directory { half_made: Some("cut off".to_owned()), ..Default::default() };
        Local { directory, wal_end: None, ..local }
    };
    assert_eq!(remade(&world, &half_made(world.stopped(2))), "cut off");
    let mut lacking = ends(world.stopped(2), 1, 300, 1);
    lacking.directory.lacks_wal = Some("no such segment".to_owned());
    assert_eq!(remade(&world, &lacking), "no such segment");
    let old = world.key(0).incarnation;
    world.must(Command::NewIncarnation { member: name(0), replaces: old });
    let mut local = ends(world.stopped(0), 1, 310, 1);
    local.marker.as_mut().unwrap().incarnation = old;
    assert!(matches!(world.acts(&local), Action::Rewind { .. }));
    local.directory.half_made = Some("cut off".to_owned());
    assert!(matches!(world.acts(&local), Action::Clone { .. }));
    // With its mark lost as well.
    local.marker = None;
    assert!(matches!(world.acts(&local), Action::Clone { .. }));
}

#[test]
fn a_directory_of_somebody_else_is_made_anew_only_under_a_new_incarnation() {
    let mut world = complete();
    // A copy carries its source's mark.
    let copy = |world: &World, number: usize| {
        let mut local = world.stopped(number);
        local.marker.as_mut().unwrap().member = name(1);
        local.marker.as_mut().unwrap().incarnation = Incarnation(2);
        local
    };
    assert!(remade(&world, &copy(&world, 2)).contains("not the one that counts"));
    world.must(Command::RegisterMember { spec: spec(3, crate::member::Tier::Replica) });
    assert!(matches!(world.acts(&copy(&world, 3)), Action::Clone { .. }));
}

#[test]
fn a_directory_of_another_cluster_is_left_alone() {
    let mut world = complete();
    world.must(Command::RegisterMember { spec: spec(3, crate::member::Tier::Replica) });
    for number in [2, 3] {
        let mut local = world.stopped(number);
        local.marker.as_mut().unwrap().cluster = ClusterId::from("other");
        world.rests(&local, "foreign");
        assert_eq!(world.plan(&local).needs_new_incarnation, None);
    }
}

#[test]
fn a_running_server_is_adopted_only_as_a_standby_of_this_system() {
    let mut world = complete();
    world.must(Command::RegisterMember { spec: spec(3, crate::member::Tier::Replica) });
    let found = |world: &World, number, system_identifier, in_recovery| {
        let found = Adoptable { system_identifier, in_recovery, timeline: TimelineId(2), major: 17 };
        Local { postgres: LocalPostgres::Adoptable(found), marker: None, ..world.stopped(number) }
    };
    let incarnation = world.key(3).incarnation;
    assert_eq!(world.acts(&found(&world, 3, 7, true)), Action::AdoptStandby { incarnation });
    world.rests(&found(&world, 3, 8, true), "other-system");
    world.rests(&found(&world, 3, 7, false), "second-primary");
    remade(&world, &found(&world, 2, 7, true));
}

#[test]
fn a_member_that_starts_is_waited_for() {
    let world = complete();
    world.rests(&Local { postgres: LocalPostgres::Starting, ..world.stopped(2) }, "starting");
}

/// Paused or not, a standby goes on following: nothing of it is at stake.
#[test]
fn a_pause_does_not_stop_standbys() {
    let mut world = complete();
    world.must(Command::Pause);
    assert_eq!(world.plan(&world.standby(2)), Plan::default());
    let local = ends(Local { postgres: running(true, 2), ..world.sealed(2, 2, (1, 300)) }, 2, 400, 2);
    follows(&world, &local);
}

/// T1.2: an agent that starts beside a standby that lets nobody in does not stop it while it streams; once nothing comes,
/// its end is read, stopped if need be.
#[test]
fn a_standby_that_cannot_be_asked_is_left_alone_as_long_as_it_streams() {
    let world = complete();
    let mut local = Local { unasked_since: Some(world.now), in_force: None, ..world.standby(2) };
    world.rests(&local, "cannot-ask");
    if let LocalPostgres::Running(running) = &mut local.postgres {
        running.streaming = false;
    }
    assert!(matches!(world.acts(&local), Action::ReadWalEnd { .. }));
}

/// Its WAL ends on timeline `timeline`, which left timeline 1 at `fork`, and bears no mark of ours.
fn promoted_by_hand(local: Local, timeline: u32, fork: u64) -> Local {
    let history = TimelineHistory::parse(TimelineId(timeline), &format!("1\t{}\tby hand\n", Lsn(fork))).unwrap();
    Local { own_end: Some(OwnEnd { history, end: Lsn(500) }), wal_end: None, ..local }
}

/// Review F13: member 2 was promoted by hand and took the number that was allotted later.
#[test]
fn one_that_was_promoted_by_hand_is_made_anew_and_never_follows() {
    let mut world = complete();
    for (timeline, fork) in [(2, 300), (2, 250), (3, 300)] {
        let local = promoted_by_hand(world.stopped(2), timeline, fork);
        assert!(remade(&world, &local).contains("promoted by hand"), "{timeline} at {fork}");
    }
    let old = world.key(2).incarnation;
    world.must(Command::NewIncarnation { member: name(2), replaces: old });
    let remade_as = |timeline, fork| {
        let mut local = promoted_by_hand(world.stopped(2), timeline, fork);
        local.marker.as_mut().unwrap().incarnation = old;
        world.acts(&local)
    };
    assert!(matches!(remade_as(3, 300), Action::Rewind { .. }));
    // pg_rewind would take it for the primary's own timeline.
    assert!(matches!(remade_as(2, 300), Action::Clone { .. }));
}

/// What looked like a stranger's timeline may have been agreed meanwhile: it is read again.
#[test]
fn wal_that_is_on_an_agreed_timeline_after_all_is_read_again() {
    let world = promoted();
    let marked = TimelineHistory::parse(TimelineId(2), "1\t0/12C\tx, pgvigil epoch 2\n").unwrap();
    let local = Local { own_end: Some(OwnEnd { history: marked, end: Lsn(500) }), ..world.stopped(2) };
    assert_eq!(world.acts(&local), Action::ReadWalEnd { epoch: Epoch(2) });
}
