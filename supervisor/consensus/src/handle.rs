//! The handle by which the rest of the process uses Raft. Cheap to clone; outlives the node, and then says so.

use crate::confirm::Rounds;
use crate::error::{KnownLeader, MembershipError, NotLeader, ProposeError};
use crate::leadership::{LeaderTerm, Leadership};
use crate::metrics::{self, Metrics};
use crate::network::Network;
use crate::options::RaftTimings;
use crate::pace::Heard;
use crate::service::{self, Raft, RaftService};
use crate::wire::Wire;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader, RaftError};
use pgvigil_core::id::NodeId;
use pgvigil_core::{Outcome, Proposal};
use pgvigil_raft_store::{AppliedState, Command, StoreHandle, TypeConfig};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

/// Between two attempts of a leader that waits for its first quorum. That takes one round trip, so a fraction of one
/// on a local network; each attempt costs microseconds.
const FRESH_LEADER_RETRY: Duration = Duration::from_millis(2);

/// The group, as this process sees and changes it.
#[derive(Clone, Debug)]
pub struct Consensus {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) raft: Raft,
    pub(crate) node: u64,
    pub(crate) wire: Wire,
    pub(crate) network: Network,
    pub(crate) heard: Heard,
    pub(crate) timings: RaftTimings,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) rounds: Arc<Rounds>,
    pub(crate) store: StoreHandle,
    /// Changes of the members go one at a time: two at once may leave a joint membership behind.
    pub(crate) changing: Mutex<()>,
    /// Whether the end of Raft was asked for; then it is no failure.
    pub(crate) stopping: watch::Sender<bool>,
}

