//! What a node's store has written, and how much of that would survive a loss of power: the order of a write-ahead log.

use super::{
    super::Applied,
    types::{Entry, LogId, SnapshotMeta, StoredMembership, Vote},
};
use crate::{exec::Micros, rng::Rng, world::World};
use openraft::entry::RaftEntry;
use std::{collections::BTreeMap, fmt, rc::Rc};

/// What a store holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub vote: Option<Vote>,
    pub log: BTreeMap<u64, Entry>,
    pub purged: Option<LogId>,
    pub committed: Option<LogId>,
    pub applied: AppliedRow,
    pub snapshot: Option<(SnapshotMeta, Rc<Applied>)>,
}

/// The applied state, in one row with its log id and membership.
#[derive(Clone, Debug, Default)]
pub(super) struct AppliedRow {
    pub last: Option<LogId>,
    pub membership: StoredMembership,
    /// Nothing before the first entry.
    pub state: Option<Rc<Applied>>,
}

/// One atomic write.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Vote(Vote),
    Append(Vec<Entry>),
    /// Entries from this index on go.
    Truncate(u64),
    /// Entries up to this one go.
    Purge(LogId),
    Committed(Option<LogId>),
    Applied(AppliedRow),
    Snapshot(SnapshotMeta, Rc<Applied>),
    /// A leader's snapshot, and the state that it holds.
    Install(SnapshotMeta, AppliedRow),
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = |id: Option<LogId>| id.map_or_else(|| "nothing".to_owned(), |id| id.to_string());
        let vote = self.vote.map_or_else(|| "none".to_owned(), |vote| vote.to_string());
        let snapshot = self.snapshot.as_ref().and_then(|(meta, _)| meta.last_log_id);
        write!(
            f,
            "vote {vote}, log {}, purged {}, committed {}, applied {}, snapshot {}",
            id(self.last()),
            id(self.purged),
            id(self.committed),
            id(self.applied.last),
            id(snapshot)
        )
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vote(vote) => write!(f, "vote {vote}"),
            Self::Append(entries) => {
                f.write_str("entries")?;
                entries.iter().try_for_each(|entry| write!(f, " {}", entry.log_id()))
            }
            Self::Truncate(from) => write!(f, "the end of the log before {from}"),
            Self::Purge(upto) => write!(f, "the beginning of the log after {upto}"),
            Self::Committed(mark) => write!(f, "committed {}", mark.map_or_else(String::new, |id| id.to_string())),
            Self::Applied(row) => write!(f, "applied {}", row.last.map_or_else(String::new, |id| id.to_string())),
            Self::Snapshot(meta, _) | Self::Install(meta, _) => write!(f, "snapshot {meta}"),
        }
    }
}

impl Image {
    fn take(&mut self, change: &Change) {
        match change {
            Change::Vote(vote) => self.vote = Some(*vote),
            Change::Append(entries) => self.log.extend(entries.iter().map(|entry| (entry.index(), entry.clone()))),
            Change::Truncate(from) => drop(self.log.split_off(from)),
            Change::Purge(upto) => {
                self.log = self.log.split_off(&(upto.index() + 1));
                self.purged = Some(*upto);
            }
            Change::Committed(mark) => self.committed = *mark,
            Change::Applied(row) => self.applied = row.clone(),
            Change::Snapshot(meta, state) => self.snapshot = Some((meta.clone(), Rc::clone(state))),
            Change::Install(meta, row) => {
                self.snapshot = row.state.clone().map(|state| (meta.clone(), state));
                self.applied = row.clone();
            }
        }
    }

    /// The last entry, or the last purged one.
    pub fn last(&self) -> Option<LogId> {
        self.log.last_key_value().map(|(_, entry)| entry.log_id()).or(self.purged)
    }
}

/// One node's store.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// As processes read it.
    pub written: Image,
    /// As it is after a loss of power at the worst moment.
    pub flushed: Image,
    unflushed: Vec<Change>,
    /// Changes that were flushed so far.
    done: u64,
    /// When the flush that was asked for last is over.
    busy_until: Micros,
}

impl Disk {
    pub fn write(&mut self, change: Change) {
        self.written.take(&change);
        self.unflushed.push(change);
    }

    fn flush(&mut self, upto: u64) {
        let count = usize::try_from(upto.saturating_sub(self.done)).unwrap_or(0).min(self.unflushed.len());
        for change in self.unflushed.drain(..count) {
            self.flushed.take(&change);
        }
        self.done += count as u64;
    }

    /// What was not flushed is gone, or all of it after some point: a write-ahead log is cut, never perforated.
    pub fn lose_power(&mut self, rng: &Rng) {
        let survives = rng.range(0, self.unflushed.len() as u64);
        self.flush(self.done + survives);
        self.unflushed.clear();
        self.written = self.flushed.clone();
        self.busy_until = 0;
    }
}

impl World {
    /// Flushes what is written by now on `host`, then calls `then`; never if the process ends first.
    pub(super) fn flush_raft(&self, host: usize, then: impl FnOnce() + 'static) {
        let disk = self.raft.real().disk(host);
        let (upto, at) = {
            let mut disk = disk.borrow_mut();
            // One thread flushes: what was asked for first is done first.
            disk.busy_until = disk.busy_until.max(self.exec.now() + self.disk_delay(host));
            (disk.done + disk.unflushed.len() as u64, disk.busy_until)
        };
        self.finish_flush(host, at, upto, Box::new(then));
    }

    fn finish_flush(&self, host: usize, at: Micros, upto: u64, then: Box<dyn FnOnce()>) {
        self.call_at(host, at, move |w| {
            let stalled_until = w.hosts[host].disk.borrow().stalled_until;
            if stalled_until > w.exec.now() {
                w.finish_flush(host, stalled_until, upto, then);
            } else {
                w.raft.real().disk(host).borrow_mut().flush(upto);
                then();
            }
        });
    }
}
