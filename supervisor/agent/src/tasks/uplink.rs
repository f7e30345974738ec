//! The stream to the Raft leader: reports up, agreed state and lease renewals down. Finds the leader, and finds it anew.

use super::{Event, Tasks, learn::learn, report};
use crate::bug::Bug;
use pgvigil_core::{
    beats::{self, Beats, Said},
    cluster::ClusterState,
    keeper::Renewal,
    report::Report,
    time::Time,
};
use std::sync::Arc;

/// Between two attempts to find a leader, in milliseconds.
const RETRY_MS: u64 = 30;

/// What a leader has answered.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The agreed state.
    pub state: Option<Arc<ClusterState>>,
    /// It does not take this agent's reports. Why.
    pub refused: Option<String>,
    /// The rest of it.
    pub said: Said,
}

/// What happens on a stream.
#[derive(Clone, Debug)]
pub enum Turn<A> {
    /// The leader has answered.
    Answer(Answer),
    /// A report is due, or asked for.
    Due,
    /// This process knows that another node leads.
    Moved,
    /// The stream has ended; who leads, if that was said.
    Ended(Option<A>),
}

/// The ways to the nodes that may lead.
#[expect(async_fn_in_trait, reason = "as for the ports of acts")]
pub trait Uplink {
    /// Where a node can be reached.
    type Address: Clone + PartialEq;
    /// A stream to one of them.
    type Stream: Stream<Self::Address>;

    /// The leader, as this process's own Raft node knows it.
    fn known_leader(&self) -> Option<Self::Address>;
    /// The voter that is tried next where no leader is known.
    fn next_voter(&mut self) -> Self::Address;
    /// Connects to one of them.
    async fn connect(&mut self, to: &Self::Address) -> Option<Self::Stream>;
}

/// A stream to a node.
#[expect(async_fn_in_trait, reason = "as for the ports of acts")]
pub trait Stream<A> {
    /// Sends a report. `false`: the stream has ended.
    async fn send(&mut self, report: Report) -> bool;
    /// Waits until the node has taken the stream. An error: it has not; who leads, if it said that.
    async fn opened(&mut self) -> Result<(), Option<A>>;
    /// Waits for what happens next. A report is due at `due`, or a little before or after it; they are `every_ms` apart.
    async fn next(&mut self, due: Time, every_ms: u64) -> Turn<A>;
    /// The agent leaves.
    fn leave(self);
}

/// The task.
pub async fn run<M: Tasks, U: Uplink>(m: &M, mut uplink: U) {
    let mut hint: Option<U::Address> = None;
    loop {
        let leader = hint.take().or_else(|| uplink.known_leader()).unwrap_or_else(|| uplink.next_voter());
        if let Some(mut stream) = uplink.connect(&leader).await {
            hint = attend(m, &mut stream).await.filter(|named| *named != leader);
            stream.leave();
        }
        if hint.is_none() {
            m.pause(RETRY_MS * 1_000).await;
        }
    }
}

/// Reports on `stream` until it ends or is of no use any more. Who leads, if that was said.
async fn attend<M: Tasks, A>(m: &M, stream: &mut impl Stream<A>) -> Option<A> {
    let mut beats = Beats::new(m.now());
    if !beat(m, stream, &mut beats).await {
        return None;
    }
    if let Err(named) = stream.opened().await {
        return named;
    }
    beats.opened(m.now());
    loop {
        let every_ms = beats::interval_ms(m.agreed().as_deref());
        match stream.next(beats.due(every_ms), every_ms).await {
            Turn::Answer(answer) => take(m, answer, &mut beats),
            Turn::Due => {
                if !beat(m, stream, &mut beats).await {
                    return None;
                }
            }
            Turn::Moved => return None,
            Turn::Ended(named) => return named,
        }
        if beats.is_silent(every_ms, m.now()) {
            return None;
        }
    }
}

/// `false`: the stream has ended.
async fn beat<M: Tasks, A>(m: &M, stream: &mut impl Stream<A>, beats: &mut Beats) -> bool {
    match beats.next(m.now(), |seq| report(m, seq)) {
        Some(report) => stream.send(report).await,
        None => true,
    }
}

fn take<M: Tasks>(m: &M, answer: Answer, beats: &mut Beats) {
    let now = m.now();
    m.problem("refused", answer.refused);
    if let Some(state) = &answer.state {
        learn(m, state);
    }
    let renewal = beats.heard(answer.said, &mut m.known().leader, now);
    let Some(renewal) = renewal else { return };
    m.happens(Event::Renewed);
    m.renew(match renewal {
        Renewal::Lease { epoch, .. } if m.planted(Bug::RightFromReceipt) => Renewal::Lease { epoch, sent_at: m.now() },
        renewal => renewal,
    });
}
