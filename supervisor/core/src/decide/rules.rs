//! The durability rule inside a reign: who belongs in it, and the next safe step towards that.

use super::{Decision, health::names, reign::primary_report};
use crate::{
    cluster::ClusterState,
    command::Command,
    id::MemberKey,
    member::{Member, Tier},
    observation::Observations,
    reign::Reign,
    report::PrimaryReport,
    rule::Setting,
    time::Time,
};
use std::collections::BTreeSet;

pub(super) fn maintain(agreed: &ClusterState, reign: &Reign, seen: &Observations, now: Time, decision: &mut Decision) {
    if reign.promotion.is_none() || !reign.complete {
        return;
    }
    let (Some(rule), Some(primary)) = (agreed.newest_rule(), primary_report(reign, seen)) else { return };
    if let Some(ms) = primary.unasked_ms {
        // That nobody is seen to stream is no evidence then.
        let text = format!("the rule stays as it is: {} has let pgvigil in no more for {ms} ms", reign.primary.member);
        decision.find("cannot-ask", text);
        return;
    }
    if let Some(change) = &agreed.change {
        if let Some(proof) = &primary.proof
            && proof.version == rule.version
            && change.to.satisfied_by(&proof.flushed)
        {
            let reason = format!("proven at {}: any {} of {}", proof.marker, change.to.k, names(&change.to.cohort));
            let evidence = proof.flushed.iter().map(|key| format!("{key} has flushed {}", proof.marker)).collect();
            decision.want(Command::FinishChange { epoch: reign.epoch, proof: proof.clone() }, reason, evidence);
            return;
        }
        // A member of the wished rule may have failed meanwhile: then the wish changes, from the wide rule.
        let wished = wanted(agreed, reign, primary, seen, now);
        let blocked = change.to.cohort.iter().filter(|key| !wished.cohort.contains(key)).count() > 0;
        // A wish for more members than had joined can never be proven; one that more have joined since, can.
        let short = |setting: &Setting| (setting.cohort.len() as u64) < u64::from(setting.k);
        let grown = short(&change.to) && wished.cohort.len() > change.to.cohort.len();
        if (blocked || grown) && wished != change.to {
            let what = if blocked { "a member of the wished rule has failed" } else { "another member has joined" };
            let reason = format!("{what}; now any {} of {}", wished.k, names(&wished.cohort));
            decision.want(Command::BeginChange { epoch: reign.epoch, to: wished }, reason, Vec::new());
        } else {
            decision.find("rule-change", format!("{}; waiting for the proof", change.reason));
        }
        decision.wake(now.plus(agreed.settings.standby_timeout_ms / 2));
        return;
    }
    if agreed.paused.is_some() {
        return;
    }
    let wished = wanted(agreed, reign, primary, seen, now);
    decision.wake(now.plus(agreed.settings.standby_timeout_ms / 2));
    if (wished.cohort.len() as u64) < u64::from(wished.k) {
        let what = if rule.setting.k == 0 { "commits do not wait for standbys yet" } else { "commits wait" };
        let text = format!("{what}: {} can confirm, {} are needed", names(&wished.cohort), wished.k);
        decision.find("too-few-standbys", text);
        if rule.setting.k == 0 {
            // An adopted cluster has not waited for anybody so far: it begins to when there is somebody to wait for.
            return;
        }
    }
    if wished == rule.setting {
        return;
    }
    let out: Vec<&MemberKey> = rule.setting.cohort.difference(&wished.cohort).collect();
    let new: Vec<&MemberKey> = wished.cohort.difference(&rule.setting.cohort).collect();
    let reason = format!("any {} of {} (in: {}; out: {})", wished.k, names(&wished.cohort), names(new), names(out));
    decision.want(Command::BeginChange { epoch: reign.epoch, to: wished }, reason, Vec::new());
}

