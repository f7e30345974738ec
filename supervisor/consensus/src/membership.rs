//! Who is in the group: the first membership, voters that come and go, and handing over the leadership.

use crate::error::MembershipError;
use crate::handle::Consensus;
use crate::network::Kind;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardReason, InitializeError, RaftError};
use openraft::raft::ClientWriteResponse;
use openraft::{BasicNode, ChangeMembers};
use pgvigil_core::id::NodeId;
use pgvigil_raft_store::TypeConfig;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;
use tokio::time::timeout;

/// How long a new voter may take to catch up: it gets the whole state and then the rest of the log.
const CATCH_UP: Duration = Duration::from_secs(60);

/// How long one change of the membership may take to be committed.
const CHANGE: Duration = Duration::from_secs(10);

/// How long a peer may take to say who it is.
const INTRODUCTION: Duration = Duration::from_secs(1);

/// What came of [`Consensus::initialize`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bootstrap {
    /// This node wrote the group's first membership.
    Done,
    /// Nothing to do: this node's log is not empty.
    Already,
    /// Nothing done: the group exists, so this node waits for its leader (or for an operator to add it).
    GroupExists {
        /// Who says so.
        by: NodeId,
    },
    /// Nothing done yet: these did not answer, and one of them may know of an existing group. Try again.
    Waiting {
        /// Who did not answer, and why.
        silent: BTreeMap<NodeId, String>,
    },
}

type Written = Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

impl Consensus {
    /// Founds the group with `peers` as voters, this node among them. Every node calls it at every start with the
    /// same peers; it acts only where nothing exists yet.
    ///
    /// A node with an empty store asks all the others first. Otherwise one that lost its store would found a second
    /// group under the first one's name, or contradict its first entry. Refused if a peer knows this node by another
    /// store: then its promises are lost, and it must come back under a new id.
    pub async fn initialize(&self, peers: &BTreeMap<NodeId, String>) -> Result<Bootstrap, MembershipError> {
        let inner = &self.inner;
        let fatal = |e: &dyn std::fmt::Display| MembershipError::Fatal { reason: e.to_string() };
        if inner.raft.is_initialized().await.map_err(|e| fatal(&e))? {
            return Ok(Bootstrap::Already);
        }
        let others = peers.iter().filter(|(id, _)| id.0 != inner.node);
        let asked = others.map(|(id, address)| async move {
            let peer = inner.network.peer(id.0, address, Kind::Calls);
            (*id, peer.identify(INTRODUCTION).await)
        });
        let mut silent = BTreeMap::new();
        for (id, answer) in futures::future::join_all(asked).await {
            match answer {
                Ok(identity) if identity.established => return Ok(Bootstrap::GroupExists { by: id }),
                Ok(_) => {}
                Err(error) if error.is_distrust() => return Err(MembershipError::Distrusted(error.to_string())),
                Err(error) => drop(silent.insert(id, error.to_string())),
            }
        }
        if !silent.is_empty() {
            return Ok(Bootstrap::Waiting { silent });
        }
        let members: BTreeMap<u64, BasicNode> =
            peers.iter().map(|(id, address)| (id.0, BasicNode::new(address.clone()))).collect();
        match inner.raft.initialize(members).await {
            Ok(()) => {
                inner.wire.trust.admit();
                Ok(Bootstrap::Done)
            }
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(Bootstrap::Already),
            Err(RaftError::APIError(error)) => Err(MembershipError::Refused(error.to_string())),
            Err(RaftError::Fatal(error)) => Err(fatal(&error)),
        }
    }

    /// Makes `id` a voter: it follows as a learner until it has caught up, then it votes. Leader only; repeatable.
    /// Refused where the id was used with another store: what that one promised still counts.
    pub async fn add_voter(&self, id: NodeId, address: &str) -> Result<(), MembershipError> {
        let _one_at_a_time = self.inner.changing.lock().await;
        self.finish_joint().await?;
        if self.voters().contains_key(&id) {
            return Ok(());
        }
        let node = BasicNode::new(address);
        self.introduce(id, &node).await?;
        let learning = || self.inner.raft.add_learner(id.0, node.clone(), true);
        self.change("catching up of the new voter", CATCH_UP, learning).await?;
        let voting = || self.inner.raft.change_membership(ChangeMembers::AddVoterIds([id.0].into()), false);
        self.change("the change of the voters", CHANGE, voting).await
    }

    /// The store of the node at `address`, which must call itself `id`. Waits until it answers, as long as its catching up
    /// may take.
    pub async fn store_of(&self, id: NodeId, address: &str) -> Result<u64, MembershipError> {
        if id.0 == self.inner.node {
            return Ok(self.inner.wire.store);
        }
        self.introduce(id, &BasicNode::new(address)).await
    }

