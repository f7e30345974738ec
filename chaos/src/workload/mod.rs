//! The load: clients that work all the time in a process of their own, and their history.
//!
//! A process of its own can be started inside a client's network namespace, and is not slowed down by what the caller
//! does. It is told what to do over its standard input (its end stops the load, so nothing outlives the caller), answers
//! over its standard output, and writes the history to a file as it happens, which the caller follows.

mod child;
mod client;
mod options;
mod session;
mod tables;
mod work;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::check::Tables;
use crate::history::{History, HistoryError, Operation, Outcome, Tail, clock};
use crate::interrupt::WaitError;

pub use child::{Reply, serve};
pub use options::{LoadOptions, Mix};

/// How long the load may take to be under way: the primary may not be there yet.
const START_LIMIT: Duration = Duration::from_secs(90);
/// How long clients may take to end: each waits for its last statement.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How long reading the tables may take.
const TABLES_LIMIT: Duration = Duration::from_secs(120);
/// Between two looks at the history.
const PACE: Duration = Duration::from_millis(20);

/// Why a load could not be started, or its history not be read.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A program could not be run, or a file not be used.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The tables could not be made or read.
    #[error("the load's tables: {0}")]
    Tables(String),
    /// The process that runs the clients ended, or did not answer.
    #[error("the process that runs the clients {0}")]
    Child(String),
    /// See there.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// See there.
    #[error(transparent)]
    Wait(#[from] WaitError),
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> LoadError {
    let what = what.into();
    move |source| LoadError::Io { what, source }
}

/// How many writes ended how, so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Acknowledged.
    pub acknowledged: u64,
    /// Refused.
    pub failed: u64,
    /// Of unknown end.
    pub unknown: u64,
    /// Acknowledged within the last second.
    pub per_second: u64,
}

/// What the thread that follows the history shares.
#[derive(Debug, Default)]
struct Followed {
    operations: Mutex<Vec<Operation>>,
    problem: Mutex<Option<HistoryError>>,
    enough: AtomicBool,
}

impl Followed {
    fn operations(&self) -> MutexGuard<'_, Vec<Operation>> {
        // Operations are only ever added; a thread that panicked cannot have left half of one.
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running load. Dropping it ends it.
#[derive(Debug)]
pub struct Load {
    origin_us: u64,
    child: Child,
    /// Its end tells the child to end.
    commands: Option<ChildStdin>,
    replies: mpsc::Receiver<Reply>,
    followed: Arc<Followed>,
    follower: Option<JoinHandle<()>>,
}

/// The `pgvigil-chaos` that runs clients: the calling program or the one beside it (or one folder up, where cargo puts it
/// for tests).
pub fn find_program() -> Result<PathBuf, LoadError> {
    let own = std::env::current_exe().map_err(io("finding this program's folder"))?;
    let name = "pgvigil-chaos";
    if own.file_name().is_some_and(|own| own == name) {
        return Ok(own);
    }
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| LoadError::Child(format!("is to be {name} beside {}, which is not there", own.display())))
}

