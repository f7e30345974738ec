//! Goal: a member becomes primary only step by step, and keeps setting and door as agreed. Method: an appointee, or the
//! primary of a well cluster, with one thing changed.

use super::*;
use crate::{
    command::Command,
    id::{Epoch, Incarnation, RuleVersion, TimelineId},
    lease::Right,
    lsn::Lsn,
    position::Position,
    reign::{ElectionKind, Promotion},
    report::Adoptable,
    rule::Setting,
    testing::{World, agent::running, begin},
};

/// The fence that is planned: how long it may be polite, and why.
pub(super) fn fences(world: &World, local: &Local) -> (u64, String) {
    match world.acts(local) {
        Action::Fence { polite_ms, why, .. } => (polite_ms, why),
        other => panic!("{other:?}"),
    }
}

pub(super) fn serving() -> World {
    World::serving(3, 1)
}

/// Member 1 is appointed for epoch 2 and has sealed at 300.
fn appointed() -> World {
    let mut world = serving();
    world.succeed(2, 1, &[1, 2], (1, 300));
    world
}

fn closed(epoch: u64) -> Option<InForce> {
    Some(InForce { epoch: Epoch(epoch), version: Some(RuleVersion(1)), door_open: false, upstream: None, named: 0 })
}

#[test]
fn a_primary_that_is_to_hand_over_writes_a_checkpoint_first() {
    let mut world = serving();
    let recently = |ms: u64| Local { checkpointed_at: Some(world.now.minus(ms)), ..world.primary() };
    let (fresh, old) = (recently(1_000), recently(60_000));
    assert_eq!(world.plan(&old), Plan::default());
    world.must(Command::RequestElection { kind: ElectionKind::Switchover { to: None } });
    assert_eq!(world.acts(&world.primary()), Action::Checkpoint { epoch: Epoch(1) });
    assert_eq!(world.acts(&old), Action::Checkpoint { epoch: Epoch(1) });
    assert_eq!(world.plan(&fresh), Plan::default());
}

/// The agent ended between PostgreSQL's becoming primary and its own note of where: nobody else would ever tell.
#[test]
fn a_promotion_that_was_not_noted_is_looked_at_again() {
    let world = appointed();
    let mut local = world.standby(1);
    local.promise.reigned = Epoch(2);
    local.postgres = running(false, 2);
    local.in_force = closed(2);
    assert_eq!(world.acts(&local), Action::Promote { epoch: Epoch(2), timeline: TimelineId(2) });
    local.promise.promotion = Some(Promotion { fork: Lsn(300), end: Lsn(300), marked: true });
    assert!(!matches!(world.plan(&local).action, Some(Action::Promote { .. })));
}

#[test]
fn a_primary_that_is_as_agreed_is_left_alone() {
    let world = serving();
    assert_eq!(world.plan(&world.primary()), Plan::default());
}

/// Model, three-rollback: the appointee's host crashed after its seal, and its disk came back older.
#[test]
fn an_appointee_that_came_back_older_than_its_seal_neither_starts_nor_promotes() {
    let world = appointed();
    let mut local = Local { in_force: closed(2), ..world.sealed(1, 2, (1, 300)) };
    assert!(matches!(world.acts(&local), Action::Promote { .. }));
    local.wal_end = Some((Position::new(Epoch(1), Lsn(299)), TimelineId(1)));
    world.rests(&local, "came-back-old");
    local.postgres = LocalPostgres::Stopped { crashed: true };
    world.rests(&local, "came-back-old");
}

/// Model, "promoting before the new rule is in force".
#[test]
fn an_appointee_promotes_only_with_its_setting_in_force_behind_a_closed_door() {
    let world = appointed();
    let sealed = world.sealed(1, 2, (1, 300));
    let reign = world.cluster().reign().unwrap();
    let configure =
        Action::Configure { epoch: Epoch(2), setting: reign.setting.clone(), version: reign.version, door_open: false };
    assert_eq!(world.acts(&sealed), configure);
    let wrong = [
        InForce { epoch: Epoch(1), ..closed(2).unwrap() },
        InForce { version: None, ..closed(2).unwrap() },
        InForce { version: Some(RuleVersion(2)), ..closed(2).unwrap() },
        InForce { door_open: true, ..closed(2).unwrap() },
        InForce { upstream: Some(world.key(0)), ..closed(2).unwrap() },
    ];
    for in_force in wrong {
        assert_eq!(world.acts(&Local { in_force: Some(in_force), ..sealed.clone() }), configure);
    }
    let ready = Local { in_force: closed(2), ..sealed.clone() };
    assert_eq!(world.acts(&ready), Action::Promote { epoch: Epoch(2), timeline: TimelineId(2) });
    let stopped = Local { postgres: LocalPostgres::Stopped { crashed: false }, ..sealed };
    assert_eq!(world.acts(&stopped), Action::StartStandby { epoch: Epoch(2), following: None });
}

