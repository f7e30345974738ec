//! The status and the events of a cluster of three, from one moment to the next.

use super::*;
use crate::api::backend::ClusterSnapshot;
use pgvigil_core::{
    cluster::ClusterState,
    decide::Finding,
    id::{ClusterId, Epoch, Incarnation, MemberId, MemberKey, NodeId, Revision, RuleVersion, TimelineId},
    incident::{Incident, IncidentOutcome, Phase},
    lsn::Lsn,
    member::{Member, MemberSpec},
    observation::{Observations, Seen},
    reign::{Election, ElectionKind, Promotion, Reign, Start},
    report::{CanaryReport, PostgresReport, PrimaryReport, Report, StandbyReport},
    rule::{Rule, Setting},
    settings::Settings,
    time::{Time, WallTime},
};
use std::collections::BTreeSet;

const NOW: Time = Time(100_000);

fn key(name: &str) -> MemberKey {
    MemberKey::new(name.into(), Incarnation(u64::from(name.as_bytes()[2] - b'0')))
}

fn spec(name: &str) -> MemberSpec {
    MemberSpec {
        member: name.into(),
        tier: Tier::Primary,
        priority: 100,
        host: "127.0.0.1".to_owned(),
        port: 5440 + u16::from(name.as_bytes()[2] - b'0'),
        node: NodeId(u64::from(name.as_bytes()[2] - b'0')),
    }
}

fn report(name: &str, postgres: PostgresReport) -> Seen {
    let report = Report {
        cluster: ClusterId::from("demo"),
        spec: spec(name),
        seq: 1,
        incarnation: Some(key(name).incarnation),
        revision: Revision(7),
        promised: Epoch(1),
        postgres,
        seal: None,
        fenced: None,
        starved_ms: 0,
        guard_armed: true,
        probe: None,
        disk_full: false,
        activity: None,
        problems: Vec::new(),
        needs_new_incarnation: None,
        restarted: 0,
        discarded_wal: None,
        unproven: Vec::new(),
        shown_to_leader: None,
        echo: None,
        timelines: pgvigil_core::report::TimelinesReport::default(),
        was_member: false,
    };
    Seen { report, at: NOW.minus(20) }
}

fn primary() -> PrimaryReport {
    PrimaryReport {
        epoch: Epoch(1),
        timeline: TimelineId(1),
        flush_lsn: Lsn(5_000),
        promotion: Some(Promotion { fork: Lsn(0), end: Lsn(0), marked: true }),
        system_identifier: 7,
        door_open: true,
        checkpoint_age_ms: None,
        setting_in_force: Some(RuleVersion(1)),
        proof: None,
        canary: CanaryReport { ok_age_ms: Some(100), confirmed_age_ms: Some(300), waiting_ms: 0, took_us: 900 },
        standbys: Vec::new(),
        weakened: Vec::new(),
        shown_ago_ms: Some(0),
        right_ms: 1_400,
        unasked_ms: None,
        written_by_others: 0,
    }
}

fn standby() -> PostgresReport {
    PostgresReport::Standby(StandbyReport {
        timeline: TimelineId(1),
        following: Some(Epoch(1)),
        flush_lsn: Lsn(4_900),
        replay_lsn: Lsn(4_000),
        streaming: true,
        wal_age_ms: 10,
        replay_held: false,
        receiver: pgvigil_core::report::Receiver::Unknown,
    })
}

/// pg1 serves, pg2 and pg3 stream, k = 1.
pub(crate) fn healthy() -> ClusterSnapshot {
    let mut state = ClusterState::new("demo".into(), Settings::default(), BTreeSet::new());
    for name in ["pg1", "pg2", "pg3"] {
        let member = Member {
            spec: spec(name),
            incarnation: key(name).incarnation,
            proven: None,
            reinit_requested: false,
            restart_request: 0,
            named: 0,
            leaving: false,
            used: true,
            promoted_by_hand: None,
        };
        state.last_incarnation = state.last_incarnation.max(member.incarnation);
        state.members.insert(name.into(), member);
    }
    state.last_timeline = TimelineId(1);
    let setting = Setting::new(1, [key("pg2"), key("pg3")]);
    state.epoch = Epoch(1);
    state.revision = Revision(7);
    state.reigns.push(Reign {
        epoch: Epoch(1),
        primary: key("pg1"),
        timeline: TimelineId(1),
        start: Start::Initdb,
        setting: setting.clone(),
        version: RuleVersion(1),
        promotion: Some(Promotion { fork: Lsn(0), end: Lsn(0), marked: true }),
        open: true,
        complete: true,
        seals: Vec::new(),
        unproven: Vec::new(),
        shown: None,
    });
    state.rules.push(Rule { epoch: Epoch(1), version: RuleVersion(1), primary: key("pg1"), setting });
    let mut observations = Observations::new(NodeId(2), Time(1_000));
    observations.reports.insert("pg1".into(), report("pg1", PostgresReport::Primary(Box::new(primary()))));
    observations.reports.insert("pg2".into(), report("pg2", standby()));
    observations.reports.insert("pg3".into(), report("pg3", standby()));
    ClusterSnapshot { state, observations, findings: Vec::new(), now: NOW, wall: WallTime(1_000_000) }
}

