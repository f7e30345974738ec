//! Starts and stops the Raft node.

use crate::confirm::Rounds;
use crate::error::StartError;
use crate::handle::{Consensus, Inner};
use crate::leadership;
use crate::network::Network;
use crate::options::Options;
use crate::pace::{self, Heard};
use crate::service::Raft;
use crate::trust::Trust;
use crate::wire::Wire;
use pgvigil_raft_store::{Closed, Digests, Probe, open};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};

/// How long the store may take to close after openraft has stopped. Nothing is lost if it does not.
const CLOSING: Duration = Duration::from_secs(10);

/// A running Raft node. Dropping it leaves Raft running; [`Self::shutdown`] ends it.
#[derive(Debug)]
pub struct Node {
    consensus: Consensus,
    closed: Closed,
}

impl Node {
    /// Opens the store and starts Raft. The node takes part from now on; it can be reached as soon as the caller
    /// mounts [`Consensus::service`] on a server.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        Self::start_probed(options, None).await
    }

    /// As [`Self::start`], with a probe at every write of the store, by which tests make it fail.
    #[doc(hidden)]
    pub async fn start_probed(options: Options, probe: Option<Probe>) -> Result<Self, StartError> {
        let config = Arc::new(options.raft_config()?);
        let (path, node) = (options.data_dir.clone(), options.node_id.0);
        let opening = tokio::task::spawn_blocking(move || open(&path, node, probe));
        let (store, closed) = opening.await.map_err(|e| StartError::Raft(format!("opening the store: {e}")))??;

        let wire = Wire {
            node,
            store: store.handle.store_id,
            group: options.group.as_str().into(),
            trust: Trust::new(node, store.handle.store_id, store.handle.peers.clone(), store.handle.states.clone()),
            digests: store.handle.digests.clone(),
            digest_kind: Digests::kind(),
        };
        let network = Network::new(wire.clone(), &options.peers, options.timings.election_max * 2);
        let raft = Raft::new(node, config, network.clone(), store.log, store.state_machine)
            .await
            .map_err(|e| StartError::Raft(e.to_string()))?;
        if raft.is_initialized().await.map_err(|e| StartError::Raft(e.to_string()))? {
            wire.trust.admit();
        }
        let leadership = leadership::follow(raft.server_metrics(), network.clone());
        let heard = Heard::default();
        pace::keep(raft.clone(), leadership.clone(), options.timings, heard.clone());
        let rounds = Rounds::new(raft.clone(), leadership.clone(), options.timings.election_max * 2);
        let inner = Inner {
            raft,
            node,
            wire,
            network,
            heard,
            timings: options.timings,
            leadership,
            rounds,
            store: store.handle,
            changing: Mutex::new(()),
            stopping: watch::Sender::new(false),
        };
        Ok(Self { consensus: Consensus { inner: Arc::new(inner) }, closed })
    }

    /// The handle for everybody else.
    #[must_use]
    pub fn consensus(&self) -> Consensus {
        self.consensus.clone()
    }

    /// Stops Raft and closes the store, so that it may be opened again. Handles that are left answer with errors.
    pub async fn shutdown(self) {
        self.consensus.inner.stopping.send_replace(true);
        if let Err(error) = self.consensus.inner.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop in an orderly way");
        }
        if tokio::time::timeout(CLOSING, self.closed.wait()).await.is_err() {
            tracing::warn!(patience = ?CLOSING, "the raft store is still open");
        }
    }
}
