//! The log, the vote and the marks beside them, as openraft wants them.
//!
//! An entry and a vote are reported durable only after the write-ahead log is flushed. The log has no holes: what
//! would leave one is refused, and a missing entry inside the log is an error to whoever reads it.

use crate::db::Db;
use crate::error::StoreError;
use crate::flusher::Flusher;
use crate::peers::Recorder;
use crate::schema::{COMMITTED, META, PURGED, TAIL, VOTE};
use crate::type_config::{Entry, LogId, TypeConfig, Vote};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, alias::VoteOf};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is known about the log without reading it. Always equal to what is stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extent {
    /// Index of the first stored entry, if there is one.
    pub(crate) first: Option<u64>,
    /// Id of the last stored entry, or of the last purged one.
    pub(crate) last: Option<LogId>,
    /// Id of the last purged entry.
    pub(crate) purged: Option<LogId>,
    /// The stored vote.
    pub(crate) vote: Option<Vote>,
}

/// The log. Clones share one log; openraft uses one to write and several to read.
#[derive(Clone, Debug)]
pub struct LogStore {
    db: Arc<Db>,
    flusher: Flusher,
    extent: Arc<Mutex<Extent>>,
    _recorder: Arc<Recorder>,
}

impl LogStore {
    pub(crate) fn new(db: Arc<Db>, flusher: Flusher, extent: Extent, _recorder: Arc<Recorder>) -> Self {
        Self { db, flusher, extent: Arc::new(Mutex::new(extent)), _recorder }
    }

    fn extent(&self) -> MutexGuard<'_, Extent> {
        // Every update below is one assignment after a successful write, so a panic cannot leave it half done.
        self.extent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes `entries`; they are readable when this returns, durable when the flusher says so.
    fn write_entries(&self, entries: impl IntoIterator<Item = Entry>) -> Result<(), StoreError> {
        let mut extent = self.extent();
        let (mut first, mut last) = (extent.first, extent.last);
        let mut change = self.db.change("append entries");
        for entry in entries {
            let (id, index) = (entry.log_id(), entry.index());
            // A hole would make openraft count entries that nobody holds. An empty log may start anywhere, since
            // openraft puts the purge mark in place after installing a snapshot.
            if let (Some(_), Some(last)) = (first, last)
                && index != last.index() + 1
            {
                let error = StoreError::Refused(format!("entry {index} after entry {} leaves a hole", last.index()));
                return Err(self.db.fail(error));
            }
            change.put_entry(index, &entry)?;
            first.get_or_insert(index);
            last = Some(id);
        }
        change.put(META, TAIL, &last)?;
        change.write()?;
        (extent.first, extent.last) = (first, last);
        Ok(())
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let extent = self.extent().clone();
        let (Some(first), Some(last)) = (extent.first, extent.last) else { return Ok(Vec::new()) };
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let (start, end) = (start.max(first), end.min(last.index() + 1));
        let mut entries = Vec::new();
        for index in start..end {
            match self.db.get_entry::<Entry>(index).map_err(|e| self.db.fail(e))? {
                Some(entry) => entries.push(entry),
                // Purged or truncated since the extent was read: the caller sees a shorter range.
                None if self.extent().first.is_none_or(|first| first > index) => {}
                None if self.extent().last.is_none_or(|last| last.index() < index) => break,
                None => {
                    let reason = format!("the log has no entry {index}, but holds {first} to {}", last.index());
                    return Err(self.db.fail(StoreError::Incomplete { reason }).into());
                }
            }
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<TypeConfig>>, io::Error> {
        Ok(self.extent().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let extent = self.extent();
        Ok(LogState { last_purged_log_id: extent.purged, last_log_id: extent.last })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<TypeConfig>) -> Result<(), io::Error> {
        let mut change = self.db.change("save the vote");
        change.put(META, VOTE, vote)?;
        change.write()?;
        self.extent().vote = Some(*vote);
        self.flusher.flushed().await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut change = self.db.change("save the committed mark");
        match committed {
            Some(id) => change.put(META, COMMITTED, &id)?,
            None => change.delete(META, COMMITTED),
        };
        // Not flushed: after a loss of power an older mark only means that openraft learns the newer one again.
        Ok(change.write()?)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.db.get(META, COMMITTED)?)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        match self.write_entries(entries) {
            Ok(()) => {
                self.flusher.then(move |result| callback.io_completed(result));
                Ok(())
            }
            Err(error) => {
                callback.io_completed(Err(io::Error::other(error.full())));
                Err(error.into())
            }
        }
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let mut extent = self.extent();
        let (Some(first), Some(last)) = (extent.first, extent.last) else { return Ok(()) };
        let from = last_log_id.map_or(0, |id| id.index() + 1);
        if from > last.index() {
            return Ok(());
        }
        // Nothing is left when the cut lies at or before the first entry; then the log ends where it was purged.
        let (kept_first, kept_last) = if from > first { (Some(first), last_log_id) } else { (None, extent.purged) };
        let mut change = self.db.change("truncate the log");
        change.delete_entries(from.max(first), last.index() + 1).put(META, TAIL, &kept_last)?;
        change.write()?;
        // Not flushed: entries that openraft appends in their place go through the same write-ahead log, after this.
        (extent.first, extent.last) = (kept_first, kept_last);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let mut extent = self.extent();
        if extent.purged.is_some_and(|purged| purged.index() >= log_id.index()) {
            return Ok(());
        }
        let keeps_some = extent.first.is_some() && extent.last.is_some_and(|last| last.index() > log_id.index());
        let last = if keeps_some { extent.last } else { Some(log_id) };
        // The snapshot that makes these entries superfluous was flushed before openraft asked for the purge, and the
        // applied state precedes the purge in the write-ahead log: no crash keeps the purge and loses either.
        let mut change = self.db.change("purge the log");
        if let Some(first) = extent.first {
            change.delete_entries(first, log_id.index() + 1);
        }
        change.put(META, PURGED, &log_id)?.put(META, TAIL, &last)?;
        change.write()?;
        extent.first = keeps_some.then(|| log_id.index() + 1);
        (extent.last, extent.purged) = (last, Some(log_id));
        Ok(())
    }
}
