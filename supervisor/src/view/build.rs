//! The status of a cluster from what is agreed and what was seen.

use super::{
    ClusterWord, INCIDENTS_IN_STATUS, IncidentDocument, PhaseDocument, Role, RuleDocument, StatusDocument,
    VOTER_EMPTIED, member, rpo,
};
use crate::api::backend::ClusterSnapshot;
use pgvigil_core::{
    cluster::ClusterState,
    id::{MemberKey, NodeId},
    incident::{Incident, IncidentOutcome, Phase},
    member::Tier,
    observation::Observations,
    reign::{ElectionKind, SealKind},
    rpo::verdict,
    time::WallTime,
};
use std::{
    collections::BTreeSet,
    time::{Duration, UNIX_EPOCH},
};

/// The status of one cluster. `leader` is the Raft leader that this node knows.
#[must_use]
pub fn status_document(snapshot: &ClusterSnapshot, node: NodeId, leader: Option<NodeId>) -> StatusDocument {
    let ClusterSnapshot { state, observations, findings, now, wall } = snapshot;
    let from_leader = leader == Some(node);
    let members: Vec<_> =
        state.members.values().map(|m| member::member_document(state, observations, m, *now, from_leader)).collect();
    let rpo = rpo::rpo_document(state, observations, *now, from_leader);
    let reign = state.reign();
    // A group with one voter fewer than people think survives less than they think.
    let voters = !findings.iter().any(|finding| finding.code == VOTER_EMPTIED);
    let word = match cluster_word(state, from_leader, rpo.writable, &members) {
        ClusterWord::Healthy if !voters => ClusterWord::Degraded,
        word => word,
    };
    let mut findings: Vec<String> = findings.iter().map(|finding| finding.text.clone()).collect();
    for member in &members {
        findings.extend(member.problems.iter().map(|problem| format!("{}: {problem}", member.name)));
    }
    let shown = state.incidents.len().saturating_sub(INCIDENTS_IN_STATUS);
    StatusDocument {
        cluster: state.id.0.clone(),
        at_ms: wall.0,
        node: node.0,
        from_leader,
        leader: leader.map_or(0, |leader| leader.0),
        revision: state.revision.0,
        epoch: state.epoch.0,
        timeline: reign.map_or(0, |reign| reign.timeline.0),
        primary: reign.map_or_else(String::new, |reign| reign.primary.member.0.clone()),
        state: word,
        waits_for: waits_for(state, observations, word),
        paused: state.paused.clone().unwrap_or_default(),
        members,
        rule: rule_document(state),
        rpo,
        request: state
            .request
            .as_ref()
            .map_or_else(String::new, |r| format!("{}, asked for by {}", kind_words(&r.kind), r.by)),
        request_revision: state.request.as_ref().map_or(0, |request| request.revision.0),
        dropped_revision: state.request_dropped_of.0,
        dropped_because: state.request_dropped.clone().unwrap_or_default(),
        unfenced: state
            .fence_debts
            .iter()
            .map(|debt| format!("{} (epoch {})", debt.primary.member, debt.epoch))
            .collect(),
        findings,
        incidents: state.incidents[shown..].iter().map(|incident| incident_document(state, incident)).collect(),
        incident_count: u32::try_from(state.incidents.len()).unwrap_or(u32::MAX),
        system_identifier: state.system_identifier.unwrap_or(0),
    }
}

fn cluster_word(
    state: &ClusterState,
    from_leader: bool,
    writable: bool,
    members: &[super::MemberDocument],
) -> ClusterWord {
    let Some(reign) = state.reign() else { return ClusterWord::Forming };
    if state.election.is_some() {
        return ClusterWord::Electing;
    }
    if reign.promotion.is_none() {
        return ClusterWord::Promoting;
    }
    if !reign.open {
        return ClusterWord::Opening;
    }
    if !from_leader {
        return ClusterWord::Unknown;
    }
    let primary_serves =
        members.iter().any(|m| m.role == Role::Primary && m.state == "open" && m.name == reign.primary.member.0);
    if !primary_serves {
        return ClusterWord::Down;
    }
    if !reign.complete {
        return ClusterWord::Completing;
    }
    let others = || members.iter().filter(|member| member.name != reign.primary.member.0);
    let all_stream = others().all(|member| member.role == Role::Standby && member.state.starts_with("streaming"));
    let all_counted = others().filter(|member| member.tier < Tier::Emergency).all(|member| member.in_rule);
    if writable && all_stream && all_counted && state.paused.is_none() {
        ClusterWord::Healthy
    } else {
        ClusterWord::Degraded
    }
}

