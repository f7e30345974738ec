//! What operators ask for.

use super::{Applied, refuse};
use crate::{
    cluster::{ClusterState, Request},
    command::{Proposal, RefusalCode},
    id::{Epoch, MemberId},
    member::Tier,
    reign::ElectionKind,
    settings::Settings,
};

pub(super) fn pause(cluster: &mut ClusterState, proposal: &Proposal) -> Applied {
    if cluster.paused.is_some() {
        return refuse(RefusalCode::Exists, "the cluster is paused already");
    }
    cluster.paused = Some(format!("by {}: {}", proposal.by, proposal.reason));
    cluster.unguarded = cluster.reign().map(|reign| reign.epoch);
    Ok(())
}

/// A primary that has not heard of a shorter lease goes on counting by the longer one: whoever succeeds it waits that
/// long (found by the simulation). Keeps S3.
pub(super) fn settings(cluster: &mut ClusterState, settings: &Settings) {
    if settings.lease_ms < cluster.settings.lease_ms {
        cluster.shortened_lease_ms = cluster.shortened_lease_ms.max(cluster.settings.lease_ms);
    }
    cluster.settings = settings.clone();
}

pub(super) fn resume(cluster: &mut ClusterState) -> Applied {
    if cluster.paused.take().is_none() {
        return refuse(RefusalCode::WrongPhase, "the cluster is not paused");
    }
    Ok(())
}

pub(super) fn election(cluster: &mut ClusterState, proposal: &Proposal, kind: &ElectionKind) -> Applied {
    let Some(reign) = cluster.reign() else {
        return refuse(RefusalCode::WrongPhase, "the cluster has no primary yet");
    };
    if reign.promotion.is_none() && cluster.reigns.len() == 1 {
        return refuse(
            RefusalCode::WrongPhase,
            "the first primary is still being made or adopted: there is nobody to take over from it yet",
        );
    }
    let to = match kind {
        ElectionKind::Switchover { to } | ElectionKind::Forced { to, .. } => to,
        ElectionKind::Failover | ElectionKind::Renewal => {
            return refuse(RefusalCode::BadValue, "an operator asks for a switchover or a forced failover");
        }
    };
    if let Some(to) = to {
        let Some(member) = cluster.members.get(to) else {
            let known = cluster.members.keys().map(MemberId::as_str).collect::<Vec<_>>().join(", ");
            let text = format!("cluster {} has no member {to}; its members are: {known}", cluster.id);
            return refuse(RefusalCode::UnknownMember, text);
        };
        if member.spec.tier == Tier::Backup || member.leaving {
            return refuse(RefusalCode::Ineligible, format!("{to} is a backup or leaving; it is never promoted"));
        }
        if reign.primary.member == *to && matches!(kind, ElectionKind::Switchover { .. }) {
            return refuse(RefusalCode::Exists, format!("{to} is the primary already"));
        }
    }
    let forced = matches!(kind, ElectionKind::Forced { .. });
    too_few_to_confirm(cluster, kind)?;
    if !forced && (cluster.election.is_some() || cluster.request.is_some()) {
        return refuse(RefusalCode::WrongPhase, "a change of primary is under way or asked for already");
    }
    cluster.drop_request("a forced failover was asked for instead".to_owned());
    let revision = cluster.revision.next();
    cluster.request = Some(Request { kind: kind.clone(), by: proposal.by.to_string(), revision });
    Ok(())
}

/// A planned change is not begun where no member, there or not, could confirm the successor's commits.
pub(super) fn too_few_to_confirm(cluster: &ClusterState, kind: &ElectionKind) -> Applied {
    let ElectionKind::Switchover { to } = kind else { return Ok(()) };
    let (k, others) = (cluster.settings.sync_standbys as usize, cluster.confirmers(to.as_ref()));
    if others >= k {
        return Ok(());
    }
    refuse(
        RefusalCode::Ineligible,
        format!(
            "a commit needs {k} other members to confirm it (sync_standbys), and the successor would have {others}"
        ),
    )
}

pub(super) fn drop_request(cluster: &mut ClusterState, proposal: &Proposal) -> Applied {
    if cluster.request.is_none() {
        return refuse(RefusalCode::WrongPhase, "nothing was asked for");
    }
    cluster.drop_request(proposal.reason.clone());
    Ok(())
}

/// The primary's agent confirms that its guard is armed again after a pause. Keeps S3.
pub(super) fn confirm_guard(cluster: &mut ClusterState, epoch: Epoch) -> Applied {
    if cluster.paused.is_some() || cluster.unguarded != Some(epoch) {
        return refuse(RefusalCode::WrongPhase, "paused, or nothing is to be confirmed for that epoch");
    }
    cluster.unguarded = None;
    Ok(())
}

pub(super) fn note(cluster: &mut ClusterState, incident: Epoch, text: &str) -> Applied {
    let Some(incident) = cluster.incident_mut(incident) else {
        return refuse(RefusalCode::WrongEpoch, format!("there is no incident {incident}"));
    };
    if incident.notes.iter().any(|note| note == text) || incident.notes.len() >= crate::incident::NOTES_MAX {
        return refuse(RefusalCode::Exists, "noted already, or too many notes");
    }
    incident.note(text);
    Ok(())
}
