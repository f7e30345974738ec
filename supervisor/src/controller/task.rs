//! The leader's loop: snapshot, decide, have one command agreed, again; then wait.

use super::{
    fence::{ConfirmedView, Fences},
    inbox::Inbox,
};
use crate::{clock, config::Bootstrap, journal::Journal};
use pgvigil_consensus::{AppliedState, Consensus, ProposeError};
use pgvigil_core::{
    Outcome, Proposal, State,
    cluster::ClusterState,
    command::{Actor, Command},
    decide::{self, Wanted},
    id::{ClusterId, NodeId},
    lease,
    listening::{Listening, listening},
    placement,
    time::Time,
    trace::{Decided, Line},
};
use pgvigil_postgres::fault::{self, Bug};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::sync::watch;

/// The longest this loop sleeps: also how finely it notices that it was starved of CPU.
const TICK_MS: u64 = 100;
/// The same while this node does not lead; a change of leadership wakes it.
const IDLE_MS: u64 = 1_000;
/// How long after a handover of leadership, or an attempt, the next one is considered.
const HANDOVER_PAUSE_MS: u64 = 5_000;
/// How often a leader considers one. It looks at everything it has seen, which is more than a report costs.
const HANDOVER_LOOK_MS: u64 = 1_000;

/// Between two looks whether the Raft store of every voter is on record.
const REMEMBER_MS: u64 = 1_000;

/// A voter that lacks at most so many entries may be handed the leadership.
const CAUGHT_UP: u64 = 2;
/// How long an entry may take to be agreed. With a quorum it takes milliseconds.
pub const AGREE: Duration = Duration::from_secs(3);

/// What the leader's loop works with.
#[derive(Debug)]
pub struct Controller {
    /// This node.
    pub me: NodeId,
    /// The Raft group.
    pub consensus: Consensus,
    /// What is seen.
    pub inbox: Arc<Inbox>,
    /// The cluster that this node's configuration creates, if it does not exist.
    pub bootstrap: Option<(ClusterId, Bootstrap)>,
    /// Where decisions are written down, if anywhere.
    pub journal: Journal,
    /// How a silent former primary is stopped from outside.
    pub fences: Fences,
}

impl Controller {
    /// Runs until the process ends.
    pub async fn run(self) {
        let mut leadership = self.consensus.leadership();
        let mut states = self.consensus.states();
        let mut wake_at = clock::now();
        let mut starved = Starvation::default();
        let mut handover_after = Time(0);
        let mut remember_at = Time(0);
        loop {
            let tick = if self.inbox.since().is_some() { TICK_MS } else { IDLE_MS };
            let (planned, at) = clock::wake_up(wake_at, tick);
            tokio::select! {
                () = tokio::time::sleep_until(at) => {}
                () = self.inbox.poke.notified() => {}
                changed = states.changed() => if changed.is_err() { return },
                changed = leadership.changed() => if changed.is_err() { return },
            }
            let now = clock::now();
            starved.note(now.since(planned), now);
            if !self.lead(&mut leadership).await {
                // Elected, but not confirmed by a quorum yet: asked again soon.
                wake_at = if leadership.borrow().i_am_leader { now.plus(TICK_MS) } else { clock::NEVER };
                continue;
            }
            wake_at = self.decide_all(&mut states, &starved, &mut remember_at).await;
            if now >= handover_after {
                let tried = self.hand_over(&states).await;
                handover_after = clock::now().plus(if tried { HANDOVER_PAUSE_MS } else { HANDOVER_LOOK_MS });
            }
        }
    }

    /// Whether this node leads; begins and ends listening.
    async fn lead(&self, leadership: &mut watch::Receiver<pgvigil_consensus::Leadership>) -> bool {
        let leads = leadership.borrow_and_update().mine().map(|mine| mine.term);
        let listens = self.inbox.listens();
        match listening(leads, listens) {
            Listening::GoesOn => true,
            Listening::Not => {
                if listens.is_some() {
                    tracing::info!(node = %self.me, "this node no longer leads the Raft group");
                    self.inbox.end();
                }
                false
            }
            Listening::Begins(term) => {
                if let Some(before) = listens {
                    tracing::info!(node = %self.me, before, term, "this node lost and regained the lead of the Raft group");
                    self.inbox.end();
                }
                // Confirmed by a quorum, and everything agreed before is applied, before anything is decided.
                let since = clock::now();
                if !self.consensus.confirm_leadership().await.is_ok_and(|confirmed| confirmed.term == term) {
                    return false;
                }
                tracing::info!(node = %self.me, term, "this node leads the Raft group and begins to listen");
                self.fences.forget();
                self.inbox.begin(since, term);
                true
            }
        }
    }

