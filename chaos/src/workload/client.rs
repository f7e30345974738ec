//! The clients: how they connect, and what they do again and again.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::options::LoadOptions;
use super::session::{Patience, Session, Stopped};
use super::work::{self, Done};
use crate::history::{Operation, clock, write_line};
use crate::libpq::{Address, ConnectError, Connection, ExecError};

/// Between two attempts to connect. Each asks every server, which costs each of them a process.
const BACKOFF: Duration = Duration::from_millis(10);
/// The same for a client of one server, which may be a standby for a long time.
const DIRECT_BACKOFF: Duration = Duration::from_millis(100);
/// How often the stubborn reader takes what its server has said.
const SLICE: Duration = Duration::from_millis(20);
/// How far back most looks for acknowledged rows go.
const RECENT: usize = 100;

/// What all clients share.
#[derive(Debug)]
pub(super) struct Shared {
    pub options: LoadOptions,
    pub schema: String,
    /// When the run began, on `history::clock`.
    pub origin_us: u64,
    pub history: Mutex<File>,
    pub stop: AtomicBool,
    next: AtomicU64,
    appends: AtomicU64,
    /// Rows that some client was told of, in the order in which it was.
    told: Mutex<Vec<u64>>,
}

impl Stopped for Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

impl Shared {
    pub fn new(options: LoadOptions, schema: String, origin_us: u64, history: File) -> Shared {
        Shared {
            options,
            schema,
            origin_us,
            history: Mutex::new(history),
            stop: AtomicBool::new(false),
            next: AtomicU64::new(1),
            appends: AtomicU64::new(0),
            told: Mutex::default(),
        }
    }

    /// A number that nobody else gets.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A value to append to a list.
    pub fn append(&self) -> u64 {
        self.appends.fetch_add(1, Ordering::Relaxed);
        self.number()
    }

    /// How many values were chosen for lists so far.
    pub fn appends(&self) -> u64 {
        self.appends.load(Ordering::Relaxed)
    }

    /// A row was acknowledged.
    pub fn remember(&self, seq: u64) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push(seq);
    }

    /// One of the rows that were acknowledged.
    pub fn recall(&self, random: &mut StdRng) -> Option<u64> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let from = if random.random_bool(0.8) { told.len().saturating_sub(RECENT) } else { 0 };
        (from < told.len()).then(|| told[random.random_range(from..told.len())])
    }

    fn now_us(&self) -> u64 {
        clock::now_us().saturating_sub(self.origin_us)
    }

    /// Adds an operation to the history.
    fn record(&self, operation: &Operation) {
        let mut file = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        // Without its history a load is worthless: it ends, and its caller hears of it.
        write_line(&mut *file, operation).unwrap_or_else(|error| panic!("writing the history: {error}"));
    }
}

/// A client as an application has it: every host named, a new connection as soon as the old one is of no use.
pub(super) fn roaming(shared: &Shared, number: u32) {
    let options = &shared.options;
    let mut random = StdRng::seed_from_u64(options.seed.wrapping_mul(1_000).wrapping_add(number.into()));
    let mut dsn = options.dsn.clone();
    while !shared.stopped() {
        match Connection::connect(&dsn.to_string(), Instant::now() + options.connect_deadline) {
            Ok(connection) => {
                let mut session = open(shared, connection, Patience::For(options.statement_deadline));
                while !shared.stopped() {
                    let from = Instant::now();
                    let done = once(shared, &mut session, number, false, |s| Some(work::any(shared, s, &mut random)));
                    if !done.is_some_and(|done| done.end.go_on) || !session.connection.is_up() {
                        break;
                    }
                    // Uneven, so that clients do not fall into step.
                    let pause = options.interval.mul_f64(random.random_range(0.5..1.5));
                    std::thread::sleep(pause.saturating_sub(from.elapsed()));
                }
            }
            // While it is silent, the others are asked before it.
            Err(ConnectError::Deadline(silent)) => dsn.ask_last(&silent),
            Err(_) => std::thread::sleep(BACKOFF),
        }
    }
}

