//! Who served: one member for each timeline, nobody of the past, and nothing outside the history that lives on.
//!
//! Every epoch has one timeline, a timeline's number is never allotted twice, and later epochs have higher ones; so a
//! client can tell epochs apart without asking pgvigil.

use std::collections::BTreeMap;

use super::{Findings, Kind, Tables, verdict::told};
use crate::history::{History, Operation, Outcome};
use crate::libpq::Address;

pub(super) fn check(history: &History, end: &Tables, findings: &mut Findings) {
    two_writers(history, findings);
    outside_history(history, end, findings);
    stale_service(history, findings);
}

/// Acknowledged writes, each with the timeline it was written on.
fn writes(history: &History) -> impl Iterator<Item = (&Operation, &Address, u32)> {
    served(history).filter(|(operation, ..)| operation.work.writes())
}

/// Everything that a primary answered.
fn served(history: &History) -> impl Iterator<Item = (&Operation, &Address, u32)> {
    history.operations.iter().filter(|operation| operation.outcome == Outcome::Ok).filter_map(|operation| {
        let server = operation.server.as_ref()?;
        Some((operation, &server.address, server.timeline?))
    })
}

fn two_writers(history: &History, findings: &mut Findings) {
    let mut owners: BTreeMap<u32, &Address> = BTreeMap::new();
    for (operation, address, timeline) in writes(history) {
        let owner = owners.entry(timeline).or_insert(address);
        if *owner != address {
            findings.add(
                Kind::TwoWriters,
                format!(
                    "a commit on timeline {timeline} was acknowledged by {address} {}, an earlier one by {owner}",
                    told(operation)
                ),
            );
        }
    }
}

fn outside_history(history: &History, end: &Tables, findings: &mut Findings) {
    if end.timeline == 0 {
        return;
    }
    let forks: BTreeMap<u32, u64> = end.forks.iter().copied().collect();
    for (operation, address, timeline) in writes(history).filter(|(.., timeline)| *timeline != end.timeline) {
        let lsn = operation.server.as_ref().and_then(|server| server.lsn).unwrap_or(0);
        let problem = match forks.get(&timeline) {
            None => "which is no ancestor of the present one".to_owned(),
            Some(fork) if lsn > *fork => format!("which was left at {fork:#x}"),
            Some(_) => continue,
        };
        findings.add(
            Kind::OutsideHistory,
            format!(
                "{address} acknowledged a commit at {lsn:#x} of timeline {timeline}, {problem} {}",
                told(operation)
            ),
        );
    }
}

fn stale_service(history: &History, findings: &mut Findings) {
    // From when on each timeline, or a newer one, is known to have acknowledged something.
    let mut first: BTreeMap<u32, u64> = BTreeMap::new();
    for (operation, _, timeline) in writes(history) {
        let at = first.entry(timeline).or_insert(operation.ended);
        *at = (*at).min(operation.ended);
    }
    for (operation, address, timeline) in served(history) {
        let overtaken = first.range(timeline + 1..).find(|(_, at)| **at < operation.began);
        if let Some((newer, at)) = overtaken {
            let what = if operation.work.writes() { "acknowledged a commit" } else { "answered a read" };
            findings.add(
                Kind::StaleService,
                format!(
                    "{address} on timeline {timeline} {what} that began {} ms after timeline {newer} had acknowledged one {}",
                    (operation.began - at) / 1000,
                    told(operation)
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::testing::{judged, read_at, write_at};
    use super::*;

    fn found(operations: Vec<Operation>, timeline: u32, forks: &[(u32, u64)]) -> Verdict {
        let end = Tables { timeline, forks: forks.to_vec(), ..Tables::default() };
        judged(&History { operations }, end, check)
    }

    #[test]
    fn one_after_the_other_is_clean() {
        let operations =
            vec![write_at(10, "a", 1, 100), read_at(15, "a", 1), write_at(30, "b", 2, 210), read_at(40, "b", 2)];
        assert!(found(operations, 2, &[(1, 200)]).is_clean());
    }

    #[test]
    fn an_answer_under_way_when_the_successor_opens_is_clean() {
        let mut late = write_at(25, "a", 1, 150);
        late.ended = 60;
        assert!(found(vec![write_at(30, "b", 2, 210), late], 2, &[(1, 200)]).is_clean());
    }

    #[test]
    fn two_members_on_one_timeline_are_found() {
        let verdict = found(vec![write_at(10, "a", 1, 100), write_at(20, "b", 1, 110)], 1, &[]);
        assert_eq!(verdict.count(Kind::TwoWriters), 1);
    }

    #[test]
    fn a_commit_beyond_the_fork_or_on_a_dead_branch_is_found() {
        assert_eq!(found(vec![write_at(10, "a", 1, 201)], 2, &[(1, 200)]).count(Kind::OutsideHistory), 1);
        assert_eq!(found(vec![write_at(10, "a", 3, 150)], 4, &[(1, 200)]).count(Kind::OutsideHistory), 1);
    }

    #[test]
    fn a_stale_commit_and_a_stale_read_are_found() {
        let operations = vec![write_at(10, "b", 2, 210), write_at(30, "a", 1, 100), read_at(40, "a", 1)];
        assert_eq!(found(operations, 2, &[(1, 200)]).count(Kind::StaleService), 2);
    }
}
