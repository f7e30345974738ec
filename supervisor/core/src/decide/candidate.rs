//! Who may become primary, and who is preferred. Every rejection has a reason.

use crate::{
    cluster::ClusterState,
    id::MemberKey,
    member::{Member, Tier},
    observation::Observations,
    report::{PostgresReport, StandbyReport},
    time::Time,
};
use std::cmp::Reverse;

/// Why a member may not take over now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ineligible(pub String);

/// Whether `member` could take over at this moment, as far as the leader can see. For the status page and for planned
/// changes; in an election, seals decide.
pub fn may_take_over<'a>(
    agreed: &ClusterState,
    seen: &'a Observations,
    member: &Member,
    now: Time,
) -> Result<&'a StandbyReport, Ineligible> {
    let no = |why: String| Err(Ineligible(why));
    if member.spec.tier == Tier::Backup {
        return no("its tier is backup: never promoted".to_owned());
    }
    if member.leaving {
        return no("it is leaving".to_owned());
    }
    if agreed.reign().is_some_and(|reign| reign.primary == member.key()) {
        return no("it is the primary".to_owned());
    }
    let Some(report) = seen.fresh(&member.spec.member, now, agreed.settings.standby_timeout_ms) else {
        return no(match not_heard_yet(agreed, seen, member, now) {
            true => "this leader has not heard of it yet".to_owned(),
            false => format!("silent for {} ms", seen.silence(&member.spec.member, now)),
        });
    };
    if report.incarnation != Some(member.incarnation) {
        return no("its data directory is not the one that counts".to_owned());
    }
    let PostgresReport::Standby(standby) = &report.postgres else {
        return no("it does not run as a standby".to_owned());
    };
    if standby.replay_held {
        return no("its replay is paused or delayed on purpose".to_owned());
    }
    let in_rule = agreed.newest_rule().is_some_and(|rule| rule.setting.cohort.contains(&member.key()));
    let emergency = member.spec.tier == Tier::Emergency;
    if !in_rule && !emergency {
        return no("it is not in the durability rule: it may lack acknowledged commits".to_owned());
    }
    Ok(standby)
}

/// Whether nothing is known of `member` only because this leader began to listen (or could again) a moment ago: its
/// silence is no evidence yet. Keeps S5.
pub(super) fn not_heard_yet(agreed: &ClusterState, seen: &Observations, member: &Member, now: Time) -> bool {
    let name = &member.spec.member;
    let settings = &agreed.settings;
    seen.fresh(name, now, settings.standby_timeout_ms).is_none()
        && seen.silence(name, now) <= settings.suspect_ms + seen.starved_ms
}

/// The order of preference: smaller is better. The tier comes first, then the operator's priority, and only then the
/// WAL still to be replayed, in steps of 16 MiB.
pub(super) fn preference(agreed: &ClusterState, seen: &Observations, key: &MemberKey) -> impl Ord + use<> {
    let member = agreed.members.get(&key.member);
    let tier = member.map_or(Tier::Backup, |m| m.spec.tier);
    let priority = member.map_or(0, |m| m.spec.priority);
    let debt = seen.reports.get(&key.member).map_or(u64::MAX, |seen| match &seen.report.postgres {
        PostgresReport::Standby(standby) => standby.flush_lsn.bytes_since(standby.replay_lsn) >> 24,
        _ => 0,
    });
    (tier, Reverse(priority), debt, key.member.clone())
}