impl Consensus {
    /// Has one proposal agreed and applied, and returns what became of it. Waits at most `within`.
    ///
    /// A freshly elected leader accepts nothing until its first quorum; that short while is waited out here.
    /// Keeps S4: what is returned is committed, and applied on this node.
    pub async fn propose(&self, proposal: &Proposal, within: Duration) -> Result<Outcome, ProposeError> {
        let deadline = Instant::now() + within;
        loop {
            let writing = self.inner.raft.client_write(Command(proposal.clone()));
            let error = match timeout_at(deadline, writing).await {
                Ok(Ok(written)) => {
                    return written.data.0.ok_or_else(|| ProposeError::Fatal {
                        reason: "a proposal was applied without an outcome".to_owned(),
                    });
                }
                Ok(Err(error)) => error,
                Err(_) => {
                    let reason = format!("not committed within {within:?}");
                    return Err(ProposeError::Unavailable { reason, perhaps_applied: true });
                }
            };
            match error {
                RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                    if forward.reason != ForwardReason::LeaseExpired {
                        return Err(ProposeError::NotLeader { leader: self.forwarded(&forward) });
                    }
                    let retry_at = Instant::now() + FRESH_LEADER_RETRY;
                    if retry_at >= deadline {
                        let reason = format!("this leader had no quorum within {within:?}");
                        return Err(ProposeError::Unavailable { reason, perhaps_applied: false });
                    }
                    sleep_until(retry_at).await;
                }
                RaftError::Fatal(fatal) => return Err(ProposeError::Fatal { reason: fatal.to_string() }),
                RaftError::APIError(other) => {
                    return Err(ProposeError::Unavailable { reason: other.to_string(), perhaps_applied: true });
                }
            }
        }
    }

    /// Confirms with a quorum, in a round that begins after this call, that this node leads; and waits until this
    /// node has applied everything that was committed by then, so that [`Self::states`] shows it. Keeps S5.
    pub async fn confirm_leadership(&self) -> Result<LeaderTerm, NotLeader> {
        self.inner.rounds.confirm().await
    }

    /// Waits until a quorum has acknowledged a heartbeat that this leader sent at `since` or later: it still led then.
    /// Costs nothing beyond the heartbeats, but up to one interval of them; and says nothing about what this node has
    /// applied, unlike [`Self::confirm_leadership`]. Keeps S5.
    pub async fn led_since(&self, since: Instant, within: Duration) -> Result<(), NotLeader> {
        self.inner.rounds.led_since(since, within).await
    }

    /// The agreed state as this node has applied it.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<Arc<AppliedState>> {
        self.inner.store.states.clone()
    }

    /// Who leads, as far as this node knows.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// This node's id.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        NodeId(self.inner.node)
    }

    /// The voters and their addresses, by the newest membership in this node's log.
    #[must_use]
    pub fn voters(&self) -> BTreeMap<NodeId, String> {
        let metrics = self.inner.raft.server_metrics().borrow_watched().clone();
        let voters: Vec<u64> = metrics.membership_config.membership().voter_ids().collect();
        self.members().into_iter().filter(|(id, _)| voters.contains(&id.0)).collect()
    }

    /// All members, learners too, and their addresses, by the newest membership in this node's log.
    #[must_use]
    pub fn members(&self) -> BTreeMap<NodeId, String> {
        let metrics = self.inner.raft.server_metrics().borrow_watched().clone();
        let address = |id, node| self.inner.network.address(id, Some(node)).unwrap_or_default();
        let nodes = metrics.membership_config.membership().nodes();
        nodes.map(|(id, node)| (NodeId(*id), address(*id, node))).collect()
    }

    /// Resolves with the reason when Raft or its store has failed for good. The caller fences PostgreSQL and exits.
    /// Never resolves after an orderly [`crate::Node::shutdown`].
    pub async fn fatal(&self) -> String {
        let mut failure = self.inner.store.failure.clone();
        let mut core = self.inner.raft.server_metrics();
        let store_failed = async {
            match failure.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone().unwrap_or_default(),
                // The store was closed without a failure.
                Err(_) => std::future::pending().await,
            }
        };
        // openraft's core owns the sender of its metrics: it ends with the core, however that ends.
        let core_ended = async { while core.changed().await.is_ok() {} };
        let reason = tokio::select! {
            biased;
            reason = store_failed => reason,
            () = core_ended => {
                let metrics = self.inner.raft.metrics().borrow_watched().clone();
                metrics.running_state.err().map_or_else(|| "raft has ended".to_owned(), |e| e.to_string())
            }
        };
        if *self.inner.stopping.borrow() {
            std::future::pending::<()>().await;
        }
        reason
    }

    /// That another node holds another agreed state than this one, once that was seen. Either may be the damaged one.
    #[must_use]
    pub fn difference(&self) -> Option<String> {
        self.inner.store.digests.difference().borrow().clone()
    }

    /// The members whose Raft store was emptied, as far as this node has noticed, with what to do. They do not vote.
    #[must_use]
    pub fn emptied(&self) -> BTreeMap<NodeId, String> {
        let (found, members) = (self.inner.wire.trust.emptied(), self.members());
        let of_group = |id: &u64| *id == self.inner.node || members.contains_key(&NodeId(*id));
        found.into_iter().filter(|(id, _)| of_group(id)).map(|(id, text)| (NodeId(id), text)).collect()
    }

    /// The Raft stores of the voters that this node knows, itself among them.
    #[must_use]
    pub fn stores(&self) -> BTreeMap<NodeId, u64> {
        let known = |id: NodeId| {
            if id.0 == self.inner.node { Some(self.inner.wire.store) } else { self.inner.wire.trust.known(id.0) }
        };
        self.voters().into_keys().filter_map(|id| Some((id, known(id)?))).collect()
    }

    /// A summary in plain numbers.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        metrics::summary(&self.inner.raft, self.inner.store.counters())
    }

    /// The receiving end of the Raft transport, to be mounted on the process's gRPC server. The server needs
    /// TCP_NODELAY, and HTTP/2 keepalive so that it lets go of leaders that vanished.
    #[must_use]
    pub fn service(&self) -> RaftService {
        service::service(self.inner.raft.clone(), self.inner.wire.clone(), self.states(), self.inner.heard.clone())
    }

    pub(crate) fn forwarded(&self, forward: &ForwardToLeader<TypeConfig>) -> KnownLeader {
        let id = forward.leader_id?;
        let address = self.inner.network.address(id, forward.leader_node.as_ref()).unwrap_or_default();
        Some((NodeId(id), address))
    }

    pub(crate) fn membership_error(
        &self,
        error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
    ) -> MembershipError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                MembershipError::NotLeader { leader: self.forwarded(&forward) }
            }
            RaftError::APIError(other) => MembershipError::Refused(other.to_string()),
            RaftError::Fatal(fatal) => MembershipError::Fatal { reason: fatal.to_string() },
        }
    }
}
