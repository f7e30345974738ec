//! Nothing is known to run: what is in the data directory, and does something run in it?

use super::{Event, Tasks, sampler::Looker};
use crate::{in_force::Stamp, known::ServerId, ports::Wake, sampler};
use pgvigil_core::local::LocalPostgres;

/// What a data directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Empty,
    /// A data directory that the programs here can run.
    Data,
    /// Something else, or nobody knows. Why.
    Unusable(String),
}

/// A server that runs in the data directory.
#[derive(Clone, Debug)]
pub struct Running<P> {
    /// The server.
    pub postmaster: P,
    /// Its process id.
    pub server: ServerId,
    /// Tells its start from others.
    pub start: Option<Stamp>,
    /// It runs as a standby, by its own fence on disk.
    pub fenced: bool,
    /// Clients may be inside, as this agent left it.
    pub door_open: bool,
}

/// See the module.
pub(super) fn find<M: Tasks, L: Looker>(m: &M, looker: &L) {
    let half_made = m.known().local.directory.half_made.is_some();
    let content = looker.content();
    let postgres = match content {
        // No file in it tells anything; only whether something runs there counts.
        _ if half_made => match looker.running() {
            Ok(Some(running)) => return adopt(m, looker, running),
            _ => LocalPostgres::Stopped { crashed: true },
        },
        Content::Empty => LocalPostgres::NoData,
        Content::Unusable(why) => LocalPostgres::Unusable { why },
        Content::Data => match looker.running() {
            Ok(Some(running)) => return adopt(m, looker, running),
            Ok(None) => sampler::stopped(&m.known(), || looker.has_ended_clean()),
            Err(error) => LocalPostgres::Unusable { why: error.to_string() },
        },
    };
    let start = looker.last_start();
    let mut known = m.known();
    known.nothing_runs(start);
    if known.server.is_none() && known.local.postgres != postgres && !known.local.busy {
        known.local.postgres = postgres;
        if known.local.marker.is_none() && !half_made {
            known.local.marker = looker.marker();
        }
        drop(known);
        m.wake(Wake::Worker);
        m.wake(Wake::Report);
    }
}

/// A PostgreSQL that runs already: it is never restarted for our sake.
fn adopt<M: Tasks, L: Looker>(m: &M, looker: &L, running: Running<L::Postmaster>) {
    let Running { postmaster, server, start, fenced, door_open } = running;
    sampler::adopt(&mut m.known(), server, start, fenced, door_open);
    tracing::info!(member = %m.me(), server, "found PostgreSQL running");
    m.happens(Event::Found(server));
    looker.watch(postmaster);
}
