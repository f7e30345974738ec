//! A store driven step by step, and a model of what it must then hold.

#![allow(dead_code, reason = "every test file uses its own part")]

pub(crate) mod script;

use futures::stream;
use openraft::alias::LeaderIdOf;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, LogId as RaftLogId};
use pgvigil_core::Proposal;
use pgvigil_core::command::{Actor, Command as CoreCommand};
use pgvigil_core::id::ClusterId;
use pgvigil_core::settings::Settings;
use pgvigil_core::time::WallTime;
use pgvigil_raft_store::{Command, Entry, LogId, SnapshotMeta, Store, TypeConfig, Vote};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// One thing done to a store. Each is one batch in RocksDB.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Vote in this term.
    Vote(u64),
    /// Append the entries `from..=to` of a term.
    Append { term: u64, from: u64, to: u64 },
    /// Cut off everything after this index.
    Truncate(u64),
    /// Note everything up to this index as committed.
    Commit(u64),
    /// Apply everything up to this index.
    Apply(u64),
    /// Snapshot what is applied.
    Snapshot,
    /// Install a snapshot that reaches this index of this term.
    Install { term: u64, index: u64 },
    /// Purge everything up to this index.
    Purge(u64),
}

impl Step {
    /// Whether the store reports this step only once it is flushed.
    pub(crate) fn is_flushed(self) -> bool {
        matches!(self, Self::Vote(_) | Self::Append { .. } | Self::Snapshot | Self::Install { .. })
    }
}

/// What a store holds, in plain numbers: index -> term.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) vote: Option<u64>,
    pub(crate) log: BTreeMap<u64, u64>,
    pub(crate) purged: Option<u64>,
    pub(crate) committed: Option<u64>,
    pub(crate) applied: Option<(u64, u64)>,
    pub(crate) snapshot: Option<(u64, u64)>,
}

impl Model {
    pub(crate) fn take(&mut self, step: Step) {
        match step {
            Step::Vote(term) => self.vote = Some(term),
            Step::Append { term, from, to } => self.log.extend((from..=to).map(|index| (index, term))),
            Step::Truncate(after) => self.log.retain(|index, _| *index <= after),
            Step::Commit(index) => self.committed = Some(index),
            Step::Apply(index) => self.applied = Some((index, self.log[&index])),
            Step::Snapshot => self.snapshot = self.applied,
            Step::Install { term, index } => {
                self.applied = Some((index, term));
                self.snapshot = self.applied;
            }
            Step::Purge(index) => {
                self.log.retain(|i, _| *i > index);
                self.purged = Some(index);
            }
        }
    }

    /// What `store` really holds.
    pub(crate) async fn of(store: &mut Store) -> Self {
        let state = store.log.get_log_state().await.expect("readable");
        let entries = store.log.try_get_log_entries(..).await.expect("readable");
        let snapshot = store.state_machine.get_current_snapshot().await.expect("readable");
        let pair = |id: LogId| (id.index(), id.leader_id.term);
        Self {
            vote: store.log.read_vote().await.expect("readable").map(|vote| vote.leader_id.term),
            log: entries.iter().map(|entry| pair(entry.log_id())).collect(),
            purged: state.last_purged_log_id.map(|id| id.index()),
            committed: store.log.read_committed().await.expect("readable").map(|id| id.index()),
            applied: store.state_machine.applied_state().await.expect("readable").0.map(pair),
            snapshot: snapshot.and_then(|s| s.meta.last_log_id).map(pair),
        }
    }
}

/// Does one step and returns when the store has reported it done.
pub(crate) async fn perform(store: &mut Store, step: Step) {
    match step {
        Step::Vote(term) => store.log.save_vote(&Vote::new(term, 1)).await.expect("saved"),
        Step::Append { term, from, to } => append(store, (from..=to).map(|i| entry(term, i)).collect()).await,
        Step::Truncate(after) => {
            let id = id_in_log(store, after).await;
            store.log.truncate_after(Some(id)).await.expect("truncated");
        }
        Step::Commit(index) => {
            let id = id_in_log(store, index).await;
            store.log.save_committed(Some(id)).await.expect("saved");
        }
        Step::Apply(index) => {
            let from = store.state_machine.applied_state().await.expect("readable").0.map_or(0, |id| id.index() + 1);
            let entries = store.log.try_get_log_entries(from..=index).await.expect("readable");
            let stream = stream::iter(entries.into_iter().map(|entry| Ok((entry, None))));
            store.state_machine.apply(stream).await.expect("applied");
        }
        Step::Snapshot => {
            let mut builder = store.state_machine.get_snapshot_builder().await;
            builder.build_snapshot().await.expect("built");
        }
        Step::Install { term, index } => {
            let old = store.state_machine.get_current_snapshot().await.expect("readable").expect("there is one");
            let meta = SnapshotMeta { last_log_id: Some(id(term, index)), ..old.meta };
            store.state_machine.install_snapshot(&meta, old.snapshot).await.expect("installed");
        }
        Step::Purge(index) => {
            let term = store.state_machine.applied_state().await.expect("readable").0.map_or(0, |id| id.leader_id.term);
            let id = match find_in_log(store, index).await {
                Some(id) => id,
                None => id(term, index),
            };
            store.log.purge(id).await.expect("purged");
        }
    }
}

pub(crate) async fn append(store: &mut Store, entries: Vec<Entry>) {
    let (tell, told) = TypeConfig::oneshot();
    store.log.append(entries, IOFlushed::<TypeConfig>::signal(tell)).await.expect("appended");
    told.await.expect("called back").expect("flushed");
}

async fn find_in_log(store: &mut Store, index: u64) -> Option<LogId> {
    store.log.try_get_log_entries(index..=index).await.expect("readable").first().map(RaftEntry::log_id)
}

async fn id_in_log(store: &mut Store, index: u64) -> LogId {
    find_in_log(store, index).await.expect("the script names entries that exist")
}

pub(crate) fn id(term: u64, index: u64) -> LogId {
    RaftLogId::new(LeaderIdOf::<TypeConfig> { term, node_id: 1 }, index)
}

pub(crate) fn entry(term: u64, index: u64) -> Entry {
    fat_entry(term, index, 0)
}

/// With `size` more bytes in it.
pub(crate) fn fat_entry(term: u64, index: u64, size: usize) -> Entry {
    let proposal = Proposal {
        cluster: ClusterId::from(format!("cluster{index}").as_str()),
        based_on: None,
        at: WallTime(0),
        by: Actor::Operator("test".to_owned()),
        reason: "a test".to_owned(),
        evidence: vec!["x".repeat(size)],
        command: CoreCommand::CreateCluster { settings: Settings::default(), expect: BTreeSet::new() },
    };
    Entry { log_id: id(term, index), payload: EntryPayload::Normal(Command(proposal)) }
}

/// Copies a directory tree.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory can be made");
    for item in std::fs::read_dir(from).expect("readable") {
        let item = item.expect("readable");
        let target = to.join(item.file_name());
        if item.file_type().expect("known").is_dir() {
            copy(&item.path(), &target);
        } else {
            std::fs::copy(item.path(), target).expect("copied");
        }
    }
}

/// Opens the store of node 1.
pub(crate) fn reopen(path: &Path) -> Store {
    pgvigil_raft_store::open(path, 1, None).expect("the store opens").0
}

/// Every write-ahead log of the database in `path`.
pub(crate) fn write_ahead_logs(path: &Path) -> Vec<std::path::PathBuf> {
    let mut logs: Vec<_> = std::fs::read_dir(path.join("db"))
        .expect("readable")
        .map(|item| item.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    logs.sort();
    logs
}
