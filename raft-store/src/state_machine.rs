//! The replicated state machine: calls the core's `apply` for each committed proposal and publishes what came of it.
//!
//! The applied state is stored with every batch of applied entries, in one row with its log id and membership. It
//! could be rebuilt from the last snapshot and the log instead, but then a program whose `apply` has changed would
//! replay old entries by new rules and end up with a state that no other member has.

use crate::db::Db;
use crate::digest::Digests;
use crate::error::StoreError;
use crate::flusher::Flusher;
use crate::schema::{APPLIED, SM};
use crate::snapshot::{self, SnapshotBuilder};
use crate::type_config::{LogId, Reply, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};
use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::entry::{EntryPayload, RaftEntry};
use openraft::storage::{EntryResponder, RaftStateMachine};
use pgvigil_core::State;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use tokio::sync::watch;

/// The agreed state as of one log entry. A consumer that waits on the watch may skip some, never the newest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AppliedState {
    /// Index of the last applied log entry; 0 also before the first, which is never a proposal.
    pub index: u64,
    /// The state after it. What this node has applied: it may be behind what the group has committed.
    pub state: State,
}

/// Everything applied so far, as stored in one row.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Applied {
    /// The last applied entry.
    pub(crate) last: Option<LogId>,
    /// The last applied membership.
    pub(crate) membership: StoredMembership,
    /// The state after `last`.
    pub(crate) state: State,
}

impl Applied {
    /// As the watch shows it.
    pub(crate) fn published(&self) -> Arc<AppliedState> {
        Arc::new(AppliedState { index: self.last.map_or(0, |id| id.index()), state: self.state.clone() })
    }
}

/// The state machine; openraft owns it and calls it from one task.
#[derive(Debug)]
pub struct StateMachine {
    db: Arc<Db>,
    flusher: Flusher,
    applied: Applied,
    states: watch::Sender<Arc<AppliedState>>,
    digests: Digests,
}

impl StateMachine {
    pub(crate) fn new(
        db: Arc<Db>,
        flusher: Flusher,
        applied: Applied,
        digests: Digests,
    ) -> (Self, watch::Receiver<Arc<AppliedState>>) {
        let (states, receiver) = watch::channel(applied.published());
        if let Some(last) = applied.last {
            digests.begin(last.index(), &applied.state);
        }
        (Self { db, flusher, applied, states, digests }, receiver)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied.last, self.applied.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut answers = Vec::new();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let id = entry.log_id();
            let reply = match entry.payload {
                EntryPayload::Blank => None,
                EntryPayload::Normal(command) => Some(pgvigil_core::apply(&mut self.applied.state, &command.0)),
                EntryPayload::Membership(membership) => {
                    self.applied.membership = StoredMembership::new(Some(id), membership);
                    None
                }
            };
            self.applied.last = Some(id);
            self.digests.note(id.index(), &self.applied.state);
            if let Some(responder) = responder {
                answers.push((responder, Reply(reply)));
            }
        }
        // Not flushed: after a loss of power the log still holds these entries, and openraft applies them again.
        let mut change = self.db.change("apply entries");
        change.put(SM, APPLIED, &self.applied)?;
        change.write()?;
        // Published before anybody is answered: who proposed something finds it in the watch.
        self.states.send_replace(self.applied.published());
        for (responder, reply) in answers {
            responder.send(reply);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        SnapshotBuilder::new(self.db.clone(), self.flusher.clone(), self.applied.clone())
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Vec<u8>) -> Result<(), io::Error> {
        let state = snapshot::open(&snapshot)?;
        let applied = Applied { last: meta.last_log_id, membership: meta.last_membership.clone(), state };
        let mut change = self.db.change("install a snapshot");
        change.put(SM, APPLIED, &applied)?;
        snapshot::store(&mut change, meta, &snapshot)?;
        change.write()?;
        self.flusher.flushed().await?;
        if let Some(last) = applied.last {
            self.digests.begin(last.index(), &applied.state);
        }
        self.applied = applied;
        self.states.send_replace(self.applied.published());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        snapshot::load(&self.db).map_err(|e: StoreError| self.db.fail(e).into())
    }
}
