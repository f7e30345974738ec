use super::*;
use crate::view::tests::healthy;
use pgvigil_core::{
    id::{NodeId, TimelineId},
    reign::{Election, ElectionKind, Start},
    time::WallTime,
};
use std::time::Duration;

/// What a quorum confirms.
#[derive(Clone)]
struct Confirms(Option<ClusterState>);

impl View for Confirms {
    async fn confirmed(&self, _: &ClusterId) -> Option<ClusterState> {
        self.0.clone()
    }
}

/// pg1 reigned in epoch 1; pg2 is appointed in epoch 2 and waits until pg1 serves nobody.
fn owed() -> ClusterState {
    let mut state = healthy().state;
    let mut reign = state.reigns[0].clone();
    let former = reign.primary.clone();
    (reign.epoch, reign.timeline, reign.start) = (Epoch(2), TimelineId(2), Start::Promote);
    (reign.primary, reign.open, reign.complete) = (state.members[&"pg2".into()].key(), false, false);
    state.epoch = Epoch(2);
    state.reigns.push(reign);
    let debt = FenceDebt { epoch: Epoch(1), primary: former, asserted_off: false, unguarded: false, lease_ms: 0 };
    state.fence_debts.push(debt);
    state
}

/// Runs the command for what this node believes is owed, while `confirmed` is what a quorum says; whether it was run.
async fn runs(confirmed: Option<ClusterState>) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let shot = dir.path().join("shot");
    let command = FenceCommand {
        command: vec!["/bin/sh".to_owned(), "-c".to_owned(), format!("echo $PGVIGIL_MEMBER > {}", shot.display())],
        timeout: Duration::from_secs(60),
    };
    let fences = Fences::new(Some(command));
    let inbox = Arc::new(SharedInbox::new(NodeId(2)));
    inbox.with(|inbox| inbox.begin(clock::now(), 7));
    let believed = owed();
    inbox.with(|inbox| inbox.of(&believed).is_some());
    fences.run(&believed, &believed.fence_debts, &inbox, &Confirms(confirmed));
    loop {
        let ran = inbox.with(|inbox| !inbox.of(&believed).unwrap().fence_commands_done.is_empty());
        // A time to try again: it was not run.
        let given_up = fences.attempts.lock().unwrap().values().any(Option::is_some);
        if ran || given_up {
            assert_eq!(ran, shot.exists());
            return ran;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Cut off between the appointment and the opening, a leader hears nobody and believes that it still leads.
#[tokio::test]
async fn the_fence_command_runs_only_for_a_debt_that_a_quorum_confirms() {
    assert!(runs(Some(owed())).await);
    assert!(!runs(None).await, "no quorum: this node may lead no more");
    let mut reappointed = owed();
    let mut again = reappointed.reigns[0].clone();
    (again.epoch, again.start) = (Epoch(3), Start::Continue);
    reappointed.reigns.push(again);
    reappointed.fence_debts.clear();
    assert!(!runs(Some(reappointed)).await, "the other side has appointed it again");
    let mut opened = owed();
    opened.reigns[1].open = true;
    assert!(!runs(Some(opened)).await, "somebody else has seen it fenced");
    let mut electing = owed();
    let kind = ElectionKind::Failover;
    electing.election = Some(Election { epoch: Epoch(3), kind, catch_up: None, at: WallTime(0) });
    assert!(!runs(Some(electing)).await, "it may become primary again");
}
