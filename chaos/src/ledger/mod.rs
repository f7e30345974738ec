//! The write workload and its books: what every client was told, and when.
//!
//! Clients write continuously, one row per operation, each row numbered once for ever. Every operation ends `Ok`
//! (acknowledged without a warning), `Fail` (the server said it did not happen) or `Unknown` (anything else). The
//! books are kept in memory only and compared with the table of the present primary by `check`; `gap` reads from them
//! for how long writes stopped.

mod check;
mod client;
mod gap;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::libpq::{Address, ConnectError, Connection, Dsn, ExecError};

pub use check::Verdict;
pub use gap::Gap;

/// Why the workload could not start or its table could not be read.
#[derive(Debug, Error)]
pub enum LedgerError {
    /// No primary let us in.
    #[error("connecting to the primary to {0}: {1}")]
    Connect(&'static str, #[source] ConnectError),
    /// The statement failed.
    #[error("trying to {0}: {1}")]
    Statement(&'static str, #[source] ExecError),
    /// The statement succeeded only locally.
    #[error("trying to {0}: the server answered with a warning: {1}")]
    Warned(&'static str, String),
    /// A row that no client of ours can have written.
    #[error("the ledger's table holds a row that is not a pair of numbers: {0:?}")]
    Row(Vec<Option<String>>),
}

/// How an operation ended, as far as its client can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged without a warning: it must never be lost.
    Ok,
    /// Definitely not done: it must never appear.
    Fail,
    /// May be there or not.
    Unknown,
}

/// One operation in the books. Times count from the start of the workload, on a monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct Op {
    /// The row's number, unique over all clients.
    pub seq: u64,
    /// Just before the statement was handed to libpq.
    pub sent: Duration,
    /// When its end was known.
    pub ended: Duration,
    /// When the connection it went over had been established.
    pub connected: Duration,
    /// The port of the server that connection reached.
    pub port: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether the client was one that writes to a single server on purpose (see `Workload::pin`).
    pub pinned: bool,
}

/// How the clients behave.
#[derive(Debug, Clone)]
pub struct WorkloadOptions {
    /// Every server of the cluster.
    pub dsn: Dsn,
    /// How many clients write at once.
    pub clients: u32,
    /// From one statement of a client to its next.
    pub interval: Duration,
    /// After this a statement without an answer counts as unknown and its connection is closed.
    pub statement_deadline: Duration,
    /// An attempt to connect is given up after half of this to all of it, each its own; the next one asks the silent
    /// server last.
    pub connect_deadline: Duration,
}

impl WorkloadOptions {
    /// What the bench uses: one client, with a statement every 5 ms, half a second for an answer, 0.1 to 0.2 s
    /// for an attempt to connect.
    pub fn new(dsn: Dsn) -> WorkloadOptions {
        WorkloadOptions {
            dsn,
            clients: 1,
            interval: Duration::from_millis(5),
            statement_deadline: Duration::from_millis(500),
            connect_deadline: Duration::from_millis(200),
        }
    }
}

/// What the clients share.
#[derive(Debug)]
struct Shared {
    options: WorkloadOptions,
    /// The table written to: new for each workload, so that the books and the table start together.
    table: String,
    origin: Instant,
    next_seq: AtomicU64,
    stop: AtomicBool,
    books: Mutex<Vec<Op>>,
}

impl Shared {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn books(&self) -> MutexGuard<'_, Vec<Op>> {
        // An operation is recorded by one push; a client that panicked cannot have left half of one.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// Clients that write until they are told to stop. Dropping it stops them.
#[derive(Debug)]
pub struct Workload {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// A client that keeps writing to one server, whatever that server is; stopped when dropped.
#[derive(Debug)]
pub struct PinnedClient {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Workload {
    /// Creates the table and starts the clients.
    pub fn start(options: WorkloadOptions) -> Result<Workload, LedgerError> {
        let table = format!("pgvigil_ledger_{:08x}", rand::random::<u32>());
        let what = "create the ledger's table";
        let limit = Instant::now() + Duration::from_secs(10);
        let mut connection =
            Connection::connect(&options.dsn.to_string(), limit).map_err(|e| LedgerError::Connect(what, e))?;
        let sql = format!("CREATE TABLE {table} (seq bigint NOT NULL, client integer NOT NULL)");
        let answer = connection.exec(&sql, limit).map_err(|e| LedgerError::Statement(what, e))?;
        if let Some(warning) = answer.warnings.first() {
            return Err(LedgerError::Warned(what, warning.message.clone()));
        }
        let clients = options.clients;
        let shared = Arc::new(Shared {
            options,
            table,
            origin: Instant::now(),
            next_seq: AtomicU64::new(1),
            stop: AtomicBool::new(false),
            books: Mutex::new(Vec::new()),
        });
        let threads = (0..clients)
            .map(|number| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || client::roaming(&shared, number))
            })
            .collect();
        Ok(Workload { shared, threads })
    }

    /// Time since the start of the workload: the clock of the books.
    pub fn now(&self) -> Duration {
        self.shared.now()
    }

    /// Starts a client that writes to the server at `address` only and never gives up on an answer: it shows whether
    /// a server that lost its right to serve still acknowledges anything. Returns once it is connected, or at
    /// `limit` at the latest.
    pub fn pin(&self, address: Address, limit: Duration) -> PinnedClient {
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, connected) = std::sync::mpsc::channel();
        let (shared, flag) = (Arc::clone(&self.shared), Arc::clone(&stop));
        let thread = std::thread::spawn(move || client::pinned(&shared, address, &flag, &ready));
        // Not connected in time is no error: the client goes on trying.
        let _ = connected.recv_timeout(limit);
        PinnedClient { stop, thread: Some(thread) }
    }

    /// How long writes stopped around something that happened at `fault`; `None` while they have not resumed.
    /// `moved_from`: the port of a primary that must not be the one writes resumed on, if the fault moves the primary
    /// while it stays reachable.
    pub fn gap(&self, fault: Duration, moved_from: Option<u16>) -> Option<Gap> {
        gap::measure(&self.shared.books(), fault, moved_from)
    }

    /// How many writes the server at `port` acknowledged that were sent to it after `since`.
    pub fn acknowledged_by(&self, port: u16, since: Duration) -> usize {
        self.shared.books().iter().filter(|op| op.outcome == Outcome::Ok && op.port == port && op.sent > since).count()
    }

    /// How many writes that were sent after `since` are acknowledged, by whichever server.
    pub fn acknowledged_since(&self, since: Duration) -> usize {
        self.shared.books().iter().filter(|op| op.outcome == Outcome::Ok && op.sent > since).count()
    }

    /// Compares the books with the table of the present primary. Operations still under way are left out.
    pub fn check(&self) -> Result<Verdict, LedgerError> {
        check::check(&self.shared)
    }

    /// Stops the clients and waits for their last operations to end.
    pub fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            // A client that panicked has said so on the terminal; what it recorded stays in the books.
            let _ = thread.join();
        }
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Drop for PinnedClient {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
