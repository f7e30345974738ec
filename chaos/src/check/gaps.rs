//! For how long writes stopped after each fault: over all clients that name every host, and for each of them.

use std::collections::BTreeMap;

use crate::history::{History, Outcome};
use crate::report::{FaultSpan, GapRecord};

/// One gap over all clients and one for each, for each fault: the longest time between two acknowledgements that ends
/// after the fault began and begins before the next fault does (or the run ends, at `length_us`).
pub fn gaps(history: &History, faults: &[FaultSpan], length_us: u64) -> Vec<GapRecord> {
    let mut all: Vec<u64> = Vec::new();
    let mut by_client: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    let users = history.operations.iter().filter(|operation| !operation.direct && operation.work.writes());
    for operation in users.filter(|operation| operation.outcome == Outcome::Ok) {
        all.push(operation.ended);
        by_client.entry(operation.client).or_default().push(operation.ended);
    }
    let mut series = vec![(None, all)];
    series.extend(by_client.into_iter().map(|(client, acks)| (Some(client), acks)));
    for (_, acks) in &mut series {
        acks.sort_unstable();
    }
    let mut records = Vec::new();
    for (place, fault) in faults.iter().enumerate() {
        let next = faults.iter().map(|other| other.from_us).filter(|from| *from > fault.from_us).min();
        let window = (fault.from_us, next.unwrap_or(length_us));
        for (client, acks) in &series {
            if let Some((from_us, until_us)) = longest(acks, window, length_us) {
                records.push(GapRecord { fault: Some(place), client: *client, from_us, until_us });
            }
        }
    }
    records
}

/// The longest interval between two neighbours of `acks` that reaches into the window. The time before the first
/// acknowledgement is none; the time after the last one is, without an end.
fn longest(acks: &[u64], (from, until): (u64, u64), length_us: u64) -> Option<(u64, Option<u64>)> {
    let begin = acks.partition_point(|at| *at <= from).saturating_sub(1);
    let ends = acks.iter().skip(begin + 1).map(|at| Some(*at)).chain([None]);
    acks.iter()
        .skip(begin)
        .zip(ends)
        .take_while(|(last, _)| **last < until)
        .max_by_key(|(last, next)| next.unwrap_or(length_us).saturating_sub(**last))
        // A run that ends is no stop of writes.
        .map(|(last, next)| (*last, next.or((length_us.saturating_sub(*last) < TAIL_US).then_some(length_us))))
}

/// A last acknowledgement this close to the end of the run is not the beginning of a stop without end.
const TAIL_US: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::super::testing::write_at;
    use super::*;

    /// The fault, the client, from when and until when.
    type Found = (Option<usize>, Option<u32>, u64, Option<u64>);

    fn found(acks: &[(u32, u64)], faults: &[u64], length_us: u64) -> Vec<Found> {
        let operations = acks.iter().map(|(client, at)| {
            let mut write = write_at(*at - 1, "a", 1, 1);
            (write.client, write.ended) = (*client, *at);
            write
        });
        let history = History { operations: operations.collect() };
        let faults: Vec<_> =
            faults.iter().map(|from_us| FaultSpan { from_us: *from_us, ..FaultSpan::default() }).collect();
        gaps(&history, &faults, length_us)
            .iter()
            .map(|gap| (gap.fault, gap.client, gap.from_us, gap.until_us))
            .collect()
    }

    #[test]
    fn a_gap_runs_from_the_last_to_the_first_acknowledgement() {
        let acks = [(0, 90), (1, 95), (0, 400), (1, 420), (0, 430), (0, 445)];
        let gaps = found(&acks, &[100], 446);
        assert_eq!(
            gaps,
            [(Some(0), None, 95, Some(400)), (Some(0), Some(0), 90, Some(400)), (Some(0), Some(1), 95, Some(420))]
        );
    }

    #[test]
    fn each_fault_has_its_own() {
        let gaps = found(&[(0, 90), (0, 300), (0, 310), (0, 320), (0, 400), (0, 410)], &[100, 330], 411);
        let all: Vec<_> = gaps.iter().filter(|gap| gap.1.is_none()).map(|gap| (gap.0, gap.2, gap.3)).collect();
        assert_eq!(all, [(Some(0), 90, Some(300)), (Some(1), 320, Some(400))]);
    }

    #[test]
    fn writes_that_never_resume_are_a_gap_without_an_end() {
        assert_eq!(found(&[(0, 90)], &[100], 9_000_000)[0], (Some(0), None, 90, None));
    }
}
