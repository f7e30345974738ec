//! The steps of a change of primary: begin, appoint, record the promotion, open.
//!
//! After Raft's election and CASPaxos-like recruitment as in Multigres' generalized consensus; the histories that
//! forced each check are named beside it.

use super::{Applied, evidence, refuse};
use crate::{
    cluster::ClusterState,
    command::{Proposal, RefusalCode},
    id::{Epoch, MemberId, MemberKey, RuleVersion, TimelineId},
    incident::{Incident, IncidentOutcome, Phase},
    member::Tier,
    position::Position,
    quorum::{self, Evidence},
    reign::{CatchUp, Election, ElectionKind, FenceDebt, Promotion, Reign, Seal, Start},
    rpo::Cause,
    rule::{Rule, Setting},
    time::WallTime,
};
use std::collections::BTreeSet;

pub(super) fn found(
    cluster: &mut ClusterState,
    proposal: &Proposal,
    primary: &MemberKey,
    start: Start,
    timeline: TimelineId,
    system_identifier: Option<u64>,
    setting: &Setting,
) -> Applied {
    if !cluster.reigns.is_empty() || cluster.election.is_some() {
        return refuse(RefusalCode::WrongPhase, "the cluster has had a primary before; only an election makes another");
    }
    if !cluster.is_counted(primary) {
        return refuse(RefusalCode::UnknownMember, format!("{primary} is not a counted member"));
    }
    let adopted = match start {
        Start::Initdb => false,
        Start::Adopt => true,
        Start::Promote | Start::Continue => return refuse(RefusalCode::WrongPhase, "there is nothing to promote yet"),
    };
    if adopted != system_identifier.is_some() || timeline.0 == 0 || (!adopted && timeline != TimelineId(1)) {
        return refuse(
            RefusalCode::BadValue,
            "an adopted cluster has a system identifier and a timeline, a new one timeline 1",
        );
    }
    if setting.cohort.contains(primary) || (setting.k == 0 && !adopted) {
        return refuse(
            RefusalCode::BadValue,
            "the first rule never counts the primary, and k = 0 only if it was adopted so",
        );
    }
    let epoch = Epoch(1);
    cluster.epoch = epoch;
    cluster.last_timeline = timeline;
    cluster.system_identifier = system_identifier;
    let version = RuleVersion(1);
    cluster.rules = vec![Rule { epoch, version, primary: primary.clone(), setting: setting.clone() }];
    cluster.reigns.push(Reign {
        epoch,
        primary: primary.clone(),
        timeline,
        start,
        setting: setting.clone(),
        version,
        promotion: None,
        open: false,
        complete: true,
        seals: Vec::new(),
        unproven: Vec::new(),
        shown: None,
    });
    if setting.k == 0 {
        let what = "commits did not wait for any standby (k = 0, an adopted cluster)";
        evidence::begins(cluster, Cause::NoRule, what, proposal.at, None);
    }
    Ok(())
}

pub(super) fn begin(
    cluster: &mut ClusterState,
    proposal: &Proposal,
    epoch: Epoch,
    kind: &ElectionKind,
    noticed_at: WallTime,
) -> Applied {
    let Some(reign) = cluster.reign().cloned() else {
        return refuse(RefusalCode::WrongPhase, "there is no primary yet");
    };
    if epoch != cluster.epoch.next() {
        return refuse(RefusalCode::WrongEpoch, format!("the next epoch is {}, not {epoch}", cluster.epoch.next()));
    }
    let by_operator = matches!(kind, ElectionKind::Switchover { .. } | ElectionKind::Forced { .. });
    if cluster.paused.is_some() && !by_operator {
        return refuse(
            RefusalCode::Paused,
            "the cluster is paused; resume it, or ask for a switchover or failover by name",
        );
    }
    super::requests::too_few_to_confirm(cluster, kind)?;
    if let ElectionKind::Forced { give_up, old_primary_is_off, .. } = kind {
        force(cluster, &reign, give_up, *old_primary_is_off)?;
    }
    if let ElectionKind::Forced { give_up, .. } = kind
        && !give_up.is_empty()
    {
        let who = give_up.iter().map(MemberId::as_str).collect::<Vec<_>>().join(", ");
        let what = format!("{} gave up {who}, who may hold acknowledged commits", proposal.by);
        evidence::begins(cluster, Cause::Forced, &what, proposal.at, Some(proposal.at));
    }
    let previous = cluster.election.as_ref().map(|election| election.epoch);
    for stale in [previous, Some(reign.epoch)].into_iter().flatten() {
        if let Some(incident) = cluster.incident_mut(stale)
            && incident.outcome == IncidentOutcome::Open
        {
            incident.outcome = IncidentOutcome::Superseded;
        }
    }
    cluster.epoch = epoch;
    // A rule change under way stays wide until the next reign completes its rule.
    cluster.change = None;
    let asked_as = cluster.request.as_ref().filter(|_| by_operator).map(|request| request.revision);
    if by_operator {
        cluster.request = None;
    }
    cluster.drop_request(format!("a {} began first (incident {epoch})", kind_name(kind)));
    cluster.election = Some(Election { epoch, kind: kind.clone(), catch_up: None, at: proposal.at });
    let mut incident = Incident {
        epoch,
        kind: kind_name(kind).to_owned(),
        reason: proposal.reason.clone(),
        evidence: proposal.evidence.clone(),
        by: proposal.by.to_string(),
        from: Some(reign.primary.member),
        to: None,
        phases: Vec::new(),
        notes: Vec::new(),
        possible_data_loss: matches!(kind, ElectionKind::Forced { give_up, .. } if !give_up.is_empty()),
        outcome: IncidentOutcome::Open,
        request: asked_as,
    };
    incident.reach(Phase::Noticed, noticed_at.min(proposal.at));
    incident.reach(Phase::Begun, proposal.at);
    cluster.incidents.push(incident);
    Ok(())
}

