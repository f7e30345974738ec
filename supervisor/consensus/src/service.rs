//! Incoming Raft messages, handed to openraft after the checks in `wire`.

use crate::network::MESSAGE_MAX;
use crate::pace::Heard;
use crate::wire::Wire;
use futures::stream::{self, BoxStream, StreamExt};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use pgvigil_proto::v1::raft_transport_server::{RaftTransport, RaftTransportServer};
use pgvigil_proto::v1::{RaftIdentity, RaftPayload, RaftSnapshotPart};
use pgvigil_raft_store::{AppliedState, Snapshot, SnapshotMeta, StateMachine, TypeConfig, Vote};
use serde::Serialize;
use std::fmt::Display;
use std::sync::Arc;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

/// openraft with pgvigil's types.
pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// The service to be mounted on the process's gRPC server.
pub type RaftService = RaftTransportServer<Incoming>;

/// The receiving end of the Raft transport.
#[derive(Clone)]
pub struct Incoming {
    raft: Raft,
    wire: Wire,
    states: watch::Receiver<Arc<AppliedState>>,
    heard: Heard,
}

/// Makes the service, with limits that fit its messages.
pub(crate) fn service(raft: Raft, wire: Wire, states: watch::Receiver<Arc<AppliedState>>, heard: Heard) -> RaftService {
    RaftTransportServer::new(Incoming { raft, wire, states, heard })
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX)
}

impl Incoming {
    async fn append(&self, payload: &RaftPayload) -> Result<RaftPayload, Status> {
        let (from, message) = self.wire.unwrap::<AppendEntriesRequest<TypeConfig>>(payload).await?;
        let answer = self.raft.append_entries(message).await.map_err(stopped)?;
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            self.heard.note();
        }
        Ok(self.wire.wrap(from, &answer)?)
    }

    fn answer<T: Serialize>(&self, to: u64, message: &T) -> Result<Response<RaftPayload>, Status> {
        Ok(Response::new(self.wire.wrap(to, message)?))
    }
}

/// openraft's own failure: it has stopped, so this node is as good as gone.
fn stopped(error: impl Display) -> Status {
    Status::unavailable(format!("raft has stopped: {error}"))
}

#[tonic::async_trait]
impl RaftTransport for Incoming {
    async fn append_entries(&self, request: Request<RaftPayload>) -> Result<Response<RaftPayload>, Status> {
        self.append(request.get_ref()).await.map(Response::new)
    }

    type HeartbeatsStream = BoxStream<'static, Result<RaftPayload, Status>>;

    async fn heartbeats(
        &self,
        request: Request<Streaming<RaftPayload>>,
    ) -> Result<Response<Self::HeartbeatsStream>, Status> {
        let answers = stream::unfold(Some((self.clone(), request.into_inner())), |open| async {
            let (this, mut beats) = open?;
            // A leader that went away needs no answer, in whatever way it went.
            let beat = beats.message().await.ok()??;
            let answer = this.append(&beat).await;
            // After a refusal the stream ends; the leader opens another.
            let open = answer.is_ok().then_some((this, beats));
            Some((answer, open))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn vote(&self, request: Request<RaftPayload>) -> Result<Response<RaftPayload>, Status> {
        let (from, message) = self.wire.unwrap::<VoteRequest<TypeConfig>>(request.get_ref()).await?;
        let answer = self.raft.vote(message).await.map_err(stopped)?;
        self.answer(from, &answer)
    }

    async fn pre_vote(&self, request: Request<RaftPayload>) -> Result<Response<RaftPayload>, Status> {
        let (from, message) = self.wire.unwrap::<VoteRequest<TypeConfig>>(request.get_ref()).await?;
        let answer = self.raft.pre_vote(message).await.map_err(stopped)?;
        self.answer(from, &answer)
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<RaftSnapshotPart>>,
    ) -> Result<Response<RaftPayload>, Status> {
        let mut parts = request.into_inner();
        let first = parts.message().await?.unwrap_or_default();
        let head = first.head.ok_or_else(|| Status::invalid_argument("the first part of a snapshot has no head"))?;
        let (from, (vote, meta)) = self.wire.unwrap::<(Vote, SnapshotMeta)>(&head).await?;
        let mut bytes = first.data.to_vec();
        while let Some(part) = parts.message().await? {
            if bytes.len() + part.data.len() > MESSAGE_MAX {
                return Err(Status::resource_exhausted(format!("a snapshot may have {MESSAGE_MAX} bytes")));
            }
            bytes.extend_from_slice(&part.data);
        }
        let snapshot = Snapshot { meta, snapshot: bytes };
        let answer = self.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        self.answer(from, &answer.vote)
    }

    async fn transfer_leader(&self, request: Request<RaftPayload>) -> Result<Response<RaftPayload>, Status> {
        let (from, message) = self.wire.unwrap::<TransferLeaderRequest<TypeConfig>>(request.get_ref()).await?;
        let answer = self.raft.handle_transfer_leader(message).await.map_err(stopped)?;
        self.answer(from, &answer)
    }

    async fn identify(&self, request: Request<RaftPayload>) -> Result<Response<RaftIdentity>, Status> {
        self.wire.check(request.get_ref(), true).await?;
        // Entry 0 is the first membership, which every node writes for itself; a leader's first entry is 1.
        let established = self.states.borrow().index > 0;
        Ok(Response::new(RaftIdentity {
            node: self.wire.node,
            store: self.wire.store,
            initialized: self.raft.is_initialized().await.map_err(stopped)?,
            established,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }
}
