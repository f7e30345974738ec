//! Members come, are made anew, and go.

use super::{Applied, refuse};
use crate::{
    cluster::ClusterState,
    command::RefusalCode,
    id::{Incarnation, MemberId},
    member::{Member, MemberSpec},
};

fn find<'a>(cluster: &'a mut ClusterState, member: &MemberId) -> Result<&'a mut Member, crate::command::Refusal> {
    let known = cluster.members.keys().map(MemberId::as_str).collect::<Vec<_>>().join(", ");
    match cluster.members.get_mut(member) {
        Some(member) => Ok(member),
        None => refuse(
            RefusalCode::UnknownMember,
            format!("cluster {} has no member {member}; its members are: {known}", cluster.id),
        ),
    }
}

pub(super) fn register(cluster: &mut ClusterState, spec: &MemberSpec) -> Applied {
    let name = &spec.member.0;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 32 || !name.chars().all(plain) {
        return refuse(
            RefusalCode::BadValue,
            format!(
                "member name {name:?}: 1 to 32 of a-z, 0-9 and - are allowed (it becomes part of a standby's name)"
            ),
        );
    }
    let same_place = cluster
        .members
        .values()
        .find(|m| m.spec.member != spec.member && m.spec.host == spec.host && m.spec.port == spec.port);
    if let Some(other) = same_place {
        return refuse(
            RefusalCode::NameTaken,
            format!(
                "{}:{} is member {} already; each member needs its own address",
                spec.host, spec.port, other.spec.member
            ),
        );
    }
    if let Some(member) = cluster.members.get_mut(&spec.member) {
        if member.spec.node != spec.node {
            return refuse(
                RefusalCode::NameTaken,
                format!(
                    "two members are named {}: node {} has it, node {} wants it; rename one, or remove the member first \
                     (pgvigil members remove {})",
                    spec.member, member.spec.node, spec.node, spec.member
                ),
            );
        }
        if member.spec == *spec {
            return refuse(RefusalCode::Exists, "nothing has changed");
        }
        member.spec = spec.clone();
        return Ok(());
    }
    let incarnation = allot_incarnation(cluster);
    let member = Member {
        spec: spec.clone(),
        incarnation,
        proven: None,
        used: false,
        reinit_requested: false,
        restart_request: 0,
        named: 0,
        leaving: false,
        promoted_by_hand: None,
    };
    cluster.members.insert(spec.member.clone(), member);
    Ok(())
}

fn allot_incarnation(cluster: &mut ClusterState) -> Incarnation {
    cluster.last_incarnation = cluster.last_incarnation.next();
    cluster.last_incarnation
}

/// The old incarnation stays in every rule that names it, never to be sealed (history A9). Keeps S1.
pub(super) fn new_incarnation(cluster: &mut ClusterState, member: &MemberId, replaces: Incarnation) -> Applied {
    if cluster.election.is_some() {
        return refuse(RefusalCode::WrongPhase, "an election is under way: a data directory may still be evidence");
    }
    let key = find(cluster, member)?.key();
    if key.incarnation != replaces {
        return refuse(RefusalCode::Stale, format!("{member} is at incarnation {}, not {replaces}", key.incarnation));
    }
    if let Some(reign) = cluster.reign().filter(|reign| reign.primary == key) {
        return refuse(
            RefusalCode::WrongPhase,
            format!("{member} is the primary of epoch {}: switch over first", reign.epoch),
        );
    }
    let incarnation = allot_incarnation(cluster);
    let member = find(cluster, member)?;
    member.incarnation = incarnation;
    member.proven = None;
    member.used = false;
    member.reinit_requested = false;
    Ok(())
}

pub(super) fn request_reinit(cluster: &mut ClusterState, member: &MemberId) -> Applied {
    let primary = cluster.reign().map(|reign| reign.primary.member.clone());
    let found = find(cluster, member)?;
    if primary.as_ref() == Some(member) {
        return refuse(
            RefusalCode::WrongPhase,
            format!("{member} is the primary; its data directory cannot be made anew. Switch over first"),
        );
    }
    found.reinit_requested = true;
    Ok(())
}

pub(super) fn request_restart(cluster: &mut ClusterState, member: &MemberId) -> Applied {
    let reigns = cluster.reign().is_some_and(|reign| reign.primary.member == *member);
    if let Some(paused) = cluster.paused.as_ref().filter(|_| reigns) {
        return refuse(
            RefusalCode::Paused,
            format!(
                "{member} is the primary, and the cluster is paused ({paused}): once stopped it would stay so. Resume \
                 first, or switch over"
            ),
        );
    }
    find(cluster, member)?.restart_request += 1;
    Ok(())
}

pub(super) fn request_leave(cluster: &mut ClusterState, member: &MemberId) -> Applied {
    let primary = cluster.reign().map(|reign| reign.primary.member.clone());
    let found = find(cluster, member)?;
    if primary.as_ref() == Some(member) {
        return refuse(RefusalCode::WrongPhase, format!("{member} is the primary. Switch over first"));
    }
    found.leaving = true;
    Ok(())
}

pub(super) fn forget(cluster: &mut ClusterState, member: &MemberId) -> Applied {
    if !find(cluster, member)?.leaving {
        return refuse(RefusalCode::WrongPhase, format!("{member} was not asked to leave"));
    }
    let indebted = cluster.fence_debts.iter().any(|debt| debt.primary.member == *member);
    let reigns = cluster.reign().is_some_and(|reign| reign.primary.member == *member);
    if reigns || indebted || cluster.election.is_some() || cluster.is_in_a_rule(member) {
        return refuse(
            RefusalCode::WrongPhase,
            format!("{member} still counts: a rule, an election or a fence names it"),
        );
    }
    cluster.members.remove(member);
    cluster.expect.remove(member);
    Ok(())
}