/// A client of one server, which waits for an answer as long as it takes: it shows whether a server that must not serve
/// does so all the same. It writes or reads: a writer whose commit hangs must not keep a reader from asking.
pub(super) fn direct(shared: &Shared, number: u32, address: &Address, reads: bool) {
    let conninfo = shared.options.dsn.pinned(address.clone()).to_string();
    let mut random =
        StdRng::seed_from_u64(shared.options.seed.wrapping_mul(1_000).wrapping_add(500 + u64::from(number)));
    while !shared.stopped() {
        if let Ok(connection) = Connection::connect(&conninfo, Instant::now() + Duration::from_secs(1)) {
            let mut session = open(shared, connection, Patience::Until(shared));
            while !shared.stopped() {
                let done = once(shared, &mut session, number, true, |session| match reads {
                    true => work::lookup(shared, session, &mut random),
                    false => Some(work::insert(shared, session, &mut random)),
                });
                // It is asked again over the same connection: a standby that becomes a primary keeps it.
                let standby = done.as_ref().is_some_and(|done| done.end.read_only || done.server.timeline.is_none());
                let go_on = done.is_none_or(|done| done.end.go_on || done.end.read_only);
                if !go_on || !session.connection.is_up() {
                    break;
                }
                std::thread::sleep(if standby { DIRECT_BACKOFF } else { 2 * shared.options.interval });
            }
        }
        std::thread::sleep(DIRECT_BACKOFF);
    }
}

fn open<'a>(shared: &Shared, connection: Connection, patience: Patience<'a>) -> Session<'a> {
    let address = connection.address();
    Session { connection, address, connected: shared.now_us(), patience }
}

/// A client of one server that keeps its backend busy with one endless statement: a backend that rests notices the death
/// of its postmaster, and one that works does not. Each turn of the loop reads anew, and says when it began to.
pub(super) fn stubborn(shared: &Shared, number: u32, address: &Address) {
    let conninfo = shared.options.dsn.pinned(address.clone()).to_string();
    let mut random = StdRng::seed_from_u64(u64::from(number));
    while !shared.stopped() {
        let row = shared.recall(&mut random);
        let connection = Connection::connect(&conninfo, Instant::now() + Duration::from_secs(1));
        if let (Some(seq), Ok(connection)) = (row, connection) {
            let mut session = open(shared, connection, Patience::Until(shared));
            if session.connection.send(&work::endless(shared, seq)).is_ok() {
                while !shared.stopped() {
                    let end = session.connection.receive(Instant::now() + SLICE);
                    let ended = shared.now_us();
                    for notice in session.connection.take_notices() {
                        if let Some((began, done)) = work::said(&session, seq, &notice.message) {
                            let began = began.saturating_sub(shared.origin_us).min(ended);
                            shared.record(&operation(&session, number, true, (began, ended), &done));
                        }
                    }
                    if !matches!(end, Err(ExecError::Deadline)) {
                        break;
                    }
                }
            }
        }
        std::thread::sleep(DIRECT_BACKOFF);
    }
}

/// Does one piece of work and records it; what a standby says to a direct client is not worth recording.
fn once(
    shared: &Shared,
    session: &mut Session<'_>,
    client: u32,
    direct: bool,
    act: impl FnOnce(&mut Session<'_>) -> Option<Done>,
) -> Option<Done> {
    let began = shared.now_us();
    let done = act(session)?;
    let ended = shared.now_us();
    let from_standby = done.end.read_only || (!done.work.writes() && done.server.timeline.is_none());
    if !(direct && from_standby) {
        shared.record(&operation(session, client, direct, (began, ended), &done));
    }
    Some(done)
}

fn operation(session: &Session<'_>, client: u32, direct: bool, (began, ended): (u64, u64), done: &Done) -> Operation {
    Operation {
        client,
        direct,
        began,
        ended,
        connected: session.connected,
        server: Some(done.server.clone()),
        outcome: done.end.outcome,
        why: done.end.why.clone(),
        work: done.work.clone(),
    }
}
