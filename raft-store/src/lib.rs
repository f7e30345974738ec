//! openraft's storage on one RocksDB: log, vote, committed mark, state machine and snapshots.
//!
//! What lives here: bytes on disk, and the call of the core's `apply` for each committed entry. What never does: any
//! knowledge of PostgreSQL, of the network, or of what a proposal means. Besides the consensus crate this is the only
//! place where openraft's names appear.
//!
//! On disk, in the node's directory:
//!
//! ```text
//! db/             RocksDB with one write-ahead log for everything
//!   logs          index -> entry
//!   meta          identity (format, node, store id), vote, committed, purged, tail, peer/<id>
//!   sm            applied (state, log id, membership), snapshot-meta, snapshot-data
//! durable-mark    up to which change the write-ahead log was flushed
//! ```
//!
//! Every value is framed (format byte, CRC-32C over key and content, JSON). A value that cannot be read, a log with a
//! hole, a log that ends before what was reported durable, and a store of a newer format are errors at opening; none
//! is ever read as "nothing stored". Errors at run time end the store: nothing is written after them, openraft goes
//! fatal, and [`StoreHandle::failure`] tells the supervisor, which fences PostgreSQL and exits.
//!
//! When things reach the disk:
//!
//! ```text
//! append, save_vote     written, flushed by the flusher thread, marked, only then reported
//! snapshots             written and flushed before openraft hears of them; the purge of the log comes after
//! apply, committed      written, not flushed: the log holds the entries, and openraft applies them again
//! truncate, purge       written, not flushed: the shared write-ahead log keeps their order to everything else
//! ```

mod check;
mod db;
mod digest;
mod error;
mod export;
mod flusher;
mod frame;
mod log_store;
mod mark;
mod open;
mod options;
mod peers;
mod schema;
mod snapshot;
mod state_machine;
mod torn;
mod type_config;

pub use db::{Counters, Probe, WritePoint};
pub use digest::{Digest, Digests};
pub use error::StoreError;
pub use export::export;
pub use log_store::LogStore;
pub use open::{Closed, Store, StoreHandle, open};
pub use peers::{KnownPeers, PeerError};
pub use schema::FORMAT_VERSION;
pub use snapshot::SnapshotBuilder;
pub use state_machine::{AppliedState, StateMachine};
pub use type_config::{Command, Entry, LogId, Reply, Snapshot, SnapshotMeta, StoredMembership, TypeConfig, Vote};
