//! What a controller needs of the world. Methods without `async` return at once and never wait.

use pgvigil_core::{
    Outcome, Proposal, State,
    cluster::ClusterState,
    command::Command,
    decide::{self, Decision},
    id::{ClusterId, NodeId},
    inbox::Inbox,
    observation::Observations,
    reign::FenceDebt,
    report::Report,
    session::{Heard, Reply},
    time::{Time, WallTime},
    trace::Line,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    ops::Deref,
};

/// Why an entry is not agreed. It may still be agreed later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAgreed {
    /// This node does not lead.
    NotLeader,
    /// No quorum in time, or a failure.
    Failed(String),
}

/// A voter, as its controller sees it. The futures are not asked to be `Send`: whoever spawns one knows its own ports, and
/// for these the compiler sees whether it is.
#[expect(
    async_fn_in_trait,
    reason = "whoever spawns such a future names the ports, so that the compiler sees whether it is Send"
)]
pub trait Node {
    /// The agreed state as it was at one moment.
    type Agreed: Deref<Target = State>;
    /// What wakes the leader's loop.
    type Wakes: Wakes;

    /// This node.
    fn me(&self) -> NodeId;
    /// The clock of decisions (`CLOCK_BOOTTIME`).
    fn now(&self) -> Time;
    /// The wall clock, for people.
    fn wall(&self) -> WallTime;
    /// Waits for so many milliseconds.
    async fn pause(&self, ms: u64);

    /// What this node has applied.
    fn agreed(&self) -> Self::Agreed;
    /// The term in which this node leads and has applied an entry of its own, if it does.
    fn leads(&self) -> Option<u64>;
    /// Whether Raft believes that this node leads, confirmed or not.
    fn elected(&self) -> bool;
    /// Has `proposal` agreed.
    async fn propose(&self, proposal: &Proposal) -> Result<Outcome, NotAgreed>;
    /// The term in which a quorum confirms, after this was called, that this node leads; everything agreed before is applied
    /// here.
    async fn confirm_leadership(&self) -> Option<u64>;
    /// Voters that lack at most `entries` entries, as this leader sees it.
    fn caught_up(&self, entries: u64) -> BTreeSet<NodeId>;
    /// The identities of the voters' Raft stores, as far as they are known.
    fn stores(&self) -> BTreeMap<NodeId, u64>;
    /// Hands the leadership to `to`. An error is a failure, in one sentence.
    async fn transfer_leadership(&self, to: NodeId) -> Result<(), String>;

    /// What is seen; nothing waits inside.
    fn inbox<T>(&self, look: impl FnOnce(&mut Inbox) -> T) -> T;
    /// A report has come in: the loop decides anew, and faces show it.
    fn poke(&self);
    /// Faces show something else now.
    fn show(&self);
    /// What wakes the loop.
    fn wakes(&self) -> Self::Wakes;

    /// The command that creates the cluster which this node's configuration asks for.
    fn to_create(&self) -> Option<(ClusterId, Command)>;
    /// Runs the fence command for each of `debts` for which it is not running already. Returns at once.
    fn fence(&self, agreed: &ClusterState, debts: &[FenceDebt]);
    /// A new leadership knows nothing of what the fence commands of another one came to.
    fn forget_fences(&self);

    /// Decides. Replaced only to plant a bug.
    fn judge(&self, agreed: &ClusterState, seen: &Observations, now: Time) -> Decision {
        decide::decide(agreed, seen, now)
    }
    /// Writes a line of the journal, if one is kept.
    fn record(&self, line: impl FnOnce() -> Line);
    /// A place between two steps, where a fault may strike.
    async fn step(&self, command: &str, step: Step);
}

/// The places between two steps of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Decided, and not proposed yet.
    BeforePropose,
    /// Agreed, and nothing done about it yet.
    AfterAgreed,
}

/// What wakes the leader's loop.
pub trait Wakes {
    /// Waits until `due`, for `longest_ms` milliseconds or a little more at the longest, or until a report came in, or the agreed
    /// state or the leadership moved. The moment for which this was meant to wake up by itself; `None`: the node ends.
    fn wait(&mut self, due: Time, longest_ms: u64) -> impl Future<Output = Option<Time>>;
}

/// Why a stream is ended by the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// This node does not lead: the agent is told who does, if that is known.
    NotLeading,
    /// What it had to say was heard, and no more is expected.
    Heard,
}

/// The end of an agent's stream where its reports come in.
#[expect(async_fn_in_trait, reason = "as for `Node`")]
pub trait Reports {
    /// A moment on the clock by which Raft stamps its heartbeats.
    type Moment: Clone;

    /// The next report, as soon as it comes in, and when; `None`: the stream has ended.
    async fn next(&mut self) -> Option<(Report, Time, Self::Moment)>;
    /// Hands the newest report to the answering task.
    fn hand_on(&self, heard: Heard, moment: Self::Moment);
    /// Ends the stream.
    async fn end(&self, why: Ended);
}

/// What came of waiting for heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Led {
    /// A quorum has acknowledged one that was sent after the moment asked for.
    Yes,
    /// None has, in time.
    No,
    /// The agreed state moved before.
    Moved,
}

/// What an agent's turn is about.
#[derive(Clone, Debug)]
pub struct Turn<M> {
    /// The newest report.
    pub heard: Heard,
    /// When it came in.
    pub moment: M,
    /// It has come in since the last turn; otherwise the agreed state has moved.
    pub news: bool,
}

/// The end of an agent's stream where the answers go out.
#[expect(async_fn_in_trait, reason = "as for `Node`")]
pub trait Answers<N: Node> {
    /// A moment on the clock by which Raft stamps its heartbeats.
    type Moment: Clone;

    /// Waits until a report came in or the agreed state has moved; `None`: the agent has left.
    async fn turn(&mut self) -> Option<Turn<Self::Moment>>;
    /// The newest agreed state; the next turn waits for one that is newer.
    fn newest(&mut self) -> N::Agreed;
    /// Within `limit_ms`, unless the agreed state moves before: a quorum has acknowledged a heartbeat that this node sent as a
    /// leader at `since` or later.
    async fn led_since(&mut self, since: Self::Moment, limit_ms: u64) -> Led;
    /// Within `limit_ms`, a quorum confirms, after this was called, that this node leads, and everything agreed before is
    /// applied here.
    async fn confirm(&self, limit_ms: u64) -> bool;
    /// Sends an answer; `state` is what the agent learns, if anything. `false`: the agent has left.
    async fn send(&self, reply: Reply, state: Option<(&N::Agreed, &ClusterId)>) -> bool;
    /// Ends the stream.
    async fn end(&self, why: Ended);
}
