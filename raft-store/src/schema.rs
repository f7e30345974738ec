//! Where things are: column families, keys, and the number of the stored format.

use crate::error::StoreError;
use serde::{Deserialize, Serialize};

/// The stored format that this program writes, and the newest that it reads.
/// Raise it with any change after which an older program would misread the store.
pub const FORMAT_VERSION: u32 = 1;

/// Log entries, keyed by index as eight big-endian bytes, so that RocksDB's order is the log's.
pub(crate) const LOGS: &str = "logs";
/// Identity, vote, marks and known peers.
pub(crate) const META: &str = "meta";
/// The applied state and the current snapshot.
pub(crate) const SM: &str = "sm";
/// Every column family, in the order in which they are opened. RocksDB insists on `default`; nothing is in it.
pub(crate) const FAMILIES: [&str; 4] = ["default", LOGS, META, SM];

/// [`Identity`] of the store.
pub(crate) const IDENTITY: &str = "identity";
/// This node's vote.
pub(crate) const VOTE: &str = "vote";
/// The last log id known to be committed.
pub(crate) const COMMITTED: &str = "committed";
/// The last log id purged.
pub(crate) const PURGED: &str = "purged";
/// The last log id of the log, written with every change of the log: shows a log that lost its end.
pub(crate) const TAIL: &str = "tail";
/// Prefix of the peers' store ids; the peer's node id follows.
pub(crate) const PEER: &str = "peer/";

/// The applied state with its log id and membership, in one row so that they cannot disagree.
pub(crate) const APPLIED: &str = "applied";
/// What the current snapshot covers.
pub(crate) const SNAPSHOT_META: &str = "snapshot-meta";
/// The current snapshot's bytes, framed once more so that they can be checked after a transfer.
pub(crate) const SNAPSHOT_DATA: &str = "snapshot-data";

/// Whose store this is. Written once, before anything else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// See [`FORMAT_VERSION`]. First, and readable in every format to come.
    pub(crate) format: u32,
    /// The Raft node id.
    pub(crate) node: u64,
    /// A random number, new whenever a store is made anew. Peers remember it, so that a node which lost its store,
    /// and with it its promises, is not taken for the one that made them.
    pub(crate) store: u64,
}

/// The key of a log entry.
pub(crate) fn log_key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

/// The index in a log entry's key.
pub(crate) fn log_index(key: &[u8]) -> Result<u64, StoreError> {
    let bytes: [u8; 8] = key.try_into().map_err(|_| StoreError::Damaged {
        key: format!("logs/{key:02x?}"),
        reason: "a log key has eight bytes".to_owned(),
    })?;
    Ok(u64::from_be_bytes(bytes))
}

/// A key as errors and checksums name it.
pub(crate) fn name(family: &str, key: &str) -> String {
    format!("{family}/{key}")
}

/// A log entry's key as errors and checksums name it.
pub(crate) fn log_name(index: u64) -> String {
    format!("{LOGS}/{index}")
}
