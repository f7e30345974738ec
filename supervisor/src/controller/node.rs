//! The ports of the leader's loop, on this node.

use super::{
    fence::{ConfirmedView, Fences},
    inbox::SharedInbox,
};
use crate::{clock, config::Bootstrap, journal::Journal};
use pgvigil_consensus::{AppliedState, Consensus, Leadership, ProposeError};
use pgvigil_controller::{
    leader,
    ports::{Node, NotAgreed, Step, Wakes},
};
use pgvigil_core::{
    Outcome, Proposal, State,
    cluster::ClusterState,
    command::Command,
    decide::{self, Decision},
    id::{ClusterId, NodeId},
    inbox::Inbox,
    observation::Observations,
    reign::FenceDebt,
    time::{Time, WallTime},
    trace::Line,
};
use pgvigil_postgres::fault::{self, Bug};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// How long an entry may take to be agreed. With a quorum it takes milliseconds.
pub const AGREE: Duration = Duration::from_secs(3);

/// This node, for its controller.
#[derive(Clone, Debug)]
pub struct Voter {
    /// This node.
    pub me: NodeId,
    /// The Raft group.
    pub consensus: Consensus,
    /// What is seen.
    pub inbox: Arc<SharedInbox>,
    /// The cluster that this node's configuration creates, if it does not exist.
    pub bootstrap: Option<(ClusterId, Bootstrap)>,
    /// Where decisions are written down, if anywhere.
    pub journal: Journal,
    /// How a silent former primary is stopped from outside.
    pub fences: Arc<Fences>,
}

/// The agreed state at one moment.
#[derive(Clone, Debug)]
pub struct Agreed(pub Arc<AppliedState>);

impl Deref for Agreed {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0.state
    }
}

/// Starts the leader's loop.
pub fn start(voter: Voter) {
    tokio::spawn(async move { leader::run(&voter).await });
}

impl Node for Voter {
    type Agreed = Agreed;
    type Wakes = Alarm;

    fn me(&self) -> NodeId {
        self.me
    }

    fn now(&self) -> Time {
        clock::now()
    }

    fn wall(&self) -> WallTime {
        clock::wall()
    }

    async fn pause(&self, ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    fn agreed(&self) -> Agreed {
        Agreed(self.consensus.states().borrow().clone())
    }

    fn leads(&self) -> Option<u64> {
        self.consensus.leadership().borrow().mine().map(|mine| mine.term)
    }

    fn elected(&self) -> bool {
        self.consensus.leadership().borrow().i_am_leader
    }

    async fn propose(&self, proposal: &Proposal) -> Result<Outcome, NotAgreed> {
        self.consensus.propose(proposal, AGREE).await.map_err(|error| match error {
            ProposeError::NotLeader { .. } => NotAgreed::NotLeader,
            error => NotAgreed::Failed(error.to_string()),
        })
    }

    async fn confirm_leadership(&self) -> Option<u64> {
        self.consensus.confirm_leadership().await.ok().map(|confirmed| confirmed.term)
    }

    fn caught_up(&self, entries: u64) -> BTreeSet<NodeId> {
        let metrics = self.consensus.metrics();
        let close = metrics.followers.iter().filter(|(_, follower)| follower.lag_entries <= entries);
        close.map(|(id, _)| *id).filter(|id| metrics.voters.contains(id)).collect()
    }

    fn stores(&self) -> BTreeMap<NodeId, u64> {
        self.consensus.stores()
    }

    async fn transfer_leadership(&self, to: NodeId) -> Result<(), String> {
        self.consensus.transfer_leadership(to).await.map_err(|error| error.to_string())
    }

    fn inbox<T>(&self, look: impl FnOnce(&mut Inbox) -> T) -> T {
        self.inbox.with(look)
    }

    fn poke(&self) {
        self.inbox.poke.notify_one();
        self.inbox.mark_changed();
    }

    fn show(&self) {
        self.inbox.mark_changed();
    }

    fn wakes(&self) -> Alarm {
        Alarm {
            inbox: Arc::clone(&self.inbox),
            states: self.consensus.states(),
            leadership: self.consensus.leadership(),
        }
    }

    fn to_create(&self) -> Option<(ClusterId, Command)> {
        let (id, Bootstrap { settings, expect }) = self.bootstrap.as_ref()?;
        Some((id.clone(), Command::CreateCluster { settings: settings.clone(), expect: expect.clone() }))
    }

    fn fence(&self, agreed: &ClusterState, debts: &[FenceDebt]) {
        if let Some(term) = self.inbox.with(|inbox| inbox.term()) {
            let view = ConfirmedView { consensus: self.consensus.clone(), term };
            self.fences.run(agreed, debts, &self.inbox, &view);
        }
    }

    fn forget_fences(&self) {
        self.fences.forget();
    }

    fn judge(&self, agreed: &ClusterState, seen: &Observations, now: Time) -> Decision {
        if !fault::planted(Bug::LeaseIgnored) {
            return decide::decide(agreed, seen, now);
        }
        let mut agreed = agreed.clone();
        agreed.fence_debts.iter_mut().for_each(|debt| debt.asserted_off = true);
        decide::decide(&agreed, seen, now)
    }

    fn record(&self, line: impl FnOnce() -> Line) {
        self.journal.write(line);
    }

    async fn step(&self, command: &str, step: Step) {
        if fault::COMPILED_IN {
            let when = match step {
                Step::BeforePropose => "before-propose",
                Step::AfterAgreed => "after-agreed",
            };
            fault::reach(&format!("{command}:{when}"), None).await;
        }
    }
}

/// What wakes the leader's loop.
#[derive(Debug)]
pub struct Alarm {
    inbox: Arc<SharedInbox>,
    states: watch::Receiver<Arc<AppliedState>>,
    leadership: watch::Receiver<Leadership>,
}

impl Wakes for Alarm {
    async fn wait(&mut self, due: Time, longest_ms: u64) -> Option<Time> {
        let (planned, at) = clock::wake_up(due, longest_ms);
        tokio::select! {
            () = tokio::time::sleep_until(at) => {}
            () = self.inbox.poke.notified() => {}
            changed = self.states.changed() => changed.ok()?,
            changed = self.leadership.changed() => changed.ok()?,
        }
        // Whatever moved until here is looked at now.
        self.states.mark_unchanged();
        self.leadership.mark_unchanged();
        Some(planned)
    }
}
