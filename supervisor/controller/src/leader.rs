//! The leader's loop: snapshot, decide, have one command agreed, again; then wait.

use crate::ports::{Node, NotAgreed, Step, Wakes};
use pgvigil_core::{
    Outcome, Proposal, State,
    cluster::ClusterState,
    command::{Actor, Command},
    decide::Wanted,
    id::{ClusterId, NodeId},
    listening::{Listening, listening},
    placement,
    starvation::Starvation,
    time::{Time, WallTime},
    trace::{Decided, Line},
};

/// The longest this loop sleeps: also how finely it notices that it was starved of CPU. In milliseconds, as all of these.
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

/// When something that is rare is next looked at.
#[derive(Debug, Default)]
struct Rare {
    handover: Time,
    stores: Time,
}

/// Runs until the node ends.
pub async fn run<N: Node>(node: &N) {
    let mut wakes = node.wakes();
    let mut wake_at = node.now();
    let mut starved = Starvation::default();
    let mut rare = Rare::default();
    loop {
        let tick = if node.inbox(|inbox| inbox.since()).is_some() { TICK_MS } else { IDLE_MS };
        let Some(planned) = wakes.wait(wake_at, tick).await else { return };
        let now = node.now();
        starved.note(now.since(planned), now);
        if !lead(node).await {
            // Elected, but not confirmed by a quorum yet: asked again soon.
            wake_at = if node.elected() { now.plus(TICK_MS) } else { Time::NEVER };
            continue;
        }
        wake_at = decide_all(node, &starved, &mut rare).await;
        if now >= rare.handover {
            let tried = hand_over(node).await;
            rare.handover = node.now().plus(if tried { HANDOVER_PAUSE_MS } else { HANDOVER_LOOK_MS });
        }
    }
}

/// Whether this node leads; begins and ends listening.
async fn lead<N: Node>(node: &N) -> bool {
    let me = node.me();
    let listens = node.inbox(|inbox| inbox.term());
    match listening(node.leads(), listens) {
        Listening::GoesOn => true,
        Listening::Not => {
            if listens.is_some() {
                tracing::info!(node = %me, "this node no longer leads the Raft group");
                node.inbox(|inbox| inbox.end());
                node.show();
            }
            false
        }
        Listening::Begins(term) => {
            if let Some(before) = listens {
                tracing::info!(node = %me, before, term, "this node lost and regained the lead of the Raft group");
                node.inbox(|inbox| inbox.end());
                node.show();
            }
            // Confirmed by a quorum, and everything agreed before is applied, before anything is decided.
            let since = node.now();
            if node.confirm_leadership().await != Some(term) {
                return false;
            }
            tracing::info!(node = %me, term, "this node leads the Raft group and begins to listen");
            node.forget_fences();
            node.inbox(|inbox| inbox.begin(since, term));
            node.show();
            true
        }
    }
}

/// One decision for each cluster; when to look again.
async fn decide_all<N: Node>(node: &N, starved: &Starvation, rare: &mut Rare) -> Time {
    let mut wake_at = Time::NEVER;
    let agreed = node.agreed();
    if let Some((id, command)) = node.to_create().filter(|(id, _)| !agreed.clusters.contains_key(id)) {
        create(node, id, command).await;
        return node.now();
    }
    if node.now() >= rare.stores && !agreed.clusters.is_empty() {
        rare.stores = node.now().plus(REMEMBER_MS);
        remember_stores(node, &agreed).await;
    }
    for cluster in agreed.clusters.values() {
        let now = node.now();
        let decided = node.inbox(|inbox| {
            inbox.decide(cluster, starved, (now, node.wall()), |seen| {
                let decision = node.judge(cluster, seen, now);
                if let Some(wanted) = &decision.command {
                    node.record(|| {
                        Line::Decided(Box::new(Decided {
                            node: node.me(),
                            cluster: cluster.id.clone(),
                            revision: cluster.revision,
                            seen: seen.clone(),
                            now,
                            command: wanted.command.clone(),
                        }))
                    });
                }
                decision
            })
        });
        let Some((decision, to_fence)) = decided else { return wake_at };
        node.fence(cluster, &to_fence);
        if node.inbox(|inbox| inbox.found(&cluster.id, &decision.findings)) {
            for finding in &decision.findings {
                tracing::debug!(cluster = %cluster.id, code = finding.code, "{}", finding.text);
            }
            node.show();
        }
        if let Some(at) = decision.wake_at {
            wake_at = wake_at.min(at);
        }
        if let Some(wanted) = decision.command
            && agree(node, cluster, wanted).await
        {
            wake_at = node.now();
        }
    }
    wake_at
}

