//! Whether the loss of the primary at this moment could lose an acknowledged commit: "RPO 0 holds", or why that is not
//! known.

use super::{Unproven, verdict::carried};
use crate::{
    cluster::ClusterState,
    observation::{Observations, Seen},
    reign::{ElectionKind, Reign},
    report::{PostgresReport, PrimaryReport},
    time::Time,
};

/// Why the loss of the primary at `now` could lose an acknowledged commit; empty: it cannot, as far as `seen` goes, which
/// only a leader has. The rules keep every acknowledged commit whatever is silent; what can weaken them is that no rule
/// demands a standby, that a rule is not in force, or that members were given up.
#[must_use]
pub fn doubts_now(state: &ClusterState, seen: &Observations, now: Time, from_leader: bool) -> Vec<String> {
    let Some(reign) = state.reign() else { return vec!["there is no primary yet".to_owned()] };
    let mut why = Vec::new();
    if state.rules.iter().any(|rule| rule.setting.k == 0) {
        why.push("commits do not wait for any standby yet (k = 0, an adopted cluster)".to_owned());
    }
    if let Some(ElectionKind::Forced { give_up, .. }) = state.election.as_ref().map(|election| &election.kind)
        && !give_up.is_empty()
    {
        why.push("a forced failover gives up members that may hold acknowledged commits".to_owned());
    }
    if !from_leader {
        why.push("this node is not the leader and has not seen the primary's settings".to_owned());
        return why;
    }
    why.extend(stretches(state, reign, seen, now));
    if state.election.is_some() {
        return why;
    }
    let member = &reign.primary.member;
    let running = running(reign, seen);
    let serves = running.map_or(reign.open, |(_, primary)| primary.door_open);
    if serves && seen.fresh(member, now, state.settings.suspect_ms).is_none() {
        let silent = seen.silence(member, now);
        why.push(format!("{member} has been silent for {silent} ms: changes by hand would not be seen"));
    }
    if let Some((_, primary)) = running {
        if primary.door_open && primary.setting_in_force.is_none() {
            why.push(format!("{member} has not shown yet that the rule is in force"));
        }
        if let Some(ms) = primary.unasked_ms.filter(|_| primary.door_open) {
            why.push(format!("{member} has let pgvigil in no more for {ms} ms: changes by hand would not be seen"));
        }
        why.extend(primary.weakened.iter().map(|what| format!("{member}: {what}")));
    }
    why
}

fn running<'a>(reign: &Reign, seen: &'a Observations) -> Option<(&'a Seen, &'a PrimaryReport)> {
    let at = seen.reports.get(&reign.primary.member)?;
    match &at.report.postgres {
        PostgresReport::Primary(primary) if primary.epoch == reign.epoch => Some((at, primary)),
        _ => None,
    }
}

/// What goes on, and what is over but may not be on k standbys yet: until they are seen to have a canary that began after it. An
/// acknowledgement alone shows nothing where backends do not wait yet (history A8). With the reigns before that this primary
/// carried on by itself.
fn stretches(state: &ClusterState, reign: &Reign, seen: &Observations, now: Time) -> Vec<String> {
    let member = &reign.primary.member;
    let canary_at = running(reign, seen).and_then(|(at, primary)| {
        let sent = seen.sent_by(&at.report, at.at)?;
        primary.canary.confirmed_age_ms.map(|ago_ms| seen.wall.0.saturating_sub(now.since(sent) + ago_ms))
    });
    let uncovered = |stretch: &&Unproven| match stretch.until {
        None => true,
        Some(until) => canary_at.is_none_or(|canary| canary <= until.0),
    };
    let carried = carried(state, reign);
    let mut why: Vec<String> = carried
        .iter()
        .flat_map(|reign| reign.unproven.iter())
        .filter(uncovered)
        .map(|stretch| match stretch.until {
            None => format!("{member}: {}", stretch.detail),
            Some(_) => format!(
                "{member}: {}; that is over, but what was committed meanwhile is not yet known to be on k standbys",
                stretch.detail
            ),
        })
        .collect();
    let reports = seen.reports.get(member).into_iter().flat_map(|at| at.report.unproven.iter());
    for report in reports {
        let of = carried.iter().find(|reign| reign.epoch == report.epoch);
        let text = format!("{member}: {}", report.detail);
        if of.is_some_and(|reign| !super::is_agreed(&reign.unproven, report)) && !why.contains(&text) {
            why.push(text);
        }
    }
    why
}
