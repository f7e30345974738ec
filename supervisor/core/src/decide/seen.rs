//! What was seen of members and must outlive this leader: numbers of timelines, promotions by hand, flushed positions.

use super::Decision;
use crate::{
    apply::NUMBERS_MAX,
    cluster::ClusterState,
    command::Command,
    id::{MemberId, MemberKey, TimelineId},
    member::HandPromotion,
    observation::Observations,
    position::Position,
    report::{ByHand, PostgresReport, Report},
    time::Time,
};

/// Between two notes of what was flushed, in quiet times, in milliseconds.
pub(super) const EVERY_MS: u64 = 5_000;
/// During an election, for what comes in after it began.
const ELECTION_MS: u64 = 100;
/// So much WAL of others than the canary is noted. An idle server writes its snapshots of running transactions, some sixty
/// bytes each quarter of a minute.
const OTHERS: u64 = 2 << 10;
/// So much WAL of whatever kind is.
const ANY: u64 = 1 << 20;

/// Numbers that people gave to timelines are taken for good, before the next one is allotted. One that nobody reports in
/// time may be allotted all the same: then contents are compared (`lineage`). Keeps S1.
pub(super) fn timelines(agreed: &ClusterState, seen: &Observations, decision: &mut Decision) {
    let newest = seen.reports.iter().map(|(member, at)| (newest(&at.report), member)).max();
    let Some((timeline, member)) = newest.filter(|(timeline, _)| *timeline > agreed.last_timeline) else { return };
    if timeline.0 - agreed.last_timeline.0 > NUMBERS_MAX {
        decision.find(
            "timeline-far",
            format!(
                "{member} holds a history file of timeline {timeline}, far above the newest one known, {}: it is left out \
                 of account; remove the file if nobody needs it",
                agreed.last_timeline
            ),
        );
        return;
    }
    let reason = format!("{member} holds timeline {timeline}, which was not allotted: the number is taken");
    decision.want(Command::NoteTimeline { timeline }, reason, Vec::new());
}

fn newest(report: &Report) -> TimelineId {
    let running = match &report.postgres {
        PostgresReport::Standby(standby) => standby.timeline,
        PostgresReport::Primary(primary) => primary.timeline,
        _ => TimelineId(0),
    };
    running.max(report.timelines.newest)
}

/// Who was promoted by hand, for the status and the log.
pub(super) fn promoted_by_hand(agreed: &ClusterState, seen: &Observations, name: &MemberId, decision: &mut Decision) {
    let Some(member) = agreed.members.get(name) else { return };
    let Some(report) = seen.reports.get(name).map(|at| &at.report) else { return };
    let known = member.promoted_by_hand.as_ref();
    if let (Some(found), Some(incarnation)) = (&report.timelines.by_hand, report.incarnation) {
        let same = |known: &HandPromotion| known.incarnation == incarnation && known.found.timeline == found.timeline;
        if !known.is_some_and(same) {
            let key = MemberKey::new(name.clone(), incarnation);
            let reason = format!("{name} was promoted by hand: it is to be made anew");
            let command = Command::NotePromotedByHand { key, found: found.clone(), kept_in: None };
            decision.want(command, reason, vec![describe(found)]);
        }
        return;
    }
    let Some(wal) = report.discarded_wal.as_ref().filter(|wal| wal.by_hand) else { return };
    let Some(known) = known.filter(|known| known.kept_in.is_none() && known.found.timeline == wal.timeline) else {
        return;
    };
    let key = MemberKey::new(name.clone(), known.incarnation);
    let command = Command::NotePromotedByHand { key, found: known.found.clone(), kept_in: Some(wal.kept_in.clone()) };
    decision.want(command, format!("what {name} wrote after it was promoted by hand is kept aside"), Vec::new());
}

/// One clause on what a promotion by hand left on disk.
#[must_use]
pub fn describe(found: &ByHand) -> String {
    let left = found.left.map_or_else(String::new, |(parent, at)| format!(", which left timeline {parent} at {at}"));
    format!("its WAL goes on to {} on timeline {}{left}", found.end, found.timeline)
}

/// What was seen flushed is remembered where the next leader reads it: in quiet times seldom, and not at all for what the
/// canary alone writes; in an election at once, so that it is agreed before anybody is appointed. Keeps S1 (history A9).
pub(super) fn flushed(agreed: &ClusterState, seen: &Observations, now: Time, decision: &mut Decision) {
    let Some(since) = seen.unnoted_since else { return };
    let flushed = seen.unnoted(agreed);
    let waited = now.since(since);
    let due = match seen.election_seen.filter(|_| agreed.election.is_some()) {
        Some((_, begun)) => since <= begun || waited >= ELECTION_MS,
        None => waited >= EVERY_MS && much(agreed, seen, &flushed),
    };
    if flushed.is_empty() || !due {
        return;
    }
    let evidence = flushed.iter().map(|(key, position)| format!("{key} has flushed {position}")).collect();
    decision.want(Command::NoteFlushed { flushed }, "what was seen flushed is remembered", evidence);
}

fn much(agreed: &ClusterState, seen: &Observations, flushed: &[(MemberKey, Position)]) -> bool {
    let written = seen.written.and_then(|(_, written, base)| Some(written.saturating_sub(base?)));
    // A leader that has just begun does not know what was written since the last note.
    let by_others = written.is_none_or(|bytes| bytes >= OTHERS);
    let far = |(key, position): &(MemberKey, Position)| {
        let known = agreed.members.get(&key.member).and_then(|member| member.proven);
        known.is_none_or(|known| known.epoch < position.epoch || position.lsn.bytes_since(known.lsn) >= ANY)
    };
    by_others || flushed.iter().any(far)
}

#[cfg(test)]
#[path = "seen_test.rs"]
mod tests;
