//! The inbox of `pgvigil-core`, shared by the leader's loop, the agents' streams and the faces.

use crate::clock;
use pgvigil_core::{
    decide::Finding,
    id::{ClusterId, NodeId},
    inbox::Inbox,
    observation::Observations,
    time::Time,
};
use std::sync::{Mutex, PoisonError};
use tokio::sync::{Notify, watch};

/// See the module.
#[derive(Debug)]
pub struct SharedInbox {
    inner: Mutex<Inbox>,
    /// Woken by every report.
    pub poke: Notify,
    changed: watch::Sender<u64>,
}

impl SharedInbox {
    /// An inbox that does not listen yet.
    #[must_use]
    pub fn new(me: NodeId) -> Self {
        Self { inner: Mutex::new(Inbox::new(me)), poke: Notify::new(), changed: watch::Sender::new(0) }
    }

    /// Runs `look` on it. Nothing awaits inside.
    pub fn with<T>(&self, look: impl FnOnce(&mut Inbox) -> T) -> T {
        look(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it listens, and since when.
    #[must_use]
    pub fn since(&self) -> Option<Time> {
        self.with(|inbox| inbox.since())
    }

    /// Marked when anything seen or found has changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Tells subscribers.
    pub fn mark_changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// A copy of what was seen and found, for faces.
    #[must_use]
    pub fn snapshot(&self, cluster: &ClusterId) -> (Observations, Vec<Finding>) {
        self.with(|inbox| inbox.snapshot(cluster, clock::now()))
    }
}
