//! The scenarios that run on every change, with the real pgvigil beside this test's program.
//!
//! Everything the suite says goes straight to the terminal, so that a run that takes minutes can be followed.

use std::process::{Command, Stdio};

use pgvigil_chaos::report::Report;

#[test]
fn the_scenarios_of_every_change_pass() {
    let dir = tempfile::tempdir().expect("a folder");
    let json = dir.path().join("report.json");
    let ended = Command::new(env!("CARGO_BIN_EXE_pgvigil-chaos"))
        .args(["run", "--ci", "--json"])
        .arg(&json)
        .arg("--keep")
        .arg(concat!(env!("CARGO_TARGET_TMPDIR"), "/failed-scenarios"))
        .stdin(Stdio::null())
        .status()
        .expect("pgvigil-chaos runs");
    let text = std::fs::read_to_string(&json)
        .unwrap_or_else(|error| panic!("pgvigil-chaos ended with {ended} and wrote no report: {error}"));
    let report: Report = serde_json::from_str(&text).expect("the report is read");
    let failed: Vec<String> = report
        .runs
        .iter()
        .filter(|run| run.skipped.is_none() && !run.is_good())
        .map(|run| {
            format!("{}: {} {:?}; again: {}", run.scenario, run.failures.join("; "), run.verdict.totals, run.repeat)
        })
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(ended.success(), "pgvigil-chaos ended with {ended}");
    assert!(report.runs.iter().any(|run| run.is_good()), "nothing was played");
}