/// History A9: it was appointed for the seal of a directory that is no longer there.
#[test]
fn an_appointee_with_another_data_directory_is_neither_promoted_nor_started() {
    let world = appointed();
    let mut local = Local { in_force: closed(2), ..world.sealed(1, 2, (1, 300)) };
    local.marker.as_mut().unwrap().incarnation = Incarnation(1);
    world.rests(&local, "not-counted");
    local.postgres = LocalPostgres::Stopped { crashed: false };
    world.rests(&local, "not-counted");

    let mut world = serving();
    world.must(begin(2, ElectionKind::Failover));
    let seals = vec![world.seal(2, 0, (1, 300))];
    world.must(continued(&world, seals));
    let mut local = world.stopped(0);
    local.marker = None;
    world.rests(&local, "not-counted");
}

fn continued(world: &World, seals: Vec<crate::reign::Seal>) -> Command {
    Command::Appoint {
        epoch: Epoch(2),
        primary: world.key(0),
        start: Start::Continue,
        timeline: TimelineId(1),
        setting: Setting::new(1, world.keys(&[1])),
        seals,
    }
}

/// A promotion that was begun and broke off is not repeated from a standstill: the next election decides.
#[test]
fn an_appointee_that_died_while_it_was_promoted_is_fenced() {
    let world = appointed();
    let mut local = Local { in_force: closed(2), ..world.sealed(1, 2, (1, 300)) };
    local.promise.reigned = Epoch(2);
    assert!(matches!(world.acts(&local), Action::Promote { .. }), "asked, not out of recovery yet: ask again");
    local.postgres = LocalPostgres::Stopped { crashed: true };
    local.fence_on_disk = false;
    assert_eq!(fences(&world, &local).0, 0);
}

#[test]
fn the_door_opens_only_when_agreed_and_with_a_right_in_hand() {
    let mut world = appointed();
    world.promoted(2, 2, 300);
    let mut local = world.primary();
    local.proven = Some(RuleVersion(1));
    assert_eq!(world.plan(&local), Plan::default(), "closed, and nothing agreed");
    world.must(Command::Open { epoch: Epoch(2) });
    local.right = Right::default();
    world.rests(&local, "no-right");
    local.right.renewed_sent_at = Some(world.now.minus(1_300 - 433));
    world.rests(&local, "no-right");
    local.right.renewed_sent_at = Some(world.now);
    assert!(matches!(world.acts(&local), Action::Configure { door_open: true, .. }));
    // What was opened by mistake is closed again.
    let mut world = appointed();
    world.promoted(2, 2, 300);
    let mut local = world.primary();
    local.in_force.as_mut().unwrap().door_open = true;
    assert!(matches!(world.acts(&local), Action::Configure { door_open: false, .. }));
}

/// While paused the right is not counted: the door opens all the same.
#[test]
fn while_paused_the_door_opens_without_a_lease() {
    let mut world = appointed();
    world.promoted(2, 2, 300);
    world.must(Command::Open { epoch: Epoch(2) });
    world.must(Command::Pause);
    let mut local = world.primary();
    local.in_force = closed(2);
    local.right = Right::default();
    assert!(matches!(world.acts(&local), Action::Configure { door_open: true, .. }));
}

#[test]
fn a_rule_change_is_put_in_force_and_proven() {
    let mut world = serving();
    let mut local = world.primary();
    let to = Setting::new(1, world.keys(&[1]));
    world.must(Command::BeginChange { epoch: Epoch(1), to: to.clone() });
    let version = world.cluster().reign().unwrap().version;
    assert_eq!(
        world.acts(&local),
        Action::Configure { epoch: Epoch(1), setting: to.clone(), version, door_open: true }
    );
    local.in_force.as_mut().unwrap().version = Some(version);
    assert_eq!(world.acts(&local), Action::Prove { epoch: Epoch(1), setting: to, version });
    local.proven = Some(RuleVersion(version.0 - 1));
    assert!(matches!(world.acts(&local), Action::Prove { .. }), "the proof of another version proves nothing");
    local.proven = Some(version);
    assert_eq!(world.plan(&local), Plan::default());
}

