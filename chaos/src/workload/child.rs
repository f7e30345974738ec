//! The process that runs the clients: `pgvigil-chaos load`.

use std::fs::OpenOptions;
use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::client::{self, Shared};
use super::options::LoadOptions;
use super::{LoadError, START_LIMIT, TABLES_LIMIT, io, tables};
use crate::check::Tables;
use crate::interrupt;
use crate::libpq::Address;

/// An answer of the process that runs the clients, one JSON line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// The tables are there and the clients run.
    Started,
    /// The clients have ended, and the history is complete.
    Stopped,
    /// The tables, as they are.
    Tables(Box<Tables>),
    /// It could not be done.
    Failed(String),
}

/// Runs the clients until standard input ends or SIGTERM comes. Commands are lines: `stop` ends the clients, `tables`
/// reads the tables.
pub fn serve(options: LoadOptions, origin_us: u64, history: &Path) -> Result<(), LoadError> {
    let file = OpenOptions::new().append(true).create(true).open(history);
    let file = file.map_err(io(format!("opening {}", history.display())))?;
    let schema = format!("pgvigil_load_{:08x}", rand::random::<u32>());
    if let Err(why) = tables::make(&options.dsn, &schema, START_LIMIT) {
        return say(&Reply::Failed(why));
    }
    let shared = Arc::new(Shared::new(options, schema, origin_us, file));
    let mut clients = start(&shared);
    say(&Reply::Started)?;
    let commands = commands();
    while interrupt::check().is_ok() {
        // A client that panicked has said why; the load is not what it should be any more.
        if clients.iter().any(|client| client.is_finished() && !shared.stop.load(Ordering::Acquire)) {
            return say(&Reply::Failed("a client has ended".to_owned()));
        }
        match commands.recv_timeout(Duration::from_millis(50)) {
            Ok(line) if line == "stop" => {
                shared.stop.store(true, Ordering::Release);
                let ended = clients.drain(..).map(JoinHandle::join).all(|end| end.is_ok());
                say(&if ended { Reply::Stopped } else { Reply::Failed("a client panicked".to_owned()) })?;
            }
            Ok(line) if line == "tables" => {
                let read = tables::read(&shared.options.dsn, &shared.schema, TABLES_LIMIT / 2);
                say(&read.map_or_else(Reply::Failed, |tables| Reply::Tables(Box::new(tables))))?;
            }
            Ok(line) => say(&Reply::Failed(format!("unknown command {line:?}")))?,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    shared.stop.store(true, Ordering::Release);
    for client in clients {
        // Nobody is left who could be told.
        let _ = client.join();
    }
    Ok(())
}

fn start(shared: &Arc<Shared>) -> Vec<JoinHandle<()>> {
    let roaming = (0..shared.options.clients).map(|number| {
        let shared = Arc::clone(shared);
        std::thread::spawn(move || client::roaming(&shared, number))
    });
    let mut clients: Vec<JoinHandle<()>> = roaming.collect();
    let mut next = shared.options.clients;
    let mut spawn = |act: fn(&Shared, u32, &Address), address: &Address| {
        let (shared, address, number) = (Arc::clone(shared), address.clone(), next);
        next += 1;
        clients.push(std::thread::spawn(move || act(&shared, number, &address)));
    };
    for address in &shared.options.dsn.addresses {
        if shared.options.direct {
            spawn(|shared, number, address| client::direct(shared, number, address, false), address);
            spawn(|shared, number, address| client::direct(shared, number, address, true), address);
        }
        if shared.options.stubborn {
            spawn(client::stubborn, address);
        }
    }
    clients
}

/// The lines of standard input.
fn commands() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn say(reply: &Reply) -> Result<(), LoadError> {
    let mut out = std::io::stdout().lock();
    let line = serde_json::to_string(reply).map_err(|e| io("answering")(e.into()))?;
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(io("answering"))
}