const fn kind_name(kind: &ElectionKind) -> &'static str {
    match kind {
        ElectionKind::Failover => "failover",
        ElectionKind::Switchover { .. } => "switchover",
        ElectionKind::Forced { .. } => "forced failover",
        ElectionKind::Renewal => "renewal",
    }
}

/// History A16: the members given up, and the old primary, could go on acknowledging among themselves. They are void from
/// this entry on. Unless the primary's being off is on record here, the next primary opens only once it is known to be
/// fenced (see [`confirmed_by_void`]).
fn force(cluster: &mut ClusterState, reign: &Reign, give_up: &BTreeSet<crate::id::MemberId>, off: bool) -> Applied {
    for member in give_up {
        let Some(key) = cluster.key_of(member) else {
            return refuse(RefusalCode::UnknownMember, format!("{member} cannot be given up: there is no such member"));
        };
        cluster.void.insert(key);
    }
    for key in cluster.rules.iter().flat_map(|rule| rule.setting.cohort.iter()) {
        if give_up.contains(&key.member) {
            cluster.void.insert(key.clone());
        }
    }
    if off {
        for debt in &mut cluster.fence_debts {
            debt.asserted_off = true;
        }
        cluster.fence_debts.retain(|debt| debt.primary != reign.primary);
        cluster.fence_debts.push(FenceDebt {
            epoch: reign.epoch,
            primary: reign.primary.clone(),
            asserted_off: true,
            unguarded: false,
            lease_ms: 0,
        });
    }
    Ok(())
}

pub(super) fn catch_up(cluster: &mut ClusterState, epoch: Epoch, order: &CatchUp) -> Applied {
    if !cluster.is_counted(&order.member) || !cluster.is_counted(&order.source) || order.member == order.source {
        return refuse(RefusalCode::UnknownMember, "both must be counted members, and not the same one");
    }
    let Some(election) = cluster.election.as_mut().filter(|election| election.epoch == epoch) else {
        return refuse(RefusalCode::WrongEpoch, format!("no election for epoch {epoch} is under way"));
    };
    if election.catch_up.as_ref() == Some(order) {
        return refuse(RefusalCode::Exists, "ordered already");
    }
    election.catch_up = Some(order.clone());
    Ok(())
}

pub(super) struct Appointment<'a> {
    pub(super) epoch: Epoch,
    pub(super) primary: &'a MemberKey,
    pub(super) start: Start,
    pub(super) timeline: TimelineId,
    pub(super) setting: &'a Setting,
    pub(super) seals: &'a [Seal],
}

