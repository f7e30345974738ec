//! What the Raft node can say about itself, as plain numbers.

use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, LogIdOptionExt, RaftMetrics};
use pgvigil_core::id::NodeId;
use pgvigil_raft_store::{Counters, TypeConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A summary for metrics and status pages: true when it was made, and only of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// This node.
    pub node: NodeId,
    /// The term it is in.
    pub term: u64,
    /// "leader", "follower", "candidate", "learner" or "shutdown".
    pub role: &'static str,
    /// Whom it takes for the leader.
    pub leader: Option<NodeId>,
    /// Index of the last entry in its log.
    pub last_log_index: Option<u64>,
    /// Index of the last entry that it knows to be committed.
    pub committed_index: Option<u64>,
    /// Index of the last entry applied to its state.
    pub applied_index: Option<u64>,
    /// Index of the last entry in its snapshot.
    pub snapshot_index: Option<u64>,
    /// Index of the last entry purged from its log.
    pub purged_index: Option<u64>,
    /// Leader only: how long ago a quorum last acknowledged it.
    pub quorum_acknowledged_ago: Option<Duration>,
    /// Leader only: each other node.
    pub followers: BTreeMap<NodeId, Follower>,
    /// Those who vote, by the newest membership in the log.
    pub voters: BTreeSet<NodeId>,
    /// Those who only follow.
    pub learners: BTreeSet<NodeId>,
    /// What the store has written since the process started.
    pub store: Counters,
    /// Why Raft is finished, if it is.
    pub fatal: Option<String>,
}

/// One follower, as the leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Follower {
    /// Last entry known to be in its log; nothing before its first answer to this leader.
    pub matched_index: Option<u64>,
    /// Entries that it lacks.
    pub lag_entries: u64,
    /// How long ago it last answered a heartbeat.
    pub answered_ago: Option<Duration>,
}

pub(crate) fn summary(raft: &crate::service::Raft, store: Counters) -> Metrics {
    // Cloned at once: a held borrow would block openraft's core.
    let metrics: RaftMetrics<TypeConfig> = raft.metrics().borrow_watched().clone();
    let membership = metrics.membership_config.membership();
    let answered = metrics.heartbeat.unwrap_or_default();
    let follower = |(id, matched): (u64, Option<pgvigil_raft_store::LogId>)| {
        let matched_index = matched.index();
        let lag_entries = metrics.last_log_index.map_or(0, |last| (last + 1).saturating_sub(matched.next_index()));
        let answered_ago = answered.get(&id).and_then(|at| at.as_ref().map(|at| at.elapsed()));
        (NodeId(id), Follower { matched_index, lag_entries, answered_ago })
    };
    Metrics {
        node: NodeId(metrics.id),
        term: metrics.current_term,
        role: match metrics.state {
            openraft::ServerState::Learner => "learner",
            openraft::ServerState::Follower => "follower",
            openraft::ServerState::Candidate => "candidate",
            openraft::ServerState::Leader => "leader",
            openraft::ServerState::Shutdown => "shutdown",
        },
        leader: metrics.current_leader.map(NodeId),
        last_log_index: metrics.last_log_index,
        committed_index: metrics.local_committed.index(),
        applied_index: metrics.last_applied.index(),
        snapshot_index: metrics.snapshot.index(),
        purged_index: metrics.purged.index(),
        quorum_acknowledged_ago: metrics.last_quorum_acked.map(|at| at.elapsed()),
        followers: metrics
            .replication
            .unwrap_or_default()
            .into_iter()
            .filter(|(id, _)| *id != metrics.id)
            .map(follower)
            .collect(),
        voters: membership.voter_ids().map(NodeId).collect(),
        learners: membership.learner_ids().map(NodeId).collect(),
        store,
        fatal: metrics.running_state.err().map(|e| e.to_string()),
    }
}
