//! openraft's log and vote on a simulated disk, after `raft-store/src/log_store.rs`.

use super::{
    disk::Change,
    runtime::world,
    types::{Entry, LogId, TypeConfig, Vote},
};
use crate::planted::Planted;
use openraft::{
    OptionalSend,
    storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage},
};
use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
};
use tokio::sync::oneshot;

/// The log of one host; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub host: usize,
}

impl Log {
    fn write(&self, change: Change) {
        let w = world();
        w.raft.real().write(&w, self.host, change);
    }
}

/// Waits until everything that `host` has written is flushed.
pub(super) async fn flushed(host: usize) {
    let (tell, told) = oneshot::channel();
    world().flush_raft(host, move || tell.send(()).unwrap_or_default());
    // Never dropped without a word in a process that goes on.
    told.await.ok();
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
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
        let w = world();
        let disk = w.raft.real().disk(self.host).borrow();
        Ok(disk.written.log.range(start.min(end)..end).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(world().raft.real().disk(self.host).borrow().written.vote)
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let w = world();
        let disk = w.raft.real().disk(self.host).borrow();
        Ok(LogState { last_purged_log_id: disk.written.purged, last_log_id: disk.written.last() })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        if world().planted == Some(Planted::VoteNotFlushed) {
            world().raft.real().disk(self.host).borrow_mut().written.vote = Some(*vote);
            return Ok(());
        }
        self.write(Change::Vote(*vote));
        flushed(self.host).await;
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.write(Change::Committed(committed));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(world().raft.real().disk(self.host).borrow().written.committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.write(Change::Append(entries.into_iter().collect()));
        if world().planted == Some(Planted::LogNotFlushed) {
            callback.io_completed(Ok(()));
        } else {
            world().flush_raft(self.host, move || callback.io_completed(Ok(())));
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.write(Change::Truncate(last.map_or(0, |id| id.index() + 1)));
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.write(Change::Purge(upto));
        Ok(())
    }
}