pub(super) fn appoint(cluster: &mut ClusterState, proposal: &Proposal, wanted: &Appointment<'_>) -> Applied {
    let Some(election) = cluster.election.clone().filter(|election| election.epoch == wanted.epoch) else {
        return refuse(RefusalCode::WrongEpoch, format!("no election for epoch {} is under way", wanted.epoch));
    };
    let Some(last) = cluster.reign().cloned() else {
        return refuse(RefusalCode::WrongPhase, "there is no primary yet");
    };
    let evidence = Evidence::check(cluster, wanted.epoch, wanted.primary, wanted.seals)
        .or_else(|bad| refuse(RefusalCode::BadSeal, bad))?;
    let position = eligible(cluster, &last, wanted)?;
    // History B4: some set Q of sealed members closes every open rule, and the appointee has what each of Q has.
    // The largest such Q is everybody who is not ahead of it.
    let missing = evidence.missing_at(cluster, position);
    if !missing.is_empty() {
        let ahead = evidence.missing_at(cluster, Position::new(Epoch(u64::MAX), crate::lsn::Lsn(u64::MAX))).is_empty();
        let code = if ahead { RefusalCode::Behind } else { RefusalCode::TooFewSeals };
        return refuse(code, quorum::describe(&missing));
    }
    check_setting(cluster, wanted, position)?;
    let confirmed_by_void = confirmed_by_void(cluster, &last);
    enthrone(cluster, &last, wanted);
    let serving = last.open && last.primary != *wanted.primary;
    if serving && !cluster.fence_debts.iter().any(|debt| debt.primary == last.primary) {
        let unguarded = cluster.paused.is_some() || cluster.unguarded == Some(last.epoch) || confirmed_by_void;
        cluster.fence_debts.push(FenceDebt {
            epoch: last.epoch,
            primary: last.primary.clone(),
            asserted_off: false,
            unguarded,
            lease_ms: cluster.shortened_lease_ms.max(cluster.settings.lease_ms),
        });
    }
    if last.primary != *wanted.primary {
        // A new primary learns of its reign and of all settings before it together.
        cluster.shortened_lease_ms = 0;
    }
    cluster.unguarded = cluster.paused.is_some().then_some(wanted.epoch);
    cluster.fence_debts.retain(|debt| debt.primary != *wanted.primary);
    let to = wanted.primary.member.clone();
    if let Some(incident) = cluster.incident_mut(election.epoch) {
        incident.to = Some(to);
        incident.reach(Phase::Appointed, proposal.at);
        incident.evidence.extend(proposal.evidence.iter().take(20).cloned());
    }
    cluster.election = None;
    Ok(())
}

/// History A16: whoever was given up is sealed by nobody, and may confirm the canaries of the primary that it follows. Its
/// right then lasts for as long as they are together: time does not fence it. Keeps S3.
fn confirmed_by_void(cluster: &ClusterState, last: &Reign) -> bool {
    let mut rules = cluster.rules.iter().filter(|rule| rule.epoch == last.epoch);
    rules.any(|rule| rule.setting.cohort.iter().any(|key| cluster.void.contains(key)))
}

fn eligible(
    cluster: &ClusterState,
    last: &Reign,
    wanted: &Appointment<'_>,
) -> Result<Position, crate::command::Refusal> {
    let primary = wanted.primary;
    let Some(seal) = wanted.seals.iter().find(|seal| seal.key == *primary) else {
        return refuse(RefusalCode::BadSeal, format!("{primary} itself is not sealed"));
    };
    let Some(member) = cluster.members.get(&primary.member) else {
        return refuse(RefusalCode::UnknownMember, format!("{primary} is not a member"));
    };
    match wanted.start {
        Start::Promote => {
            if seal.kind != crate::reign::SealKind::Sealed {
                return refuse(RefusalCode::BadSeal, format!("{primary} is still running as primary"));
            }
            if member.spec.tier == Tier::Backup || member.leaving {
                return refuse(
                    RefusalCode::Ineligible,
                    format!("{primary} is a backup or leaving; it is never promoted"),
                );
            }
            // History A7: a timeline's number is never used twice, even if the first one died unheard.
            if wanted.timeline <= cluster.last_timeline {
                return refuse(
                    RefusalCode::TimelineTaken,
                    format!(
                        "timeline {} was allotted before; the next is {}",
                        wanted.timeline,
                        cluster.last_timeline.next()
                    ),
                );
            }
        }
        Start::Continue => {
            // History B2: only the member that was promoted in the last reign, in the incarnation that was, can go on.
            let was_promoted = cluster.promoted_epoch_of(primary) == Some(last.epoch);
            if last.primary != *primary || !was_promoted || wanted.timeline != last.timeline {
                return refuse(
                    RefusalCode::Ineligible,
                    format!("{primary} is not the promoted primary of the last reign"),
                );
            }
        }
        Start::Initdb | Start::Adopt => {
            return refuse(RefusalCode::WrongPhase, "an election promotes or continues, it does not found a cluster");
        }
    }
    Ok(seal.position)
}

/// The rule of a promotion counts sealed members that can follow the appointee as they are: one that did not seal may be
/// gone, and one that is ahead has to be made anew, and confirms nothing under the name that the rule has for it. Beside
/// a primary that goes on, whoever streams may count.
fn check_setting(cluster: &ClusterState, wanted: &Appointment<'_>, position: Position) -> Applied {
    if wanted.setting.k == 0 || wanted.setting.cohort.contains(wanted.primary) {
        return refuse(RefusalCode::BadValue, "a reign's rule has k of at least 1 and never counts its primary");
    }
    for key in &wanted.setting.cohort {
        let backup = cluster.members.get(&key.member).is_none_or(|member| member.spec.tier == Tier::Backup);
        if !cluster.is_counted(key) || backup {
            return refuse(RefusalCode::BadValue, format!("{key} cannot be counted in a rule"));
        }
        let follows = wanted.seals.iter().any(|seal| seal.key == *key && seal.position <= position);
        if wanted.start == Start::Promote && !follows {
            return refuse(
                RefusalCode::BadValue,
                format!("{key} did not seal for epoch {}, or is ahead of {}", wanted.epoch, wanted.primary),
            );
        }
    }
    Ok(())
}

