//! Whose messages count: a node is believed only with the Raft store behind which its promises lie.
//!
//! A node whose store was emptied has forgotten the votes it gave and the entries it acknowledged; if it took part again
//! under its id, two leaders could each find a quorum. It is kept out from both sides. Who knew it refuses it: by what was
//! seen of it ([`KnownPeers`]) and by what the group has agreed. And it refuses itself: a fresh store takes part only once
//! it founded the group, or somebody who knows it speaks to it by its store's id; and nobody who knew it by another does.

use pgvigil_raft_store::{AppliedState, KnownPeers, PeerError};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tonic::Status;
use tonic::metadata::MetadataValue;

/// By which a node that refuses because its own store is another than the one asked for says which it has.
const STORE_METADATA: &str = "pgvigil-raft-store";

/// Why this node takes no part.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotMine {
    /// The sender knew this node by another store.
    #[error(
        "node {node}'s Raft store was emptied: node {by} knew it with store {known:016x} and it has {own:016x} now, so it \
         does not vote"
    )]
    Emptied { node: u64, by: u64, known: u64, own: u64 },
    /// Nobody has called this fresh store by its id yet.
    #[error("node {node} has a fresh Raft store and was not asked into the group yet, so it does not vote")]
    Fresh { node: u64 },
}

impl NotMine {
    /// For the sender: with the store that this node has.
    pub(crate) fn into_status(self) -> Status {
        let mut status = Status::failed_precondition(self.to_string());
        if let Self::Emptied { own, .. } = self
            && let Ok(value) = MetadataValue::try_from(format!("{own:016x}"))
        {
            status.metadata_mut().insert(STORE_METADATA, value);
        }
        status
    }
}

/// See the module. Clones share one memory.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    node: u64,
    store: u64,
    met: KnownPeers,
    agreed: watch::Receiver<Arc<AppliedState>>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// This node may take part.
    admitted: bool,
    /// The store by which others knew this node, if it is another.
    emptied: Option<u64>,
    /// Peers that speak for another store than the one known: that one, and theirs.
    strangers: BTreeMap<u64, (u64, u64)>,
}

impl Trust {
    pub(crate) fn new(node: u64, store: u64, met: KnownPeers, agreed: watch::Receiver<Arc<AppliedState>>) -> Self {
        Self { node, store, met, agreed, inner: Arc::default() }
    }

    // Nothing awaits under this lock.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node's store holds a past, or it has just founded the group.
    pub(crate) fn admit(&self) {
        self.lock().admitted = true;
    }

    /// The store by which `node` is known: agreed, or seen here.
    pub(crate) fn known(&self, node: u64) -> Option<u64> {
        let agreed = self.agreed.borrow().state.stores.get(&pgvigil_core::id::NodeId(node)).copied();
        agreed.or_else(|| self.met.known(node))
    }

    /// To be called with every message from `node`, before anything in it is believed.
    pub(crate) async fn meet(&self, node: u64, store: u64) -> Result<(), PeerError> {
        let met = match self.known(node) {
            Some(known) if known != store => Err(PeerError::Replaced { node, known, found: store }),
            _ => self.met.meet(node, store).await,
        };
        match &met {
            Ok(()) => drop(self.lock().strangers.remove(&node)),
            Err(PeerError::Replaced { known, found, .. }) => self.note_stranger(node, *known, *found),
            Err(PeerError::Unrecorded { .. }) => {}
        }
        met
    }

    /// Whether a message from `from`, which is for the node with the store `called`, is for this one. 0: the sender does
    /// not know its store. `asking`: it only asks who this is.
    pub(crate) fn is_called(&self, from: u64, called: u64, asking: bool) -> Result<(), NotMine> {
        let (node, own) = (self.node, self.store);
        let mut inner = self.lock();
        if called == own {
            inner.admitted |= !asking;
            return Ok(());
        }
        if called == 0 {
            return if inner.admitted || asking { Ok(()) } else { Err(NotMine::Fresh { node }) };
        }
        let new = inner.emptied.replace(called).is_none();
        drop(inner);
        let refusal = NotMine::Emptied { node, by: from, known: called, own };
        if new {
            tracing::error!("{refusal}. {}", way_back(node));
        }
        Err(refusal)
    }

    /// Reads from a refusal by `node` that it has another store than the one known.
    pub(crate) fn refused(&self, node: u64, status: &Status) {
        let told = status.metadata().get(STORE_METADATA).and_then(|value| value.to_str().ok());
        if let (Some(found), Some(known)) = (told.and_then(|hex| u64::from_str_radix(hex, 16).ok()), self.known(node))
            && found != known
        {
            self.note_stranger(node, known, found);
        }
    }

    fn note_stranger(&self, node: u64, known: u64, found: u64) {
        if self.lock().strangers.insert(node, (known, found)) != Some((known, found)) {
            tracing::error!("{}", describe(node, known, found));
        }
    }

    /// The nodes whose store was emptied, as far as this node has noticed, each with a sentence for people.
    pub(crate) fn emptied(&self) -> BTreeMap<u64, String> {
        let inner = self.lock();
        let mut found: BTreeMap<u64, String> =
            inner.strangers.iter().map(|(node, (known, found))| (*node, describe(*node, *known, *found))).collect();
        if let Some(known) = inner.emptied {
            found.insert(self.node, describe(self.node, known, self.store));
        }
        found
    }
}

fn describe(node: u64, known: u64, found: u64) -> String {
    format!(
        "node {node}'s Raft store was emptied (it was known with store {known:016x} and has {found:016x} now): it does not \
         vote, because the votes that it gave are forgotten. {}",
        way_back(node)
    )
}

/// What a person can do about it.
pub(crate) fn way_back(node: u64) -> String {
    format!(
        "Remove it ('pgvigil voters remove {node}'), give its pgvigil an id that was never used (node.id), and add that one \
         ('pgvigil voters add ID HOST:PORT')"
    )
}
