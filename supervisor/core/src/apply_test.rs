//! Goal: each refusal that keeps a safety property is there. Method: a small world of three members is driven through
//! commands by name; each test names the history of the protocol review that it forbids.

use super::*;
use crate::{
    command::{Proof, RefusalCode},
    id::{Epoch, MemberId, NodeId, RuleVersion, TimelineId},
    lsn::Lsn,
    member::Tier,
    reign::{ElectionKind, Start},
    rule::Setting,
    testing::{World, begin, name, spec},
};
use std::collections::BTreeSet;

/// Model, "seal threshold one lower": any 1 of two needs both.
#[test]
fn one_seal_of_two_is_not_enough() {
    let mut world = World::serving(3, 1);
    world.begin(2);
    let command = world.appoint(2, 2, 2, vec![world.seal(2, 2, (1, 300))]);
    assert_eq!(world.refused(command), RefusalCode::TooFewSeals);
    let command = world.appoint(2, 2, 2, vec![world.seal(2, 1, (1, 300)), world.seal(2, 2, (1, 300))]);
    world.must(command);
}

/// Model, "appointing without catching up".
#[test]
fn an_appointee_that_lacks_wal_is_refused() {
    let mut world = World::serving(3, 1);
    world.begin(2);
    let seals = vec![world.seal(2, 1, (1, 301)), world.seal(2, 2, (1, 300))];
    let command = world.appoint(2, 2, 2, seals.clone());
    assert_eq!(world.refused(command), RefusalCode::Behind);
    let command = world.appoint(2, 1, 2, seals);
    world.must(command);
}

/// Model, "choosing by LSN only": the epoch comes first.
#[test]
fn a_longer_but_older_history_loses() {
    let mut world = World::serving(3, 1);
    world.begin(2);
    let seals = vec![world.seal(2, 1, (1, 300)), world.seal(2, 2, (1, 300))];
    let command = world.appoint(2, 1, 2, seals);
    world.must(command);
    world.promoted(2, 2, 300);
    world.begin(3);
    // Member 2 holds one record of timeline 2, member 0 a longer dead branch of timeline 1.
    let seals = vec![world.seal(3, 0, (1, 900)), world.seal(3, 1, (2, 310)), world.seal(3, 2, (2, 320))];
    let command = world.appoint(3, 0, 3, seals.clone());
    assert_eq!(world.refused(command), RefusalCode::Behind);
    let command = world.appoint(3, 2, 3, seals);
    world.must(command);
}

/// Model `nojoint`: the old rule counts until k' of S' have the new history.
#[test]
fn the_old_rule_stays_open_until_complete() {
    let mut world = World::serving(3, 1);
    world.begin(2);
    let command = world.appoint(2, 0, 1, vec![world.seal(2, 0, (1, 300))]);
    let Command::Appoint { epoch, primary, timeline, setting, seals, .. } = command else { unreachable!() };
    let setting = Setting { cohort: [world.key(2)].into(), ..setting };
    world.must(Command::Appoint { epoch, primary, start: Start::Continue, timeline, setting, seals });
    world.begin(3);
    let command = world.appoint(3, 2, 2, vec![world.seal(3, 2, (1, 300))]);
    assert_eq!(world.refused(command), RefusalCode::TooFewSeals);
}

/// History B3: the old primary's own seal stands alone, but the appointee must have what it has.
#[test]
fn the_old_primarys_own_seal_stands_alone() {
    let mut world = World::serving(3, 1);
    world.begin(2);
    let seals = vec![world.seal(2, 0, (1, 310)), world.seal(2, 2, (1, 300))];
    let command = world.appoint(2, 2, 2, seals);
    assert_eq!(world.refused(command), RefusalCode::Behind);
    let seals = vec![world.seal(2, 0, (1, 310)), world.seal(2, 2, (1, 310))];
    let command = world.appoint(2, 2, 2, seals);
    world.must(command);
}

/// History A9, model `wipecount`: a data directory made anew stays in the rule, never to be sealed.
#[test]
fn a_wiped_member_does_not_count() {
    let mut world = World::serving(3, 1);
    let old = world.key(1);
    world.must(Command::NewIncarnation { member: name(1), replaces: old.incarnation });
    world.begin(2);
    let mut stale = world.seal(2, 1, (1, 300));
    stale.key = old;
    let command = world.appoint(2, 2, 2, vec![stale, world.seal(2, 2, (1, 300))]);
    assert_eq!(world.refused(command), RefusalCode::BadSeal);
    let command = world.appoint(2, 2, 2, vec![world.seal(2, 1, (1, 0)), world.seal(2, 2, (1, 300))]);
    assert_eq!(world.refused(command), RefusalCode::TooFewSeals);
}