fn enthrone(cluster: &mut ClusterState, last: &Reign, wanted: &Appointment<'_>) {
    for seal in wanted.seals {
        if let Some(member) = cluster.members.get_mut(&seal.key.member)
            && member.incarnation == seal.key.incarnation
        {
            member.proven = member.proven.max(Some(seal.position));
        }
    }
    let version = RuleVersion(1);
    cluster.last_timeline = cluster.last_timeline.max(wanted.timeline);
    cluster.rules.push(Rule {
        epoch: wanted.epoch,
        version,
        primary: wanted.primary.clone(),
        setting: wanted.setting.clone(),
    });
    let continued = wanted.start == Start::Continue;
    cluster.reigns.push(Reign {
        epoch: wanted.epoch,
        primary: wanted.primary.clone(),
        timeline: wanted.timeline,
        start: wanted.start,
        setting: wanted.setting.clone(),
        version,
        promotion: None,
        // A running primary that is re-appointed keeps its open door; one that restarts is closed anew.
        open: continued
            && last.open
            && wanted.seals.iter().any(|s| s.key == *wanted.primary && s.kind == crate::reign::SealKind::Standing),
        complete: false,
        seals: wanted.seals.to_vec(),
        unproven: Vec::new(),
        shown: None,
    });
}

pub(super) fn record_promotion(
    cluster: &mut ClusterState,
    proposal: &Proposal,
    epoch: Epoch,
    timeline: TimelineId,
    promotion: Promotion,
    system_identifier: u64,
) -> Applied {
    if cluster.system_identifier.is_some_and(|known| known != system_identifier) {
        return refuse(RefusalCode::BadValue, "the server has another system identifier than the cluster");
    }
    // Allowed during a later election: that the member was promoted is a lasting fact.
    let Some(reign) = cluster.reigns.iter_mut().find(|reign| reign.epoch == epoch) else {
        return refuse(RefusalCode::WrongEpoch, format!("there is no reign {epoch}"));
    };
    if reign.promotion.is_some() {
        return refuse(RefusalCode::Exists, format!("the promotion of epoch {epoch} is recorded already"));
    }
    if reign.timeline != timeline {
        return refuse(
            RefusalCode::BadValue,
            format!("epoch {epoch} was allotted timeline {}, the server is on {timeline}", reign.timeline),
        );
    }
    if promotion.end < promotion.fork {
        return refuse(RefusalCode::BadValue, "recovery cannot end before the fork");
    }
    reign.promotion = Some(promotion);
    cluster.system_identifier = Some(system_identifier);
    if let Some(incident) = cluster.incident_mut(epoch) {
        incident.reach(Phase::Promoted, proposal.at);
    }
    Ok(())
}

/// The caller knows every former primary to be fenced; the operator's word stands for one that was given as off.
pub(super) fn open(cluster: &mut ClusterState, proposal: &Proposal, epoch: Epoch) -> Applied {
    if cluster.election.is_some() {
        return refuse(RefusalCode::WrongPhase, "an election is under way");
    }
    let Some(reign) = cluster.reigns.last_mut().filter(|reign| reign.epoch == epoch) else {
        return refuse(RefusalCode::WrongEpoch, format!("epoch {epoch} is not the current one"));
    };
    if reign.promotion.is_none() || reign.open {
        return refuse(RefusalCode::WrongPhase, "not promoted yet, or open already");
    }
    // A primary that recovered from a crash shows rows that nobody acknowledged; it stays closed until k of S have
    // them (PostgreSQL's trap of crash restart). Keeps S1 for readers.
    if reign.start == Start::Continue && !reign.complete {
        return refuse(
            RefusalCode::NotFenced,
            "restarted in place: closed until k standbys have flushed its end of recovery",
        );
    }
    reign.open = true;
    cluster.fence_debts.clear();
    let complete = reign.complete;
    if let Some(incident) = cluster.incident_mut(epoch) {
        incident.reach(Phase::Opened, proposal.at);
        // How each former primary was known to serve nobody.
        incident.evidence.extend(proposal.evidence.iter().take(20).cloned());
        if complete {
            close_incident(incident);
        }
    }
    Ok(())
}

pub(super) fn close_incident(incident: &mut Incident) {
    if incident.outcome == IncidentOutcome::Open {
        let moved = incident.from != incident.to;
        incident.outcome = if moved { IncidentOutcome::Moved } else { IncidentOutcome::Stayed };
    }
}
