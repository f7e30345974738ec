//! One member's line in the status.

use super::{MemberDocument, Role};
use pgvigil_core::{
    cluster::ClusterState,
    decide::{describe_hand_promotion, may_take_over},
    lsn::Lsn,
    member::{HandPromotion, Member},
    observation::Observations,
    report::{PostgresReport, PrimaryReport, Report, StandbyReport},
    time::Time,
};
use std::time::{Duration, UNIX_EPOCH};

pub(super) fn member_document(
    state: &ClusterState,
    seen: &Observations,
    member: &Member,
    now: Time,
    from_leader: bool,
) -> MemberDocument {
    let spec = &member.spec;
    let latest = seen.reports.get(&spec.member);
    let report = latest.map(|seen| &seen.report);
    let (may_take_over, may_not_because) = if from_leader {
        match may_take_over(state, seen, member, now) {
            Ok(_) => (true, String::new()),
            Err(why) => (false, why.0),
        }
    } else {
        (false, "only the leader can say".to_owned())
    };
    let words = if from_leader { state_words(state, seen, member, now) } else { "unknown".to_owned() };
    let mut document = MemberDocument {
        name: spec.member.0.clone(),
        tier: spec.tier,
        priority: spec.priority,
        host: spec.host.clone(),
        port: spec.port,
        node: spec.node.0,
        incarnation: member.incarnation.0,
        role: role(state, member, report),
        state: words,
        in_rule: state.newest_rule().is_some_and(|rule| rule.setting.cohort.contains(&member.key())),
        may_take_over,
        may_not_because,
        silent_ms: latest.map(|seen| now.since(seen.at)),
        reinit_requested: member.reinit_requested,
        restart_request: member.restart_request,
        restarted: report.map_or(0, |report| report.restarted),
        leaving: member.leaving,
        problems: problems(member, report),
        activity: report.and_then(|report| report.activity.clone()).unwrap_or_default(),
        ..MemberDocument::default()
    };
    match report.map(|report| &report.postgres) {
        Some(PostgresReport::Primary(primary)) => {
            document.timeline = primary.timeline.0;
            document.flush_lsn = primary.flush_lsn.to_string();
        }
        Some(PostgresReport::Standby(standby)) => {
            document.timeline = standby.timeline.0;
            document.flush_lsn = standby.flush_lsn.to_string();
            if let Some(primary) = newest_primary(state, seen) {
                let flushed = flushed(member, standby, primary);
                document.flush_lag_bytes = Some(primary.flush_lsn.bytes_since(flushed));
                document.replay_lag_bytes = Some(primary.flush_lsn.bytes_since(standby.replay_lsn));
                let sender = primary.standbys.iter().find(|sender| sender.key == member.key());
                document.encrypted = sender.and_then(|sender| sender.encrypted);
            }
        }
        _ => {}
    }
    document
}

/// The report of the current reign's primary, running as such.
pub(super) fn newest_primary<'a>(state: &ClusterState, seen: &'a Observations) -> Option<&'a PrimaryReport> {
    let reign = state.reign()?;
    match &seen.reports.get(&reign.primary.member)?.report.postgres {
        PostgresReport::Primary(primary) if primary.epoch == reign.epoch => Some(primary),
        _ => None,
    }
}

/// The later of what the standby says and what the primary's walsender saw: the two reports were made at different
/// moments, and the WAL was flushed as of the later one.
fn flushed(member: &Member, standby: &StandbyReport, primary: &PrimaryReport) -> Lsn {
    let own = if standby.timeline == primary.timeline { standby.flush_lsn } else { Lsn::ZERO };
    let sender = primary.standbys.iter().find(|sender| sender.key == member.key()).map_or(Lsn::ZERO, |s| s.flush_lsn);
    match own.max(sender) {
        Lsn::ZERO => standby.flush_lsn,
        known => known,
    }
}

