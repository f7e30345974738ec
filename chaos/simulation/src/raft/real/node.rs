//! One host's openraft from the start of its process to the end, after `supervisor/consensus/src/node.rs`, `leadership.rs`,
//! `pace.rs` and `membership.rs`.

use super::{
    log::{Log, flushed},
    machine::Machine,
    network::Network,
    options::{self, ELECTION_MAX, HEARTBEAT, millis},
    runtime::{HostInstant, Runtime},
    types::Openraft,
};
use crate::world::{W, World};
use openraft::{AsyncRuntime, BasicNode, Instant, async_runtime::WatchReceiver};
use pgvigil_core::id::NodeId;
use std::{collections::BTreeMap, rc::Rc, time::Duration};

/// Between two attempts to found the group.
const FOUND_AGAIN: u64 = 500;

/// Runs openraft on `host`, in the process that asks.
pub(super) async fn run(w: W, host: usize) {
    // Opening a store flushes what an earlier process wrote.
    flushed(host).await;
    let (log, machine) = (Log { host }, Machine { host });
    w.log_host(host, || format!("opens its store: {}", w.raft.real().disk(host).borrow().written));
    let config = options::config(&w);
    let raft = match Openraft::new(World::node(host).0, config, Network { host }, log, machine).await {
        Ok(raft) => raft,
        Err(error) => return w.check.borrow_mut().panicked(&w, host, &error.to_string()),
    };
    w.raft.real().nodes.borrow_mut()[host].raft = Some(raft.clone());
    let process = World::agent_process(host);
    w.exec.spawn(process, keep_pace(Rc::clone(&w), host, raft.clone()));
    w.exec.spawn(process, found(Rc::clone(&w), host, raft.clone()));
    follow(&w, host, raft).await;
}

/// Follows openraft's own watch; it only ends by itself if openraft does.
async fn follow(w: &W, host: usize, raft: Openraft) {
    let mut metrics = raft.server_metrics();
    loop {
        let now = metrics.borrow_and_update().clone();
        let leads = now.state.is_leader() && now.current_leader == Some(now.id);
        let term = now.vote.leader_id().term;
        let moved = {
            let mut nodes = w.raft.real().nodes.borrow_mut();
            let node = &mut nodes[host];
            let before = (node.leader, node.leads);
            node.leader = now.current_leader.map(|id| World::host_of_node(NodeId(id)));
            node.leads = leads.then_some(term);
            if before.1.is_none() && leads {
                w.raft.elections.set(w.raft.elections.get() + 1);
                w.cover.hit("raft", "leader-elected");
                w.log("raft", || format!("{} leads term {term}", w.member(host)));
            }
            if before.1.is_some() && !leads {
                w.cover.hit("raft", "stale-leader-stood-down");
            }
            before != (node.leader, node.leads)
        };
        if moved {
            w.raft.leadership[host].bump(&w.exec);
        }
        if metrics.changed().await.is_err() {
            let ended = raft.metrics().borrow_watched().running_state.clone().err();
            let why = ended.map_or_else(|| "openraft has ended".to_owned(), |error| error.to_string());
            w.check.borrow_mut().panicked(w, host, &why);
            return;
        }
    }
}

/// Heartbeats and ticks at the program's pace.
async fn keep_pace(w: W, host: usize, raft: Openraft) {
    let mut seen = u64::MAX;
    loop {
        if w.raft.leads(host).is_some() {
            raft.runtime_config().tick(false);
            beat(&w, host, &raft).await;
        }
        let now = HostInstant::now();
        let heard = w.raft.real().nodes.borrow()[host].heard;
        let faithful_until = heard.map(|at| at + ELECTION_MAX).filter(|until| *until > now);
        raft.runtime_config().tick(faithful_until.is_none());
        let look_again = faithful_until.unwrap_or(now + ELECTION_MAX) - now;
        w.within(host, millis(look_again) + 1, w.changed(&w.raft.leadership[host], &mut seen)).await;
    }
}

async fn beat(w: &W, host: usize, raft: &Openraft) {
    let mut due = HostInstant::now();
    while w.raft.leads(host).is_some() {
        if raft.trigger().heartbeat().await.is_err() {
            return;
        }
        due = (due + HEARTBEAT).max(HostInstant::now());
        // At a moment that other timers of the process share.
        Runtime::sleep_until(due + Duration::from_millis(w.rng.range(0, 63)) - Duration::from_millis(32)).await;
    }
}

/// Founds the group where nothing exists yet and everybody says so.
async fn found(w: W, host: usize, raft: Openraft) {
    while !matches!(raft.is_initialized().await, Ok(true)) {
        w.pause(500, 3_000).await;
        let others = || w.raft.voters.iter().copied().filter(|other| *other != host);
        let asked: Vec<Option<bool>> = others()
            .map(|other| {
                let answers = w.hears(other) && w.reaches_both(host, other);
                answers.then(|| w.raft.real().nodes.borrow()[other].state.is_some())
            })
            .collect();
        if asked.contains(&Some(true)) {
            return;
        }
        if asked.iter().all(Option::is_some) {
            let members: BTreeMap<u64, BasicNode> =
                w.raft.voters.iter().map(|voter| (World::node(*voter).0, BasicNode::new(w.member(*voter)))).collect();
            raft.initialize(members).await.ok();
            return;
        }
        w.sleep(host, FOUND_AGAIN).await;
    }
}
