//! What the public API needs of the running node: a small face, so that the API can be tested without one.

use pgvigil_core::{
    Outcome, Proposal,
    cluster::ClusterState,
    decide::Finding,
    id::{ClusterId, MemberId, NodeId},
    observation::Observations,
    report::Report,
    time::{Time, WallTime},
};
use std::{future::Future, sync::Arc};
use tokio::sync::watch;

/// One cluster as this node knows it at one moment.
#[derive(Clone, Debug)]
pub struct ClusterSnapshot {
    /// The agreed state that this node has applied; on a follower it may be behind.
    pub state: ClusterState,
    /// What the leader has seen; on a follower empty, with `me` set.
    pub observations: Observations,
    /// The newest decision's findings, which a follower has none of; and on any node that another one's state differs.
    pub findings: Vec<Finding>,
    /// This node's `CLOCK_BOOTTIME`, the clock of `observations`.
    pub now: Time,
    /// This node's wall clock.
    pub wall: WallTime,
}

/// The member beside this node, as its own agent knows it: for the HTTP face, which answers about this host only.
#[derive(Clone, Debug)]
pub struct LocalMember {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub member: MemberId,
    /// What its agent would report now.
    pub report: Report,
    /// How old that is, in milliseconds.
    pub age_ms: u64,
}

/// One process of the Raft group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftPeer {
    /// Its node.
    pub node: NodeId,
    /// host:port of its gRPC face.
    pub address: String,
    /// A learner receives the log but does not vote.
    pub learner: bool,
    /// Entries behind the leader; known to the leader only.
    pub behind: Option<u64>,
}

/// The Raft group as this node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// The current term.
    pub term: u64,
    /// Entries known to be agreed.
    pub committed: u64,
    /// Voters and learners by node.
    pub peers: Vec<RaftPeer>,
    /// Another node was seen to hold another agreed state than this one.
    pub differs: bool,
}

/// Why the node could not do what was asked. The rules' refusals are no errors: they come as [`Outcome::Refused`], or
/// here as `Refused` where Raft itself has rules (the last voter cannot leave).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// Another node leads, or nobody does.
    #[error("this node is not the Raft leader; {}", match leader { Some((node, at)) => format!("node {node} at {at} is"), None => "no leader is known".to_owned() })]
    NotLeader {
        /// Who leads and its gRPC address, if known.
        leader: Option<(NodeId, String)>,
    },
    /// The group's own rules say no; nothing has changed.
    #[error("{text}")]
    Refused {
        /// A stable code for programs.
        code: &'static str,
        /// A sentence for people.
        text: String,
    },
    /// It was not agreed in time, or the node stops: it may or may not happen later.
    #[error("{0}")]
    Unavailable(String),
}

/// A running node as the API sees it. Nothing here blocks, except the futures.
pub trait Backend: Send + Sync + 'static {
    /// This node.
    fn node(&self) -> NodeId;

    /// Every cluster, as known now.
    fn view(&self) -> Arc<Vec<ClusterSnapshot>>;

    /// Marked changed whenever `view`, `leader` or `raft` may answer differently; the number means nothing. Bursts may
    /// be merged into one.
    fn changed(&self) -> watch::Receiver<u64>;

    /// The Raft leader and the gRPC address under which it is reached (its advertised address).
    fn leader(&self) -> Option<(NodeId, String)>;

    /// Whether this node leads and has begun to decide.
    fn is_leader(&self) -> bool;

    /// The Raft group.
    fn raft(&self) -> RaftStatus;

    /// The member beside this node; `None` for a voter without PostgreSQL.
    fn local(&self) -> Option<LocalMember>;

    /// Has a proposal agreed. On a node that is not the leader: `NotLeader`.
    fn propose(&self, proposal: Proposal) -> impl Future<Output = Result<Outcome, BackendError>> + Send;

    /// Takes a process into the group: as a learner first, as a voter once it has caught up.
    fn add_voter(&self, node: NodeId, address: String) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Takes a voter out of the group.
    fn remove_voter(&self, node: NodeId) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Moves the group's leadership to a voter, and returns when that one is seen to lead.
    fn transfer_leadership(&self, node: NodeId) -> impl Future<Output = Result<(), BackendError>> + Send;
}
