//! What must be true of a store before this node may take part again. Checked once, when the store is opened.
//!
//! Everything is decoded, so that a damaged value shows now and not in the middle of an election; and the log is
//! compared with all that speaks about it, so that a log which lost entries is refused. A node that has forgotten
//! what it acknowledged would help to elect a leader that never had it.

use crate::db::Db;
use crate::error::StoreError;
use crate::frame;
use crate::log_store::Extent;
use crate::schema::{APPLIED, COMMITTED, LOGS, META, PURGED, SM, TAIL, VOTE, log_index, log_name};
use crate::snapshot;
use crate::state_machine::Applied;
use crate::type_config::{Entry, LogId};
use openraft::entry::RaftEntry;

/// Everything that openraft's two halves start from.
pub(crate) struct Recovered {
    /// The log's extent and the vote.
    pub(crate) extent: Extent,
    /// The applied state.
    pub(crate) applied: Applied,
}

/// Reads and checks the whole store.
pub(crate) fn check(db: &Db) -> Result<Recovered, StoreError> {
    let vote = db.get(META, VOTE)?;
    let committed: Option<LogId> = db.get(META, COMMITTED)?;
    let purged: Option<LogId> = db.get(META, PURGED)?;
    let tail: Option<Option<LogId>> = db.get(META, TAIL)?;
    let applied: Applied = db.get(SM, APPLIED)?.unwrap_or_default();
    let snapshot = snapshot::load(db)?;

    let (first, last_entry) = check_entries(db, purged)?;
    let last = last_entry.or(purged);

    if tail.flatten() != last {
        return Err(incomplete(format!("the log ends at {}, the tail mark says {}", show(last), show(tail.flatten()))));
    }
    if purged > applied.last {
        let reason = format!("the log is purged up to {}, the state reaches only {}", show(purged), show(applied.last));
        return Err(incomplete(reason));
    }
    // Installing a snapshot moves the state ahead of the log in one step, and openraft purges the log in a second
    // one. A crash between the two is the only way in which the state may be ahead of the log.
    let snapshot_last = snapshot.and_then(|s| s.meta.last_log_id);
    if applied.last > last && applied.last != snapshot_last {
        let reason = format!("the state has applied {}, the log ends at {}", show(applied.last), show(last));
        return Err(incomplete(reason));
    }
    if snapshot_last > applied.last {
        let reason = format!("the snapshot covers {}, the state has {}", show(snapshot_last), show(applied.last));
        return Err(incomplete(reason));
    }
    if committed > last.max(applied.last) {
        return Err(incomplete(format!("{} is committed, the log ends at {}", show(committed), show(last))));
    }
    Ok(Recovered { extent: Extent { first, last, purged, vote }, applied })
}

/// Decodes every entry; the log must begin right after what was purged and have no hole. Returns the index of its
/// first entry and the id of its last.
fn check_entries(db: &Db, purged: Option<LogId>) -> Result<(Option<u64>, Option<LogId>), StoreError> {
    let start = purged.map_or(0, |id| id.index() + 1);
    let mut first = None;
    let mut last: Option<LogId> = None;
    for (expected, row) in (start..).zip(db.scan(LOGS)) {
        let (key, value) = row?;
        let index = log_index(&key)?;
        if index != expected {
            return Err(incomplete(format!("the log goes from entry {index} on where {expected} is expected")));
        }
        let entry: Entry = frame::decode(&log_name(index), &value)?;
        let id = entry.log_id();
        if id.index() != index || last.is_some_and(|last| id <= last) {
            let reason = format!("the entry says {}, after {}", show(Some(id)), show(last));
            return Err(StoreError::Damaged { key: log_name(index), reason });
        }
        first.get_or_insert(index);
        last = Some(id);
    }
    Ok((first, last))
}

fn incomplete(reason: String) -> StoreError {
    StoreError::Incomplete { reason }
}

fn show(id: Option<LogId>) -> String {
    id.map_or_else(|| "nothing".to_owned(), |id| id.to_string())
}
