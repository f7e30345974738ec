//! Is the primary well? Evidence, never one signal alone (orchestrator's holistic detection; Falcon's spies).

use super::{Decision, braked::braked};
use crate::{
    cluster::ClusterState,
    command::Command,
    id::{MemberId, MemberKey},
    member::Tier,
    observation::Observations,
    quorum::describe,
    reign::{ElectionKind, Reign, Start},
    report::{PostgresReport, Report},
    settings::CrashPolicy,
    time::{Time, WallTime},
};
use std::collections::BTreeSet;

/// What the leader makes of the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its agent reports it alive.
    Well,
    /// Its agent is late, but not yet beyond the limit, or nobody else has looked yet.
    Suspect {
        /// When to look again.
        look_again_at: Time,
        /// What is known.
        why: String,
    },
    /// Its agent is silent, but PostgreSQL serves: raise it, do not fail over.
    AgentLost(String),
    /// PostgreSQL is dead and fenced, as its own agent says.
    Dead(Vec<String>),
    /// Agent and PostgreSQL are both silent to everyone who can be asked.
    Lost(Vec<String>),
}

/// Judges the primary of the reign in force.
#[must_use]
pub fn primary_health(agreed: &ClusterState, reign: &Reign, seen: &Observations, now: Time) -> Verdict {
    let settings = &agreed.settings;
    let primary = &reign.primary.member;
    let limit = settings.suspect_ms + seen.starved_ms;
    let silence = seen.silence(primary, now);
    if let Some(at) = seen.reports.get(primary)
        && silence <= limit
        && let Some(evidence) = own_word(reign, &at.report)
    {
        return Verdict::Dead(evidence);
    }
    if silence <= limit {
        return Verdict::Well;
    }
    let mut evidence = vec![format!("the agent of {primary} has been silent for {silence} ms (limit {limit} ms)")];
    let mut asked = 0;
    for member in agreed.members.values().filter(|m| m.spec.member != *primary) {
        let Some(report) = seen.fresh(&member.spec.member, now, limit) else { continue };
        let PostgresReport::Standby(standby) = &report.postgres else { continue };
        let name = &member.spec.member;
        if standby.streaming && standby.wal_age_ms < settings.suspect_ms {
            return Verdict::AgentLost(format!("{name} still receives its WAL ({} ms ago)", standby.wal_age_ms));
        }
        match report.probe.as_ref().filter(|probe| probe.member == *primary && probe.age_ms <= 2 * settings.suspect_ms)
        {
            Some(probe) if probe.answered => {
                return Verdict::AgentLost(format!("its port answers {name}: {}", probe.detail));
            }
            Some(probe) => {
                asked += 1;
                evidence.push(format!(
                    "{name}: no WAL for {} ms, and its port does not answer: {}",
                    standby.wal_age_ms, probe.detail
                ));
            }
            None => {}
        }
    }
    if asked == 0 {
        return Verdict::Suspect {
            look_again_at: now.plus(settings.heartbeat_ms / 2),
            why: format!("the agent of {primary} has been silent for {silence} ms; no standby has probed it yet"),
        };
    }
    Verdict::Lost(evidence)
}

/// The primary's own agent says that nothing serves there as primary of this epoch any more.
fn own_word(reign: &Reign, report: &Report) -> Option<Vec<String>> {
    let primary = &reign.primary;
    if report.incarnation != Some(primary.incarnation) && report.revision.0 > 0 {
        return Some(vec![format!(
            "the data directory of {} is not the one that reigned ({:?})",
            primary, report.incarnation
        )]);
    }
    if report.fenced < Some(reign.epoch) {
        return None;
    }
    let what = match &report.postgres {
        PostgresReport::Stopped { crashed: true } => "its PostgreSQL died".to_owned(),
        PostgresReport::Stopped { crashed: false } => "its PostgreSQL is stopped".to_owned(),
        other => format!("it is fenced ({})", short(other)),
    };
    Some(vec![format!("the agent of {}: {what}; every process is gone and the fence is on disk", primary.member)])
}