    async fn introduce(&self, id: NodeId, node: &BasicNode) -> Result<u64, MembershipError> {
        let address = self.inner.network.address(id.0, Some(node)).unwrap_or_default();
        let peer = self.inner.network.peer(id.0, &address, Kind::Calls);
        let asking = async {
            loop {
                match peer.identify(INTRODUCTION).await {
                    Ok(identity) => return Ok(identity.store),
                    Err(error) if error.is_distrust() => {
                        let way_back = crate::trust::way_back(id.0);
                        return Err(MembershipError::Distrusted(format!("{error}. {way_back}")));
                    }
                    Err(_) => tokio::time::sleep(INTRODUCTION / 10).await,
                }
            }
        };
        let silent = MembershipError::Slow { step: "the answer of the new voter", patience: CATCH_UP };
        timeout(CATCH_UP, asking).await.unwrap_or(Err(silent))
    }

    /// Removes `id`, voter or learner. Leader only; repeatable. A leader that removes itself steps down afterwards.
    pub async fn remove_voter(&self, id: NodeId) -> Result<(), MembershipError> {
        let _one_at_a_time = self.inner.changing.lock().await;
        self.finish_joint().await?;
        if !self.members().contains_key(&id) {
            return Ok(());
        }
        let voters = self.voters();
        let ids: BTreeSet<u64> = [id.0].into();
        let removal = if voters.contains_key(&id) {
            if voters.len() == 1 {
                return Err(MembershipError::Refused(format!("node {id} is the only voter")));
            }
            ChangeMembers::RemoveVoters(ids)
        } else {
            ChangeMembers::RemoveNodes(ids)
        };
        let removing = || self.inner.raft.change_membership(removal.clone(), false);
        self.change("the removal", CHANGE, removing).await
    }

    /// Hands the leadership to the voter `to` and waits until it leads. Leader only.
    ///
    /// Asks `to` first whether it is there: a leader that hands over stops working, and if nobody takes over the
    /// group waits for an election.
    pub async fn transfer_leadership(&self, to: NodeId) -> Result<(), MembershipError> {
        let inner = &self.inner;
        let mut leadership = inner.leadership.clone();
        let now = leadership.borrow_and_update().clone();
        if !now.i_am_leader {
            return Err(MembershipError::NotLeader { leader: now.leader });
        }
        if to.0 == inner.node {
            return Ok(());
        }
        let voters = self.voters();
        let address = voters.get(&to).ok_or_else(|| MembershipError::Refused(format!("node {to} is no voter")))?;
        let peer = inner.network.peer(to.0, address, Kind::Calls);
        peer.identify(inner.timings.election_min)
            .await
            .map_err(|e| MembershipError::Refused(format!("node {to} does not answer: {e}")))?;

        let fatal = |e: &dyn std::fmt::Display| MembershipError::Fatal { reason: e.to_string() };
        inner.raft.trigger().transfer_leader(to.0).await.map_err(|e| fatal(&e))?;
        let patience = inner.timings.election_max * 3;
        let moved =
            leadership.wait_for(|l| !l.i_am_leader && l.leader.as_ref().is_some_and(|(id, _)| id.0 != inner.node));
        match timeout(patience, moved).await {
            Err(_) => Err(MembershipError::Slow { step: "the handing over of the leadership", patience }),
            Ok(Err(_)) => Err(fatal(&"raft has ended")),
            Ok(Ok(now)) if now.leader.as_ref().is_some_and(|(id, _)| *id == to) => Ok(()),
            Ok(Ok(now)) => {
                let who = now.leader.as_ref().map_or_else(|| "nobody".to_owned(), |(id, _)| format!("node {id}"));
                Err(MembershipError::Refused(format!("{who} was elected instead of node {to}")))
            }
        }
    }

    /// Completes a change that an earlier leader left half done.
    async fn finish_joint(&self) -> Result<(), MembershipError> {
        let metrics = self.inner.raft.server_metrics().borrow_watched().clone();
        if metrics.membership_config.membership().get_joint_config().len() < 2 {
            return Ok(());
        }
        let finishing = || self.inner.raft.change_membership(ChangeMembers::AddVoterIds(BTreeSet::new()), false);
        self.change("the end of an earlier change", CHANGE, finishing).await
    }

    /// Runs one change. A fresh leader's wait for its first quorum is part of the patience.
    async fn change<F>(
        &self,
        step: &'static str,
        patience: Duration,
        attempt: impl Fn() -> F,
    ) -> Result<(), MembershipError>
    where
        F: Future<Output = Written>,
    {
        let attempts = async {
            loop {
                match attempt().await {
                    Ok(_) => return Ok(()),
                    Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))
                        if forward.reason == ForwardReason::LeaseExpired =>
                    {
                        tokio::time::sleep(self.inner.timings.heartbeat / 10).await;
                    }
                    Err(error) => return Err(self.membership_error(error)),
                }
            }
        };
        timeout(patience, attempts).await.unwrap_or(Err(MembershipError::Slow { step, patience }))
    }
}