fn role(state: &ClusterState, member: &Member, report: Option<&Report>) -> Role {
    let reign = state.reign_in_force().filter(|reign| reign.primary == member.key());
    match (report.map(|report| &report.postgres), reign) {
        (Some(PostgresReport::Primary(_)), _) => Role::Primary,
        // Once promoted it stays the primary until an election takes that away, whatever its PostgreSQL does.
        (_, Some(reign)) if reign.promotion.is_some() => Role::Primary,
        (_, Some(_)) => Role::Appointed,
        (Some(PostgresReport::Standby(_)), None) => Role::Standby,
        _ => Role::None,
    }
}

/// The state of a member of whom this leader has heard nothing since it began to listen, a moment ago.
pub(super) const NOT_HEARD_YET: &str = "not heard yet";

fn state_words(state: &ClusterState, seen: &Observations, member: &Member, now: Time) -> String {
    let limit = state.settings.suspect_ms;
    let Some(seen) = seen.reports.get(&member.spec.member).filter(|seen| now.since(seen.at) <= limit) else {
        let silent = seen.silence(&member.spec.member, now) > limit;
        return if silent { "silent" } else { NOT_HEARD_YET }.to_owned();
    };
    let report = &seen.report;
    if let Some(activity) = &report.activity {
        return activity.clone();
    }
    let sealing = state.election.as_ref().zip(report.seal.as_ref()).is_some_and(|(e, seal)| seal.seal.epoch == e.epoch);
    if sealing {
        return "sealed".to_owned();
    }
    match &report.postgres {
        PostgresReport::NoData => "no data".to_owned(),
        PostgresReport::Unusable { .. } => "unusable".to_owned(),
        PostgresReport::Adoptable(_) => "adoptable".to_owned(),
        PostgresReport::Stopped { crashed: true } => "crashed".to_owned(),
        PostgresReport::Stopped { crashed: false } => "stopped".to_owned(),
        PostgresReport::Starting => "starting".to_owned(),
        PostgresReport::Standby(_) if report.incarnation != Some(member.incarnation) => "old data".to_owned(),
        PostgresReport::Standby(standby) => {
            let words = if standby.streaming { "streaming" } else { "standing by" };
            if standby.replay_held { format!("{words}, replay held") } else { words.to_owned() }
        }
        PostgresReport::Primary(primary) => if primary.door_open { "open" } else { "closed" }.to_owned(),
    }
}

fn problems(member: &Member, report: Option<&Report>) -> Vec<String> {
    let mut problems = report.map(|report| report.problems.clone()).unwrap_or_default();
    if let Some(PostgresReport::Unusable { why }) = report.map(|report| &report.postgres) {
        problems.push(why.clone());
    }
    let wish = report.and_then(|report| report.needs_new_incarnation.as_ref());
    if let Some(why) = wish {
        problems.push(format!("its data directory must be made anew: {why}"));
    }
    let follows = report.is_some_and(|r| {
        r.incarnation == Some(member.incarnation) && matches!(&r.postgres, PostgresReport::Standby(s) if s.streaming)
    });
    if let Some(by_hand) = member.promoted_by_hand.as_ref().filter(|_| !follows) {
        problems.push(by_hand_words(member, by_hand));
    }
    problems
}

/// Who was promoted by hand and when, as far as its disk shows it, and what is being done.
fn by_hand_words(member: &Member, known: &HandPromotion) -> String {
    let found = &known.found;
    let at = found.at.map_or_else(String::new, |at| {
        let at = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(at.0));
        format!(" at {at} (by its host's clock)")
    });
    let done = if member.incarnation > known.incarnation {
        "it is being made anew as a standby, by pg_rewind or a clone"
    } else {
        "it serves nobody and is to be made anew as a standby"
    };
    let kept = known.kept_in.as_ref().map_or_else(String::new, |dir| format!("; that WAL is kept in {dir}"));
    format!("promoted by hand{at}: {}; {done}{kept}", describe_hand_promotion(found))
}
