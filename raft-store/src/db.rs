//! The one database behind log and state machine: framed reads and writes, and the memory of a failure.
//!
//! Log, vote and state share one write-ahead log, so that what survives a crash is always a prefix of what was
//! written: no vote without the log before it, no purge without the snapshot before it.

use crate::error::StoreError;
use crate::frame;
use crate::mark::DurableMark;
use crate::schema;
use rocksdb::{ColumnFamily, DB, IteratorMode, WriteBatch, WriteOptions};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{oneshot, watch};

/// A moment at which a crash is interesting; see [`Probe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WritePoint {
    /// About to hand the named change to RocksDB.
    BeforeWrite(&'static str),
    /// RocksDB has it in memory and in its unflushed write-ahead log.
    AfterWrite(&'static str),
    /// The write-ahead log is flushed; nobody has been told yet.
    Flushed,
    /// The durable mark is written; nobody has been told yet.
    Marked,
    /// Those who waited for the flush have been told.
    Reported,
}

/// Called at every [`WritePoint`]. Tests end the process here; production has none.
pub type Probe = Arc<dyn Fn(WritePoint) + Send + Sync>;

/// A raw key and its raw value.
pub(crate) type Row = (Box<[u8]>, Box<[u8]>);

/// How much the store has written since it was opened. Both stand still in an idle group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Batches handed to RocksDB.
    pub writes: u64,
    /// Flushes of the write-ahead log.
    pub flushes: u64,
}

/// The database with what belongs to it. Fields drop in order: the database closes before `_closed` tells so.
pub(crate) struct Db {
    rocks: DB,
    mark: DurableMark,
    probe: Option<Probe>,
    failed: watch::Sender<Option<String>>,
    writes: AtomicU64,
    flushes: AtomicU64,
    _closed: oneshot::Sender<()>,
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db").field("path", &self.rocks.path()).finish_non_exhaustive()
    }
}

impl Db {
    /// The receiver resolves (with an error, since nothing is sent) when the database is closed.
    pub(crate) fn new(rocks: DB, mark: DurableMark, probe: Option<Probe>) -> (Self, oneshot::Receiver<()>) {
        let (_closed, closed) = oneshot::channel();
        let (failed, _) = watch::channel(None);
        let (writes, flushes) = (AtomicU64::new(0), AtomicU64::new(0));
        (Self { rocks, mark, probe, failed, writes, flushes, _closed }, closed)
    }

    /// Becomes `Some(reason)` when the store has failed for good.
    pub(crate) fn failure(&self) -> watch::Receiver<Option<String>> {
        self.failed.subscribe()
    }

    pub(crate) fn counters(&self) -> Counters {
        Counters { writes: self.writes.load(Ordering::Relaxed), flushes: self.flushes.load(Ordering::Relaxed) }
    }

    /// Remembers the first failure, so that nothing is written after it and the supervisor sees it.
    pub(crate) fn fail(&self, error: StoreError) -> StoreError {
        if matches!(error, StoreError::Failed(_)) {
            return error;
        }
        let reason = error.full();
        tracing::error!(%reason, "the raft store failed; this node can no longer take part");
        self.failed.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert(reason);
            first
        });
        error
    }

    fn usable(&self) -> Result<(), StoreError> {
        match &*self.failed.borrow() {
            None => Ok(()),
            Some(reason) => Err(StoreError::Failed(reason.clone())),
        }
    }

    fn probe(&self, point: WritePoint) {
        if let Some(probe) = &self.probe {
            probe(point);
        }
    }

    pub(crate) fn family(&self, name: &'static str) -> &ColumnFamily {
        self.rocks.cf_handle(name).expect("every column family of the schema was opened")
    }

    /// Starts a change.
    pub(crate) fn change(&self, what: &'static str) -> Change<'_> {
        Change { db: self, what, batch: WriteBatch::default() }
    }

    /// Reads one value. `None` means that nothing is stored there, never that it could not be read.
    pub(crate) fn get<T: DeserializeOwned>(&self, family: &'static str, key: &str) -> Result<Option<T>, StoreError> {
        read(&self.rocks, family, key)
    }

    /// Reads bytes that carry their own frame, which the caller checks.
    pub(crate) fn get_framed(&self, family: &'static str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.rocks
            .get_cf(self.family(family), key)
            .map_err(|source| StoreError::Database { action: "read a stored value", source })
    }

    /// Reads the log entry at `index`.
    pub(crate) fn get_entry<T: DeserializeOwned>(&self, index: u64) -> Result<Option<T>, StoreError> {
        let stored = self
            .rocks
            .get_pinned_cf(self.family(schema::LOGS), schema::log_key(index))
            .map_err(|source| self.fail(StoreError::Database { action: "read a log entry", source }))?;
        stored.map(|bytes| frame::decode(&schema::log_name(index), &bytes)).transpose()
    }

    /// Every raw key and value of a family, in order.
    pub(crate) fn scan(&self, family: &'static str) -> impl Iterator<Item = Result<Row, StoreError>> + '_ {
        self.rocks
            .iterator_cf(self.family(family), IteratorMode::Start)
            .map(|row| row.map_err(|source| StoreError::Database { action: "read the stored rows", source }))
    }

    /// Flushes the write-ahead log and notes it in the durable mark. Blocks for as long as the disk takes.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.usable()?;
        // Taken before the flush: everything up to this number is in the log by now.
        let sequence = self.rocks.latest_sequence_number();
        self.rocks
            .flush_wal(true)
            .map_err(|source| self.fail(StoreError::Database { action: "flush the write-ahead log", source }))?;
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.probe(WritePoint::Flushed);
        self.mark.advance(sequence).map_err(|e| self.fail(e))?;
        self.probe(WritePoint::Marked);
        Ok(())
    }

    /// Marks the moment after those who waited for a flush were told.
    pub(crate) fn reported(&self) {
        self.probe(WritePoint::Reported);
    }
}