/// Nothing to prove before it is known where recovery ended.
#[test]
fn completeness_is_proven_after_the_promotion_is_agreed() {
    let mut world = appointed();
    let mut local = world.primary();
    local.promise.promotion = Some(Promotion { fork: crate::lsn::Lsn(300), end: crate::lsn::Lsn(320), marked: true });
    assert_eq!(world.plan(&local), Plan::default());
    world.promoted(2, 2, 300);
    assert!(matches!(world.acts(&local), Action::Prove { .. }));
}

/// History B2: the names change with the epoch; the new rule is in force before the new reign counts as begun.
#[test]
fn a_primary_that_goes_on_takes_the_new_names_first() {
    let mut world = serving();
    let mut local = world.primary();
    world.must(begin(2, ElectionKind::Renewal));
    let mut standing = world.seal(2, 0, (1, 300));
    standing.kind = crate::reign::SealKind::Standing;
    let seals = vec![standing, world.seal(2, 1, (1, 300))];
    world.must(continued(&world, seals));
    assert!(matches!(world.acts(&local), Action::Configure { epoch: Epoch(2), door_open: true, .. }));
    local.in_force = Some(InForce { door_open: true, ..closed(2).unwrap() });
    assert_eq!(world.acts(&local), Action::CarryOn { epoch: Epoch(2) });
    local.promise.reigned = Epoch(2);
    local.promise.promotion = None;
    assert_eq!(world.acts(&local), Action::CarryOn { epoch: Epoch(2) }, "begun, but where is not on record");
}

#[test]
fn a_primary_restarted_in_place_starts_closed() {
    let mut world = serving();
    world.must(begin(2, ElectionKind::Failover));
    let seals = vec![world.seal(2, 0, (1, 300))];
    world.must(continued(&world, seals));
    let mut local = world.stopped(0);
    local.promise.reigned = Epoch(1);
    assert_eq!(world.acts(&local), Action::ReadWalEnd { epoch: Epoch(2) });
    // History A10: what came back is older than what it was appointed for.
    local.wal_end = Some((Position::new(Epoch(1), Lsn(299)), TimelineId(1)));
    world.rests(&local, "came-back-old");
    local.wal_end = Some((Position::new(Epoch(1), Lsn(300)), TimelineId(1)));
    assert!(matches!(world.acts(&local), Action::StartPrimary { epoch: Epoch(2), .. }));
    local.postgres = running(true, 1);
    assert!(matches!(world.acts(&local), Action::Fence { .. }), "sealed and running as a standby: stopped first");
    assert!(!world.cluster().reign().unwrap().open);
}

#[test]
fn a_new_cluster_is_made_and_started_once() {
    let mut world = World::new(2);
    world.must(Command::Found {
        primary: world.key(0),
        start: Start::Initdb,
        timeline: TimelineId(1),
        system_identifier: None,
        setting: Setting::new(1, []),
    });
    let empty = Local { postgres: LocalPostgres::NoData, marker: None, ..world.stopped(0) };
    let incarnation = world.key(0).incarnation;
    assert_eq!(world.acts(&empty), Action::Initdb { epoch: Epoch(1), incarnation });
    assert!(matches!(world.acts(&world.stopped(0)), Action::StartPrimary { epoch: Epoch(1), .. }));
    // A first start that failed is tried again: its port was taken, say, and nothing was served.
    let mut failed = world.stopped(0);
    failed.promise.reigned = Epoch(1);
    assert!(matches!(world.acts(&failed), Action::StartPrimary { epoch: Epoch(1), .. }));
    // A directory that vanished after the reign began is a loss, not a new cluster.
    let mut vanished = empty;
    vanished.promise.reigned = Epoch(1);
    world.rests(&vanished, "fenced");
}

#[test]
fn only_the_running_primary_of_the_known_system_is_adopted() {
    let mut world = World::new(2);
    world.must(Command::Found {
        primary: world.key(0),
        start: Start::Adopt,
        timeline: TimelineId(4),
        system_identifier: Some(7),
        setting: Setting::new(0, []),
    });
    let with = |system_identifier, in_recovery| {
        let found = Adoptable { system_identifier, in_recovery, timeline: TimelineId(4), major: 17 };
        Local { postgres: LocalPostgres::Adoptable(found), marker: None, ..world.stopped(0) }
    };
    assert!(matches!(world.acts(&with(7, false)), Action::AdoptPrimary { .. }));
    world.rests(&with(8, false), "becoming-primary");
    world.rests(&with(7, true), "becoming-primary");
    // Cut short after the promise, before the mark; then that server ended: whoever started it starts it again.
    let mut cut_short = with(7, false);
    cut_short.promise.reigned = Epoch(1);
    assert!(matches!(world.acts(&cut_short), Action::AdoptPrimary { .. }));
    cut_short.postgres = LocalPostgres::Stopped { crashed: true };
    world.rests(&cut_short, "not-counted");
}