/// Has the Raft store of each voter agreed, once for good. One at a time, in quiet times: nothing waits for it.
async fn remember_stores<N: Node>(node: &N, state: &State) {
    let quiet = state.clusters.values().all(ClusterState::is_settled);
    let unknown = node.stores().into_iter().find(|(voter, _)| !state.stores.contains_key(voter));
    let Some((voter, store)) = unknown else { return };
    let Some(cluster) = state.clusters.keys().next().filter(|_| quiet) else { return };
    if let Err(error) = node.propose(&remembering(node.me(), node.wall(), cluster, (voter, store))).await {
        tracing::debug!(node = %voter, "its Raft store is not on record yet: {error:?}");
    }
}

/// The proposal of node `me` that the Raft store of `voter` be remembered.
#[must_use]
pub fn remembering(me: NodeId, at: WallTime, cluster: &ClusterId, (node, store): (NodeId, u64)) -> Proposal {
    Proposal {
        cluster: cluster.clone(),
        based_on: None,
        at,
        by: Actor::Controller(me),
        reason: format!("node {node} votes with Raft store {store:016x}"),
        evidence: Vec::new(),
        command: Command::RememberStore { node, store },
    }
}

/// Has a decision agreed; `true` if the state has moved or is about to.
async fn agree<N: Node>(node: &N, cluster: &ClusterState, wanted: Wanted) -> bool {
    let name = wanted.command.name();
    let proposal = Proposal {
        cluster: cluster.id.clone(),
        based_on: Some(cluster.revision),
        at: node.wall(),
        by: Actor::Controller(node.me()),
        reason: wanted.reason,
        evidence: wanted.evidence,
        command: wanted.command,
    };
    node.step(name, Step::BeforePropose).await;
    match node.propose(&proposal).await {
        Ok(Outcome::Agreed { revision }) => {
            tracing::info!(cluster = %cluster.id, %revision, command = name, "{}", proposal.reason);
            node.step(name, Step::AfterAgreed).await;
            true
        }
        Ok(Outcome::Refused(refusal)) => {
            tracing::warn!(cluster = %cluster.id, command = name, code = ?refusal.code, "refused: {refusal}");
            false
        }
        Ok(Outcome::Nothing) | Err(NotAgreed::NotLeader) => false,
        Err(NotAgreed::Failed(why)) => {
            tracing::warn!(cluster = %cluster.id, command = name, "not agreed: {why}");
            false
        }
    }
}

async fn create<N: Node>(node: &N, id: ClusterId, command: Command) {
    let proposal = Proposal {
        cluster: id.clone(),
        based_on: None,
        at: node.wall(),
        by: Actor::Controller(node.me()),
        reason: format!("node {}'s configuration asks for it", node.me()),
        evidence: Vec::new(),
        command,
    };
    match node.propose(&proposal).await {
        Ok(outcome) => tracing::info!(cluster = %id, ?outcome, "cluster created"),
        Err(error) => {
            tracing::warn!(cluster = %id, "cluster not created yet: {error:?}");
            node.pause(TICK_MS).await;
        }
    }
}

/// Moves the leadership off the primary's host in quiet times. `true` if it was tried.
async fn hand_over<N: Node>(node: &N) -> bool {
    let (agreed, me) = (node.agreed(), node.me());
    let seen = node.inbox(|inbox| inbox.all(&agreed));
    let Some(to) = placement::better_leader(&agreed, &seen, me, &node.caught_up(CAUGHT_UP), node.now()) else {
        return false;
    };
    tracing::info!(node = %me, %to, "handing over the Raft leadership: it should not sit on the primary's host");
    if let Err(why) = node.transfer_leadership(to).await {
        tracing::warn!(%to, "the Raft leadership was not handed over: {why}");
    }
    true
}
