//! One node that is to refuse what it finds, or to say what it waits for.

use crate::{LIMIT, assert_says, wait};
use pgvigil_chaos::{account::Account, cluster};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Instant,
};

/// A `pgvigil run` whose messages are read; killed with all its processes when dropped.
#[derive(Debug)]
pub struct Run {
    child: Child,
    dir: PathBuf,
    log: PathBuf,
}

/// Starts `pgvigil run` with this configuration, working in `dir`; its messages go to a file there.
#[track_caller]
pub fn run(account: &Account, program: &Path, dir: &Path, config: &Path) -> Run {
    let log = dir.join("run.log");
    let file = File::create(&log).expect("a log file can be made");
    let child = account
        .command(program, dir)
        .arg("run")
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a file can be shared"))
        .stderr(file)
        .spawn()
        .expect("pgvigil can be started");
    Run { child, dir: dir.to_owned(), log }
}

impl Run {
    /// What it has said so far.
    #[must_use]
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// It ends by itself with that exit code and says all these words.
    #[track_caller]
    pub fn ends(&mut self, code: i32, words: &[&str]) {
        let began = Instant::now();
        let ended = wait("pgvigil to end", || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(format!("still running after {:?}: {}", began.elapsed(), self.said())),
            Err(error) => Err(error.to_string()),
        });
        let said = self.said();
        assert_eq!(ended.code(), Some(code), "it said:\n{said}");
        assert_says(&said, words);
        println!("ended with {code} as expected: {}", said.trim());
    }

    /// It runs on and says all these words.
    #[track_caller]
    pub fn says(&mut self, words: &[&str]) {
        let _: () = wait(&format!("{words:?} to be said within {LIMIT:?}"), || {
            let said = self.said();
            if words.iter().all(|word| said.to_lowercase().contains(&word.to_lowercase())) { Ok(()) } else { Err(said) }
        });
        assert!(self.child.try_wait().expect("it is our child").is_none(), "it has ended: {}", self.said());
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Err(error) = pgvigil_chaos::processes::kill_host(&self.dir) {
            eprintln!("not everything could be ended: {error}");
        }
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The program that `cargo build --workspace` made, runnable by this account (a copy in `dir` if need be).
#[track_caller]
pub fn program(account: &Account, dir: &Path) -> PathBuf {
    let found = cluster::find_pgvigil().unwrap_or_else(|error| panic!("{error}: run cargo build --workspace first"));
    account.runnable(&found, dir).unwrap_or_else(|error| panic!("{error}"))
}