fn waits_for(state: &ClusterState, seen: &Observations, word: ClusterWord) -> String {
    match (word, state.reign()) {
        (ClusterWord::Forming, _) => {
            let missing: Vec<&str> = state
                .expect
                .iter()
                .filter(|name| !state.members.contains_key(*name))
                .map(pgvigil_core::id::MemberId::as_str)
                .collect();
            if missing.is_empty() {
                "the first primary is being made".to_owned()
            } else {
                format!("the cluster is created when these members have joined: {}", missing.join(", "))
            }
        }
        (ClusterWord::Electing, _) => election_waits_for(state, seen),
        (ClusterWord::Promoting, Some(reign)) => {
            format!("{} to leave recovery on timeline {}", reign.primary.member, reign.timeline)
        }
        (ClusterWord::Opening, Some(reign)) if !state.fence_debts.is_empty() => {
            let debts: Vec<&str> = state.fence_debts.iter().map(|debt| debt.primary.member.as_str()).collect();
            format!("{} opens when {} is known to serve nobody", reign.primary.member, debts.join(", "))
        }
        (ClusterWord::Opening, Some(reign)) => {
            format!("{} opens when {} of its standbys have its end of recovery", reign.primary.member, reign.setting.k)
        }
        (ClusterWord::Completing, Some(reign)) => {
            format!("{} of the standbys to have the history of epoch {}", reign.setting.k, reign.epoch)
        }
        _ => String::new(),
    }
}

fn election_waits_for(state: &ClusterState, seen: &Observations) -> String {
    let Some(election) = &state.election else { return String::new() };
    let sealed: BTreeSet<MemberKey> = seen
        .reports
        .values()
        .filter_map(|seen| seen.report.seal.as_ref())
        .filter(|seal| seal.seal.epoch == election.epoch && seal.seal.kind == SealKind::Sealed)
        .map(|seal| seal.seal.key.clone())
        .collect();
    let missing: Vec<String> = state
        .rules
        .iter()
        .filter(|rule| rule.seals_missing(&sealed) > 0)
        .map(|rule| {
            let who: Vec<&str> = rule.setting.cohort.difference(&sealed).map(|key| key.member.as_str()).collect();
            format!("{} more of {}", rule.seals_missing(&sealed), who.join(", "))
        })
        .collect();
    let what = kind_words(&election.kind);
    if missing.is_empty() {
        format!("{what}: enough members are sealed, a successor is being chosen")
    } else {
        format!("{what}: seals for epoch {} are missing from {}", election.epoch, missing.join("; and from "))
    }
}

pub(super) fn kind_words(kind: &ElectionKind) -> String {
    let towards =
        |to: &Option<pgvigil_core::id::MemberId>| to.as_ref().map_or_else(String::new, |to| format!(" to {to}"));
    match kind {
        ElectionKind::Failover => "failover".to_owned(),
        ElectionKind::Switchover { to } => format!("switchover{}", towards(to)),
        ElectionKind::Forced { to, .. } => format!("forced failover{}", towards(to)),
        ElectionKind::Renewal => "renewal".to_owned(),
    }
}

fn rule_document(state: &ClusterState) -> Option<RuleDocument> {
    let rule = state.newest_rule()?;
    Some(RuleDocument {
        epoch: rule.epoch.0,
        version: rule.version.0,
        k: rule.setting.k,
        cohort: rule.setting.cohort.iter().map(|key| key.member.0.clone()).collect(),
        open_rules: u32::try_from(state.rules.len()).unwrap_or(u32::MAX),
        change: state.change.as_ref().map_or_else(String::new, |change| {
            let to: Vec<&str> = change.to.cohort.iter().map(|key| key.member.as_str()).collect();
            format!("to any {} of ({}): {}", change.to.k, to.join(", "), change.reason)
        }),
    })
}

/// Date and time in UTC.
fn when(at: WallTime) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at.0)).to_string().replace('T', " ")
}

/// One incident of `state`, with the time of each phase since the first.
#[must_use]
pub fn incident_document(state: &ClusterState, incident: &Incident) -> IncidentDocument {
    let mut phases = incident.phases.clone();
    phases.sort_by_key(|phase| phase.phase);
    let first = phases.first().map_or(0, |phase| phase.at.0);
    let after = |phase: Phase| phases.iter().find(|p| p.phase == phase).map(|p| p.at.0.saturating_sub(first));
    let name = |member: &Option<pgvigil_core::id::MemberId>| member.as_ref().map_or_else(String::new, |m| m.0.clone());
    IncidentDocument {
        number: incident.epoch.0,
        kind: incident.kind.clone(),
        reason: incident.reason.clone(),
        evidence: incident.evidence.clone(),
        by: incident.by.clone(),
        from: name(&incident.from),
        to: name(&incident.to),
        to_open_ms: after(Phase::Opened),
        request_revision: incident.request.map_or(0, |revision| revision.0),
        phases: phases
            .iter()
            .map(|p| PhaseDocument {
                name: p.phase.as_str().to_owned(),
                at_ms: p.at.0,
                after_ms: p.at.0.saturating_sub(first),
            })
            .collect(),
        notes: incident.notes.clone(),
        possible_data_loss: incident.possible_data_loss,
        loss: verdict(state, incident).sentence(incident.possible_data_loss, when),
        outcome: match incident.outcome {
            IncidentOutcome::Open => "open",
            IncidentOutcome::Moved => "moved",
            IncidentOutcome::Stayed => "stayed",
            IncidentOutcome::Superseded => "superseded",
        }
        .to_owned(),
    }
}
