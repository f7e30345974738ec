//! Has agreed what an agent saw of its reign: when commits may have been acknowledged without k standbys, and, in an
//! election, until when the rule was shown in force. A healthy cluster has nothing to note.

use super::{Decision, twin};
use crate::{
    cluster::ClusterState,
    command::Command,
    observation::{Observations, Seen},
    reign::Reign,
    report::PostgresReport,
    rpo::{self, Cause, Shown, Unproven, UnprovenReport},
    time::{Time, WallTime},
};

/// After one entry of this kind the next one of a cause that is known already waits so long, in milliseconds: somebody
/// who changes a setting back and forth fills no log. In an election nothing waits.
const PAUSE_MS: u64 = 5_000;

pub(super) fn note(agreed: &ClusterState, last: &Reign, seen: &Observations, now: Time, decision: &mut Decision) {
    for reign in agreed.reigns.iter().rev() {
        let said = seen.reports.get(&reign.primary.member);
        let mut unproven = reign.unproven.clone();
        let mut found = Vec::new();
        let mut news = false;
        for (at, report) in said.iter().flat_map(|at| at.report.unproven.iter().map(move |report| (at, report))) {
            if report.epoch == reign.epoch && !rpo::is_agreed(&unproven, report) {
                let stretch = agreed_as(seen, at, report, now);
                news |= !unproven.iter().any(|known| known.cause == report.cause);
                if rpo::merge(&mut unproven, &stretch) {
                    found.push(stretch);
                }
            }
        }
        if reign.epoch == last.epoch
            && let Some(taken) = twin::stretch(agreed, reign, seen, now)
        {
            news = true;
            found.push(taken);
        }
        if reign.epoch == last.epoch && found.is_empty() {
            found = over(reign, seen, now);
        }
        let shown = (reign.epoch == last.epoch && reign.shown.is_none()).then(|| shown(agreed, reign, seen, now));
        let shown = shown.flatten();
        if found.is_empty() && shown.is_none() {
            continue;
        }
        let hurry = news || agreed.election.is_some() || reign.epoch != last.epoch;
        let due = seen.unproven_noted.as_ref().map_or(now, |(_, at)| at.plus(PAUSE_MS));
        if !hurry && now < due {
            decision.wake(due);
            continue;
        }
        let reason = match found.first() {
            Some(first) => format!("{}: {}", reign.primary.member, first.detail),
            None => format!("the rule of {} was shown in force until here", reign.primary.member),
        };
        decision.want(Command::NoteUnproven { epoch: reign.epoch, found, shown }, reason, Vec::new());
        return;
    }
}

/// On the leader's wall clock.
fn agreed_as(seen: &Observations, at: &Seen, report: &UnprovenReport, now: Time) -> Unproven {
    let ago = |ago_ms: u64| WallTime(seen.wall.0.saturating_sub(now.since(at.at).saturating_add(ago_ms)));
    Unproven {
        cause: report.cause,
        detail: report.detail.chars().take(rpo::DETAIL_MAX).collect(),
        from: ago(report.began_ago_ms),
        until: report.ended_ago_ms.map(ago),
        newest: report.id,
        times: 1,
    }
}

/// Stretches of which the agent knows nothing any more (it was killed, its host was), and whose end it shows: the rule is
/// in force again and nothing goes on.
fn over(reign: &Reign, seen: &Observations, now: Time) -> Vec<Unproven> {
    let Some(at) = seen.reports.get(&reign.primary.member) else { return Vec::new() };
    let PostgresReport::Primary(primary) = &at.report.postgres else { return Vec::new() };
    let Some(ago_ms) = primary.shown_ago_ms.filter(|_| primary.epoch == reign.epoch && at.report.unproven.is_empty())
    else {
        return Vec::new();
    };
    let until = WallTime(seen.wall.0.saturating_sub(now.since(at.at).saturating_add(ago_ms)));
    let of_agent = |stretch: &&Unproven| stretch.newest > 0 && stretch.cause != Cause::NameTakenTwice;
    let open = reign.unproven.iter().filter(|stretch| stretch.until.is_none()).filter(of_agent);
    open.map(|stretch| Unproven { until: Some(until), ..stretch.clone() }).collect()
}

/// Until when the rule was shown in force, for the election that is under way.
fn shown(agreed: &ClusterState, reign: &Reign, seen: &Observations, now: Time) -> Option<Shown> {
    let election = agreed.election.as_ref()?;
    let begun = seen.election_seen.filter(|(epoch, _)| *epoch == election.epoch).map_or(now, |(_, at)| at);
    let at = seen.rule_shown.filter(|(epoch, _)| *epoch == reign.epoch).map(|(_, at)| at)?;
    Some(Shown { until: WallTime(seen.wall.0.saturating_sub(now.since(at))), unseen_ms: begun.since(at) })
}

#[cfg(test)]
#[path = "evidence_test.rs"]
mod tests;