/// The command that starts a program as it is: for `Load::start` without network namespaces.
pub fn plain(program: &Path, arguments: &[String]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

impl Load {
    /// Makes the tables and starts the clients, in a process of their own. `wrap` makes the command that starts it (see
    /// `plain`), for example inside a network namespace. The history is written to `history` as it happens; its times
    /// count from `origin_us` on `history::clock`.
    pub fn start(
        options: &LoadOptions,
        origin_us: u64,
        history: &Path,
        wrap: impl FnOnce(&Path, &[String]) -> Command,
    ) -> Result<Load, LoadError> {
        std::fs::File::create(history).map_err(io(format!("making {}", history.display())))?;
        let options = serde_json::to_string(options).map_err(|e| io("the options")(e.into()))?;
        let arguments = [
            "load".to_owned(),
            "--options".to_owned(),
            options,
            "--origin-us".to_owned(),
            origin_us.to_string(),
            "--history".to_owned(),
            history.display().to_string(),
        ];
        let mut child = wrap(&find_program()?, &arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(io("starting the clients"))?;
        let commands = child.stdin.take();
        let (sender, replies) = mpsc::channel();
        let out = child.stdout.take().expect("it was asked for");
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let reply = serde_json::from_str(&line).unwrap_or_else(|e| Reply::Failed(format!("{e}: {line}")));
                // Nobody listens any more when the load is dropped.
                if sender.send(reply).is_err() {
                    return;
                }
            }
        });
        let followed = Arc::new(Followed::default());
        let mut load = Load { origin_us, child, commands, replies, followed, follower: None };
        match load.reply("starting", START_LIMIT)? {
            Reply::Started => {}
            other => return Err(LoadError::Child(format!("answered {other:?}"))),
        }
        let (mut tail, shared) = (Tail::open(history)?, Arc::clone(&load.followed));
        load.follower = Some(std::thread::spawn(move || follow(&mut tail, &shared)));
        Ok(load)
    }

    /// Microseconds since the run began: the clock of the history.
    pub fn now_us(&self) -> u64 {
        clock::now_us().saturating_sub(self.origin_us)
    }

    /// What has been done so far, for a live display.
    pub fn progress(&self) -> Progress {
        let now = self.now_us();
        let mut progress = Progress::default();
        for operation in self.followed.operations().iter().filter(|operation| operation.work.writes()) {
            match operation.outcome {
                Outcome::Ok => progress.acknowledged += 1,
                Outcome::Fail => progress.failed += 1,
                Outcome::Unknown => progress.unknown += 1,
            }
            let recent = operation.ended + 1_000_000 >= now;
            progress.per_second += u64::from(recent && operation.outcome == Outcome::Ok);
        }
        progress
    }

    /// How many writes that began after `since_us` have been acknowledged to clients that name every host.
    pub fn acknowledged_since(&self, since_us: u64) -> usize {
        let operations = self.followed.operations();
        let fresh = operations.iter().rev().take_while(|operation| operation.ended >= since_us);
        fresh.filter(|o| !o.direct && o.outcome == Outcome::Ok && o.work.writes() && o.began >= since_us).count()
    }

    /// What is in the history so far.
    pub fn so_far(&self) -> History {
        History { operations: self.followed.operations().clone() }
    }

    /// Stops the clients, waits for their last operations to end, and returns everything they did. The process stays, to
    /// read the tables once the cluster is well again.
    pub fn stop(&mut self) -> Result<History, LoadError> {
        match self.ask("stop", STOP_LIMIT)? {
            Reply::Stopped => {}
            other => return Err(LoadError::Child(format!("answered {other:?} when told to stop"))),
        }
        self.followed.enough.store(true, Ordering::Release);
        if let Some(follower) = self.follower.take() {
            // It panicked if at all on a bug, and said so.
            let _ = follower.join();
        }
        if let Some(problem) = self.followed.problem.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(problem.into());
        }
        Ok(self.so_far())
    }

    /// The load's tables on the present primary, read by the process that runs the clients, from where it is.
    pub fn tables(&mut self) -> Result<Tables, LoadError> {
        match self.ask("tables", TABLES_LIMIT)? {
            Reply::Tables(tables) => Ok(*tables),
            Reply::Failed(why) => Err(LoadError::Tables(why)),
            other => Err(LoadError::Child(format!("answered {other:?} when asked for the tables"))),
        }
    }

    fn ask(&mut self, command: &str, limit: Duration) -> Result<Reply, LoadError> {
        let stdin = self.commands.as_mut().ok_or_else(|| LoadError::Child("has been ended".to_owned()))?;
        writeln!(stdin, "{command}").map_err(io("telling the clients"))?;
        self.reply(command, limit)
    }

    fn reply(&mut self, what: &str, limit: Duration) -> Result<Reply, LoadError> {
        let deadline = Instant::now() + limit;
        loop {
            match self.replies.recv_timeout(Duration::from_millis(50)) {
                Ok(Reply::Failed(why)) if what == "starting" => return Err(LoadError::Tables(why)),
                Ok(reply) => return Ok(reply),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(LoadError::Child(format!("ended ({what}): {:?}", self.child.try_wait())));
                }
                Err(mpsc::RecvTimeoutError::Timeout) if Instant::now() > deadline => {
                    return Err(LoadError::Child(format!("did not answer within {limit:?} ({what})")));
                }
                Err(mpsc::RecvTimeoutError::Timeout) => crate::interrupt::check()?,
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.followed.enough.store(true, Ordering::Release);
        self.commands = None;
        let deadline = Instant::now() + Duration::from_secs(5);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        // What has not ended by itself is ended; what has cannot be killed any more.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(follower) = self.follower.take() {
            let _ = follower.join();
        }
    }
}

/// Reads the history as it grows. The last look comes after the clients have ended, so that nothing is missed.
fn follow(tail: &mut Tail, shared: &Followed) {
    loop {
        let enough = shared.enough.load(Ordering::Acquire);
        let mut new = Vec::new();
        let read = tail.read_new(&mut new);
        shared.operations().append(&mut new);
        if let Err(problem) = read {
            *shared.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
            return;
        }
        if enough {
            return;
        }
        std::thread::sleep(PACE);
    }
}
