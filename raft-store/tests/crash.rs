//! Goal: whatever the store has reported durable survives a crash between any two of its writes, and nothing else
//! than a prefix of what was done survives.
//!
//! Method: a child process (this test binary again) works through a script and aborts at the n-th write point; for
//! every n the parent reopens what is left. Once as after a crash of the process, and once as after a loss of power,
//! with everything cut off that was not flushed. In both cases the store must equal the model after some step that is
//! neither earlier than the last one that had to be durable nor later than the one under way.

mod common;

use common::script::{SCRIPT, check, cut_unflushed, durable, note_flushed};
use common::{copy, perform};
use pgvigil_raft_store::{WritePoint, open};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const DIRECTORY: &str = "PGVIGIL_TEST_CRASH_DIRECTORY";
const AT: &str = "PGVIGIL_TEST_CRASH_AT";

#[test]
fn nothing_reported_is_lost_between_any_two_writes() {
    for at in 1.. {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let done = run_child(directory.path(), at);
        let store = directory.path().join("raft");

        let cut = directory.path().join("raft-after-power-loss");
        copy(&store, &cut);
        cut_unflushed(directory.path(), &cut);
        check(&cut, durable(done.len()), done.len(), &format!("power lost at point {at}"));
        check(&store, done.len(), done.len(), &format!("process killed at point {at}"));

        if done.len() == SCRIPT.len() {
            assert!(at > SCRIPT.len() as u64 * 2, "the script has more write points than {at}");
            return;
        }
    }
}

/// Runs the script in a child that dies at the given write point; returns the steps that it reported.
fn run_child(directory: &Path, at: u64) -> Vec<u64> {
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(AT, at.to_string())
        .env("RUST_BACKTRACE", "0")
        .stderr(Stdio::piped())
        .output()
        .expect("the child runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let done: Vec<u64> = text.lines().filter_map(|l| l.strip_prefix("done ")?.parse().ok()).collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || !errors.contains("panicked"), "the child failed at point {at}: {errors}");
    assert_eq!(done, (0..done.len() as u64).collect::<Vec<_>>(), "{text}");
    done
}

/// The child: does nothing unless started by the test above.
#[test]
fn child() {
    let (Ok(directory), Ok(at)) = (std::env::var(DIRECTORY), std::env::var(AT)) else { return };
    let (directory, at) = (Path::new(&directory).to_owned(), at.parse::<u64>().expect("a number"));
    let store = directory.join("raft");
    let passed = AtomicU64::new(0);
    let (notes, logs) = (directory.join("flushed"), store.clone());
    let probe = move |point| {
        if passed.fetch_add(1, Ordering::SeqCst) + 1 == at {
            std::process::abort();
        }
        if point == WritePoint::Flushed {
            note_flushed(&notes, &logs);
        }
    };
    let (mut opened, _) = open(&store, 1, Some(Arc::new(probe))).expect("the store opens");
    note_flushed(&directory.join("flushed"), &store);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        for (k, step) in SCRIPT.iter().enumerate() {
            perform(&mut opened, *step).await;
            // On a line of its own: the test harness has begun one.
            println!("\ndone {k}");
            std::io::stdout().flush().expect("the parent listens");
        }
    });
}
