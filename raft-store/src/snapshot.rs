//! Snapshots: the whole state as framed bytes, small enough to be held in memory and sent in one piece.
//!
//! The bytes carry a frame of their own, so that what a follower installs is what the leader built.

use crate::db::{Change, Db};
use crate::error::StoreError;
use crate::flusher::Flusher;
use crate::frame;
use crate::schema::{SM, SNAPSHOT_DATA, SNAPSHOT_META};
use crate::state_machine::Applied;
use crate::type_config::{Snapshot, SnapshotMeta, TypeConfig};
use openraft::RaftSnapshotBuilder;
use pgvigil_core::State;
use std::io;
use std::sync::Arc;

/// What the checksum of a snapshot's bytes takes for the key.
const KEY: &str = "snapshot";

/// Builds one snapshot of the state as it was when the builder was made.
#[derive(Debug)]
pub struct SnapshotBuilder {
    db: Arc<Db>,
    flusher: Flusher,
    applied: Applied,
}

impl SnapshotBuilder {
    pub(crate) const fn new(db: Arc<Db>, flusher: Flusher, applied: Applied) -> Self {
        Self { db, flusher, applied }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let meta = SnapshotMeta { last_log_id: self.applied.last, last_membership: self.applied.membership.clone() };
        let snapshot = frame::encode(KEY, &self.applied.state).map_err(|e| self.db.fail(e))?;
        let mut change = self.db.change("save a snapshot");
        store(&mut change, &meta, &snapshot)?;
        change.write()?;
        // Flushed before openraft hears of it, because it then purges the log that the snapshot stands for.
        self.flusher.flushed().await?;
        Ok(Snapshot { meta, snapshot })
    }
}

/// Adds a snapshot to a change, in place of the one before it.
pub(crate) fn store(change: &mut Change<'_>, meta: &SnapshotMeta, bytes: &[u8]) -> Result<(), StoreError> {
    change.put(SM, SNAPSHOT_META, meta)?.put_framed(SM, SNAPSHOT_DATA, bytes);
    Ok(())
}

/// The current snapshot, checked.
pub(crate) fn load(db: &Db) -> Result<Option<Snapshot>, StoreError> {
    let meta: Option<SnapshotMeta> = db.get(SM, SNAPSHOT_META)?;
    let data = db.get_framed(SM, SNAPSHOT_DATA)?;
    match (meta, data) {
        (None, None) => Ok(None),
        (Some(meta), Some(snapshot)) => {
            open(&snapshot)?;
            Ok(Some(Snapshot { meta, snapshot }))
        }
        (meta, _) => {
            let missing = if meta.is_none() { "what it covers" } else { "its data" };
            Err(StoreError::Incomplete { reason: format!("the current snapshot lacks {missing}") })
        }
    }
}

/// The state in a snapshot's bytes.
pub(crate) fn open(bytes: &[u8]) -> Result<State, StoreError> {
    frame::decode(KEY, bytes)
}
