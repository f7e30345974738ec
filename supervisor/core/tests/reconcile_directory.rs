//! Goal: a data directory that came back empty or old is never taken for the one that was there.
//! Method: found a cluster by `apply`, and ask `reconcile` as the agent that finds such a directory.
//! Found by the model checker: `chaos/model`.

mod common;

use common::agree;
use pgvigil_core::{
    State,
    command::Command,
    id::{ClusterId, Epoch, MemberId, NodeId, TimelineId},
    lease::Right,
    local::{Local, LocalPostgres, Marker, Promise, RuleDoubt},
    lsn::Lsn,
    member::{MemberSpec, Tier},
    position::Position,
    reconcile::{Action, reconcile},
    reign::{Promotion, Seal, SealKind, Start},
    rule::Setting,
    settings::Settings,
    time::Time,
};
use std::collections::BTreeSet;

fn founded() -> State {
    let mut state = State::default();
    agree(&mut state, Command::CreateCluster { settings: Settings::default(), expect: BTreeSet::new() });
    for (member, port) in [("a", 5432), ("b", 5433)] {
        let spec = MemberSpec {
            member: MemberId::from(member),
            tier: Tier::Primary,
            priority: 1,
            host: "h".to_owned(),
            port,
            node: NodeId(u64::from(port)),
        };
        agree(&mut state, Command::RegisterMember { spec });
    }
    let primary = state.clusters[&ClusterId::from("c")].key_of(&MemberId::from("a")).unwrap();
    let setting = Setting::new(1, []);
    let timeline = TimelineId(1);
    agree(&mut state, Command::Found { primary, start: Start::Initdb, timeline, system_identifier: None, setting });
    state
}

/// A stopped member whose WAL ends at `lsn` of the first timeline.
fn stopped(state: &State, member: &str, lsn: u64) -> Local {
    let cluster = ClusterId::from("c");
    let key = state.clusters[&cluster].key_of(&MemberId::from(member)).unwrap();
    Local {
        me: key.member.clone(),
        marker: Some(Marker { cluster, member: key.member, incarnation: key.incarnation }),
        postgres: LocalPostgres::Stopped { crashed: true },
        wal_end: Some((Position::new(Epoch(1), Lsn(lsn)), TimelineId(1))),
        fence_on_disk: true,
        ..empty()
    }
}

fn empty() -> Local {
    Local {
        me: MemberId::from("a"),
        marker: None,
        promise: Promise::default(),
        postgres: LocalPostgres::NoData,
        wal_end: None,
        directory: pgvigil_core::local::Directory::default(),
        own_end: None,
        sealed: None,
        fence_on_disk: false,
        in_force: None,
        right: Right::default(),
        starting_since: None,
        election_since: None,
        canary_waiting_ms: 0,
        standbys_enough_since: None,
        proven: None,
        busy: false,
        checkpointed_at: None,
        restart_due: None,
        rule_astray_since: None,
        rule_doubt: RuleDoubt::default(),
        unasked_since: None,
    }
}

/// Found by the model (`three-wipe`): the empty server became a second primary of epoch 1.
#[test]
fn an_empty_directory_is_founded_once() {
    let mut state = founded();
    let cluster = ClusterId::from("c");
    let plan = reconcile(&state.clusters[&cluster], &empty(), Time(1));
    assert!(matches!(plan.action, Some(Action::Initdb { .. })), "{plan:?}");
    let promotion = Promotion { fork: Lsn(1), end: Lsn(1), marked: true };
    agree(
        &mut state,
        Command::RecordPromotion { epoch: Epoch(1), timeline: TimelineId(1), promotion, system_identifier: 7 },
    );
    let plan = reconcile(&state.clusters[&cluster], &empty(), Time(1));
    assert!(plan.action.is_none(), "the data is lost, and an election is to follow: {plan:?}");
}

/// Found by the model (`three-rollback`): it streamed on to what was proven of it, and its seal was believed.
#[test]
fn a_directory_that_came_back_old_is_made_anew() {
    let mut state = founded();
    let cluster = state.clusters.get_mut(&ClusterId::from("c")).unwrap();
    let proven = Position::new(Epoch(1), Lsn(100));
    cluster.reigns[0].promotion = Some(Promotion { fork: Lsn(1), end: Lsn(1), marked: true });
    cluster.members.get_mut(&MemberId::from("b")).unwrap().proven = Some(proven);
    let cluster = ClusterId::from("c");
    let plan = reconcile(&state.clusters[&cluster], &stopped(&state, "b", 99), Time(1));
    assert!(plan.needs_new_incarnation.is_some(), "{plan:?}");
    let plan = reconcile(&state.clusters[&cluster], &stopped(&state, "b", 100), Time(1));
    assert!(matches!(plan.action, Some(Action::StartStandby { .. })), "{plan:?}");
}

/// Found by the model (`three-rollback`): it was started as the primary of the new epoch without what it had.
#[test]
fn a_primary_that_came_back_older_than_its_own_seal_is_not_restarted() {
    let mut state = founded();
    let cluster = state.clusters.get_mut(&ClusterId::from("c")).unwrap();
    let reign = &mut cluster.reigns[0];
    reign.start = Start::Continue;
    let key = reign.primary.clone();
    let position = Position::new(Epoch(1), Lsn(100));
    reign.seals = vec![Seal { epoch: Epoch(1), key, position, kind: SealKind::Standing }];
    let cluster = ClusterId::from("c");
    let plan = reconcile(&state.clusters[&cluster], &stopped(&state, "a", 99), Time(1));
    assert!(plan.action.is_none(), "{plan:?}");
    let plan = reconcile(&state.clusters[&cluster], &stopped(&state, "a", 100), Time(1));
    assert!(matches!(plan.action, Some(Action::StartPrimary { .. })), "{plan:?}");
}
