//! What the node does about lost stores, failing disks and quiet times.

use crate::common::{Group, PATIENCE, eventually, sees};
use pgvigil_consensus::{Bootstrap, MembershipError, StartError};
use pgvigil_core::id::NodeId;
use pgvigil_raft_store::WritePoint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_store_is_believed_by_nobody() {
    let mut group = Group::formed(3, |_| {}).await;
    group.agree("kept").await;
    for (_, node) in group.running() {
        sees(&node, "kept").await;
    }
    let lost = group.leader().await % 3 + 1;
    group.stop(lost).await;
    std::fs::remove_dir_all(group.nodes[&lost].directory.path().join("raft")).expect("the store can be deleted");
    group.start(lost, None).await;
    let refused = group.node(lost).initialize(&group.addresses()).await;
    let Err(MembershipError::Distrusted(reason)) = refused else { panic!("{refused:?}") };
    assert!(reason.contains("lost its raft store"), "{reason}");
    // The others go on without it, and never take its answers for acknowledgements.
    group.agree("without it").await;
    let leader = group.leader().await;
    let of_lost = group.node(leader).metrics().followers[&NodeId(lost)];
    assert_eq!(group.node(lost).states().borrow().index, 0, "nothing was replicated to it: {of_lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_founded_only_when_everybody_answers() {
    let mut group = Group::formed(1, |_| {}).await;
    // A group of one exists; a fresh node that names it among its peers joins nothing and founds nothing.
    group.add(2).await;
    group.add(3).await;
    group.start(2, None).await;
    let peers = group.addresses();
    assert_eq!(group.node(2).initialize(&peers).await, Ok(Bootstrap::GroupExists { by: NodeId(1) }));
    group.stop(1).await;
    let waiting = group.node(2).initialize(&peers).await;
    let Ok(Bootstrap::Waiting { silent }) = waiting else { panic!("{waiting:?}") };
    assert_eq!(silent.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_disk_is_fatal_and_seen() {
    let mut group = Group::formed(3, |_| {}).await;
    let leader = group.leader().await;
    group.stop(leader).await;
    let broken = Arc::new(AtomicBool::new(false));
    let breaks = broken.clone();
    let probe = move |point| {
        assert!(!(point == WritePoint::Flushed && breaks.load(Ordering::SeqCst)), "the disk is broken");
    };
    group.start(leader, Some(Arc::new(probe))).await;
    sees_somebody_lead(&group, leader).await;
    let other = group.leader().await;
    if other != leader {
        group.node(other).transfer_leadership(NodeId(leader)).await.expect("it is handed over");
    }
    broken.store(true, Ordering::SeqCst);
    // Whether this one is agreed is open: the two others can commit it without the leader's own disk.
    let node = group.node(leader);
    let proposal = crate::common::proposal("perhaps");
    let (reason, _) = tokio::time::timeout(PATIENCE, async {
        tokio::join!(node.fatal(), node.propose(&proposal, Duration::from_secs(5)))
    })
    .await
    .expect("the failure is seen");
    assert!(reason.contains("panicked"), "{reason}");
    // The supervisor now ends the process; the others go on.
    group.stop(leader).await;
    group.agree("without the broken disk").await;
}

async fn sees_somebody_lead(group: &Group, id: u64) {
    let mut leadership = group.node(id).leadership();
    let known = leadership.wait_for(|l| l.leader.is_some());
    tokio::time::timeout(PATIENCE, known).await.expect("it learns who leads").expect("it runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_group_writes_nothing() {
    let group = Group::formed(3, |_| {}).await;
    group.agree("last change").await;
    for (_, node) in group.running() {
        sees(&node, "last change").await;
    }
    let leader = group.node(group.leader().await);
    let all_committed = || {
        let last = leader.metrics().last_log_index;
        group.running().all(|(_, n)| n.metrics().committed_index == last && n.metrics().applied_index == last)
    };
    eventually("everybody has applied everything", all_committed).await;
    // Every round is a heartbeat to everybody and back.
    let before: Vec<_> = group.running().map(|(_, n)| n.metrics().store).collect();
    for _ in 0..50 {
        leader.confirm_leadership().await.expect("it leads");
    }
    let after: Vec<_> = group.running().map(|(_, n)| n.metrics().store).collect();
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_another_node_is_refused() {
    let mut group = Group::formed(1, |_| {}).await;
    group.stop(1).await;
    let options =
        pgvigil_consensus::Options::new(NodeId(2), "127.0.0.1:1", group.nodes[&1].directory.path().join("raft"));
    let error = pgvigil_consensus::Node::start(options).await.expect_err("the store is node 1's");
    assert!(matches!(error, StartError::Store(_)), "{error}");
}
