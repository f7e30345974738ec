//! The position: the end of valid WAL on disk along one pinned timeline history.
//!
//! Nothing else tells it. The walreceiver's position is lost at a restart and goes back at a timeline switch, replay
//! may lag, pg_control lags always (histories A3, A4). So the files are read as crash recovery would read them, after
//! an fsync of each: what is counted is on disk.

use crate::{
    fsio::sync_dir,
    wal_record::{Found, Link, Prefer, Reader},
};
use pgvigil_core::{id::TimelineId, lsn::Lsn, timeline::TimelineHistory};
use std::path::{Path, PathBuf};

pub use crate::wal_record::{PAGE, WalError, WalFormat};

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// A record is known to begin here and to be whole: the redo position of a checkpoint. Not finding it is an error.
    Record(Lsn),
    /// A record ended here (a replay position); there may be nothing after it. Verified by reading forward to it from
    /// the nearest record start before, so that the next record's link is known exactly: a recycled segment may hold a
    /// stale record with a good checksum at any place.
    Boundary(Lsn),
}

/// The end of valid WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalEnd {
    /// The end of the last valid record, aligned as PostgreSQL continues: its end-of-recovery position.
    pub end: Lsn,
    /// The timeline that owns the last byte before it.
    pub owner: TimelineId,
    /// Where the last valid record begins (for a boundary without anything after it: the record that ends there).
    pub last_record: Option<Lsn>,
    /// How many records were read.
    pub records: u64,
    /// What ended the reading.
    pub reason: &'static str,
    /// The segment files that were fsynced and read.
    pub segments: Vec<PathBuf>,
}

/// Finds the end of valid WAL in `pg_wal` along `history`, from `start`. Blocking: about a millisecond for a few
/// pages, a second per gigabyte or so; fsyncs what it reads.
///
/// Nothing may write WAL meanwhile (no walreceiver, no primary), or the answer is merely a lower bound.
pub fn end_of_wal(
    pg_wal: &Path,
    history: &TimelineHistory,
    format: WalFormat,
    start: Start,
) -> Result<WalEnd, WalError> {
    sync_dir(pg_wal).map_err(|error| WalError::Io { path: error.path, source: error.source })?;
    let mut reader = Reader::new(pg_wal, history, format);
    let (Start::Record(from) | Start::Boundary(from)) = start;
    let mut result = WalEnd {
        end: from,
        owner: history.owner_of_end(from),
        last_record: None,
        records: 0,
        reason: "",
        segments: Vec::new(),
    };
    if let Start::Boundary(at) = start {
        result.last_record = Some(verify_boundary(&mut reader, at)?);
    }
    loop {
        let link = result.last_record.map_or(Link::Before, Link::Exactly);
        match next(&mut reader, result.end, link)? {
            Found::Record(record) => {
                result.end = record.next;
                result.last_record = Some(record.start);
                result.records += 1;
            }
            Found::End(problem) => {
                if let (Start::Record(at), 0) = (start, result.records) {
                    return Err(WalError::NoRecord { at, problem });
                }
                result.reason = problem;
                break;
            }
        }
    }
    result.owner = history.owner_of_end(result.end);
    result.segments = reader.synced;
    Ok(result)
}

/// Reads forward to `at` from the nearest record start before it; returns the start of the record that ends there.
fn verify_boundary(reader: &mut Reader<'_>, at: Lsn) -> Result<Lsn, WalError> {
    for prefer in [Prefer::Owner, Prefer::Newest] {
        let Some(mut from) = reader.record_before(at, prefer)? else { continue };
        let mut link = Link::Before;
        while let Found::Record(record) = next(reader, from, link)? {
            if record.next == at {
                return Ok(record.start);
            }
            if record.next > at {
                break;
            }
            link = Link::Exactly(record.start);
            from = record.next;
        }
    }
    Err(WalError::NotOnLine { at, timeline: reader.timeline() })
}

/// One record, from whichever file of the segment holds it whole: a copy on a newer timeline may be shorter than the
/// owner's file (history A3) or, after streaming began anew there, longer.
fn next(reader: &mut Reader<'_>, at: Lsn, link: Link) -> Result<Found, WalError> {
    match reader.record(at, link, Prefer::Owner)? {
        Found::End(reason) => match reader.record(at, link, Prefer::Newest)? {
            found @ Found::Record(_) => Ok(found),
            Found::End(_) => Ok(Found::End(reason)),
        },
        found => Ok(found),
    }
}