    async fn decide_all(
        &self,
        states: &mut watch::Receiver<Arc<AppliedState>>,
        starved: &Starvation,
        remember_at: &mut Time,
    ) -> Time {
        let mut wake_at = clock::NEVER;
        let state = states.borrow_and_update().clone();
        if let Some((id, bootstrap)) = &self.bootstrap
            && !state.state.clusters.contains_key(id)
        {
            self.create(id, bootstrap).await;
            return clock::now();
        }
        if clock::now() >= *remember_at && !state.state.clusters.is_empty() {
            *remember_at = clock::now().plus(REMEMBER_MS);
            self.remember_stores(&state.state).await;
        }
        for cluster in state.state.clusters.values() {
            let believed = believed(cluster);
            let cluster = believed.as_ref().unwrap_or(cluster);
            let now = clock::now();
            let decided = self.inbox.with(cluster, |seen| {
                seen.starved_ms = starved.ms;
                seen.deaf_until = starved.deaf_until;
                seen.notice(cluster, now);
                let decision = decide::decide(cluster, seen, now);
                if let Some(wanted) = &decision.command {
                    self.journal.write(|| {
                        Line::Decided(Box::new(Decided {
                            node: self.me,
                            cluster: cluster.id.clone(),
                            revision: cluster.revision,
                            seen: seen.clone(),
                            now,
                            command: wanted.command.clone(),
                        }))
                    });
                    seen.appointing(&wanted.command);
                }
                (decision, lease::to_fence(cluster, seen, now))
            });
            let Some((decision, to_fence)) = decided else { return wake_at };
            if let Some(term) = self.inbox.listens() {
                let view = ConfirmedView { consensus: self.consensus.clone(), term };
                self.fences.run(cluster, &to_fence, &self.inbox, &view);
            }
            self.inbox.found(&cluster.id, decision.findings);
            if let Some(at) = decision.wake_at {
                wake_at = wake_at.min(at);
            }
            if let Some(wanted) = decision.command
                && self.agree(cluster, wanted).await
            {
                wake_at = clock::now();
            }
        }
        wake_at
    }

    /// Has the Raft store of each voter agreed, once for good. One at a time, in quiet times: nothing waits for it.
    async fn remember_stores(&self, state: &State) {
        let quiet = state.clusters.values().all(ClusterState::is_settled);
        let known = self.consensus.stores();
        let Some((node, store)) = known.into_iter().find(|(node, _)| !state.stores.contains_key(node)) else { return };
        let Some(cluster) = state.clusters.keys().next().filter(|_| quiet) else { return };
        if let Err(error) = self.consensus.propose(&remembering(self.me, cluster, node, store), AGREE).await {
            tracing::debug!(%node, "its Raft store is not on record yet: {error}");
        }
    }

    /// Has a decision agreed; `true` if the state has moved or is about to.
    async fn agree(&self, cluster: &ClusterState, wanted: Wanted) -> bool {
        let name = wanted.command.name();
        let proposal = Proposal {
            cluster: cluster.id.clone(),
            based_on: Some(cluster.revision),
            at: clock::wall(),
            by: Actor::Controller(self.me),
            reason: wanted.reason,
            evidence: wanted.evidence,
            command: wanted.command,
        };
        if fault::COMPILED_IN {
            fault::reach(&format!("{name}:before-propose"), None).await;
        }
        match self.consensus.propose(&proposal, AGREE).await {
            Ok(Outcome::Agreed { revision }) => {
                tracing::info!(cluster = %cluster.id, %revision, command = name, "{}", proposal.reason);
                if fault::COMPILED_IN {
                    fault::reach(&format!("{name}:after-agreed"), None).await;
                }
                true
            }
            Ok(Outcome::Refused(refusal)) => {
                tracing::warn!(cluster = %cluster.id, command = name, code = ?refusal.code, "refused: {refusal}");
                false
            }
            Ok(Outcome::Nothing) => false,
            Err(ProposeError::NotLeader { .. }) => false,
            Err(error) => {
                tracing::warn!(cluster = %cluster.id, command = name, "not agreed: {error}");
                false
            }
        }
    }

