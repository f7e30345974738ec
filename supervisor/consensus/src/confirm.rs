//! Confirms with a quorum that this node still leads: Raft's ReadIndex, in rounds that callers share.
//!
//! Whoever calls while a round is under way waits for the next one, because only a round that began after the call
//! proves anything about the moment of the call. All who wait share that next round, so any number of agents costs at
//! most two rounds at a time.

use crate::error::NotLeader;
use crate::leadership::{LeaderTerm, Leadership};
use crate::service::Raft;
use openraft::alias::InstantOf;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{Instant as _, ReadPolicy};
use pgvigil_core::id::NodeId;
use pgvigil_raft_store::TypeConfig;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

type Answer<T = LeaderTerm> = Result<T, NotLeader>;

/// The rounds of one node.
#[derive(Debug)]
pub(crate) struct Rounds {
    raft: Raft,
    leadership: watch::Receiver<Leadership>,
    patience: Duration,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// For the next round.
    callers: Vec<oneshot::Sender<Answer>>,
    /// Whether a task is working through rounds.
    running: bool,
}

impl Rounds {
    pub(crate) fn new(raft: Raft, leadership: watch::Receiver<Leadership>, patience: Duration) -> Arc<Self> {
        Arc::new(Self { raft, leadership, patience, waiting: Mutex::default() })
    }

    /// Joins the next round.
    pub(crate) async fn confirm(self: &Arc<Self>) -> Answer {
        let (tell, told) = oneshot::channel();
        let start = {
            let mut waiting = self.lock();
            waiting.callers.push(tell);
            !std::mem::replace(&mut waiting.running, true)
        };
        if start {
            tokio::spawn(self.clone().run());
        }
        told.await.unwrap_or_else(|_| Err(self.not_leader("the confirmation was cut short".to_owned())))
    }

    /// See the handle. openraft counts an acknowledgement from when its heartbeat was *sent*.
    pub(crate) async fn led_since(&self, since: Instant, within: Duration) -> Answer<()> {
        let elapsed = since.elapsed();
        // openraft's own instant of that moment: a little later, never earlier.
        let since = InstantOf::<TypeConfig>::now() - elapsed;
        let acknowledged = self.raft.wait(Some(within)).leader_with_quorum_acked(Some(since), "a quorum").await;
        match acknowledged {
            Ok(_) => Ok(()),
            Err(error) => Err(self.not_leader(error.to_string())),
        }
    }

    async fn run(self: Arc<Self>) {
        loop {
            let callers = {
                let mut waiting = self.lock();
                if waiting.callers.is_empty() {
                    waiting.running = false;
                    return;
                }
                std::mem::take(&mut waiting.callers)
            };
            let answer = self.round().await;
            for caller in callers {
                // A caller that gave up needs no answer.
                let _ = caller.send(answer.clone());
            }
        }
    }

    async fn round(&self) -> Answer {
        let reading = self.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        match tokio::time::timeout(self.patience, reading).await {
            Ok(Ok(read)) => {
                let leader = read.committed_leader_id();
                Ok(LeaderTerm { term: leader.term, node: NodeId(leader.node_id) })
            }
            Ok(Err(error)) => Err(self.not_leader(reason(&error))),
            Err(_) => Err(self.not_leader(format!("no quorum answered within {:?}", self.patience))),
        }
    }

    fn not_leader(&self, reason: String) -> NotLeader {
        let known = self.leadership.borrow().clone();
        // A leader without a quorum is no address to send anybody to.
        NotLeader { leader: known.leader.filter(|_| !known.i_am_leader), reason }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reason(error: &RaftError<TypeConfig, LinearizableReadError<TypeConfig>>) -> String {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => "this node does not lead".to_owned(),
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(quorum)) => {
            format!("only nodes {:?} answered", quorum.got)
        }
        other => other.to_string(),
    }
}
