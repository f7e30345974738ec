//! openraft's state machine on a simulated disk, after `raft-store/src/state_machine.rs`: the shipped `apply`.

use super::{
    super::Applied,
    disk::{AppliedRow, Change},
    log::flushed,
    runtime::world,
    types::{Data, Entry, LogId, Reply, Snapshot, SnapshotMeta, StoredMembership, TypeConfig},
};
use futures::{Stream, StreamExt};
use openraft::{
    OptionalSend, RaftSnapshotBuilder,
    entry::{EntryPayload, RaftEntry},
    storage::{EntryResponder, RaftStateMachine},
};
use pgvigil_core::Outcome;
use std::{io, sync::Arc};

/// The state machine of one host.
#[derive(Debug)]
pub struct Machine {
    pub(super) host: usize,
}

impl Machine {
    /// Applies one entry, writes what came of it, and says it.
    fn apply_one(&self, entry: Entry) -> Option<Outcome> {
        let w = world();
        let id = entry.log_id();
        let real = w.raft.real();
        let (outcome, state) = real.agree(&w, self.host, id, &entry.payload);
        let mut row = real.disk(self.host).borrow().written.applied.clone();
        if let EntryPayload::Membership(membership) = entry.payload {
            row.membership = StoredMembership::new(Some(id), membership);
        }
        row.last = Some(id);
        row.state = Some(state);
        real.write(&w, self.host, Change::Applied(row));
        outcome
    }

    fn publish(&self) {
        let w = world();
        w.raft.real().publish(&w, self.host);
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Data;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let row = world().raft.real().disk(self.host).borrow().written.applied.clone();
        Ok((row.last, row.membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let outcome = self.apply_one(entry);
            if let Some(responder) = responder {
                answers.push((responder, Reply(outcome)));
            }
        }
        self.publish();
        for (responder, reply) in answers {
            responder.send(reply);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        let row = world().raft.real().disk(self.host).borrow().written.applied.clone();
        let meta = SnapshotMeta { last_log_id: row.last, last_membership: row.membership };
        let state = row.state.map(|applied| applied.state.clone()).unwrap_or_default();
        Builder { host: self.host, meta, state: Arc::new(state) }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Data) -> Result<(), io::Error> {
        {
            let w = world();
            w.cover.hit("raft", "snapshot-installed");
            let state = Some(Applied::of((*snapshot).clone()));
            let row = AppliedRow { last: meta.last_log_id, membership: meta.last_membership.clone(), state };
            w.raft.real().write(&w, self.host, Change::Install(meta.clone(), row));
        }
        flushed(self.host).await;
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let kept = world().raft.real().disk(self.host).borrow().written.snapshot.clone();
        Ok(kept.map(|(meta, applied)| Snapshot { meta, snapshot: Arc::new(applied.state.clone()) }))
    }
}

/// Builds one snapshot of the state as it was when this was made.
#[derive(Debug)]
pub struct Builder {
    host: usize,
    meta: SnapshotMeta,
    state: Data,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Data;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        {
            let w = world();
            w.cover.hit("raft", "snapshot-built");
            let state = Applied::of((*self.state).clone());
            w.raft.real().write(&w, self.host, Change::Snapshot(self.meta.clone(), state));
        }
        flushed(self.host).await;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Arc::clone(&self.state) })
    }
}
