//! The stream to the Raft leader: reports up, agreed state and lease renewals down. Finds the leader, and finds it anew.

use super::shared::Shared;
use crate::{clock, controller::service::LEADER_KEY};
use futures::StreamExt;
use pgvigil_consensus::{Consensus, Leadership, grid};
use pgvigil_core::{
    beats::{self, Beats, Said},
    keeper::Renewal,
    report::{Answer, WIRE_FORMAT},
    time::Time,
};
use pgvigil_proto::v1::{AgentFrame, LeaderFrame, agents_client::AgentsClient};
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

const CONNECT: Duration = Duration::from_millis(500);
/// Between two attempts to find a leader.
const RETRY: Duration = Duration::from_millis(30);

/// Starts the uplink, and the shorter way for a process that is a voter itself: its own applied state is agreed too.
pub fn start(shared: Arc<Shared>, renewals: mpsc::UnboundedSender<Renewal>) {
    if let Some(consensus) = shared.consensus.clone() {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let mut states = consensus.states();
            loop {
                let agreed = states.borrow_and_update().state.clusters.get(&shared.cluster).cloned();
                if let Some(agreed) = agreed {
                    shared.learn(agreed);
                }
                if states.changed().await.is_err() {
                    return;
                }
            }
        });
    }
    tokio::spawn(run(shared, renewals));
}

async fn run(shared: Arc<Shared>, renewals: mpsc::UnboundedSender<Renewal>) {
    let mut hint: Option<String> = None;
    let mut turn = 0;
    loop {
        let address = hint.take().or_else(|| known_leader(&shared)).unwrap_or_else(|| {
            turn += 1;
            shared.voters[turn % shared.voters.len()].1.clone()
        });
        match attend(&shared, &address, &renewals).await {
            Ok(()) => {}
            Err(status) => {
                let named = status.metadata().get(LEADER_KEY).and_then(|v| v.to_str().ok()).map(str::to_owned);
                hint = named.filter(|named| *named != address);
                tracing::trace!(%address, "no leader there: {}", status.message());
            }
        }
        if hint.is_none() {
            tokio::time::sleep(RETRY).await;
        }
    }
}

fn known_leader(shared: &Shared) -> Option<String> {
    let leader = shared.consensus.as_ref()?.leadership().borrow().leader.clone()?;
    Some(leader.1)
}

pub(super) async fn channel(address: &str) -> Result<Channel, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Status::invalid_argument(format!("{address}: {error}")))?;
    endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .connect()
        .await
        .map_err(|error| Status::unavailable(format!("{address}: {error}")))
}

async fn attend(shared: &Arc<Shared>, address: &str, renewals: &mpsc::UnboundedSender<Renewal>) -> Result<(), Status> {
    let mut client = AgentsClient::new(channel(address).await?).max_decoding_message_size(64 << 20);
    let (frames, outgoing) = mpsc::channel::<AgentFrame>(4);
    let mut beats = Beats::new(clock::now());
    beat(shared, &frames, &mut beats).await?;
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let opened = tokio::time::timeout(2 * CONNECT, client.attend(outgoing)).await;
    let mut answers = opened.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner();
    let mut leadership = shared.consensus.as_ref().map(Consensus::leadership);
    beats.opened(clock::now());
    loop {
        let beat_ms = beats::interval_ms(shared.agreed().as_deref());
        tokio::select! {
            answer = answers.next() => match answer {
                Some(Ok(frame)) => take(shared, &frame, &mut beats, renewals)?,
                Some(Err(status)) => return Err(status),
                None => return Ok(()),
            },
            () = shared.report.notified() => beat(shared, &frames, &mut beats).await?,
            () = tokio::time::sleep_until(convenient(beats.due(beat_ms), beat_ms)) => {
                beat(shared, &frames, &mut beats).await?;
            }
            () = moved(&mut leadership, address) => return Ok(()),
        }
        if beats.is_silent(beat_ms, clock::now()) {
            return Err(Status::deadline_exceeded("the leader does not answer"));
        }
    }
}

/// A moment near `due` that is shared with other loops.
fn convenient(due: Time, beat_ms: u64) -> Instant {
    let due = Instant::now() + Duration::from_millis(due.since(clock::now()));
    grid::nearest(due, Duration::from_millis(beat_ms))
}

/// Resolves when this process's own Raft node knows of another leader than the one at `address`.
async fn moved(leadership: &mut Option<tokio::sync::watch::Receiver<Leadership>>, address: &str) {
    let Some(watch) = leadership else { return std::future::pending().await };
    loop {
        let elsewhere = watch.borrow_and_update().leader.as_ref().is_some_and(|(_, at)| at != address);
        if elsewhere {
            return;
        }
        if watch.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn beat(shared: &Shared, frames: &mpsc::Sender<AgentFrame>, beats: &mut Beats) -> Result<(), Status> {
    let Some(report) = beats.next(clock::now(), |seq| shared.make_report(seq)) else { return Ok(()) };
    let body = serde_json::to_vec(&report).map_err(|error| Status::internal(error.to_string()))?;
    let frame = AgentFrame { format: WIRE_FORMAT, body };
    frames.send(frame).await.map_err(|_| Status::unavailable("the stream has ended"))
}

fn take(
    shared: &Shared,
    frame: &LeaderFrame,
    beats: &mut Beats,
    renewals: &mpsc::UnboundedSender<Renewal>,
) -> Result<(), Status> {
    if frame.format != WIRE_FORMAT {
        return Err(Status::invalid_argument(format!("the leader speaks agent protocol {}", frame.format)));
    }
    let answer: Answer = serde_json::from_slice(&frame.body)
        .map_err(|error| Status::invalid_argument(format!("undecodable answer: {error}")))?;
    let (said, now) = (Said::from(&answer), clock::now());
    shared.problem("refused", answer.refused);
    if let Some(state) = answer.state {
        shared.learn(*state);
    }
    let renewal = beats.heard(said, &mut shared.lock().leader, now);
    if let Some(renewal) = renewal {
        renewals.send(renewal).ok();
    }
    Ok(())
}
