//! Everything that is not urgent: new incarnations, members that leave, notes for incidents, the guard after a pause.

use super::Decision;
use crate::{
    cluster::ClusterState, command::Command, id::MemberId, observation::Observations, reign::Reign, time::Time,
};

pub(super) fn decide(agreed: &ClusterState, reign: &Reign, seen: &Observations, now: Time, decision: &mut Decision) {
    confirm_guard(agreed, reign, seen, decision);
    if !decision.is_made() {
        super::seen::flushed(agreed, seen, now, decision);
    }
    for (name, member) in &agreed.members {
        if decision.is_made() {
            return;
        }
        if member.leaving
            && !agreed.is_in_a_rule(name)
            && reign.primary.member != *name
            && agreed.fence_debts.is_empty()
        {
            decision.want(Command::Forget { member: name.clone() }, format!("{name} has left every rule"), Vec::new());
            return;
        }
        super::seen::promoted_by_hand(agreed, seen, name, decision);
        if !decision.is_made() {
            new_incarnation(agreed, reign, seen, name, now, decision);
        }
        if !decision.is_made() {
            discarded(agreed, seen, name, decision);
        }
    }
}

fn confirm_guard(agreed: &ClusterState, reign: &Reign, seen: &Observations, decision: &mut Decision) {
    if agreed.paused.is_some() || agreed.unguarded != Some(reign.epoch) {
        return;
    }
    let armed = seen
        .reports
        .get(&reign.primary.member)
        .is_some_and(|at| at.report.guard_armed && at.report.revision >= agreed.revision);
    if armed {
        let reason = format!("the guard of {} is armed again", reign.primary.member);
        decision.want(Command::ConfirmGuard { epoch: reign.epoch }, reason, Vec::new());
    } else {
        decision.find("unguarded", format!("{} has not confirmed its guard since the pause", reign.primary.member));
    }
}

/// How long after an appointment a directory that is to be made anew is left alone for the rules of older epochs to be closed,
/// in milliseconds. Until then it may be evidence; afterwards it can be rewound, where before it could only be cloned beside
/// what is there.
const PATIENCE_MS: u64 = 3_000;

/// Until when `name` waits to be made anew, if it does: only where others can close the older rules, so that no commit waits
/// for it meanwhile.
fn patient(agreed: &ClusterState, reign: &Reign, seen: &Observations, name: &MemberId, now: Time) -> Option<Time> {
    let closed = reign.complete && agreed.rules.iter().all(|rule| rule.epoch >= reign.epoch);
    let rule = agreed.newest_rule().filter(|_| !closed)?;
    let appointed = seen.appointed_seen.filter(|(epoch, _)| *epoch == reign.epoch).map_or(now, |(_, at)| at);
    let until = appointed.plus(PATIENCE_MS);
    let heard = agreed.settings.suspect_ms + seen.starved_ms;
    let able =
        rule.setting.cohort.iter().filter(|key| {
            key.member != *name && agreed.is_counted(key) && seen.fresh(&key.member, now, heard).is_some()
        });
    (now < until && able.count() as u64 >= u64::from(rule.setting.k)).then_some(until)
}

/// Allotted before the first byte is overwritten; only once a primary serves from which it can be made anew.
fn new_incarnation(
    agreed: &ClusterState,
    reign: &Reign,
    seen: &Observations,
    name: &MemberId,
    now: Time,
    decision: &mut Decision,
) {
    let Some(member) = agreed.members.get(name) else { return };
    if reign.promotion.is_none() || reign.primary.member == *name || member.leaving {
        return;
    }
    let report = seen.reports.get(name).map(|at| &at.report);
    let given_up = agreed.void.contains(&member.key()).then(|| "it was given up by a forced failover".to_owned());
    let asked = member.reinit_requested.then(|| "an operator asked for a fresh data directory".to_owned());
    // What an agent wants is about the incarnation it has, and from a state in which that one counted.
    let own = report.and_then(|report| {
        // Paused, nothing is destroyed that nobody asked for: the directory may be away for maintenance.
        let current =
            (report.incarnation.is_none() || report.incarnation == Some(member.incarnation)) && agreed.paused.is_none();
        report.needs_new_incarnation.clone().filter(|_| current && report.revision >= agreed.revision)
    });
    let by_others = asked.or(given_up);
    if let (None, Some(why)) = (&by_others, &own) {
        if super::rules::leaves_soon(agreed, &member.key(), seen, now) {
            // Its seal still counts; once it is made anew, a rule that names it would lack it.
            decision.find("leaves-first", format!("{name} leaves the rule, then it is made anew: {why}"));
            return;
        }
        if let Some(until) = patient(agreed, reign, seen, name, now) {
            let why = format!("{name} is made anew as soon as the older rules are closed: {why}");
            decision.find("to-be-made-anew", why);
            decision.wake(until);
            return;
        }
    }
    let Some(why) = by_others.or(own) else { return };
    let command = Command::NewIncarnation { member: name.clone(), replaces: member.incarnation };
    decision.want(command, format!("{name} is made anew: {why}"), Vec::new());
}

fn discarded(agreed: &ClusterState, seen: &Observations, name: &MemberId, decision: &mut Decision) {
    let Some(wal) = seen.reports.get(name).and_then(|at| at.report.discarded_wal.as_ref()) else { return };
    if wal.by_hand {
        return;
    }
    let after = agreed
        .incidents
        .iter()
        .rev()
        .find(|incident| incident.epoch > wal.epoch && incident.from.as_ref() == Some(name));
    let Some(incident) = after else { return };
    let text = format!(
        "{name} left WAL {}..{} of timeline {} (epoch {}) behind, {} bytes that no later primary has; kept in {}",
        wal.from,
        wal.to,
        wal.timeline,
        wal.epoch,
        wal.to.bytes_since(wal.from),
        wal.kept_in
    );
    if incident.notes.contains(&text) || incident.notes.len() >= crate::incident::NOTES_MAX {
        return;
    }
    decision.want(Command::Note { incident: incident.epoch, text }, "a dead branch of WAL was kept aside", Vec::new());
}

#[cfg(test)]
#[path = "housekeeping_test.rs"]
mod tests;
