//! The life of a group of three: it elects, agrees, confirms, survives a restart, hands over, changes its members.

use crate::common::{Group, PATIENCE, eventually, proposal, sees};
use pgvigil_consensus::{Bootstrap, MembershipError, ProposeError};
use pgvigil_core::id::NodeId;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_leader_agrees_appears_everywhere() {
    let group = Group::formed(3, |_| {}).await;
    let leader = group.leader().await;
    group.agree("one").await;
    for (_, node) in group.running() {
        sees(&node, "one").await;
    }
    // A follower names the leader instead of forwarding.
    let follower = (1..=3).find(|id| *id != leader).expect("two follow");
    let error = group.node(follower).propose(&proposal("two"), PATIENCE).await.expect_err("it does not lead");
    let ProposeError::NotLeader { leader: Some((named, address)) } = error else { panic!("{error:?}") };
    assert_eq!(named, NodeId(leader));
    assert!(!address.is_empty());
    let mine = group.node(leader).leadership().borrow().clone();
    assert!(mine.i_am_leader && mine.became_leader_at.is_some());
    assert!(!group.node(follower).leadership().borrow().i_am_leader);
    assert_eq!(group.node(follower).voters().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_leader_with_a_quorum_is_confirmed() {
    let group = Group::formed(3, |_| {}).await;
    let old = group.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != old).collect();
    let old_term = group.node(old).confirm_leadership().await.expect("it leads");
    group.node(old).led_since(Instant::now(), PATIENCE).await.expect("the next heartbeats show it");
    assert_eq!(old_term.node, NodeId(old));
    for id in &others {
        let refused = group.node(*id).confirm_leadership().await.expect_err("a follower does not lead");
        assert_eq!(refused.leader.map(|(id, _)| id), Some(NodeId(old)));
    }

    group.isolate(old, true);
    // From the call on, no quorum can answer; what was acknowledged before does not count.
    group.node(old).confirm_leadership().await.expect_err("it is cut off");
    let cut_off = Instant::now();
    group.node(old).led_since(cut_off, Duration::from_secs(2)).await.expect_err("older acknowledgements do not count");
    let unavailable = group.node(old).propose(&proposal("lost"), Duration::from_secs(2)).await;
    assert!(matches!(unavailable, Err(ProposeError::Unavailable { .. } | ProposeError::NotLeader { .. })));
    let new = group.leader_among(&others).await;
    let new_term = group.node(new).confirm_leadership().await.expect("it leads");
    assert!(new_term > old_term, "{new_term} after {old_term}");
    group.node(old).confirm_leadership().await.expect_err("still cut off");

    group.isolate(old, false);
    let mut leadership = group.node(old).leadership();
    let follows = leadership.wait_for(|l| !l.i_am_leader && l.leader.is_some());
    tokio::time::timeout(PATIENCE, follows).await.expect("it learns of its successor").expect("it runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_confirmations_share_few_rounds() {
    let group = Group::formed(3, |_| {}).await;
    let leader = group.node(group.leader().await);
    let all = (0..500).map(|_| leader.confirm_leadership());
    let answers: BTreeSet<_> = futures::future::join_all(all).await.into_iter().map(|a| a.expect("it leads")).collect();
    assert_eq!(answers.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_group_keeps_its_state() {
    let mut group = Group::formed(3, |_| {}).await;
    group.agree("before").await;
    for (_, node) in group.running() {
        sees(&node, "before").await;
    }
    // One node, the leader too.
    let leader = group.leader().await;
    group.stop(leader).await;
    group.agree("while one is away").await;
    group.start(leader, None).await;
    sees(&group.node(leader), "before").await;
    sees(&group.node(leader), "while one is away").await;
    // All at once.
    for id in 1..=3 {
        group.stop(id).await;
    }
    for id in 1..=3 {
        group.start(id, None).await;
    }
    let peers = group.addresses();
    for (_, node) in group.running() {
        assert_eq!(node.initialize(&peers).await, Ok(Bootstrap::Already));
        sees(&node, "while one is away").await;
    }
    group.agree("after").await;
}

/// After a loss of power it may lack entries that a follower has, and would write others under the same log ids.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_restarts_does_not_go_on_in_its_old_term() {
    let mut group = Group::formed(3, |_| {}).await;
    let before = group.node(group.leader().await).confirm_leadership().await.expect("it leads");
    for id in 1..=3 {
        group.stop(id).await;
    }
    for id in 1..=3 {
        group.start(id, None).await;
    }
    let after = group.node(group.leader().await).confirm_leadership().await.expect("it leads");
    assert!(after.term > before.term, "{after} after {before}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over() {
    let mut group = Group::formed(3, |_| {}).await;
    for _ in 0..4 {
        let from = group.leader().await;
        let to = from % 3 + 1;
        group.node(from).transfer_leadership(NodeId(to)).await.expect("it is handed over");
        assert_eq!(group.leader().await, to);
    }
    // To somebody who is away it is refused, and the leader stays.
    let from = group.leader().await;
    let away = from % 3 + 1;
    group.stop(away).await;
    let refused = group.node(from).transfer_leadership(NodeId(away)).await;
    assert!(matches!(refused, Err(MembershipError::Refused(_))), "{refused:?}");
    group.node(from).confirm_leadership().await.expect("it still leads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_come_and_go() {
    let mut group = Group::formed(3, |_| {}).await;
    group.agree("early").await;
    group.add(4).await;
    group.start(4, None).await;
    let leader = group.node(group.leader().await);
    let address = group.nodes[&4].address.to_string();
    leader.add_voter(NodeId(4), &address).await.expect("it joins");
    leader.add_voter(NodeId(4), &address).await.expect("asking again is harmless");
    sees(&group.node(4), "early").await;
    eventually("node 4 knows of four voters", || group.node(4).voters().len() == 4).await;
    assert!(matches!(group.node(4).initialize(&group.addresses()).await, Ok(Bootstrap::Already)));

    // Any member can go, the leader too.
    let gone = group.leader().await;
    group.node(gone).remove_voter(NodeId(gone)).await.expect("it leaves");
    let rest: Vec<u64> = (1..=4).filter(|id| *id != gone).collect();
    let leader = group.leader_among(&rest).await;
    eventually("three voters are left", || group.node(leader).voters().len() == 3).await;
    assert!(!group.node(leader).voters().contains_key(&NodeId(gone)));
    group.node(leader).propose(&proposal("late"), PATIENCE).await.expect("the group works");
    sees(&group.node(4), "late").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_missed_too_much_gets_a_snapshot() {
    let few = |options: &mut pgvigil_consensus::Options| {
        options.snapshot_every = 20;
        options.keep_entries = 1;
    };
    let mut group = Group::formed(3, few).await;
    let leader = group.leader().await;
    let late = leader % 3 + 1;
    group.stop(late).await;
    for n in 0..150 {
        group.agree(&format!("cluster{n}")).await;
    }
    let leader = group.node(group.leader().await);
    eventually("the leader has purged its log", || leader.metrics().purged_index.is_some_and(|i| i > 20)).await;
    group.start(late, None).await;
    sees(&group.node(late), "cluster149").await;
    assert!(group.node(late).metrics().snapshot_index.is_some());
    assert_eq!(group.node(late).states().borrow().state, leader.states().borrow().state);
}
