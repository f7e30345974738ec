//! Who leads, as a watch: follows openraft's own watch, so a change is seen at once and nothing polls.

use crate::error::KnownLeader;
use crate::network::Network;
use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use pgvigil_core::id::NodeId;
use pgvigil_raft_store::TypeConfig;
use std::fmt;
use tokio::sync::watch;
use tokio::time::Instant;

/// The whole identity of one leadership. The term alone would not do: openraft may elect two leaders in one term, one
/// after the other, and the later one has the higher node id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaderTerm {
    /// Raft's election number.
    pub term: u64,
    /// Who leads in it.
    pub node: NodeId,
}

impl fmt::Display for LeaderTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.term, self.node)
    }
}

/// Who leads, as far as this node knows. A leader that was cut off goes on believing in itself: before anything is
/// decided or told, `confirm_leadership` must agree (S5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader's id and address. A follower names a leader that died until it hears of another.
    pub leader: KnownLeader,
    /// The term this node is in.
    pub term: u64,
    /// Whether this node was elected and has not yet seen a later election.
    pub i_am_leader: bool,
    /// When this node first saw itself lead in this term, on its monotonic clock. Never earlier than the election,
    /// so whoever waits a whole lease from here waits long enough.
    pub became_leader_at: Option<Instant>,
}

impl Leadership {
    /// The identity of this node's leadership, if it leads.
    #[must_use]
    pub fn mine(&self) -> Option<LeaderTerm> {
        let (node, _) = self.leader.as_ref().filter(|_| self.i_am_leader)?;
        Some(LeaderTerm { term: self.term, node: *node })
    }
}

/// Follows openraft until it stops. The watch then says that nobody is known to lead.
pub(crate) fn follow(
    mut metrics: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
    network: Network,
) -> watch::Receiver<Leadership> {
    let (sender, receiver) = watch::channel(Leadership::default());
    tokio::spawn(async move {
        loop {
            // Cloned at once: a held borrow would block openraft's core.
            let now = metrics.borrow_and_update().clone();
            update(&sender, &seen(&now, &network));
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { break },
                () = sender.closed() => return,
            }
        }
        // Its own statement: the borrow must have ended when `update` writes.
        let term = sender.borrow().term;
        update(&sender, &Leadership { term, ..Leadership::default() });
    });
    receiver
}

fn seen(metrics: &RaftServerMetrics<TypeConfig>, network: &Network) -> Leadership {
    let address = |id| network.address(id, metrics.membership_config.membership().get_node(&id)).unwrap_or_default();
    Leadership {
        leader: metrics.current_leader.map(|id| (NodeId(id), address(id))),
        term: metrics.vote.leader_id().term,
        // The state says so as soon as the votes are in.
        i_am_leader: metrics.state.is_leader() && metrics.current_leader == Some(metrics.id),
        became_leader_at: None,
    }
}

fn update(sender: &watch::Sender<Leadership>, now: &Leadership) {
    sender.send_if_modified(|known| {
        let same_reign = known.i_am_leader && now.i_am_leader && known.term == now.term;
        let since = if same_reign { known.became_leader_at } else { now.i_am_leader.then(Instant::now) };
        let next = Leadership { became_leader_at: since, ..now.clone() };
        let changed = *known != next;
        *known = next;
        changed
    });
}
