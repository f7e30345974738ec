//! The figures of a scenario over all its runs.

use std::collections::BTreeMap;

use super::record::{Bar, GapRecord, Rate, RunRecord};
use crate::check::Kind;
use crate::history::{History, Outcome};

/// The longest that writes may stop in any scenario.
pub const RTO_MS: f64 = 300_000.0;
/// The phases of a write gap, in order: until the election was agreed, until a successor was, until it had left recovery,
/// until its door was opened, until a client had a commit acknowledged.
pub const PHASES: [&str; 5] = ["detect", "seal", "promote", "open", "resume"];

/// The figures of one scenario.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Summary {
    /// Its name.
    pub scenario: String,
    /// Its number among the thirty.
    pub number: Option<u32>,
    /// What happens in it.
    pub story: String,
    /// Runs that were done.
    pub runs: usize,
    /// Of these, good ones.
    pub good: usize,
    /// Why it was not run here.
    pub skipped: Option<String>,
    /// Every write gap over all clients, milliseconds; one that never ended is infinite.
    pub gaps: Vec<f64>,
    /// For every gap that holds a change of primary: how long each phase took, milliseconds.
    pub phases: Vec<[f64; 5]>,
    /// Operations of unknown end.
    pub unknown: usize,
    /// Writes acknowledged.
    pub acknowledged: usize,
    /// Violations by kind.
    pub violations: BTreeMap<Kind, usize>,
    /// Faults fired by kind.
    pub faults: BTreeMap<String, usize>,
    /// The bar, if it has one of its own.
    pub bar: Option<Bar>,
}

/// One for each scenario, in the order of their first runs.
pub fn summaries(runs: &[RunRecord]) -> Vec<Summary> {
    let mut summaries: Vec<Summary> = Vec::new();
    for run in runs {
        let known = summaries.iter().position(|summary| summary.scenario == run.scenario);
        let place = known.unwrap_or_else(|| {
            let (scenario, story) = (run.scenario.clone(), run.story.clone());
            summaries.push(Summary { scenario, story, number: run.number, bar: run.bar, ..Summary::default() });
            summaries.len() - 1
        });
        summaries[place].add(run);
    }
    summaries
}

impl Summary {
    fn add(&mut self, run: &RunRecord) {
        if let Some(why) = &run.skipped {
            self.skipped = Some(why.clone());
            return;
        }
        self.runs += 1;
        self.good += usize::from(run.is_good());
        for gap in run.gaps.iter().filter(|gap| gap.client.is_none()) {
            self.gaps.push(gap.length_ms());
            self.phases.extend(phases(run, gap));
        }
        self.unknown += run.verdict.counts.unknown;
        self.acknowledged += run.verdict.counts.acknowledged;
        for (kind, count) in &run.verdict.totals {
            *self.violations.entry(*kind).or_default() += count;
        }
        for fault in &run.faults {
            *self.faults.entry(fault.kind.clone()).or_default() += 1;
        }
    }

    /// The value at `share` (0 to 1) of the gaps, by the nearest-rank rule; `None` without any.
    pub fn gap(&self, share: f64) -> Option<f64> {
        at(self.gaps.clone(), share)
    }

    /// The same of one phase.
    pub fn phase(&self, phase: usize, share: f64) -> Option<f64> {
        at(self.phases.iter().map(|phases| phases[phase]).collect(), share)
    }

    /// How many violations of that kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        self.violations.get(&kind).copied().unwrap_or(0)
    }

    /// Whether the write gaps are within five minutes and within the scenario's own bar.
    pub fn meets_bars(&self) -> bool {
        let (median, maximum) = (self.gap(0.5).unwrap_or(0.0), self.gap(1.0).unwrap_or(0.0));
        maximum <= RTO_MS && self.bar.is_none_or(|bar| median <= bar.median_ms && maximum <= bar.max_ms)
    }

    /// Every run was good and the bars are met.
    pub fn is_good(&self) -> bool {
        self.good == self.runs && self.meets_bars()
    }
}

fn at(mut samples: Vec<f64>, share: f64) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    let rank = (share * samples.len() as f64).ceil() as usize;
    samples.get(rank.saturating_sub(1)).copied()
}

/// How long each phase of a write gap took, milliseconds; `None` if no change of primary was begun within it, or it never
/// ended. Incidents tell wall-clock time, which is exact enough for that on one machine.
pub fn phases(run: &RunRecord, gap: &GapRecord) -> Option<[f64; 5]> {
    let until = gap.until_us?;
    let place = |at_ms: u64| at_ms.saturating_sub(run.began_at_ms) * 1_000;
    let incident = run.incidents.iter().rev().find(|incident| {
        // Acknowledgements that were under way come in for a moment after it was begun.
        let times = incident.phases.iter().map(|phase| place(phase.at_ms));
        times.clone().min().is_some_and(|first| first <= until) && times.max().is_some_and(|last| last >= gap.from_us)
    })?;
    let mut last = gap.from_us;
    let mut lengths = [0.0; 5];
    for (length, name) in lengths.iter_mut().zip(["begun", "appointed", "promoted", "opened", ""]) {
        let reached = match name {
            "" => Some(until),
            _ => incident.phases.iter().find(|phase| phase.name == name).map(|phase| place(phase.at_ms)),
        };
        // What was reached earlier than the step before took no time of its own.
        let reached = reached.unwrap_or(last).clamp(last, until.max(last));
        *length = (reached - last) as f64 / 1e3;
        last = reached;
    }
    Some(lengths)
}

/// Writes by the second in which they ended, of all clients; every second of the run has an entry.
pub fn rates(history: &History, length_us: u64) -> Vec<Rate> {
    let seconds = length_us.div_ceil(1_000_000);
    let mut rates: Vec<Rate> = (0..seconds as u32).map(|second| Rate { second, ..Rate::default() }).collect();
    for operation in history.operations.iter().filter(|operation| operation.work.writes()) {
        if let Some(rate) = rates.get_mut((operation.ended / 1_000_000) as usize) {
            match operation.outcome {
                Outcome::Ok => rate.ok += 1,
                Outcome::Fail => rate.fail += 1,
                Outcome::Unknown => rate.unknown += 1,
            }
        }
    }
    rates
}
