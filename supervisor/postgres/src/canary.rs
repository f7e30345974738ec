//! The canary: a small commit of the agent's own under the durability rule, proof that PostgreSQL, its disk and k of
//! the cohort were alive and unsealed when it *began*. And the marker, which proves nothing by itself.
//!
//! Both commit a transactional logical message and touch no table, so nobody can lock, bloat or drop what they need. The
//! message takes a transaction id, so its commit is flushed and waits for standbys as any other (at every `wal_level`);
//! replay does nothing with it, and an output plugin that decodes messages sees prefix `pgvigil`. Earlier versions kept
//! a row in `pgvigil.canary`: that schema is left where it is, since somebody may have built on it; nothing uses it.

use crate::{
    clock::boottime_ms,
    conf_text::literal,
    link::{Endpoint, Link, QueryError, parse},
    wal_record::{LONG_HEADER, PAGE, SHORT_HEADER},
};
use pgvigil_core::lsn::Lsn;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// What one look at the canary found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// A commit was acknowledged under the rule, without a warning.
    Acknowledged {
        /// CLOCK_BOOTTIME milliseconds before its statement was sent: a right counts from here.
        began_ms: u64,
        /// A record's end, at or past the commit's: what a standby's flushed position is measured against. A flushed
        /// position would be no such place, for WAL is flushed page by page, too.
        lsn: Lsn,
        /// Its transaction id: when the next one has the next number, nobody else wrote in between.
        xid: u64,
        /// From sending to acknowledgement.
        took: Duration,
    },
    /// The commit that began then is still waiting. Ask again: it is the same one, no second is sent beside it.
    Pending {
        /// CLOCK_BOOTTIME milliseconds before its statement was sent (or, before that, its connection attempt).
        began_ms: u64,
    },
}

/// The canary failed. None of these is a success, whatever the local row says.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// The commit wait was cancelled: committed here, acknowledged by nobody (SQLSTATE class 01 while committing).
    #[error("the commit came back with a warning: {message} ({code})")]
    Warning {
        /// The warning's text.
        message: String,
        /// Its SQLSTATE.
        code: String,
    },
    /// The connection or the statement failed.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// Our own task died.
    #[error("the canary's task ended: {0}")]
    Task(String),
}

type Flight = JoinHandle<(Option<Link>, Result<Beat, CanaryError>)>;

/// Sends one commit at a time on a connection of its own.
#[derive(Debug)]
pub struct Canary {
    endpoint: Endpoint,
    key: String,
    link: Option<Link>,
    flight: Option<(u64, Flight)>,
}

/// How long a connection attempt may take; the commit itself has no limit of its own.
const CONNECT: Duration = Duration::from_secs(5);
/// In the canary's session the wait for standbys is not left to any default.
const PIN: &str = "-c synchronous_commit=on";

impl Canary {
    /// A canary whose messages say `key`, the member's name. Connects at the first beat.
    #[must_use]
    pub fn new(endpoint: Endpoint, key: &str) -> Self {
        Self { endpoint, key: key.to_owned(), link: None, flight: None }
    }

    /// Starts a commit unless one is under way, and waits for it up to `wait`. On a primary only. Cancel-safe.
    pub async fn beat(&mut self, wait: Duration) -> Result<Beat, CanaryError> {
        let (began_ms, flight) = match &mut self.flight {
            Some((began_ms, flight)) => (*began_ms, flight),
            none => {
                let began_ms = boottime_ms();
                let task = tokio::spawn(fly(self.link.take(), self.endpoint.clone(), self.key.clone()));
                let (_, flight) = none.insert((began_ms, task));
                (began_ms, flight)
            }
        };
        let Ok(landed) = tokio::time::timeout(wait, flight).await else { return Ok(Beat::Pending { began_ms }) };
        self.flight = None;
        let (link, result) = landed.map_err(|error| CanaryError::Task(error.to_string()))?;
        self.link = link;
        result
    }

    /// No canary is wanted now. The session is kept where it is idle: with every slot used it would not get in again.
    pub fn rest(&mut self) {
        if self.flight.is_some() {
            self.reset();
        }
    }

    /// Drops the connection and any commit under way; the next beat connects anew (after a restart, say).
    pub fn reset(&mut self) {
        if let Some((_, flight)) = self.flight.take() {
            flight.abort();
        }
        self.link = None;
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.reset();
    }
}

/// Emits the message and yields its transaction's id.
fn message(key: &str) -> String {
    format!(
        "SELECT pg_catalog.pg_current_xact_id() FROM pg_catalog.pg_logical_emit_message(true, 'pgvigil', {}::text)",
        literal(key)
    )
}

async fn fly(link: Option<Link>, endpoint: Endpoint, key: String) -> (Option<Link>, Result<Beat, CanaryError>) {
    // One that got in by another way gives it up once the usual one works again: it keeps people from dropping a database.
    let good = |link: &Link| !link.is_closed() && endpoint.keeps(link);
    let link = match link.filter(good) {
        Some(link) => link,
        None => match Link::connect(&endpoint, "canary", PIN, CONNECT).await {
            Ok(link) => link,
            Err(error) => return (None, Err(error.into())),
        },
    };
    match commit(&link, &key).await {
        Ok(beat) => (Some(link), Ok(beat)),
        // After a warning the connection is as good as before; after anything else nothing is known about it.
        Err(error @ CanaryError::Warning { .. }) => (Some(link), Err(error)),
        Err(error) => (None, Err(error)),
    }
}

/// A commit may wait for ever: that is the evidence. The caller watches the clock.
const UNBOUNDED: Duration = Duration::from_secs(86_400 * 365);

async fn commit(link: &Link, key: &str) -> Result<Beat, CanaryError> {
    const WHAT: &str = "commit the canary";
    drop(link.take_notices());
    let (began_ms, began) = (boottime_ms(), Instant::now());
    let xid = parse(WHAT, &link.value(WHAT, &message(key), UNBOUNDED).await?)?;
    let took = began.elapsed();
    // A cancelled wait for standbys is told by a WARNING before the command's completion, never by an error.
    if let Some(warning) = link.take_notices().into_iter().find(|notice| notice.code().code().starts_with("01")) {
        let (message, code) = (warning.message().to_owned(), warning.code().code().to_owned());
        return Err(CanaryError::Warning { message, code });
    }
    let lsn = end_of_records(link, CONNECT).await?;
    Ok(Beat::Acknowledged { began_ms, lsn, xid, took })
}

/// The end of the last record.
async fn end_of_records(link: &Link, limit: Duration) -> Result<Lsn, QueryError> {
    const WHAT: &str = "read the end of the last record";
    let next: Lsn = parse(WHAT, &link.value(WHAT, "SELECT pg_current_wal_insert_lsn()", limit).await?)?;
    // Where the next one begins: after a page's header, if the last one filled its page.
    let in_page = next.0 % PAGE;
    Ok(if matches!(in_page, SHORT_HEADER | LONG_HEADER) { Lsn(next.0 - in_page) } else { next })
}

/// Writes a marker (proof step D3b) without waiting for any standby, and returns M: a record's end at or past its own. The
/// caller then looks at what the walsenders report; the marker's own commit proves nothing (history A2). On a primary only.
pub async fn marker(endpoint: &Endpoint, limit: Duration) -> Result<Lsn, QueryError> {
    let link = Link::connect(endpoint, "marker", "-c synchronous_commit=local", limit).await?;
    link.execute("write the marker", &message("marker"), limit).await?;
    end_of_records(&link, limit).await
}
