//! Reads a store without changing anything: for people and for checks, while its node is stopped or runs.

use crate::error::StoreError;
use crate::open::{DATABASE, family, read_identity};
use crate::options;
use crate::schema::{APPLIED, LOGS, PURGED, SM, SNAPSHOT_DATA, SNAPSHOT_META, log_index, log_name};
use crate::state_machine::Applied;
use crate::type_config::{Entry, LogId, SnapshotMeta};
use crate::{db, frame, snapshot};
use openraft::entry::{EntryPayload, RaftEntry};
use pgvigil_core::State;
use pgvigil_core::id::NodeId;
use pgvigil_core::trace::Line;
use rocksdb::{DB, IteratorMode};
use std::path::Path;

/// What the store in directory `path` tells of its past: whose it is, the snapshot if older entries are purged, the log,
/// and what was applied.
pub fn export(path: &Path) -> Result<Vec<Line>, StoreError> {
    let rocks =
        DB::open_cf_descriptors_read_only(&options::database(false), path.join(DATABASE), options::families(), false)
            .map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
    let identity = read_identity(path, &rocks)?
        .ok_or_else(|| StoreError::Incomplete { reason: "the store has lost its identity".to_owned() })?;
    let mut lines = vec![Line::Store { node: NodeId(identity.node), store: format!("{:016x}", identity.store) }];
    let purged: Option<LogId> = db::read(&rocks, crate::schema::META, PURGED)?;
    if purged.is_some() {
        lines.extend(base(&rocks)?);
    }
    for row in rocks.iterator_cf(family(&rocks, LOGS), IteratorMode::Start) {
        let (key, value) = row.map_err(|source| StoreError::Database { action: "read the log", source })?;
        let index = log_index(&key)?;
        let entry: Entry = frame::decode(&log_name(index), &value)?;
        let term = entry.log_id().leader_id.term;
        let proposal = match entry.payload {
            EntryPayload::Normal(command) => Some(Box::new(command.0)),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        };
        lines.push(Line::Entry { index, term, proposal });
    }
    let applied: Applied = db::read(&rocks, SM, APPLIED)?.unwrap_or_default();
    if let Some(last) = applied.last {
        lines.push(Line::Applied { index: last.index(), state: applied.state });
    }
    Ok(lines)
}

/// The state of the snapshot.
fn base(rocks: &DB) -> Result<Option<Line>, StoreError> {
    let meta: Option<SnapshotMeta> = db::read(rocks, SM, SNAPSHOT_META)?;
    let stored = rocks
        .get_cf(family(rocks, SM), SNAPSHOT_DATA)
        .map_err(|source| StoreError::Database { action: "read the snapshot", source })?;
    let (Some(meta), Some(bytes)) = (meta, stored) else { return Ok(None) };
    let state: State = snapshot::open(&bytes)?;
    Ok(meta.last_log_id.map(|last| Line::Base { index: last.index(), state }))
}
