//! Durability rules inside a reign: change one, and close those of older epochs.

use super::{Applied, election::close_incident, evidence, refuse};
use crate::{
    cluster::{ClusterState, RuleChange},
    command::{Proof, Proposal, RefusalCode},
    id::{Epoch, MemberId},
    incident::Phase,
    member::Tier,
    position::Position,
    rule::Setting,
};
use std::collections::BTreeSet;

/// Commits the wide rule (S ∪ S', min(k, k')). If that is the wished one already, nothing is left to be proven
/// (protocol review D2, D3). A change may be redirected while it is under way: the rule is wide already and becomes
/// wider, so it still covers every setting that any walsender may hold. Keeps S1.
pub(super) fn begin_change(cluster: &mut ClusterState, epoch: Epoch, to: &Setting, reason: &str) -> Applied {
    if cluster.election.is_some() {
        return refuse(RefusalCode::WrongPhase, "an election is under way");
    }
    for key in &to.cohort {
        let known = cluster.newest_rule().is_some_and(|rule| rule.setting.cohort.contains(key));
        let backup = cluster.members.get(&key.member).is_none_or(|member| member.spec.tier == Tier::Backup);
        if !known && (!cluster.is_counted(key) || backup) {
            return refuse(RefusalCode::BadValue, format!("{key} cannot be counted in a rule"));
        }
    }
    let Some(reign) = cluster.reigns.last_mut().filter(|reign| reign.epoch == epoch) else {
        return refuse(RefusalCode::WrongEpoch, format!("epoch {epoch} is not the current one"));
    };
    if !reign.complete || reign.promotion.is_none() {
        return refuse(RefusalCode::WrongPhase, "a rule of an older epoch is still open");
    }
    if to.k == 0 || to.cohort.contains(&reign.primary) {
        return refuse(RefusalCode::BadValue, "a rule has k of at least 1 and never counts its primary");
    }
    let Some(rule) = cluster.rules.last_mut() else {
        return refuse(RefusalCode::WrongPhase, "there is no rule to change");
    };
    if rule.setting == *to && cluster.change.is_none() {
        return refuse(RefusalCode::Exists, "that rule holds already");
    }
    let wide = rule.setting.wide(to);
    rule.version = rule.version.next();
    reign.version = rule.version;
    reign.setting = to.clone();
    // A weakening needs no proof, unless a walsender may still hold a setting of the change it replaces.
    let proven = wide == *to && cluster.change.is_none();
    cluster.change = (!proven).then(|| RuleChange { to: to.clone(), reason: reason.to_owned() });
    rule.setting = wide;
    Ok(())
}

/// Gives members other names for their connections. S and k stay; a proof ends what walsenders of the old names may still
/// confirm. Nothing is confirmed under a name of an older reign, so an older rule may be open. Keeps S1.
pub(super) fn rename(cluster: &mut ClusterState, epoch: Epoch, members: &BTreeSet<MemberId>, reason: &str) -> Applied {
    if cluster.election.is_some() {
        return refuse(RefusalCode::WrongPhase, "an election is under way");
    }
    let Some(reign) = cluster.reigns.last_mut().filter(|reign| reign.epoch == epoch) else {
        return refuse(RefusalCode::WrongEpoch, format!("epoch {epoch} is not the current one"));
    };
    if reign.promotion.is_none() {
        return refuse(RefusalCode::WrongPhase, "not promoted yet: nobody streams from it under a name");
    }
    if members.is_empty() || members.contains(&reign.primary.member) {
        return refuse(RefusalCode::BadValue, "only standbys stream under a name");
    }
    if let Some(unknown) = members.iter().find(|member| !cluster.members.contains_key(*member)) {
        return refuse(RefusalCode::UnknownMember, format!("no member is named {unknown}"));
    }
    let Some(rule) = cluster.rules.last_mut() else {
        return refuse(RefusalCode::WrongPhase, "there is no rule");
    };
    for member in members {
        if let Some(member) = cluster.members.get_mut(member) {
            member.named += 1;
        }
    }
    rule.version = rule.version.next();
    reign.version = rule.version;
    // Without a rule that waits for anybody, or before the first proof of the reign, there is nothing to end.
    if reign.complete && reign.setting.k > 0 && cluster.change.is_none() {
        cluster.change = Some(RuleChange { to: reign.setting.clone(), reason: reason.to_owned() });
    }
    Ok(())
}

