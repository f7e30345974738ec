//! The table at the end of a bench, and whether its bars are met.

use std::time::Duration;

use serde::Serialize;

use super::Fault;
use super::idle::Idle;
use crate::floor::Floor;
use crate::ledger::{Gap, Verdict};

/// Resident memory a node's pgvigil may have, KiB.
const RSS_BAR_KIB: u64 = 30 * 1024;
/// Processor time an idle node may take, per cent of one core.
const CPU_BAR_PERCENT: f64 = 1.0;

/// One run of one fault.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// When writes stopped and resumed.
    pub gap: Gap,
    /// For how long writes stopped, milliseconds.
    pub stopped_ms: f64,
    /// From writes resuming to full health, milliseconds.
    pub healed_ms: f64,
    /// Writes that the old primary acknowledged although they were sent to it after the fault (after writes resumed
    /// elsewhere, where it may finish what it has begun: crash and switchover). Must be 0.
    pub stale: usize,
}

/// All runs of one fault.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// Which.
    pub fault: Fault,
    /// In order.
    pub runs: Vec<Run>,
    /// The comparison of books and table after the last run; it covers every operation of the series.
    pub verdict: Verdict,
    /// Runs that were asked for and did not end.
    pub failed: Vec<String>,
}

/// Everything a bench found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// PostgreSQL's own times.
    pub floor: Floor,
    /// One for each fault.
    pub series: Vec<Series>,
    /// One for each node; empty if not measured.
    pub idle: Vec<Idle>,
}

/// The value at `share` (0 to 1) of the sorted samples, by the nearest-rank rule; 0 without samples.
pub fn percentile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

impl Series {
    fn stops(&self) -> Vec<f64> {
        self.runs.iter().map(|run| run.stopped_ms).collect()
    }

    /// Nothing lost or resurrected, nobody acknowledged anything out of turn, every run ended, and the times are within
    /// the bar.
    pub fn is_good(&self) -> bool {
        let (median, maximum) = self.fault.bar();
        let limit = |bar: Duration| bar.as_secs_f64() * 1e3;
        self.verdict.is_clean()
            && self.failed.is_empty()
            && !self.runs.is_empty()
            && self.runs.iter().all(|run| run.stale == 0)
            && percentile(&self.stops(), 0.5) <= limit(median)
            && percentile(&self.stops(), 1.0) <= limit(maximum)
    }
}

impl Report {
    /// Whether every bar is met.
    pub fn is_good(&self) -> bool {
        self.series.iter().all(Series::is_good) && self.idle.iter().all(idle_is_good)
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut out = String::from(
            "writes stop for (milliseconds; last acknowledged commit before to first one after, over all clients)\n\n",
        );
        let head =
            ["fault", "n", "median", "p95", "maximum", "bar", "floor", "lost", "resurr.", "stale", "unknown", ""];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(self.series.iter().map(|series| self.row(series)));
        out.push_str(&aligned(&rows));
        for series in &self.series {
            let heal: Vec<f64> = series.runs.iter().map(|run| run.healed_ms).collect();
            let later = series.runs.iter().map(|run| run.gap.later.as_secs_f64() * 1e3).fold(0.0, f64::max);
            out.push_str(&format!(
                "\n{}: {} commits acknowledged, {} with unknown end ({} of them in the table); back in full health \
                 {:.1} s after writes resumed (median; maximum {:.1} s), longest stop of writes meanwhile {:.0} ms",
                series.fault,
                series.verdict.acknowledged,
                series.verdict.unknown,
                series.verdict.unknown_present,
                percentile(&heal, 0.5) / 1e3,
                percentile(&heal, 1.0) / 1e3,
                later,
            ));
            for failure in &series.failed {
                out.push_str(&format!("\n{}: A RUN FAILED: {failure}", series.fault));
            }
        }
        out.push_str(&format!(
            "\n\nfloor: PostgreSQL alone on this machine, n = {}: promotion until the first write {:.0} / {:.0} ms, kill \
             of the primary until the first commit confirmed by a standby {:.0} / {:.0} ms (median / maximum; the floor \
             column holds the latter's median, for a switchover the former's)\n",
            self.floor.promotion_ms.len(),
            percentile(&self.floor.promotion_ms, 0.5),
            percentile(&self.floor.promotion_ms, 1.0),
            percentile(&self.floor.quorum_ms, 0.5),
            percentile(&self.floor.quorum_ms, 1.0),
        ));
        if !self.idle.is_empty() {
            out.push_str(
                "\nan idle node (bars: pgvigil under 30 MiB resident, under 1 % of a core, no disk writes)\n\n",
            );
            let head = ["node", "pgvigil MiB", "guard MiB", "CPU %", "written B", ""];
            let mut rows = vec![head.map(str::to_owned)];
            rows.extend(self.idle.iter().map(|idle| {
                let who = [(idle.primary, " primary"), (idle.leader, " leader")];
                let who: String = who.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
                [
                    format!("{}{who}", idle.node),
                    format!("{:.1}", idle.pgvigil_rss_kib as f64 / 1024.0),
                    format!("{:.1}", idle.guard_rss_kib as f64 / 1024.0),
                    format!("{:.2}", idle.cpu_percent),
                    idle.written_bytes.to_string(),
                    verdict_word(idle_is_good(idle)),
                ]
            }));
            out.push_str(&aligned(&rows));
        }
        out.push_str(if self.is_good() { "\nevery bar is met\n" } else { "\nNOT every bar is met\n" });
        out
    }