/// Reads one framed value from a database that may not have become a [`Db`] yet.
pub(crate) fn read<T: DeserializeOwned>(rocks: &DB, family: &str, key: &str) -> Result<Option<T>, StoreError> {
    let name = schema::name(family, key);
    let handle = rocks.cf_handle(family).expect("every column family of the schema was opened");
    let stored = rocks
        .get_pinned_cf(handle, key)
        .map_err(|source| StoreError::Database { action: "read a stored value", source })?;
    stored.map(|bytes| frame::decode(&name, &bytes)).transpose()
}

/// Several writes that happen together or not at all.
pub(crate) struct Change<'a> {
    db: &'a Db,
    what: &'static str,
    batch: WriteBatch,
}

impl Change<'_> {
    /// Sets one value.
    pub(crate) fn put<T: Serialize>(
        &mut self,
        family: &'static str,
        key: &str,
        value: &T,
    ) -> Result<&mut Self, StoreError> {
        let bytes = frame::encode(&schema::name(family, key), value).map_err(|e| self.db.fail(e))?;
        self.batch.put_cf(self.db.family(family), key, bytes);
        Ok(self)
    }

    /// Sets bytes that carry their own frame.
    pub(crate) fn put_framed(&mut self, family: &'static str, key: &str, bytes: &[u8]) -> &mut Self {
        self.batch.put_cf(self.db.family(family), key, bytes);
        self
    }

    /// Sets one log entry.
    pub(crate) fn put_entry<T: Serialize>(&mut self, index: u64, entry: &T) -> Result<&mut Self, StoreError> {
        let bytes = frame::encode(&schema::log_name(index), entry).map_err(|e| self.db.fail(e))?;
        self.batch.put_cf(self.db.family(schema::LOGS), schema::log_key(index), bytes);
        Ok(self)
    }

    /// Removes one value.
    pub(crate) fn delete(&mut self, family: &'static str, key: &str) -> &mut Self {
        self.batch.delete_cf(self.db.family(family), key);
        self
    }

    /// Removes the log entries `from..until`. A few go one by one, because every range leaves a tombstone of its own
    /// that all later reads must consult.
    pub(crate) fn delete_entries(&mut self, from: u64, until: u64) -> &mut Self {
        const FEW: u64 = 32;
        let family = self.db.family(schema::LOGS);
        if until.saturating_sub(from) <= FEW {
            for index in from..until {
                self.batch.delete_cf(family, schema::log_key(index));
            }
        } else {
            self.batch.delete_range_cf(family, schema::log_key(from), schema::log_key(until));
        }
        self
    }

    /// Hands the change to RocksDB: readable at once, safe from a crash of this process, not yet from one of the
    /// machine. Use the flusher for that.
    pub(crate) fn write(self) -> Result<(), StoreError> {
        self.db.usable()?;
        self.db.probe(WritePoint::BeforeWrite(self.what));
        self.db
            .rocks
            .write_opt(self.batch, &WriteOptions::default())
            .map_err(|source| self.db.fail(StoreError::Database { action: self.what, source }))?;
        self.db.writes.fetch_add(1, Ordering::Relaxed);
        self.db.probe(WritePoint::AfterWrite(self.what));
        Ok(())
    }
}
