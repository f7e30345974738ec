//! Goal: on a disk that is full or whose flush fails, the store reports nothing that is not there; once it has failed it
//! reports nothing any more; and what it had reported before is there when the disk is well again.
//!
//! Method: a child process (this test binary again) works through the script of `crash.rs` on a disk that a small library,
//! preloaded into it, makes fail: at each of its flushes in turn, and full after ever more bytes. A flush that failed has
//! written nothing, as the kernel drops such pages: the parent cuts that off, opens what is left and compares.

mod common;

use common::script::{SCRIPT, check, cut_unflushed, durable, note_flushed};
use common::{copy, perform};
use pgvigil_raft_store::{WritePoint, open};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

const DIRECTORY: &str = "PGVIGIL_TEST_DISK_DIRECTORY";

/// The preloaded library; `None` where it cannot be made.
fn library(directory: &Path) -> Option<PathBuf> {
    let (source, made) = (directory.join("fault.c"), directory.join("fault.so"));
    std::fs::write(&source, include_str!("fault.c")).expect("written");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let done =
        Command::new(&compiler).args(["-shared", "-fPIC", "-O1", "-o"]).arg(&made).arg(&source).arg("-ldl").output();
    match done {
        Ok(output) if output.status.success() => Some(made),
        Ok(output) => panic!("{compiler}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            eprintln!("SKIPPED: a failing disk needs a C compiler, and {compiler} cannot be run: {error}");
            None
        }
    }
}

/// How a child fared.
struct Fared {
    /// The steps that it reported, in order.
    done: usize,
    /// The step whose failure it saw; `None`: opening the store failed, or nothing did.
    failed: Option<usize>,
    /// What it said went wrong.
    why: String,
    /// Steps that were reported after the first failure.
    reported_after: Vec<String>,
}

fn run_child(library: &Path, directory: &Path, fault: (&str, String)) -> Fared {
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env("LD_PRELOAD", library)
        .env("FAULT_DIR", directory.join("raft"))
        .env(fault.0, fault.1)
        .env(DIRECTORY, directory)
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("the child runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("the child has ended"), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let mut fared = Fared { done: 0, failed: None, why: String::new(), reported_after: Vec::new() };
    for line in text.lines() {
        if let Some(step) = line.strip_prefix("done ") {
            if fared.why.is_empty() {
                assert_eq!(step.parse(), Ok(fared.done), "{text}");
                fared.done += 1;
            } else if step.parse().is_ok_and(|step: usize| SCRIPT[step].is_flushed()) {
                // The others may have had nothing to write.
                fared.reported_after.push(step.to_owned());
            }
        } else if let Some(why) = line.strip_prefix("failed ")
            && fared.why.is_empty()
        {
            let (step, why) = why.split_once(' ').expect("step and reason");
            (fared.failed, fared.why) = (step.parse().ok(), why.to_owned());
        }
    }
    fared
}

/// Opens what the child has left, as the disk holds it, and compares.
fn judge(directory: &Path, fared: &Fared, what: &str) {
    assert!(fared.reported_after.is_empty(), "{what}: reported after its failure: {:?}", fared.reported_after);
    if fared.failed.is_none() && !fared.why.is_empty() {
        // The store could not even be made. With room again it can.
        check(&directory.join("raft"), 0, 0, what);
        return;
    }
    let cut = directory.join("raft-as-the-disk-has-it");
    copy(&directory.join("raft"), &cut);
    cut_unflushed(directory, &cut);
    check(&cut, durable(fared.done), fared.done, &format!("{what}, what was not flushed is gone"));
    check(&directory.join("raft"), durable(fared.done), fared.done, &format!("{what}, and nothing else happened"));
}

#[test]
fn a_flush_that_fails_is_never_reported_and_ends_the_store() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let Some(library) = library(home.path()) else { return };
    for failures in 0_usize.. {
        let nth = failures + 1;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let fared = run_child(&library, directory.path(), ("FAULT_FSYNC", nth.to_string()));
        let what = format!("flush {nth} fails ({:?}, {})", fared.failed, fared.why);
        judge(directory.path(), &fared, &what);
        if fared.why.is_empty() {
            assert_eq!(fared.done, SCRIPT.len(), "{what}");
            assert!(failures > SCRIPT.iter().filter(|step| step.is_flushed()).count(), "{failures} flushes");
            println!("{failures} flushes, each of which failed once");
            return;
        }
    }
}

#[test]
fn a_full_disk_is_never_reported_over_and_loses_nothing() {
    let home = tempfile::tempdir().expect("a temporary directory");
    let Some(library) = library(home.path()) else { return };
    let (mut room, mut while_open, mut at_opening) = (100, 0, 0);
    loop {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let fared = run_child(&library, directory.path(), ("FAULT_ROOM", room.to_string()));
        let what = format!("full after {room} bytes ({:?}, {})", fared.failed, fared.why);
        judge(directory.path(), &fared, &what);
        if fared.why.is_empty() {
            break;
        }
        assert!(fared.why.to_lowercase().contains("no space left"), "it says what is wrong: {what}");
        *(if fared.failed.is_some() { &mut while_open } else { &mut at_opening }) += 1;
        room += if fared.failed.is_some() { 7_999 } else { 3_997 };
    }
    println!("full {at_opening} times while the store was made, {while_open} times while it worked");
    assert!(at_opening > 2 && while_open > 4, "both were reached: {at_opening}, {while_open}");
}

/// The child: does nothing unless started by the tests above. Goes on after a failure, to show that nothing is reported.
#[test]
fn child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let directory = Path::new(&directory).to_owned();
    let say = |line: &str| {
        // On a line of its own: the test harness has begun one.
        println!("\n{line}");
        std::io::stdout().flush().expect("the parent listens");
    };
    work(&directory, &say);
    say("the child has ended");
}

fn work(directory: &Path, say: &dyn Fn(&str)) {
    let store = directory.join("raft");
    let (notes, logs) = (directory.join("flushed"), store.clone());
    let probe = move |point| {
        if point == WritePoint::Flushed {
            note_flushed(&notes, &logs);
        }
    };
    let opened = open(&store, 1, Some(Arc::new(probe)));
    let (mut opened, _closed) = match opened {
        Ok(opened) => opened,
        Err(error) => return say(&format!("failed opening {}", error.full().replace('\n', " "))),
    };
    note_flushed(&directory.join("flushed"), &store);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for (k, step) in SCRIPT.iter().enumerate() {
        let done = catch_unwind(AssertUnwindSafe(|| runtime.block_on(perform(&mut opened, *step))));
        match done {
            Ok(()) => say(&format!("done {k}")),
            Err(why) => {
                let why = why.downcast_ref::<String>().cloned().unwrap_or_default();
                say(&format!("failed {k} {}", why.replace('\n', " ")));
            }
        }
    }
    if let Some(reason) = opened.handle.failure.borrow().clone() {
        say(&format!("failure {}", reason.replace('\n', " ")));
    }
}
