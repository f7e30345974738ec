//! The scenarios that run on every change, with the real pgvigil beside this test's program.
//!
//! Everything the suite says goes straight to the terminal, so that a run that takes minutes can be followed.

use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use pgvigil_chaos::report::Report;

/// Two clusters at once would be two tests of a busy machine.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Plays what the arguments say; all of it must have passed that was not skipped.
fn play(arguments: &[&str]) -> Report {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().expect("a folder");
    let json = dir.path().join("report.json");
    let ended = Command::new(env!("CARGO_BIN_EXE_pgvigil-chaos"))
        .arg("run")
        .args(arguments)
        .arg("--json")
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
    report
}

#[test]
fn the_scenarios_of_every_change_pass() {
    assert!(play(&["--ci"]).runs.iter().any(|run| run.is_good()), "nothing was played");
}

#[test]
fn links_are_cut_on_loopback_too() {
    // Neither passes where nothing is cut: one demands another primary, the other that nothing is acknowledged.
    let report = play(&["--loopback", "partition-primary-and-clients", "cut-replication"]);
    assert!(report.runs.len() == 2 && report.runs.iter().all(|run| run.skipped.is_none()), "not everything was played");
}