fn with_primary(change: impl FnOnce(&mut PrimaryReport)) -> StatusDocument {
    let mut snapshot = healthy();
    let mut changed = primary();
    change(&mut changed);
    snapshot.observations.reports.insert("pg1".into(), report("pg1", PostgresReport::Primary(Box::new(changed))));
    status(&snapshot)
}

fn status(snapshot: &ClusterSnapshot) -> StatusDocument {
    status_document(snapshot, NodeId(2), Some(NodeId(2)))
}

/// pg1 has died, and an election for epoch 2 has begun.
fn electing() -> ClusterSnapshot {
    let mut snapshot = healthy();
    snapshot.wall = WallTime(1_000_030);
    let state = &mut snapshot.state;
    state.epoch = Epoch(2);
    state.revision = Revision(8);
    state.election =
        Some(Election { epoch: Epoch(2), kind: ElectionKind::Failover, catch_up: None, at: WallTime(1_000_020) });
    let mut incident = Incident {
        epoch: Epoch(2),
        kind: "failover".to_owned(),
        reason: "the postmaster of pg1 died".to_owned(),
        evidence: vec!["pg1's agent reports its postmaster dead".to_owned()],
        by: "leader on node 2".to_owned(),
        from: Some("pg1".into()),
        to: None,
        phases: Vec::new(),
        notes: Vec::new(),
        possible_data_loss: false,
        outcome: IncidentOutcome::Open,
        request: None,
    };
    incident.reach(Phase::Noticed, WallTime(1_000_010));
    incident.reach(Phase::Begun, WallTime(1_000_020));
    state.incidents.push(incident);
    let crashed = report("pg1", PostgresReport::Stopped { crashed: true });
    snapshot.observations.reports.insert("pg1".into(), crashed);
    snapshot
}

/// Case 07: PostgreSQL is well, but the group survives one voter fewer than people think.
#[test]
fn a_cluster_with_an_emptied_voter_is_not_called_healthy() {
    let mut snapshot = healthy();
    let finding = Finding { code: VOTER_EMPTIED.to_owned(), text: "node 2's Raft store was emptied".to_owned() };
    snapshot.findings.push(finding);
    let status = status_document(&snapshot, NodeId(1), Some(NodeId(1)));
    assert_eq!(status.state, ClusterWord::Degraded);
    assert!(status.findings.iter().any(|text| text.contains("was emptied")));
}

#[test]
fn a_healthy_cluster_is_called_healthy_and_says_who_may_take_over() {
    let status = status(&healthy());
    assert_eq!(status.state, ClusterWord::Healthy, "{status:#?}");
    assert!(status.rpo.zero && status.rpo.writable, "{:?}", status.rpo);
    let pg1 = status.member("pg1").unwrap();
    assert_eq!((pg1.role, pg1.state.as_str(), pg1.may_take_over), (Role::Primary, "open", false));
    let pg2 = status.member("pg2").unwrap();
    assert_eq!((pg2.role, pg2.state.as_str(), pg2.in_rule), (Role::Standby, "streaming", true));
    assert!(pg2.may_take_over, "{}", pg2.may_not_because);
    assert_eq!((pg2.flush_lag_bytes, pg2.replay_lag_bytes), (Some(100), Some(1_000)));
}

#[test]
fn settings_changed_by_hand_break_rpo_0_and_say_so() {
    let status = with_primary(|primary| primary.weakened.push("role app has synchronous_commit = off".to_owned()));
    assert!(!status.rpo.zero && status.rpo.why_not[0].contains("role app"), "{:?}", status.rpo);
    let unseen = with_primary(|primary| primary.setting_in_force = None);
    assert!(!unseen.rpo.zero);
}

#[test]
fn a_rule_that_demands_nobody_is_not_rpo_0() {
    let mut snapshot = healthy();
    snapshot.state.rules[0].setting.k = 0;
    let status = status(&snapshot);
    assert!(status.rpo.why_not[0].contains("k = 0"), "{:?}", status.rpo);
}

