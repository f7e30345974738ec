//! Which store stands behind each peer's node id: remembered durably at the first contact, checked ever after.
//!
//! A node that lost its store has lost its promises too: votes it gave, entries it acknowledged. If it came back
//! under its old id and were believed, two leaders could each find a quorum. Every store therefore has a random id,
//! and a node id that suddenly speaks for another store is refused by everybody who knew it. The way back is a new
//! node id.

use crate::db::Db;
use crate::error::StoreError;
use crate::flusher::Flusher;
use crate::frame;
use crate::schema::{META, PEER, name};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use tokio::sync::Mutex;

/// Why a peer is not listened to.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The node id is known with another store.
    #[error(
        "node {node} lost its raft store: it was known with store {known:016x} and now has {found:016x}, so what it \
         promised is forgotten. Remove it from the group and add it under a new node id"
    )]
    Replaced {
        /// The peer.
        node: u64,
        /// The store id remembered.
        known: u64,
        /// The store id it shows now.
        found: u64,
    },
    /// The first contact could not be made durable.
    #[error("cannot remember the store of node {node}")]
    Unrecorded {
        /// The peer.
        node: u64,
        /// The store's reason.
        #[source]
        source: io::Error,
    },
}

/// The peers met so far. Clones share one memory, and none keeps the database open.
#[derive(Clone, Debug)]
pub struct KnownPeers {
    recorder: Weak<Recorder>,
    met: Arc<RwLock<BTreeMap<u64, u64>>>,
    recording: Arc<Mutex<()>>,
}

/// Writes down a first contact. Owned by the log, so that the database closes when openraft lets go of that.
#[derive(Debug)]
pub(crate) struct Recorder {
    db: Arc<Db>,
    flusher: Flusher,
}

/// Reads the peers met so far: node id -> store id.
pub(crate) fn read(db: &Db) -> Result<BTreeMap<u64, u64>, StoreError> {
    let mut met = BTreeMap::new();
    for row in db.scan(META) {
        let (key, value) = row?;
        let Some(key) = std::str::from_utf8(&key).ok().filter(|key| key.starts_with(PEER)) else { continue };
        let full = name(META, key);
        let node = key[PEER.len()..].parse().map_err(|e| StoreError::Damaged {
            key: full.clone(),
            reason: format!("does not end in a node id: {e}"),
        })?;
        met.insert(node, frame::decode(&full, &value)?);
    }
    Ok(met)
}

impl KnownPeers {
    /// With the peers met in earlier lives of this store.
    pub(crate) fn new(db: Arc<Db>, flusher: Flusher, met: BTreeMap<u64, u64>) -> (Self, Arc<Recorder>) {
        let recorder = Arc::new(Recorder { db, flusher });
        let peers =
            Self { recorder: Arc::downgrade(&recorder), met: Arc::new(RwLock::new(met)), recording: Arc::default() };
        (peers, recorder)
    }

    /// The store known for `node`, if it was ever met.
    #[must_use]
    pub fn known(&self, node: u64) -> Option<u64> {
        self.met.read().unwrap_or_else(PoisonError::into_inner).get(&node).copied()
    }

    /// To be called with every message from `node`, before anything in it is believed. Cheap after the first time,
    /// which waits for the disk.
    pub async fn meet(&self, node: u64, store: u64) -> Result<(), PeerError> {
        if self.compare(node, store)? {
            return Ok(());
        }
        let _one_at_a_time = self.recording.lock().await;
        if self.compare(node, store)? {
            return Ok(());
        }
        self.record(node, store).await.map_err(|source| PeerError::Unrecorded { node, source })
    }

    /// Whether `node` is known with just this store; an error if with another.
    fn compare(&self, node: u64, found: u64) -> Result<bool, PeerError> {
        match self.known(node) {
            None => Ok(false),
            Some(known) if known == found => Ok(true),
            Some(known) => Err(PeerError::Replaced { node, known, found }),
        }
    }

    async fn record(&self, node: u64, store: u64) -> Result<(), io::Error> {
        let closed = || StoreError::Failed("the store is closed".to_owned());
        let Recorder { db, flusher } = &*self.recorder.upgrade().ok_or_else(closed)?;
        let mut change = db.change("remember a peer");
        change.put(META, &format!("{PEER}{node}"), &store)?;
        change.write()?;
        flusher.flushed().await?;
        self.met.write().unwrap_or_else(PoisonError::into_inner).insert(node, store);
        Ok(())
    }
}
