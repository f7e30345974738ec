//! A script of every kind of write, done by a child process that meets with something, and what must then be left.

use super::{Model, Step, perform, reopen, write_ahead_logs};
use std::path::Path;

/// Every kind of write, and the orders in which openraft uses them.
pub(crate) const SCRIPT: [Step; 24] = [
    Step::Vote(1),
    Step::Append { term: 1, from: 0, to: 0 },
    Step::Append { term: 1, from: 1, to: 5 },
    Step::Commit(3),
    Step::Apply(3),
    Step::Vote(2),
    Step::Truncate(4),
    Step::Append { term: 2, from: 5, to: 9 },
    Step::Commit(9),
    Step::Apply(7),
    Step::Snapshot,
    Step::Purge(5),
    Step::Apply(9),
    Step::Append { term: 2, from: 10, to: 60 },
    Step::Commit(60),
    Step::Apply(60),
    Step::Snapshot,
    Step::Purge(58),
    Step::Vote(3),
    Step::Truncate(60),
    Step::Install { term: 3, index: 100 },
    Step::Purge(100),
    Step::Append { term: 3, from: 101, to: 103 },
    Step::Apply(102),
];

/// How many steps must have survived the loss of power once `done` were reported.
pub(crate) fn durable(done: usize) -> usize {
    (0..done).rev().find(|k| SCRIPT[*k].is_flushed()).map_or(0, |k| k + 1)
}

/// Cuts every write-ahead log back to what was flushed when the child died.
pub(crate) fn cut_unflushed(directory: &Path, store: &Path) {
    let flushed = std::fs::read_to_string(directory.join("flushed")).expect("the child wrote it");
    for line in flushed.lines() {
        let (name, size) = line.split_once(' ').expect("name and size");
        let file = std::fs::OpenOptions::new().write(true).open(store.join("db").join(name)).expect("it exists");
        file.set_len(size.parse().expect("a number")).expect("it can be cut");
    }
}

/// Reopens a store and compares it with the model after each permitted number of steps.
pub(crate) fn check(store: &Path, at_least: usize, done: usize, when: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let found = runtime.block_on(async {
        let mut store = reopen(store);
        let found = Model::of(&mut store).await;
        // It is not only readable: it goes on.
        perform(&mut store, Step::Vote(9)).await;
        found
    });
    let mut model = Model::default();
    let mut permitted = Vec::new();
    for taken in 0..=SCRIPT.len().min(done + 1) {
        if taken >= at_least {
            permitted.push(model.clone());
        }
        if let Some(step) = SCRIPT.get(taken) {
            model.take(*step);
        }
    }
    assert!(permitted.contains(&found), "{when}, after {done} steps: found {found:?}, permitted {permitted:#?}");
}

/// Notes how long each write-ahead log is. Called when all of it is flushed.
pub(crate) fn note_flushed(notes: &Path, store: &Path) {
    let mut text = String::new();
    for log in write_ahead_logs(store) {
        let size = std::fs::metadata(&log).expect("it exists").len();
        text.push_str(&format!("{} {size}\n", log.file_name().expect("a name").to_string_lossy()));
    }
    std::fs::write(notes, text).expect("written");
}