/// History A7.
#[test]
fn a_timeline_is_never_allotted_twice() {
    let mut world = World::serving(3, 1);
    world.begin(2);
    let command = world.appoint(2, 1, 2, vec![world.seal(2, 1, (1, 300)), world.seal(2, 2, (1, 300))]);
    world.must(command);
    world.begin(3);
    let seals = vec![world.seal(3, 1, (1, 300)), world.seal(3, 2, (1, 300))];
    let command = world.appoint(3, 2, 2, seals.clone());
    assert_eq!(world.refused(command), RefusalCode::TimelineTaken);
    let command = world.appoint(3, 2, 3, seals);
    world.must(command);
}

/// Seals are per election number.
#[test]
fn a_seal_of_another_election_does_not_count() {
    let mut world = World::serving(3, 1);
    world.begin(2);
    world.begin(3);
    let command = world.appoint(3, 2, 2, vec![world.seal(2, 1, (1, 300)), world.seal(3, 2, (1, 300))]);
    assert_eq!(world.refused(command), RefusalCode::BadSeal);
}

/// S3: the primary before is owed a fence from its replacement on.
#[test]
fn the_primary_before_is_owed_a_fence() {
    let mut world = World::serving(3, 1);
    world.begin(2);
    let command = world.appoint(2, 1, 2, vec![world.seal(2, 1, (1, 300)), world.seal(2, 2, (1, 300))]);
    world.must(command);
    assert_eq!(world.cluster().fence_debts.len(), 1);
    assert_eq!(world.refused(Command::Open { epoch: Epoch(2) }), RefusalCode::WrongPhase);
    world.promoted(2, 2, 300);
    world.must(Command::Open { epoch: Epoch(2) });
    assert!(world.cluster().fence_debts.is_empty());
}

/// PostgreSQL's trap: a crashed primary that restarts shows rows that nobody acknowledged.
#[test]
fn a_restarted_primary_stays_closed_until_k_have_its_end_of_recovery() {
    let mut world = World::serving(3, 1);
    world.begin(2);
    let seals = vec![world.seal(2, 0, (1, 400)), world.seal(2, 1, (1, 300))];
    let setting = Setting::new(1, [world.key(1)]);
    let primary = world.key(0);
    let timeline = TimelineId(1);
    world.must(Command::Appoint { epoch: Epoch(2), primary, start: Start::Continue, timeline, setting, seals });
    world.promoted(2, 1, 400);
    assert_eq!(world.refused(Command::Open { epoch: Epoch(2) }), RefusalCode::NotFenced);
    let early = Proof { version: RuleVersion(1), marker: Lsn(399), flushed: [world.key(1)].into() };
    assert_eq!(world.refused(Command::CompleteRule { epoch: Epoch(2), proof: early }), RefusalCode::BadProof);
    let proof = Proof { version: RuleVersion(1), marker: Lsn(401), flushed: [world.key(1)].into() };
    world.must(Command::CompleteRule { epoch: Epoch(2), proof });
    world.must(Command::Open { epoch: Epoch(2) });
}

/// Found by the model (three-renewed-twice): a primary that goes on still reports the proof of the epoch before, whose
/// first version has the same number. Where nothing was written since its marker, that marker is the end of recovery.
#[test]
fn a_proof_of_the_epoch_before_completes_nothing() {
    let mut world = World::serving(3, 1);
    world.begin(2);
    let seals = vec![world.seal(2, 0, (1, 400)), world.seal(2, 1, (1, 400))];
    let setting = Setting::new(1, [world.key(1)]);
    let primary = world.key(0);
    let timeline = TimelineId(1);
    world.must(Command::Appoint { epoch: Epoch(2), primary, start: Start::Continue, timeline, setting, seals });
    world.promoted(2, 1, 400);
    let before = Proof { version: RuleVersion(1), marker: Lsn(400), flushed: [world.key(1)].into() };
    assert_eq!(world.refused(Command::CompleteRule { epoch: Epoch(2), proof: before }), RefusalCode::BadProof);
}