/// Who should be in the rule: standbys of primary and replica tier that stream and keep up; emergency hosts only where
/// too few of those are left. Nobody leaves a rule that would then be too small: commits wait instead.
fn wanted(agreed: &ClusterState, reign: &Reign, primary: &PrimaryReport, seen: &Observations, now: Time) -> Setting {
    let k = agreed.settings.sync_standbys;
    let current = agreed.newest_rule().map(|rule| rule.setting.cohort.clone()).unwrap_or_default();
    let eligible = |member: &&Member| {
        !member.leaving
            && member.spec.tier != Tier::Backup
            && member.key() != reign.primary
            && !agreed.void.contains(&member.key())
    };
    let fits = |member: &&Member| {
        let key = member.key();
        if seen.doubt(member).is_some_and(|doubt| doubt.sure) {
            return false;
        }
        if current.contains(&key) {
            keeps_up(agreed, &key, seen, now)
        } else {
            caught_up(agreed, &key, primary, seen, now)
        }
    };
    let of_tier = |emergency: bool| {
        let tier_fits = move |m: &&Member| (m.spec.tier == Tier::Emergency) == emergency;
        agreed.members.values().filter(eligible).filter(tier_fits).filter(fits).map(Member::key)
    };
    let mut cohort: BTreeSet<MemberKey> = of_tier(false).collect();
    if (cohort.len() as u64) < u64::from(k) {
        cohort.extend(of_tier(true));
    }
    // Below k nothing is gained by leaving: keep whoever is in it, the ones that count first.
    for key in &current {
        let counted = agreed.is_counted(key) && agreed.members.get(&key.member).is_some_and(|m| !m.leaving);
        if (cohort.len() as u64) < u64::from(k) && counted {
            cohort.insert(key.clone());
        }
    }
    Setting { cohort, k }
}

/// A member of the rule stays until it was silent, broken off or too far behind for `standby_timeout_ms`.
fn keeps_up(agreed: &ClusterState, key: &MemberKey, seen: &Observations, now: Time) -> bool {
    if !agreed.is_counted(key) || is_to_be_remade(agreed, key, seen) {
        return false;
    }
    let last = seen.streaming_ok_at.get(&key.member).copied().unwrap_or_default().max(seen.since);
    now.since(last) < agreed.settings.standby_timeout_ms + seen.starved_ms
}

/// Its agent says that its data directory must be made anew: it follows no more.
fn is_to_be_remade(agreed: &ClusterState, key: &MemberKey, seen: &Observations) -> bool {
    let report = seen.reports.get(&key.member).map(|at| &at.report);
    agreed.paused.is_none()
        && report.is_some_and(|r| r.needs_new_incarnation.is_some() && r.incarnation == Some(key.incarnation))
}

/// Whether the newest rule names `key` and can soon do without: enough others of it keep up, so the change is proven in a
/// moment.
pub(super) fn leaves_soon(agreed: &ClusterState, key: &MemberKey, seen: &Observations, now: Time) -> bool {
    let Some(rule) = agreed.newest_rule().filter(|rule| rule.setting.cohort.contains(key)) else { return false };
    let others = rule.setting.cohort.iter().filter(|other| *other != key && keeps_up(agreed, other, seen, now));
    others.count() as u64 >= u64::from(agreed.settings.sync_standbys.max(rule.setting.k))
}

/// A member joins when it streams, as both ends say (a walsender of its name alone may be a copy's), and lacks less than a
/// quarter of what would throw it out.
fn caught_up(agreed: &ClusterState, key: &MemberKey, primary: &PrimaryReport, seen: &Observations, now: Time) -> bool {
    let heard = agreed.settings.suspect_ms + seen.starved_ms;
    let doubted = agreed.members.get(&key.member).is_some_and(|member| seen.doubt(member).is_some());
    if doubted || !seen.says_it_streams(&key.member, now, heard) {
        return false;
    }
    primary.standbys.iter().any(|sender| {
        sender.key == *key
            && sender.streaming
            && primary.flush_lsn.bytes_since(sender.flush_lsn) <= agreed.settings.sync_lag_max_bytes / 4
    })
}

#[cfg(test)]
#[path = "rules_test.rs"]
mod tests;