/// What the agent knows when a look has shown another rule than the one that was put in force: since then.
fn astray(world: &World, ms: u64) -> Local {
    let mut local = world.primary();
    local.in_force.as_mut().unwrap().version = None;
    Local { rule_astray_since: Some(world.now.minus(ms)), ..local }
}

fn configures(world: &World, local: &Local) -> bool {
    match world.acts(local) {
        Action::Configure { door_open, .. } => door_open,
        other => panic!("{other:?}"),
    }
}

/// History: a line after the include, a file that does not parse; 20 commits acknowledged that nobody else had.
#[test]
fn a_primary_without_its_rule_keeps_clients_out_after_a_lease_and_lets_them_in_again() {
    let world = serving();
    let lease = world.cluster().settings.lease_ms;
    let soon = astray(&world, lease - 1);
    assert!(configures(&world, &soon), "it is put back first, before anybody is sent away");
    assert_eq!(world.plan(&soon).wake_at, Some(world.now.plus(1)), "and the door closes in time");
    let mut late = astray(&world, lease);
    assert!(!configures(&world, &late));
    late.in_force.as_mut().unwrap().door_open = false;
    assert!(!configures(&world, &late), "it is tried again and again behind the closed door");
    let mended = Local { rule_astray_since: None, in_force: closed(1), ..late };
    assert!(configures(&world, &mended), "nobody has to open it");
}

#[test]
fn a_primary_without_its_rule_serves_on_where_that_was_agreed() {
    let mut world = serving();
    world.set(|settings| settings.serve_without_rule = true);
    assert!(configures(&world, &astray(&world, 60_000)));
    world.set(|settings| settings.serve_without_rule = false);
    assert!(!configures(&world, &astray(&world, 60_000)));
}

/// T1.1: since a minute its agent gets no session, and knows what it is from its files and processes only.
fn shut_out(world: &World, local: Local) -> Local {
    Local { unasked_since: Some(world.now.minus(60_000)), standbys_enough_since: None, ..local }
}

#[test]
fn a_primary_that_cannot_be_asked_serves_on_as_long_as_nothing_was_seen_astray() {
    let world = serving();
    let told = shut_out(&world, world.primary());
    assert_eq!(world.plan(&told).action, None, "that nobody looks is no sign that the rule is not in force");
    let mut restarted = told.clone();
    restarted.in_force.as_mut().unwrap().version = None;
    assert!(configures(&world, &restarted), "what cannot be shown is written, and the door stays open");
    // Its right ends as anybody's does.
    let over = Right { renewed_sent_at: Some(world.now.minus(60_000)), canary_began_at: None };
    assert!(matches!(world.acts(&Local { right: over, ..told }), Action::Fence { .. }));
}

#[test]
fn a_primary_that_was_seen_without_its_rule_keeps_clients_out_also_when_it_cannot_be_asked() {
    let world = serving();
    let lease = world.cluster().settings.lease_ms;
    assert!(configures(&world, &shut_out(&world, astray(&world, lease - 1))));
    assert!(!configures(&world, &shut_out(&world, astray(&world, lease))));
}

#[test]
fn an_election_does_not_keep_the_door_of_a_primary_without_its_rule_open() {
    let mut world = serving();
    world.begin(2);
    let local = astray(&world, 60_000);
    assert!(!configures(&world, &local));
    let told = Local { rule_astray_since: None, ..local };
    assert!(!matches!(world.plan(&told).action, Some(Action::Configure { .. })), "no change of rule meanwhile");
}

/// History A8: the rule is shown again, and backends may not wait by it yet.
#[test]
fn a_rule_that_was_out_of_force_is_followed_by_a_checkpoint() {
    let world = World::serving(3, 1);
    let mut local = world.primary();
    assert_eq!(world.plan(&local).action, None);
    local.rule_doubt.raise();
    assert_eq!(world.acts(&local), Action::Checkpoint { epoch: Epoch(1) });
}

#[test]
fn an_appointee_that_was_moved_to_another_timeline_since_its_seal_does_not_promote() {
    let world = appointed();
    let mut local = Local { in_force: closed(2), ..world.sealed(1, 2, (1, 300)) };
    local.wal_end = Some((Position::new(Epoch(2), Lsn(300)), TimelineId(2)));
    world.rests(&local, "moved-on");
}
