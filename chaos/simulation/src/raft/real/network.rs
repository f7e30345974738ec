//! openraft's calls between simulated hosts, after `supervisor/consensus/src/network.rs` and `service.rs`.
//!
//! A call is two messages. Where a link is cut, a message is sent again for a while, as TCP does, so that it may come late;
//! where packets are lost, the connection breaks. A process that is frozen takes its messages once it is thawed.

use super::{
    options::ELECTION_MAX,
    runtime::{Runtime, world},
    types::{Data, Openraft, Snapshot, TypeConfig, Vote},
};
use crate::world::{Call, Event, W, World};
use openraft::{
    AsyncRuntime, BasicNode, RaftNetworkFactory,
    async_runtime::Select2,
    errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{RPCOption, RPCTypes, v2::RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
        VoteRequest, VoteResponse,
    },
};
use pgvigil_core::id::NodeId;
use std::{rc::Rc, time::Duration};
use tokio::sync::oneshot;

/// How often a message is sent again where it does not get through, and after how long.
const AGAIN: (u32, u64) = (20, 100_000);

/// Makes clients on one host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network {
    pub host: usize,
}

/// One host as another one talks to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    from: usize,
    to: usize,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> Peer {
        Peer { from: self.host, to: World::host_of_node(NodeId(target)) }
    }
}

/// Lets `arrive` happen when a message from `from` has come to `to`; never if it is lost.
fn carry(w: &World, from: usize, to: usize, tries: u32, arrive: Box<dyn FnOnce(&W)>) {
    if w.rng.chance(w.net.borrow().loss(from, to)) {
        return;
    }
    let wait = if tries == 0 { w.latency(from, to) } else { AGAIN.1 };
    let call = Call(Box::new(move |w: &W| {
        if w.reaches(from, to) {
            arrive(w);
        } else if tries < AGAIN.0 {
            carry(w, from, to, tries + 1, arrive);
        }
    }));
    w.exec.at(w.exec.now() + wait, None, Event::Call(call));
}

/// Sends `question` to be answered by `serve`. The answer is `None` where nobody takes it.
fn ask<Q: 'static, A: 'static, F: Future<Output = Option<A>> + 'static>(
    peer: Peer,
    question: Q,
    serve: impl FnOnce(W, usize, Openraft, Q) -> F + 'static,
) -> oneshot::Receiver<Option<A>> {
    let (tell, told) = oneshot::channel();
    let Peer { from, to } = peer;
    let arrive = Box::new(move |w: &W| {
        if w.raft.real().openraft(to).is_none() {
            let refused = Box::new(move |_: &W| drop(tell.send(None)));
            carry(w, to, from, 0, refused);
            return;
        }
        w.call_at(to, w.exec.now(), move |w| {
            let Some(raft) = w.raft.real().openraft(to) else { return };
            let world = Rc::clone(w);
            w.exec.spawn(World::agent_process(to), async move {
                let answer = serve(Rc::clone(&world), to, raft, question).await;
                carry(&world, to, from, 0, Box::new(move |_| drop(tell.send(answer))));
            });
        });
    });
    carry(&world(), from, to, 0, arrive);
    told
}

impl Peer {
    async fn call<Q: Send + 'static, A: Send + 'static, F: Future<Output = Option<A>> + 'static>(
        self,
        action: RPCTypes,
        patience: Duration,
        question: Q,
        serve: impl FnOnce(W, usize, Openraft, Q) -> F + Send + 'static,
    ) -> Result<A, RPCError<TypeConfig>> {
        let deadline = <super::runtime::HostInstant as openraft::Instant>::now() + patience;
        let told = ask(self, question, serve);
        match Runtime::timeout_at(deadline, told).await {
            Ok(Ok(Some(answer))) => return Ok(answer),
            Ok(Ok(None)) => return Err(RPCError::Unreachable(Unreachable::from_string("nobody listens there"))),
            // Lost: nobody says so.
            Ok(Err(_)) => Runtime::sleep_until(deadline).await,
            Err(_) => {}
        }
        let (id, target) = (World::node(self.from).0, World::node(self.to).0);
        Err(RPCError::Timeout(Timeout { action, id, target, timeout: patience }))
    }
}

async fn append(
    w: W,
    host: usize,
    raft: Openraft,
    question: AppendEntriesRequest<TypeConfig>,
) -> Option<AppendEntriesResponse<TypeConfig>> {
    let answer = raft.append_entries(question).await.ok()?;
    if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
        w.raft.real().heard(&w, host);
    }
    Some(answer)
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Data;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let patience = if rpc.entries.is_empty() { option.hard_ttl() } else { ELECTION_MAX * 2 };
        self.call(RPCTypes::AppendEntries, patience, rpc, append).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let serve = |_, _, raft: Openraft, question| async move { raft.vote(question).await.ok() };
        self.call(RPCTypes::Vote, option.hard_ttl(), rpc, serve).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let serve = |_, _, raft: Openraft, question| async move { raft.pre_vote(question).await.ok() };
        self.call(RPCTypes::Vote, option.hard_ttl(), rpc, serve).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let serve = |_, _, raft: Openraft, (vote, snapshot): (Vote, Snapshot)| async move {
            raft.install_full_snapshot(vote, snapshot).await.ok()
        };
        let sending = self.call(RPCTypes::InstallSnapshot, option.hard_ttl(), (vote, snapshot), serve);
        match Runtime::select2(cancel, sending).await {
            Select2::First(closed) => Err(StreamingError::Closed(closed)),
            Select2::Second(answer) => Ok(answer?),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let serve = |_, _, raft: Openraft, question| async move { raft.handle_transfer_leader(question).await.ok() };
        self.call(RPCTypes::TransferLeader, option.hard_ttl(), req, serve).await
    }
}
