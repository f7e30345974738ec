//! The first primary: initdb when everybody expected is there with empty directories, or the one that already runs.

use super::Decision;
use crate::{
    cluster::ClusterState,
    command::Command,
    id::{MemberId, TimelineId},
    member::{Member, Tier},
    observation::Observations,
    reign::Start,
    report::{Adoptable, PostgresReport},
    rule::Setting,
    time::Time,
};
use std::collections::BTreeSet;

/// How long a report stays good enough to found a cluster on, in milliseconds. Founding is not urgent.
const FRESH_MS: u64 = 3_000;

pub(super) fn decide(agreed: &ClusterState, seen: &Observations, now: Time, decision: &mut Decision) {
    if let Some(paused) = &agreed.paused {
        decision.find("paused", format!("not founded: the cluster is paused ({paused})"));
        return;
    }
    // A registered member that is silent may be the one that runs as a primary.
    let registered = agreed.members.values().filter(|member| !member.leaving).map(|member| &member.spec.member);
    let awaited: BTreeSet<&MemberId> = agreed.expect.iter().chain(registered).collect();
    let missing: Vec<&str> = awaited
        .into_iter()
        .filter(|name| !agreed.members.contains_key(*name) || seen.fresh(name, now, FRESH_MS).is_none())
        .map(MemberId::as_str)
        .collect();
    if !missing.is_empty() {
        decision.find("waiting-for-members", format!("not founded yet: waiting for {}", missing.join(", ")));
        return;
    }
    if agreed.members.is_empty() {
        decision.find("waiting-for-members", "not founded yet: no member has registered");
        return;
    }
    let mut running: Vec<(&Member, &Adoptable)> = Vec::new();
    let mut empty: Vec<&Member> = Vec::new();
    for member in agreed.members.values().filter(|member| !member.leaving) {
        let Some(report) = seen.fresh(&member.spec.member, now, FRESH_MS) else { continue };
        match &report.postgres {
            PostgresReport::NoData => empty.push(member),
            PostgresReport::Adoptable(found) if !found.in_recovery => running.push((member, found)),
            PostgresReport::Adoptable(_) => {}
            PostgresReport::Unusable { why } => {
                decision.find("unusable", format!("not founded: {}: {why}", member.spec.member));
                return;
            }
            other => {
                let name = &member.spec.member;
                decision.find("unexpected", format!("not founded: {name} is neither empty nor adoptable: {other:?}"));
                return;
            }
        }
    }
    match running.as_slice() {
        [] => initdb(agreed, &empty, decision),
        [(member, found)] => adopt(agreed, member, found, decision),
        several => {
            let names = several.iter().map(|(m, _)| m.spec.member.to_string()).collect::<Vec<_>>().join(", ");
            decision.find("two-primaries", format!("not adopted: {names} all run as primaries; stop all but one"));
        }
    }
}

fn initdb(agreed: &ClusterState, empty: &[&Member], decision: &mut Decision) {
    if empty.len() != agreed.members.values().filter(|member| !member.leaving).count() {
        decision
            .find("no-primary-to-adopt", "not founded: some members have data, but none runs as a primary; start it");
        return;
    }
    let eligible = empty.iter().filter(|member| member.spec.tier != Tier::Backup);
    let Some(best) = eligible.min_by_key(|m| (m.spec.tier, std::cmp::Reverse(m.spec.priority), &m.spec.member)) else {
        decision.find("only-backups", "not founded: every member is of tier backup, which is never a primary");
        return;
    };
    let setting = Setting::new(agreed.settings.sync_standbys, []);
    decision.want(
        Command::Found {
            primary: best.key(),
            start: Start::Initdb,
            timeline: TimelineId(1),
            system_identifier: None,
            setting,
        },
        format!("every expected member is there with an empty data directory; {} is preferred", best.spec.member),
        empty.iter().map(|m| format!("{}: empty data directory", m.spec.member)).collect(),
    );
}

fn adopt(agreed: &ClusterState, member: &Member, found: &Adoptable, decision: &mut Decision) {
    let other = agreed.system_identifier.is_some_and(|known| known != found.system_identifier);
    if other {
        decision.find("other-system", format!("not adopted: {} has another system identifier", member.spec.member));
        return;
    }
    decision.want(
        Command::Found {
            primary: member.key(),
            start: Start::Adopt,
            timeline: found.timeline,
            system_identifier: Some(found.system_identifier),
            // Nothing is known of the setting under which it ran: only its own seal could end this reign until the
            // first strengthening (history B6).
            setting: Setting::new(0, []),
        },
        format!("{} already runs as a primary (PostgreSQL {})", member.spec.member, found.major),
        vec![format!("system identifier {}, timeline {}", found.system_identifier, found.timeline)],
    );
}

#[cfg(test)]
#[path = "bootstrap_test.rs"]
mod tests;
