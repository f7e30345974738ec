//! Outgoing Raft messages: one HTTP/2 connection per peer, a second one for snapshots.
//!
//! Snapshots have their own connection so that heartbeats are never queued behind a megabyte of state.

use crate::pipe::Pipe;
use crate::wire::{Wire, WireError};
use futures::stream;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{BasicNode, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use pgvigil_core::id::NodeId;
use pgvigil_proto::v1::raft_transport_client::RaftTransportClient;
use pgvigil_proto::v1::{RaftIdentity, RaftPayload, RaftSnapshotPart};
use pgvigil_raft_store::{Snapshot, TypeConfig, Vote};
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

/// Largest message either way. A batch of entries is far below it; the bound is against nonsense.
pub(crate) const MESSAGE_MAX: usize = 64 << 20;

/// Bytes of a snapshot per message: below every default limit, above where overhead matters.
const SNAPSHOT_PART: usize = 1 << 20;

/// How long a connection may take. A peer on the same continent answers within a tenth of it.
const CONNECT: Duration = Duration::from_millis(500);

/// A connection on which an answer is due and nothing has arrived for so long is probed, and given up after as long
/// again. Otherwise a healed network would wait for TCP's retransmissions, which back off to minutes.
const SILENCE: Duration = Duration::from_secs(1);

/// Makes connections for openraft; also remembers them, so that all its clients of a peer share one.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    wire: Wire,
    /// Addresses from the configuration, which go before those in the membership.
    configured: Arc<BTreeMap<u64, String>>,
    channels: Arc<Mutex<BTreeMap<(String, bool), Channel>>>,
    /// How long a message with log entries may take: its receiver flushes them to disk first.
    append_patience: Duration,
}

impl Network {
    pub(crate) fn new(wire: Wire, peers: &BTreeMap<NodeId, String>, append_patience: Duration) -> Self {
        let configured = peers.iter().map(|(id, address)| (id.0, address.clone())).collect();
        Self { wire, configured: Arc::new(configured), channels: Arc::default(), append_patience }
    }

    /// Where `node` is reached, given what the membership says.
    pub(crate) fn address(&self, node: u64, agreed: Option<&BasicNode>) -> Option<String> {
        self.configured.get(&node).cloned().or_else(|| agreed.map(|node| node.addr.clone()))
    }

    /// A client of one peer at `address`.
    pub(crate) fn peer(&self, target: u64, address: &str, kind: Kind) -> Peer {
        let client = self.channel(address, kind == Kind::Snapshots).map(|channel| {
            RaftTransportClient::new(channel)
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX)
        });
        let (wire, append_patience) = (self.wire.clone(), self.append_patience);
        Peer { wire, target, client, append_patience, heartbeats: (kind == Kind::Heartbeats).then(Pipe::default) }
    }

    fn channel(&self, address: &str, snapshots: bool) -> Result<Channel, String> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (address.to_owned(), snapshots);
        if let Some(channel) = channels.get(&key) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|e| format!("{address:?} is not a usable address: {e}"))?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(SILENCE)
            .keep_alive_timeout(SILENCE);
        let channel = endpoint.connect_lazy();
        channels.insert(key, channel.clone());
        Ok(channel)
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        let address = self.address(target, Some(node)).unwrap_or_default();
        self.peer(target, &address, Kind::Calls)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        let address = self.address(target, Some(node)).unwrap_or_default();
        self.peer(target, &address, Kind::Heartbeats)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        let address = self.address(target, Some(node)).unwrap_or_default();
        self.peer(target, &address, Kind::Snapshots)
    }
}

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One call per message, on the connection that all but snapshots share.
    Calls,
    /// Heartbeats through one long call.
    Heartbeats,
    /// Snapshots, on a connection of their own.
    Snapshots,
}

/// One peer, as openraft talks to it.
#[derive(Debug)]
pub(crate) struct Peer {
    wire: Wire,
    target: u64,
    /// Or why the address is unusable.
    client: Result<RaftTransportClient<Channel>, String>,
    append_patience: Duration,
    /// Only in clients for heartbeats.
    heartbeats: Option<Pipe>,
}

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("no answer within {0:?}")]
    Slow(Duration),
    #[error("{}", .0.message())]
    Status(Status),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("{0}")]
    Address(String),
}

impl CallError {
    /// Whether one side refuses to believe the other, as opposed to not reaching it.
    pub(crate) fn is_distrust(&self) -> bool {
        match self {
            Self::Status(status) => status.code() == Code::FailedPrecondition,
            Self::Wire(_) => true,
            Self::Slow(_) | Self::Address(_) => false,
        }
    }

    /// As openraft classifies failures: after "unreachable" it waits longer before it tries again.
    fn into_rpc_error(self, peer: &Peer, action: RPCTypes) -> RPCError<TypeConfig> {
        match self {
            Self::Slow(timeout) => {
                RPCError::Timeout(Timeout { action, id: peer.wire.node, target: peer.target, timeout })
            }
            // Who does not believe this node will not do so at the next heartbeat either.
            Self::Status(status) if !matches!(status.code(), Code::Unavailable | Code::FailedPrecondition) => {
                RPCError::Network(NetworkError::from_string(status.message()))
            }
            other => RPCError::Unreachable(Unreachable::from_string(other.to_string())),
        }
    }
}