/// Commits the final rule on the proof that no walsender holds anything else (histories A1, A2). Keeps S1.
pub(super) fn finish_change(cluster: &mut ClusterState, proposal: &Proposal, epoch: Epoch, proof: &Proof) -> Applied {
    let Some(change) = cluster.change.clone() else {
        return refuse(RefusalCode::WrongPhase, "no change of the rule is under way");
    };
    if cluster.election.is_some() {
        return refuse(RefusalCode::WrongPhase, "an election is under way: the rule stays wide");
    }
    let Some(rule) = cluster.rules.last_mut().filter(|rule| rule.epoch == epoch) else {
        return refuse(RefusalCode::WrongEpoch, format!("epoch {epoch} is not the current one"));
    };
    if proof.version != rule.version || !change.to.satisfied_by(&proof.flushed) {
        return refuse(
            RefusalCode::BadProof,
            format!("the proof is of version {} by {} members", proof.version, proof.flushed.len()),
        );
    }
    let demands = change.to.k > 0;
    rule.setting = change.to;
    cluster.change = None;
    evidence::names_are_own(cluster, epoch, proof.version, proposal.at);
    if demands {
        evidence::rule_demands(cluster, epoch, proposal.at);
    }
    note_proven(cluster, epoch, proof);
    Ok(())
}

/// Closes the rules of older epochs: k' of S' have flushed past the promotion's end on the new timeline, under a
/// setting that every walsender holds. Allowed during a later election: it is a lasting fact. Keeps S1, S2.
pub(super) fn complete(cluster: &mut ClusterState, proposal: &Proposal, epoch: Epoch, proof: &Proof) -> Applied {
    let Some(rule) = cluster.rules.iter().find(|rule| rule.epoch == epoch).cloned() else {
        return refuse(RefusalCode::WrongEpoch, format!("epoch {epoch} has no open rule"));
    };
    let Some(reign) = cluster.reigns.iter_mut().find(|reign| reign.epoch == epoch) else {
        return refuse(RefusalCode::WrongEpoch, format!("there is no reign {epoch}"));
    };
    let Some(promotion) = reign.promotion else {
        return refuse(RefusalCode::WrongPhase, "not promoted yet");
    };
    if reign.complete {
        return refuse(RefusalCode::Exists, "complete already");
    }
    // Strictly beyond: a marker written in this reign ends after the end of recovery. One that ends there may belong to a
    // proof of the epoch before, which a continued reign begins with, and which says nothing of this rule's walsenders.
    if proof.version != rule.version || proof.marker <= promotion.end || !rule.setting.satisfied_by(&proof.flushed) {
        return refuse(
            RefusalCode::BadProof,
            format!(
                "marker {} of version {} does not prove the end of recovery {}",
                proof.marker, proof.version, promotion.end
            ),
        );
    }
    reign.complete = true;
    let open = reign.open;
    cluster.rules.retain(|rule| rule.epoch >= epoch);
    evidence::names_are_own(cluster, epoch, proof.version, proposal.at);
    note_proven(cluster, epoch, proof);
    if let Some(incident) = cluster.incident_mut(epoch) {
        incident.reach(Phase::Completed, proposal.at);
        if open {
            close_incident(incident);
        }
    }
    Ok(())
}

fn note_proven(cluster: &mut ClusterState, epoch: Epoch, proof: &Proof) {
    let Some(timeline) = cluster.reigns.iter().find(|reign| reign.epoch == epoch).map(|reign| reign.timeline) else {
        return;
    };
    let Some(began) = cluster.epoch_of_timeline(timeline) else { return };
    let position = Position::new(began, proof.marker);
    for key in &proof.flushed {
        if let Some(member) = cluster.members.get_mut(&key.member)
            && member.incarnation == key.incarnation
        {
            member.proven = member.proven.max(Some(position));
        }
    }
}