/// Histories A1, A2: a strengthening is agreed only on its proof; until then the wide rule counts.
#[test]
fn a_rule_is_narrowed_only_on_proof() {
    let mut world = World::serving(3, 1);
    let to = Setting::new(1, [world.key(2)]);
    world.must(Command::BeginChange { epoch: Epoch(1), to });
    assert_eq!(world.cluster().newest_rule().unwrap().setting.cohort.len(), 2, "the wide rule holds");
    world.begin(2);
    let command = world.appoint(2, 2, 2, vec![world.seal(2, 2, (1, 300))]);
    assert_eq!(world.refused(command), RefusalCode::TooFewSeals);
}

/// A change that is redirected while it is under way covers what any walsender may hold.
#[test]
fn a_redirected_change_stays_wide() {
    let mut world = World::serving(4, 1);
    let (b, c, d) = (world.key(1), world.key(2), world.key(3));
    world.must(Command::BeginChange { epoch: Epoch(1), to: Setting::new(2, [b.clone(), c]) });
    world.must(Command::BeginChange { epoch: Epoch(1), to: Setting::new(1, [b.clone(), d]) });
    let rule = world.cluster().newest_rule().unwrap();
    assert_eq!((rule.setting.cohort.len(), rule.setting.k), (3, 1));
    assert!(world.cluster().change.is_some());
    let stale = Proof { version: RuleVersion(rule.version.0 - 1), marker: Lsn(300), flushed: [b].into() };
    assert_eq!(world.refused(Command::FinishChange { epoch: Epoch(1), proof: stale }), RefusalCode::BadProof);
}

/// History A16: given up members are void, and the incident says that data may be lost.
#[test]
fn a_forced_failover_names_what_it_gives_up() {
    let mut world = World::serving(3, 1);
    let kind = ElectionKind::Forced { to: None, old_primary_is_off: true, give_up: BTreeSet::from([name(1)]) };
    world.must(begin(2, kind));
    assert!(world.cluster().incidents.last().unwrap().possible_data_loss);
    let command = world.appoint(2, 2, 2, vec![world.seal(2, 1, (1, 300)), world.seal(2, 2, (1, 300))]);
    assert_eq!(world.refused(command), RefusalCode::BadSeal, "void for good");
    let command = world.appoint(2, 2, 2, vec![world.seal(2, 2, (1, 300))]);
    world.must(command);
    assert!(world.cluster().fence_debts.iter().all(|debt| debt.asserted_off));
}

/// History B6: with k = 0 only the primary's own seal, or force, ends the reign.
#[test]
fn an_adopted_cluster_without_a_rule_cannot_fail_over() {
    let mut world = World::new(3);
    let primary = world.key(0);
    world.must(Command::Found {
        primary,
        start: Start::Adopt,
        timeline: TimelineId(4),
        system_identifier: Some(7),
        setting: Setting::new(0, []),
    });
    world.promoted(1, 4, 100);
    world.begin(2);
    let command = world.appoint(2, 1, 5, vec![world.seal(2, 1, (1, 300)), world.seal(2, 2, (1, 300))]);
    assert_eq!(world.refused(command), RefusalCode::TooFewSeals);
    let command = world.appoint(2, 1, 5, vec![world.seal(2, 0, (1, 300)), world.seal(2, 1, (1, 300))]);
    world.must(command);
}

#[test]
fn two_members_cannot_share_a_name_or_an_address() {
    let mut world = World::new(2);
    let mut other = spec(0, Tier::Replica);
    other.node = NodeId(9);
    assert_eq!(world.refused(Command::RegisterMember { spec: other }), RefusalCode::NameTaken);
    let mut same_place = spec(7, Tier::Replica);
    same_place.port = 5000;
    assert_eq!(world.refused(Command::RegisterMember { spec: same_place }), RefusalCode::NameTaken);
    let mut odd = spec(8, Tier::Replica);
    odd.member = MemberId::from("A b");
    assert_eq!(world.refused(Command::RegisterMember { spec: odd }), RefusalCode::BadValue);
}

#[test]
fn a_paused_cluster_begins_no_failover() {
    let mut world = World::serving(3, 1);
    world.must(Command::Pause);
    assert_eq!(world.refused(begin(2, ElectionKind::Failover)), RefusalCode::Paused);
    world.must(begin(2, ElectionKind::Switchover { to: None }));
}

