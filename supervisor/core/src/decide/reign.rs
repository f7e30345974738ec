//! The steps of a reign after its appointment: promoted, opened, complete.

use super::{Decision, braked::braked};
use crate::{
    cluster::ClusterState,
    command::Command,
    id::MemberKey,
    lease::{Fenced, fenced, start_allows_opening},
    member::Tier,
    observation::Observations,
    reign::{ElectionKind, Reign},
    report::{PostgresReport, PrimaryReport},
    time::Time,
};

/// The report of the reigning primary, if it runs as the primary of this reign.
pub(super) fn primary_report<'a>(reign: &Reign, seen: &'a Observations) -> Option<&'a PrimaryReport> {
    let report = &seen.reports.get(&reign.primary.member)?.report;
    match &report.postgres {
        PostgresReport::Primary(primary)
            if primary.epoch == reign.epoch && report.incarnation == Some(reign.primary.incarnation) =>
        {
            Some(primary)
        }
        _ => None,
    }
}

pub(super) fn record_promotion(
    agreed: &ClusterState,
    reign: &Reign,
    seen: &Observations,
    now: Time,
    decision: &mut Decision,
) {
    if reign.promotion.is_some() {
        return;
    }
    let since = seen.appointed_seen.filter(|(epoch, _)| *epoch == reign.epoch).map_or(now, |(_, at)| at);
    let overdue = now.since(since) > agreed.settings.restart_timeout_ms;
    if overdue && agreed.paused.is_none() && agreed.settings.automatic_failover && agreed.reigns.len() > 1 {
        let what = format!("{} did not become primary within {} ms", reign.primary.member, now.since(since));
        // Held back, it may still manage meanwhile.
        if !braked(agreed, seen, now, &what, decision) {
            let kind = ElectionKind::Failover;
            let command = Command::BeginElection { epoch: agreed.epoch.next(), kind, noticed_at: seen.wall };
            decision.want(command, what, Vec::new());
            return;
        }
    }
    if primary_report(reign, seen).is_none() {
        decision.find("promoting", format!("{} is to become primary of epoch {}", reign.primary.member, reign.epoch));
        return;
    }
    record_finished(reign, seen, decision);
}

/// Records a promotion that its agent reports as done: a lasting fact, also during a later election.
pub(super) fn record_finished(reign: &Reign, seen: &Observations, decision: &mut Decision) {
    let Some(primary) = primary_report(reign, seen).filter(|_| reign.promotion.is_none()) else { return };
    let Some(promotion) = primary.promotion else { return };
    if primary.timeline != reign.timeline {
        decision.find("wrong-timeline", format!("it is on timeline {}, not {}", primary.timeline, reign.timeline));
        return;
    }
    let command = Command::RecordPromotion {
        epoch: reign.epoch,
        timeline: primary.timeline,
        promotion,
        system_identifier: primary.system_identifier,
    };
    let reason =
        format!("{} is primary on timeline {} from {}", reign.primary.member, primary.timeline, promotion.fork);
    decision.want(command, reason, Vec::new());
}

/// Opens the door once every former primary is fenced. Keeps S3.
pub(super) fn open(agreed: &ClusterState, reign: &Reign, seen: &Observations, now: Time, decision: &mut Decision) {
    if reign.open || !start_allows_opening(agreed) {
        return;
    }
    let mut evidence = Vec::new();
    for debt in &agreed.fence_debts {
        match fenced(agreed, seen, debt, reign.epoch) {
            Fenced::Yes(why) => evidence.push(why),
            Fenced::At(at) if now >= at => {
                evidence.push(format!("the right of {} to serve has run out", debt.primary.member));
            }
            Fenced::At(at) => {
                let left = at.since(now);
                decision.find("waiting-for-lease", format!("{} may still serve for {left} ms", debt.primary.member));
                decision.wake(at);
                return;
            }
            Fenced::Never(why) => {
                decision.find("waiting-for-fence", why);
                return;
            }
        }
    }
    let reason = format!("{} opens to clients as primary of epoch {}", reign.primary.member, reign.epoch);
    decision.want(Command::Open { epoch: reign.epoch }, reason, evidence);
}

/// Closes the older rules on proof; forms the rule anew when it cannot be satisfied but another one could.
pub(super) fn complete(agreed: &ClusterState, reign: &Reign, seen: &Observations, now: Time, decision: &mut Decision) {
    let (Some(promotion), false) = (reign.promotion, reign.complete) else { return };
    let Some(rule) = agreed.newest_rule() else { return };
    let Some(primary) = primary_report(reign, seen) else { return };
    if let Some(proof) = &primary.proof
        && proof.version == rule.version
        && proof.marker > promotion.end
        && rule.setting.satisfied_by(&proof.flushed)
    {
        let reason = format!("k of S have flushed {} on the new history", proof.marker);
        let evidence = proof.flushed.iter().map(|key| format!("{key} has flushed {}", proof.marker)).collect();
        decision.want(Command::CompleteRule { epoch: reign.epoch, proof: proof.clone() }, reason, evidence);
        return;
    }
    // Incarnations that were given up since never confirm anything.
    let able = rule.setting.cohort.iter().filter(|key| agreed.is_counted(key)).count() as u64;
    let unsatisfiable = able < u64::from(rule.setting.k);
    let (k, who) = (rule.setting.k, super::health::names(&rule.setting.cohort));
    let text = if unsatisfiable {
        format!(
            "the rule of epoch {} (any {k} of {who}) cannot be satisfied: commits wait until {k} of the other members \
             stream from {}, and the rule is formed anew with them",
            reign.epoch, reign.primary.member
        )
    } else {
        format!("the rules of older epochs stay open until {k} of {who} have flushed {}", promotion.end)
    };
    decision.find("incomplete", text);
    let since = seen.incomplete_since.filter(|(epoch, _)| *epoch == reign.epoch).map_or(now, |(_, at)| at);
    // Those it names may only be slow; where they are too few, there is nobody to wait for.
    let patience = if unsatisfiable { 0 } else { 2 * agreed.settings.standby_timeout_ms };
    if now.since(since) < patience {
        decision.wake(since.plus(patience));
    }
    // Only members that a new rule could count: forming it anew for a backup's sake would change nothing.
    let countable = |key: &MemberKey| {
        let member = agreed.members.get(&key.member);
        agreed.is_counted(key) && member.is_some_and(|m| m.spec.tier != Tier::Backup && !m.leaving)
    };
    let streaming: Vec<_> = primary.standbys.iter().filter(|s| s.streaming && countable(&s.key)).collect();
    let of_rule = streaming.iter().filter(|s| rule.setting.cohort.contains(&s.key)).count() as u64;
    // The rule has the k of its appointment, which the settings may have changed since.
    let wanted = u64::from(agreed.settings.sync_standbys);
    let hopeless = of_rule < u64::from(rule.setting.k) && streaming.len() as u64 >= wanted;
    if now.since(since) >= patience && hopeless && agreed.paused.is_none() {
        // History B7's way out: the primary's own standing closes its reign and all before.
        let who = super::health::names(streaming.iter().map(|s| &s.key));
        if braked(agreed, seen, now, "its rule is to be formed anew", decision) {
            return;
        }
        decision.want(
            Command::BeginElection { epoch: agreed.epoch.next(), kind: ElectionKind::Renewal, noticed_at: seen.wall },
            format!("the rule of epoch {} cannot be satisfied, but {who} stream: form it anew", reign.epoch),
            Vec::new(),
        );
    }
}

#[cfg(test)]
#[path = "reign_test.rs"]
mod tests;
