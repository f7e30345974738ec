//! What operators asked for: begun when it is safe, dropped with the reason when it is not.

use super::{
    Decision,
    candidate::{may_take_over, not_heard_yet, preference},
    reign::primary_report,
};
use crate::{
    cluster::ClusterState,
    command::Command,
    member::Member,
    observation::Observations,
    reconcile::CHECKPOINT_FRESH_MS,
    reign::{ElectionKind, Reign},
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
            let mut suitable = Vec::new();
            let mut reasons = Vec::new();
            for member in agreed.members.values().filter(asked_for) {
                match may_take_over(agreed, seen, member, now) {
                    Ok(standby) if standby.streaming => suitable.push(member.key()),
                    Ok(_) => reasons.push(format!("{} does not stream", member.spec.member)),
                    Err(why) => reasons.push(format!("{}: {}", member.spec.member, why.0)),
                }
            }
            suitable.sort_by_key(|key| preference(agreed, seen, key));
            let Some(best) = suitable.first() else {
                let reason = format!("no switchover: nobody suitable may take over now ({})", reasons.join("; "));
                decision.want(Command::DropRequest, reason, Vec::new());
                return;
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
