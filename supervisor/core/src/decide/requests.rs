//! What operators asked for: begun when it is safe, dropped with the reason when it is not.

use super::{
    Decision,
    candidate::{may_take_over, not_heard_yet, preference},
    health::names,
    reign::primary_report,
};
use crate::{
    cluster::ClusterState,
    command::Command,
    id::{MemberId, MemberKey},
    member::{Member, Tier},
    observation::Observations,
    reconcile::CHECKPOINT_FRESH_MS,
    reign::{ElectionKind, Reign},
    report::PostgresReport,
    time::Time,
};

/// How long a planned change waits for the primary's checkpoint, in milliseconds. Clients are served meanwhile.
const CHECKPOINT_PATIENCE_MS: u64 = 300_000;

/// The old primary is killed once it is drained: with a checkpoint just before, it recovers in a moment and is back in the
/// rule soon (Patroni and pg_auto_failover write one for their clean stop).
fn checkpoint_missing(reign: &Reign, seen: &Observations, now: Time) -> Option<String> {
    let waited = now.since(seen.request_seen.unwrap_or(now));
    let primary = &reign.primary.member;
    let at = seen.reports.get(primary)?;
    let age = primary_report(reign, seen)?.checkpoint_age_ms.map(|age| age + now.since(at.at));
    let missing = age.is_none_or(|age| age > CHECKPOINT_FRESH_MS) && waited < CHECKPOINT_PATIENCE_MS;
    missing.then(|| format!("the switchover waits for a checkpoint on {primary}, for {waited} ms so far"))
}

pub(super) fn begin(agreed: &ClusterState, reign: &Reign, seen: &Observations, now: Time, decision: &mut Decision) {
    let Some(request) = &agreed.request else { return };
    match &request.kind {
        ElectionKind::Switchover { to } => {
            if reign.promotion.is_none() || !reign.open || !reign.complete || agreed.change.is_some() {
                decision.find("switchover-waits", "the switchover waits for the present reign to be open and complete");
                return;
            }
            if let Some(why) = checkpoint_missing(reign, seen, now) {
                decision.find("switchover-waits", why);
                return;
            }
            let asked_for = |member: &&Member| to.as_ref().is_none_or(|to| *to == member.spec.member);
            let unheard = |member: &&Member| asked_for(member) && not_heard_yet(agreed, seen, member, now);
            if let Some(member) = agreed.members.values().find(unheard) {
                // Clients are served meanwhile; to judge now would be to judge from a stale view.
                let why = format!("the switchover waits until this leader has heard of {}", member.spec.member);
                decision.find("switchover-waits", why);
                decision.wake(now.plus(agreed.settings.heartbeat_ms));
                return;
            }
            let best = match successor(agreed, reign, seen, to.as_ref(), now) {
                Ok(best) => best,
                Err(why) => {
                    decision.want(Command::DropRequest, format!("no switchover: {why}"), Vec::new());
                    return;
                }
            };
            let kind = ElectionKind::Switchover { to: Some(best.member.clone()) };
            decision.want(
                Command::BeginElection { epoch: agreed.epoch.next(), kind, noticed_at: seen.wall },
                format!("switchover to {} asked for {}", best.member, request.by),
                Vec::new(),
            );
        }
        ElectionKind::Forced { .. } => {
            decision.want(
                Command::BeginElection {
                    epoch: agreed.epoch.next(),
                    kind: request.kind.clone(),
                    noticed_at: seen.wall,
                },
                format!("failover forced by {}", request.by),
                force_evidence(reign, &request.kind),
            );
        }
        ElectionKind::Failover | ElectionKind::Renewal => {
            decision.want(Command::DropRequest, "not something an operator can ask for", Vec::new());
        }
    }
}

/// Who is to take over in a planned change; else each member that may not, and why. Nothing was stopped yet.
fn successor(
    agreed: &ClusterState,
    reign: &Reign,
    seen: &Observations,
    to: Option<&MemberId>,
    now: Time,
) -> Result<MemberKey, String> {
    let mut suitable = Vec::new();
    let mut reasons = Vec::new();
    for member in agreed.members.values() {
        match may_take_over(agreed, seen, member, now) {
            Ok(standby) if standby.streaming => suitable.push(member.key()),
            Ok(_) => reasons.push((&member.spec.member, "it does not stream".to_owned())),
            Err(why) => reasons.push((&member.spec.member, why.0)),
        }
    }
    suitable.sort_by_key(|key| preference(agreed, seen, key));
    let best = suitable.iter().find(|key| to.is_none_or(|to| *to == key.member));
    let Some(best) = best else {
        let wished = |member: &MemberId| to.is_none_or(|to| to == member);
        let not: Vec<String> = reasons
            .iter()
            .filter(|(member, _)| wished(member))
            .map(|(member, why)| format!("{member}: {why}"))
            .collect();
        let text = format!("nobody suitable may take over now ({})", not.join("; "));
        return Err(match (to, suitable.is_empty()) {
            (Some(to), false) => {
                format!("{to} may not take over now ({}), but {} could", not.join("; "), names(&suitable))
            }
            _ => text,
        });
    };
    // Its rule is formed of those that seal beside it: the standbys that stream, and the old primary once it is drained.
    let k = agreed.settings.sync_standbys as usize;
    let mut confirm = 0;
    let mut cannot = Vec::new();
    for member in agreed.members.values().filter(|m| m.spec.member != best.member) {
        match may_confirm(agreed, reign, seen, member, now) {
            Ok(()) => confirm += 1,
            Err(why) => cannot.push(format!("{}: {why}", member.spec.member)),
        }
    }
    if confirm < k {
        return Err(format!(
            "with {} as primary a commit needs {k} other members to confirm it, and {confirm} could ({})",
            best.member,
            cannot.join("; ")
        ));
    }
    Ok(best.clone())
}

/// Whether `member` could confirm commits of a successor soon after a planned change.
fn may_confirm(
    agreed: &ClusterState,
    reign: &Reign,
    seen: &Observations,
    member: &Member,
    now: Time,
) -> Result<(), String> {
    if member.spec.tier == Tier::Backup || member.leaving {
        return Err("it is a backup or leaving".to_owned());
    }
    let limit = agreed.settings.standby_timeout_ms;
    let Some(report) = seen.fresh(&member.spec.member, now, limit) else {
        return Err(format!("silent for {} ms", seen.silence(&member.spec.member, now)));
    };
    if report.incarnation != Some(member.incarnation) {
        return Err("its data directory is not the one that counts".to_owned());
    }
    if member.key() == reign.primary {
        return Ok(());
    }
    match &report.postgres {
        PostgresReport::Standby(standby) if standby.streaming => Ok(()),
        PostgresReport::Standby(_) => Err("it does not stream".to_owned()),
        _ => Err("it does not run as a standby".to_owned()),
    }
}

/// What a forced failover gives up, for its incident (history A16).
pub(super) fn force_evidence(reign: &Reign, kind: &ElectionKind) -> Vec<String> {
    let ElectionKind::Forced { old_primary_is_off, give_up, .. } = kind else { return Vec::new() };
    let mut evidence: Vec<String> =
        give_up.iter().map(|member| format!("{member} is given up: what its data directory holds is void")).collect();
    if *old_primary_is_off {
        evidence.push(format!("the operator's recorded word that {} is off", reign.primary.member));
    }
    evidence
}

#[cfg(test)]
#[path = "requests_test.rs"]
mod tests;