/// History B8: after a pause time alone does not fence, until the guard is confirmed.
#[test]
fn a_primary_that_was_paused_is_owed_a_real_fence() {
    let mut world = World::serving(3, 1);
    world.must(Command::Pause);
    world.must(Command::Resume);
    world.begin(2);
    let command = world.appoint(2, 1, 2, vec![world.seal(2, 1, (1, 300)), world.seal(2, 2, (1, 300))]);
    world.must(command);
    assert!(world.cluster().fence_debts[0].unguarded);
}

/// A rule counts only whoever sealed and can follow as it is: others may be gone, or confirm nothing before they are
/// made anew.
#[test]
fn a_rule_of_an_appointment_counts_sealed_members_that_are_not_ahead() {
    let appointing = |positions: [Option<u64>; 2], cohort: usize| {
        let mut world = World::serving(3, 1);
        world.begin(2);
        let mut seals = vec![world.seal(2, 1, (1, 300))];
        for (number, at) in [0, 2].into_iter().zip(positions) {
            seals.extend(at.map(|at| world.seal(2, number, (1, at))));
        }
        let setting = Setting::new(1, [world.key(cohort)]);
        let command = world.appoint(2, 1, 2, seals);
        let Command::Appoint { epoch, primary, start, timeline, seals, .. } = command else { panic!() };
        (world, Command::Appoint { epoch, primary, start, timeline, seals, setting })
    };
    let (mut world, command) = appointing([Some(310), Some(300)], 0);
    assert_eq!(world.refused(command), RefusalCode::BadValue, "the old primary is ahead");
    let (mut world, command) = appointing([None, Some(300)], 0);
    assert_eq!(world.refused(command), RefusalCode::BadValue, "it did not seal");
    let (mut world, command) = appointing([Some(300), Some(300)], 0);
    world.must(command);
}

/// Whoever asked for a change of primary knows its own: by the revision of the request.
#[test]
fn an_incident_names_the_request_that_it_fulfils_and_a_request_its_end() {
    let mut world = World::serving(3, 1);
    let kind = ElectionKind::Switchover { to: Some(name(1)) };
    world.must(Command::RequestElection { kind: kind.clone() });
    let asked_as = world.cluster().revision;
    world.must(begin(2, kind.clone()));
    assert_eq!(world.cluster().incidents[0].request, Some(asked_as));
    assert_eq!(world.cluster().request_dropped, None);

    // A failover comes first: the request is over, and not by it.
    let mut world = World::serving(3, 1);
    world.must(Command::RequestElection { kind: kind.clone() });
    let asked_as = world.cluster().revision;
    world.begin(2);
    assert_eq!((world.cluster().incidents[0].request, &world.cluster().request), (None, &None));
    assert_eq!(world.cluster().request_dropped_of, asked_as);
    assert!(world.cluster().request_dropped.as_ref().unwrap().contains("failover began first"));

    // Force comes before.
    let mut world = World::serving(3, 1);
    world.must(Command::RequestElection { kind });
    let asked_as = world.cluster().revision;
    let forced = ElectionKind::Forced { to: None, old_primary_is_off: false, give_up: [].into() };
    world.must(Command::RequestElection { kind: forced });
    assert_eq!(world.cluster().request_dropped_of, asked_as);
}

/// What nobody could ever confirm is not begun, whatever a leader believes.
#[test]
fn a_switchover_after_which_too_few_could_confirm_is_refused() {
    let mut world = World::serving(3, 1);
    world.set(|settings| settings.sync_standbys = 3);
    for to in [Some(name(1)), None] {
        let kind = ElectionKind::Switchover { to };
        assert_eq!(world.refused(Command::RequestElection { kind: kind.clone() }), RefusalCode::Ineligible);
        assert_eq!(world.refused(begin(2, kind)), RefusalCode::Ineligible);
    }
    world.begin(2);
}

/// Case 07: an id that was used with one Raft store never comes to stand for another.
#[test]
fn a_node_is_remembered_with_its_first_store() {
    let mut world = World::serving(3, 1);
    let revision = world.cluster().revision;
    let remember = |node: u64, store: u64| Command::RememberStore { node: NodeId(node), store };
    world.must(remember(3, 7));
    assert_eq!(world.refused(remember(3, 7)), RefusalCode::Exists);
    assert_eq!(world.refused(remember(3, 8)), RefusalCode::NameTaken);
    world.must(remember(4, 8));
    assert_eq!(world.state.stores, [(NodeId(3), 7), (NodeId(4), 8)].into());
    assert_eq!(world.cluster().revision, revision, "no cluster has changed");
}