    async fn create(&self, id: &ClusterId, bootstrap: &Bootstrap) {
        let proposal = Proposal {
            cluster: id.clone(),
            based_on: None,
            at: clock::wall(),
            by: Actor::Controller(self.me),
            reason: format!("node {}'s configuration asks for it", self.me),
            evidence: Vec::new(),
            command: Command::CreateCluster { settings: bootstrap.settings.clone(), expect: bootstrap.expect.clone() },
        };
        match self.consensus.propose(&proposal, AGREE).await {
            Ok(outcome) => tracing::info!(cluster = %id, ?outcome, "cluster created"),
            Err(error) => {
                tracing::warn!(cluster = %id, "cluster not created yet: {error}");
                tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
            }
        }
    }

    /// Moves the leadership off the primary's host in quiet times. `true` if it was tried.
    async fn hand_over(&self, states: &watch::Receiver<Arc<AppliedState>>) -> bool {
        let state = states.borrow().clone();
        let metrics = self.consensus.metrics();
        let caught_up: BTreeSet<NodeId> = metrics
            .followers
            .iter()
            .filter(|(id, follower)| metrics.voters.contains(id) && follower.lag_entries <= CAUGHT_UP)
            .map(|(id, _)| *id)
            .collect();
        let seen = self.inbox.all(&state.state);
        let Some(to) = placement::better_leader(&state.state, &seen, self.me, &caught_up, clock::now()) else {
            return false;
        };
        tracing::info!(node = %self.me, %to, "handing over the Raft leadership: it should not sit on the primary's host");
        if let Err(error) = self.consensus.transfer_leadership(to).await {
            tracing::warn!(%to, "the Raft leadership was not handed over: {error}");
        }
        true
    }
}

/// The proposal that the Raft store of `node` be remembered.
pub fn remembering(me: NodeId, cluster: &ClusterId, node: NodeId, store: u64) -> Proposal {
    Proposal {
        cluster: cluster.clone(),
        based_on: None,
        at: clock::wall(),
        by: Actor::Controller(me),
        reason: format!("node {node} votes with Raft store {store:016x}"),
        evidence: Vec::new(),
        command: Command::RememberStore { node, store },
    }
}

/// The agreed state as a leader with a planted bug believes it; `None` without one.
fn believed(cluster: &ClusterState) -> Option<ClusterState> {
    fault::planted(Bug::LeaseIgnored).then(|| {
        let mut cluster = cluster.clone();
        cluster.fence_debts.iter_mut().for_each(|debt| debt.asserted_off = true);
        cluster
    })
}

/// How late this loop's own timers ran of late: our own pauses must not look like the silence of others (Lifeguard).
#[derive(Debug, Default)]
struct Starvation {
    /// By how much time-outs stretch, for a machine that is busy all the time.
    ms: u64,
    until: Time,
    /// The end of the last pause that was longer than that.
    deaf_until: Time,
}

impl Starvation {
    /// Time-outs stretch by no more than this: a longer pause is over when it is over.
    const STRETCH_MAX_MS: u64 = 500;

    fn note(&mut self, late_ms: u64, now: Time) {
        if late_ms > Self::STRETCH_MAX_MS {
            self.deaf_until = now;
        } else if late_ms > TICK_MS / 2 && late_ms >= self.ms {
            self.ms = late_ms;
            self.until = now.plus(10 * late_ms);
        } else if now >= self.until {
            self.ms = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that was frozen and then leads must not be slow for the rest of the minute.
    #[test]
    fn a_long_pause_counts_until_its_end_and_a_busy_machine_stretches_for_a_while() {
        let mut starved = Starvation::default();
        starved.note(7_000, Time(10_000));
        assert_eq!((starved.ms, starved.deaf_until), (0, Time(10_000)));
        starved.note(200, Time(10_300));
        starved.note(0, Time(11_000));
        assert_eq!(starved.ms, 200, "still busy");
        starved.note(0, Time(12_400));
        assert_eq!(starved.ms, 0);
    }
}