const fn short(report: &PostgresReport) -> &'static str {
    match report {
        PostgresReport::NoData => "no data",
        PostgresReport::Unusable { .. } => "unusable data directory",
        PostgresReport::Adoptable(_) => "unmarked data directory",
        PostgresReport::Stopped { .. } => "stopped",
        PostgresReport::Starting => "starting",
        PostgresReport::Standby(_) => "running as a standby",
        PostgresReport::Primary(_) => "running as a primary",
    }
}

/// Begins a failover when the evidence is there and it can succeed.
pub(super) fn begin(agreed: &ClusterState, reign: &Reign, seen: &Observations, now: Time, decision: &mut Decision) {
    let unmarked = seen.reports.get(&reign.primary.member).is_none_or(|at| at.report.incarnation.is_none());
    let being_made = reign.start == Start::Initdb || (reign.start == Start::Adopt && unmarked);
    if reign.promotion.is_none() && being_made {
        // The first primary is still being made: there is nothing to fail over from, and nobody to fail over to.
        return;
    }
    let (evidence, dead) = match primary_health(agreed, reign, seen, now) {
        Verdict::Well => return,
        Verdict::Suspect { look_again_at, why } => {
            decision.find("primary-suspect", why);
            decision.wake(look_again_at);
            return;
        }
        Verdict::AgentLost(why) => {
            let primary = &reign.primary.member;
            decision.find(
                "agent-lost",
                format!("the agent of {primary} is lost, its PostgreSQL is not: {why}; no failover"),
            );
            return;
        }
        Verdict::Dead(evidence) => (evidence, true),
        Verdict::Lost(evidence) => (evidence, false),
    };
    let primary = &reign.primary.member;
    let what = if dead { format!("{primary} is dead") } else { format!("{primary} is lost") };
    if let Some(paused) = &agreed.paused {
        decision.find("paused", format!("{what}, but the cluster is paused ({paused}): no failover"));
        return;
    }
    if !agreed.settings.automatic_failover {
        decision.find("manual", format!("{what}; automatic_failover is off: ask for a failover"));
        return;
    }
    if !dead {
        // Beginning would only end the primary's lease: whoever cannot seal now cannot be counted.
        let missing = unreachable_rules(agreed, seen, now);
        if !missing.is_empty() {
            decision.find("too-few-members", format!("{what}, but nobody can be promoted: {}", describe(&missing)));
            return;
        }
    }
    if braked(agreed, seen, now, &what, decision) {
        decision.waits = true;
        return;
    }
    let restart = dead && agreed.settings.crash_policy == CrashPolicy::Restart && reign.promotion.is_some();
    let kind = if restart { ElectionKind::Renewal } else { ElectionKind::Failover };
    let ago = if dead { 0 } else { seen.silence(primary, now) };
    let noticed_at = WallTime(seen.wall.0.saturating_sub(ago));
    decision.want(Command::BeginElection { epoch: agreed.epoch.next(), kind, noticed_at }, what, evidence);
}

fn unreachable_rules(agreed: &ClusterState, seen: &Observations, now: Time) -> Vec<crate::quorum::Missing> {
    let limit = agreed.settings.suspect_ms + seen.starved_ms;
    let reachable: BTreeSet<MemberKey> = agreed
        .members
        .values()
        .filter(|m| m.spec.tier != Tier::Backup && seen.fresh(&m.spec.member, now, limit).is_some())
        .filter(|m| seen.reports[&m.spec.member].report.incarnation == Some(m.incarnation))
        .map(super::super::member::Member::key)
        .collect();
    agreed
        .rules
        .iter()
        .filter(|rule| !rule.closed_by(&reachable, None))
        .map(|rule| crate::quorum::Missing {
            rule: rule.clone(),
            seals: rule.seals_missing(&reachable),
            who: rule.setting.cohort.difference(&reachable).cloned().collect(),
        })
        .collect()
}

/// Members of a cohort by name, for sentences.
pub(super) fn names<'a>(keys: impl IntoIterator<Item = &'a MemberKey>) -> String {
    let names: BTreeSet<&MemberId> = keys.into_iter().map(|key| &key.member).collect();
    if names.is_empty() {
        return "nobody".to_owned();
    }
    names.into_iter().map(MemberId::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "health_test.rs"]
mod tests;
