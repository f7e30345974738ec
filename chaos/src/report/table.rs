//! The table for the terminal, and the line that shows a run while it goes on.

use std::time::Duration;

use super::summary::{PHASES, RTO_MS, Summary, summaries};
use super::{Report, RunRecord};
use crate::check::Kind;
use crate::workload::Progress;

/// What has its own column; other violations are counted together.
const COLUMNS: [Kind; 3] = [Kind::Lost, Kind::Resurrected, Kind::UnneededFailover];

/// A line for the running scenario.
pub fn live(scenario: &str, since: Duration, progress: Progress, doing: &str) -> String {
    let Progress { acknowledged, unknown, per_second, .. } = progress;
    let seconds = since.as_secs_f64();
    format!(
        "{seconds:7.1} s  {scenario}: {per_second} acknowledged/s, {acknowledged} in all, {unknown} unknown; {doing}"
    )
}

pub(super) fn table(report: &Report) -> String {
    let summaries = summaries(&report.runs);
    let mut out = String::from("writes stop for (milliseconds; over all clients that name every host)\n\n");
    let head =
        ["scenario", "n", "median", "p95", "maximum", "bar", "lost", "resurr.", "unneeded", "other", "unknown", ""];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(summaries.iter().map(row));
    out.push_str(&aligned(&rows));

    if summaries.iter().any(|summary| !summary.phases.is_empty()) {
        out.push_str("\nof that, where the primary changed (median / maximum)\n\n");
        let mut rows = vec![["scenario", "n"].iter().chain(PHASES.iter()).map(|word| (*word).to_owned()).collect()];
        for summary in summaries.iter().filter(|summary| !summary.phases.is_empty()) {
            let both = |phase| format!("{} / {}", ms(summary.phase(phase, 0.5)), ms(summary.phase(phase, 1.0)));
            let name = [summary.scenario.clone(), summary.phases.len().to_string()];
            rows.push(name.into_iter().chain((0..PHASES.len()).map(both)).collect::<Vec<_>>());
        }
        out.push_str(&aligned(&rows));
    }

    let mut faults = std::collections::BTreeMap::<&str, usize>::new();
    for (kind, count) in summaries.iter().flat_map(|summary| &summary.faults) {
        *faults.entry(kind).or_default() += count;
    }
    if !faults.is_empty() {
        let list: Vec<String> = faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        out.push_str(&format!("\nfaults fired: {}\n", list.join(", ")));
    }
    for run in report.runs.iter().filter(|run| run.skipped.is_some()) {
        out.push_str(&format!("\nnot run: {}: {}", run.scenario, run.skipped.as_deref().unwrap_or_default()));
    }
    for run in report.runs.iter().filter(|run| run.skipped.is_none() && !run.is_good()) {
        out.push_str(&failure(run));
    }
    for summary in summaries.iter().filter(|summary| !summary.meets_bars()) {
        let bar = summary.bar.map_or(String::new(), |bar| format!(", {} / {}", bar.median_ms, bar.max_ms));
        out.push_str(&format!("\n{}: writes stopped for longer than allowed ({RTO_MS}{bar} ms)\n", summary.scenario));
    }
    out.push_str(if report.is_good() { "\nall good\n" } else { "\nNOT all good\n" });
    out
}

/// Why a run was not good, and how to repeat it.
fn failure(run: &RunRecord) -> String {
    let mut text = format!("\n\nFAILED: {} (seed {})\n", run.scenario, run.seed);
    for why in &run.failures {
        text.push_str(&format!("  {why}\n"));
    }
    for violation in &run.verdict.violations {
        text.push_str(&format!("  {}: {}\n", violation.kind, violation.text));
    }
    for (kind, total) in &run.verdict.totals {
        text.push_str(&format!("  {kind}: {total} in all\n"));
    }
    text.push_str(&format!("  again: {}\n", run.repeat));
    if let Some(kept) = &run.kept {
        text.push_str(&format!("  kept: {kept}\n"));
    }
    text
}

fn row(summary: &Summary) -> Vec<String> {
    let bar = summary.bar.map_or_else(String::new, |bar| format!("{:.0}/{:.0}", bar.median_ms, bar.max_ms));
    let other: usize = summary.violations.iter().filter(|(kind, _)| !COLUMNS.contains(kind)).map(|(_, n)| n).sum();
    let verdict = match (summary.runs, summary.is_good()) {
        (0, _) => "not run",
        (_, true) => "ok",
        (_, false) => "FAILED",
    };
    let gap = |share| if summary.runs == 0 { String::new() } else { ms(summary.gap(share)) };
    let name = summary.number.map_or_else(|| summary.scenario.clone(), |n| format!("{n:>2} {}", summary.scenario));
    let mut cells = vec![name, summary.runs.to_string(), gap(0.5), gap(0.95), gap(1.0), bar];
    cells.extend(COLUMNS.map(|kind| summary.count(kind).to_string()));
    cells.extend([other.to_string(), summary.unknown.to_string(), verdict.to_owned()]);
    cells
}

/// Milliseconds, or what stands for none and for never.
pub(super) fn ms(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value.is_infinite() => "never".to_owned(),
        Some(value) => format!("{value:.0}"),
    }
}

/// Columns as wide as their widest cell; the first to the left, the others to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
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