#[test]
fn a_hanging_canary_means_that_commits_wait() {
    let status = with_primary(|primary| primary.canary.waiting_ms = 4_000);
    assert!(status.rpo.zero && !status.rpo.writable);
    assert_eq!(status.state, ClusterWord::Degraded);
}

#[test]
fn a_standby_that_is_silent_degrades_the_cluster() {
    let mut snapshot = healthy();
    snapshot.observations.reports.get_mut(&MemberId::from("pg3")).unwrap().at = NOW.minus(5_000);
    let status = status(&snapshot);
    assert_eq!(status.state, ClusterWord::Degraded);
    let pg3 = status.member("pg3").unwrap();
    assert_eq!((pg3.state.as_str(), pg3.may_take_over), ("silent", false));
}

#[test]
fn an_election_says_whose_seals_it_waits_for() {
    let status = status(&electing());
    assert_eq!(status.state, ClusterWord::Electing);
    assert!(status.waits_for.contains("2 more of pg2, pg3"), "{}", status.waits_for);
    assert!(!status.rpo.writable);
    assert!(status.rpo.zero, "the rules keep what was acknowledged: {:?}", status.rpo);
}

#[test]
fn a_follower_claims_nothing_that_it_has_not_seen() {
    let mut snapshot = healthy();
    snapshot.observations = Observations::new(NodeId(3), Time(1_000));
    let status = status_document(&snapshot, NodeId(3), Some(NodeId(2)));
    assert!(!status.from_leader && !status.rpo.zero && !status.rpo.writable);
    assert_eq!(status.state, ClusterWord::Unknown);
    assert!(status.members.iter().all(|member| member.state == "unknown" && !member.may_take_over));
}

#[test]
fn the_events_of_a_failover_are_told_once_and_in_order() {
    let (before, mut next) = (status(&healthy()), electing());
    let begun = status(&next);
    let events = events_between(&before, &begun);
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["seen", "decided", "member"], "{events:#?}");
    assert!(events_between(&begun, &begun).is_empty());

    let incident = &mut next.state.incidents[0];
    incident.to = Some("pg2".into());
    incident.reach(Phase::Appointed, WallTime(1_000_040));
    incident.reach(Phase::Promoted, WallTime(1_000_110));
    let events = events_between(&begun, &status(&next));
    let texts: Vec<&str> = events.iter().map(|event| event.text.as_str()).collect();
    assert_eq!(texts, ["pg2 appointed as primary after 30 ms", "pg2 promoted, its door still closed after 100 ms"]);
}

#[test]
fn a_new_leader_is_no_news_of_the_members() {
    let mut fresh = healthy();
    fresh.observations = Observations::new(NodeId(2), NOW.minus(10));
    let (before, unheard) = (status(&healthy()), status(&fresh));
    assert_eq!(unheard.member("pg2").unwrap().state, "not heard yet");
    assert!(
        events_between(&before, &unheard).iter().chain(&events_between(&unheard, &before)).all(|e| e.kind != "member")
    );
}

#[test]
fn a_standby_on_the_data_directory_before_is_not_streaming() {
    let mut snapshot = healthy();
    snapshot.state.members.get_mut(&MemberId::from("pg3")).unwrap().incarnation = Incarnation(9);
    assert_eq!(status(&snapshot).member("pg3").unwrap().state, "old data");
}

#[test]
fn the_steps_of_a_clone_are_told_once() {
    let mut one = status(&healthy());
    one.members[2].activity = "cloning from pg1".to_owned();
    one.members[2].state = one.members[2].activity.clone();
    let mut two = one.clone();
    two.members[2].activity = "cloning: syncing data to disk".to_owned();
    two.members[2].state = two.members[2].activity.clone();
    assert!(events_between(&one, &two).is_empty());
    assert_eq!(events_between(&status(&healthy()), &one).len(), 1);
}

#[test]
fn a_finding_that_only_counts_up_is_told_once() {
    let mut one = status(&healthy());
    let mut two = one.clone();
    one.findings.push("pg3 is silent for 900 ms".to_owned());
    two.findings.push("pg3 is silent for 1900 ms".to_owned());
    assert!(events_between(&one, &two).is_empty());
}

#[test]
fn the_document_survives_the_wire_and_json() {
    let before = status(&electing());
    let wire = pgvigil_proto::v1::Status::from(before.clone());
    assert_eq!(StatusDocument::from(wire), before);
    let json = serde_json::to_string(&before).unwrap();
    assert_eq!(serde_json::from_str::<StatusDocument>(&json).unwrap(), before);
    assert!(json.contains("\"state\":\"electing\""), "{json}");
}
