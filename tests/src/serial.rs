//! One story at a time, over all test programs: clusters side by side would starve each other of CPU.

use nix::fcntl::{Flock, FlockArg};
use std::fs::File;

/// Held by the story that runs; let go when dropped, also by a process that dies.
#[derive(Debug)]
pub struct Turn {
    _lock: Flock<File>,
}

/// Waits until no other story runs.
#[must_use]
pub fn turn() -> Turn {
    pgvigil_chaos::interrupt::install().expect("signals can be caught");
    let own = std::env::current_exe().expect("a test program knows its path");
    let path = own.with_file_name("pgvigil-tests.lock");
    let file = File::create(&path).unwrap_or_else(|e| panic!("the lock file {}: {e}", path.display()));
    match Flock::lock(file, FlockArg::LockExclusive) {
        Ok(lock) => Turn { _lock: lock },
        Err((_, error)) => panic!("locking {}: {error}", path.display()),
    }
}