impl Peer {
    /// A refusal may tell that the peer has lost its store.
    fn refused(&self, status: Status) -> CallError {
        self.wire.trust.refused(self.target, &status);
        CallError::Status(status)
    }

    /// Sends one message and takes its answer out of the envelope.
    async fn call<Q, A, F>(
        &self,
        message: &Q,
        patience: Duration,
        send: impl FnOnce(RaftTransportClient<Channel>, RaftPayload) -> F,
    ) -> Result<A, CallError>
    where
        Q: Serialize,
        A: DeserializeOwned,
        F: Future<Output = Result<Response<RaftPayload>, Status>>,
    {
        let client = self.client.clone().map_err(CallError::Address)?;
        let payload = self.wire.wrap(self.target, message)?;
        let answer = tokio::time::timeout(patience, send(client, payload))
            .await
            .map_err(|_| CallError::Slow(patience))?
            .map_err(|status| self.refused(status))?;
        Ok(self.wire.unwrap_from(self.target, answer.get_ref()).await?)
    }

    /// Sends one heartbeat through the pipe.
    async fn beat(
        &mut self,
        message: &AppendEntriesRequest<TypeConfig>,
        patience: Duration,
    ) -> Result<AppendEntriesResponse<TypeConfig>, CallError> {
        let client = self.client.clone().map_err(CallError::Address)?;
        let payload = self.wire.wrap(self.target, message)?;
        let pipe = self.heartbeats.get_or_insert_default();
        let answer = tokio::time::timeout(patience, pipe.exchange(client, payload))
            .await
            .map_err(|_| CallError::Slow(patience))?
            .map_err(|status| self.refused(status))?;
        Ok(self.wire.unwrap_from(self.target, &answer).await?)
    }

    /// Asks the peer who it is. An error also if it is known to have lost its store.
    pub(crate) async fn identify(&self, patience: Duration) -> Result<RaftIdentity, CallError> {
        let mut client = self.client.clone().map_err(CallError::Address)?;
        let payload = self.wire.wrap(self.target, &())?;
        let identity = tokio::time::timeout(patience, client.identify(payload))
            .await
            .map_err(|_| CallError::Slow(patience))?
            .map_err(|status| self.refused(status))?
            .into_inner();
        if identity.node != self.target {
            return Err(WireError::WrongSender { found: identity.node, expected: self.target }.into());
        }
        self.wire.trust.meet(identity.node, identity.store).await.map_err(WireError::from)?;
        Ok(identity)
    }

    async fn send_snapshot(&self, vote: Vote, snapshot: Snapshot, patience: Duration) -> Result<Vote, CallError> {
        let mut client = self.client.clone().map_err(CallError::Address)?;
        let head = self.wire.wrap(self.target, &(vote, snapshot.meta))?;
        let mut parts = vec![RaftSnapshotPart { head: Some(head), data: bytes::Bytes::new() }];
        let mut rest = bytes::Bytes::from(snapshot.snapshot);
        while !rest.is_empty() {
            let data = rest.split_to(rest.len().min(SNAPSHOT_PART));
            parts.push(RaftSnapshotPart { head: None, data });
        }
        let answer = tokio::time::timeout(patience, client.install_snapshot(stream::iter(parts)))
            .await
            .map_err(|_| CallError::Slow(patience))?
            .map_err(|status| self.refused(status))?;
        Ok(self.wire.unwrap_from(self.target, answer.get_ref()).await?)
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        // openraft allows one heartbeat interval, which is right for a heartbeat and short for a busy disk.
        let patience = if rpc.entries.is_empty() { option.hard_ttl() } else { self.append_patience };
        if self.heartbeats.is_some() {
            return self.beat(&rpc, patience).await.map_err(|e| e.into_rpc_error(self, RPCTypes::AppendEntries));
        }
        self.call(&rpc, patience, |mut client, payload| async move { client.append_entries(payload).await })
            .await
            .map_err(|e| e.into_rpc_error(self, RPCTypes::AppendEntries))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(&rpc, option.hard_ttl(), |mut client, payload| async move { client.vote(payload).await })
            .await
            .map_err(|e| e.into_rpc_error(self, RPCTypes::Vote))
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(&rpc, option.hard_ttl(), |mut client, payload| async move { client.pre_vote(payload).await })
            .await
            .map_err(|e| e.into_rpc_error(self, RPCTypes::Vote))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot, option.hard_ttl()) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => Err(error.into_rpc_error(self, RPCTypes::InstallSnapshot).into()),
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.call(&req, option.hard_ttl(), |mut client, payload| async move { client.transfer_leader(payload).await })
            .await
            .map_err(|e| e.into_rpc_error(self, RPCTypes::TransferLeader))
    }
}
