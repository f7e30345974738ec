//! A voter whose Raft store was emptied: it does not vote, whoever asks it, and everybody says so.

use crate::common::{Group, PATIENCE, eventually, proposal, sees};
use pgvigil_consensus::MembershipError;
use pgvigil_core::command::{Actor, Command};
use pgvigil_core::id::{ClusterId, NodeId};
use pgvigil_core::time::WallTime;
use pgvigil_core::{Outcome, Proposal};

/// Ends node `id` and starts it again on an empty store.
async fn empty(group: &mut Group, id: u64) {
    group.stop(id).await;
    std::fs::remove_dir_all(group.nodes[&id].directory.path().join("raft")).expect("the store can be deleted");
    group.start(id, None).await;
}

/// The present stores of all voters are agreed.
async fn remember_stores(group: &Group) {
    let leader = group.node(group.leader().await);
    // A quorum makes a leader; the third may not have been met yet.
    eventually("the leader knows every store", || leader.stores().len() == leader.voters().len()).await;
    for (node, store) in leader.stores() {
        let remember = Proposal {
            cluster: ClusterId::from("c"),
            based_on: None,
            at: WallTime(0),
            by: Actor::Controller(NodeId(1)),
            reason: String::new(),
            evidence: Vec::new(),
            command: Command::RememberStore { node, store },
        };
        let outcome = leader.propose(&remember, PATIENCE).await.expect("it leads");
        assert!(matches!(outcome, Outcome::Agreed { .. }), "{outcome:?}");
    }
}

/// Case 07: the leader freezes just as a voter comes back with an empty store. The two that are left are no quorum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_voter_elects_nobody_while_the_leader_is_frozen() {
    let mut group = Group::formed(3, |_| {}).await;
    group.agree("kept").await;
    for (_, node) in group.running() {
        sees(&node, "kept").await;
    }
    let frozen = group.leader().await;
    let lost = frozen % 3 + 1;
    let left = lost % 3 + 1;
    group.isolate(frozen, true);
    empty(&mut group, lost).await;
    // The one that is left asks it for its vote and is refused, by both sides' word.
    eventually("the emptied node knows of it", || group.node(lost).emptied().contains_key(&NodeId(lost))).await;
    eventually("the one that asked knows of it", || group.node(left).emptied().contains_key(&NodeId(lost))).await;
    let said = group.node(left).emptied()[&NodeId(lost)].clone();
    assert!(
        said.contains("Raft store was emptied") && said.contains("does not vote") && said.contains("voters remove")
    );
    let leads = |id: u64| group.node(id).metrics().role == "leader";
    assert!(!leads(left) && !leads(lost), "elected by the vote of an emptied node");
    assert_eq!(group.node(lost).metrics().last_log_index, None, "it holds nothing either");
    group.isolate(frozen, false);
    group.agree("whole again").await;
    let leader = group.node(group.leader().await);
    eventually("the leader names it", || leader.emptied().contains_key(&NodeId(lost))).await;
}

/// A voter that joined later never met the old store: the group's memory, and the emptied node itself, stand in for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_joined_later_does_not_believe_an_emptied_one() {
    let mut group = Group::formed(3, |_| {}).await;
    remember_stores(&group).await;
    let leader = group.leader().await;
    let lost = leader % 3 + 1;
    group.stop(lost).await;
    group.add(4).await;
    group.start(4, None).await;
    // The others were started before it was there: they reach it by the link that is cut below, not directly.
    let address = group.link(leader, 4);
    group.node(leader).add_voter(NodeId(4), &address).await.expect("it joins");
    eventually("node 4 has a vote", || group.node(4).voters().len() == 4).await;
    std::fs::remove_dir_all(group.nodes[&lost].directory.path().join("raft")).expect("the store can be deleted");
    group.start(lost, None).await;
    // Nobody but the newcomer is there to ask it.
    let left = lost % 3 + 1;
    group.stop(left).await;
    group.isolate(leader, true);
    eventually("the newcomer knows of it", || group.node(4).emptied().contains_key(&NodeId(lost))).await;
    assert_eq!(group.node(lost).metrics().last_log_index, None);
    group.start(left, None).await;
    group.isolate(leader, false);
    group.agree("whole again").await;
}

/// Case 07 b: removed, emptied and added again under its id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_was_used_is_not_added_with_another_store() {
    let mut group = Group::formed(3, |_| {}).await;
    remember_stores(&group).await;
    let leader = group.leader().await;
    let gone = leader % 3 + 1;
    let address = group.nodes[&gone].address.to_string();
    group.node(leader).remove_voter(NodeId(gone)).await.expect("it leaves");
    // With the store that it had it may come back.
    group.node(leader).add_voter(NodeId(gone), &address).await.expect("it comes back");
    group.node(leader).remove_voter(NodeId(gone)).await.expect("it leaves");
    empty(&mut group, gone).await;
    let refused = group.node(leader).add_voter(NodeId(gone), &address).await;
    let Err(MembershipError::Distrusted(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("never used") && why.contains("voters add"), "{why}");
    assert_eq!(group.node(leader).voters().len(), 2);
    group.node(leader).propose(&proposal("works"), PATIENCE).await.expect("the group works");
}
