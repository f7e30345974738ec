//! What the stories in `tests/tests` share: one of them at a time, a cluster with its logs kept when it fails, commands
//! whose end is checked, and single nodes that are to refuse their configuration.
//!
//! They run the program that `cargo build --workspace` made. Everything is on loopback, in temporary folders, as an
//! unprivileged user; nothing waits for time alone, only for conditions, with generous limits.

pub mod node;
pub mod serial;
pub mod sql;
pub mod world;

use std::time::{Duration, Instant};

/// How long anything may take on a slow, busy machine.
pub const LIMIT: Duration = Duration::from_secs(120);
/// Between two looks.
pub const PACE: Duration = Duration::from_millis(20);

/// Asks until there is an answer; after `LIMIT` the test fails and says what it waited for and what was seen last.
#[track_caller]
pub fn wait<T>(what: &str, mut question: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        // Ctrl-C fails the test, and so ends what it has started.
        pgvigil_chaos::interrupt::check().expect("not interrupted");
        match question() {
            Ok(answer) => return answer,
            Err(seen) => assert!(began.elapsed() < LIMIT, "waited {LIMIT:?} in vain for {what}; last seen: {seen}"),
        }
        std::thread::sleep(PACE);
    }
}

/// Asserts that a text says something, whatever its case, and shows the whole of it otherwise.
#[track_caller]
pub fn assert_says(text: &str, words: &[&str]) {
    let plain = text.to_lowercase();
    for word in words {
        assert!(plain.contains(&word.to_lowercase()), "expected {word:?} in:\n{text}");
    }
}