    fn row(&self, series: &Series) -> [String; 12] {
        let stops = series.stops();
        let ms = |share| format!("{:.0}", percentile(&stops, share));
        let (median, maximum) = series.fault.bar();
        let floor = match series.fault {
            Fault::Switchover => &self.floor.promotion_ms,
            _ => &self.floor.quorum_ms,
        };
        [
            series.fault.to_string(),
            series.runs.len().to_string(),
            ms(0.5),
            ms(0.95),
            ms(1.0),
            format!("{}/{}", median.as_millis(), maximum.as_millis()),
            format!("{:.0}", percentile(floor, 0.5)),
            series.verdict.lost.len().to_string(),
            series.verdict.resurrected.len().to_string(),
            series.runs.iter().map(|run| run.stale).sum::<usize>().to_string(),
            series.verdict.unknown.to_string(),
            verdict_word(series.is_good()),
        ]
    }
}

fn idle_is_good(idle: &Idle) -> bool {
    idle.pgvigil_rss_kib < RSS_BAR_KIB && idle.cpu_percent < CPU_BAR_PERCENT && idle.written_bytes == 0
}

fn verdict_word(good: bool) -> String {
    if good { "ok" } else { "MISSED" }.to_owned()
}

/// Columns as wide as their widest cell; the first to the left, the others to the right.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| match column {
            0 => format!("{cell:<width$}", width = widths[column]),
            _ => format!("{cell:>width$}", width = widths[column]),
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        let samples: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!(percentile(&samples, 0.5), 10.0);
        assert_eq!(percentile(&samples, 0.95), 19.0);
        assert_eq!(percentile(&samples, 1.0), 20.0);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }

    fn series(stops: &[f64]) -> Series {
        let gap =
            Gap { last_before: Duration::ZERO, first_after: Duration::ZERO, resumed_on: 1, later: Duration::ZERO };
        let run = |stopped_ms| Run { gap, stopped_ms, healed_ms: 0.0, stale: 0 };
        Series {
            fault: Fault::Crash,
            runs: stops.iter().copied().map(run).collect(),
            verdict: Verdict::default(),
            failed: Vec::new(),
        }
    }

    #[test]
    fn bars_losses_and_failures_decide() {
        assert!(series(&[250.0, 300.0, 900.0]).is_good());
        assert!(!series(&[250.0, 301.0, 900.0]).is_good(), "the median is over its bar");
        assert!(!series(&[250.0, 300.0, 1001.0]).is_good(), "the maximum is over its bar");
        assert!(!series(&[]).is_good(), "nothing was measured");
        let mut lossy = series(&[100.0]);
        lossy.verdict.lost.push(7);
        assert!(!lossy.is_good());
        let mut stale = series(&[100.0]);
        stale.runs[0].stale = 1;
        assert!(!stale.is_good());
    }
}
