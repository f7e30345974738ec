//! The stream to the Raft leader: reports up, agreed state and lease renewals down. Finds the leader, and finds it anew.

use super::{report, shared::Shared};
use crate::{clock, controller::service::LEADER_KEY};
use futures::StreamExt;
use pgvigil_core::{
    id::Epoch,
    keeper::Renewal,
    report::{Answer, PostgresReport, WIRE_FORMAT},
    time::Time,
};
use pgvigil_proto::v1::{AgentFrame, LeaderFrame, agents_client::AgentsClient};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

const CONNECT: Duration = Duration::from_millis(500);
/// Between two attempts to find a leader.
const RETRY: Duration = Duration::from_millis(30);
/// Heartbeats whose sending time is remembered, for the renewal that answers them.
const REMEMBERED: usize = 64;
/// A leader that does not answer a heartbeat for this many heartbeat intervals is left.
const PATIENCE_BEATS: u64 = 4;

/// A heartbeat that was sent.
#[derive(Clone, Copy, Debug)]
struct Beat {
    seq: u64,
    at: Time,
    /// The epoch as whose primary it spoke.
    reigning: Option<Epoch>,
}

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
    let mut sent: VecDeque<Beat> = VecDeque::new();
    let mut seq = 0;
    beat(shared, &frames, &mut seq, &mut sent).await?;
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let opened = tokio::time::timeout(2 * CONNECT, client.attend(outgoing)).await;
    let mut answers = opened.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner();
    let mut leadership = shared.consensus.as_ref().map(Consensus::leadership);
    let mut heard_at = clock::now();
    loop {
        let beat_ms = shared.agreed().map_or(250, |agreed| agreed.settings.heartbeat_ms);
        tokio::select! {
            answer = answers.next() => match answer {
                Some(Ok(frame)) => {
                    heard_at = clock::now();
                    take(shared, &frame, &sent, renewals)?;
                }
                Some(Err(status)) => return Err(status),
                None => return Ok(()),
            },
            () = shared.report.notified() => beat(shared, &frames, &mut seq, &mut sent).await?,
            () = tokio::time::sleep_until(next_beat(beat_ms, &sent)) => beat(shared, &frames, &mut seq, &mut sent).await?,
            () = moved(&mut leadership, address) => return Ok(()),
        }
        if clock::now().since(heard_at) > PATIENCE_BEATS * beat_ms {
            return Err(Status::deadline_exceeded("the leader does not answer"));
        }
    }
}

use pgvigil_consensus::{Consensus, Leadership, grid};

/// The next heartbeat is due an interval after the last one that was due, not after the last answer.
fn next_beat(beat_ms: u64, sent: &VecDeque<Beat>) -> Instant {
    let last = sent.back().map_or(Time(0), |beat| beat.at);
    let due = Instant::now() + Duration::from_millis(last.plus(beat_ms).since(clock::now()));
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

async fn beat(
    shared: &Shared,
    frames: &mpsc::Sender<AgentFrame>,
    seq: &mut u64,
    sent: &mut VecDeque<Beat>,
) -> Result<(), Status> {
    *seq += 1;
    // The holder counts its lease from before the sending. Keeps S3.
    let at = clock::now();
    let report = report::make(shared, *seq);
    let reigning = report.as_ref().and_then(|report| match &report.postgres {
        PostgresReport::Primary(primary) => Some(primary.epoch),
        _ => None,
    });
    sent.push_back(Beat { seq: *seq, at, reigning });
    let Some(report) = report else { return Ok(()) };
    if sent.len() > REMEMBERED {
        sent.pop_front();
    }
    let body = serde_json::to_vec(&report).map_err(|error| Status::internal(error.to_string()))?;
    let frame = AgentFrame { format: WIRE_FORMAT, body };
    frames.send(frame).await.map_err(|_| Status::unavailable("the stream has ended"))
}

fn take(
    shared: &Shared,
    frame: &LeaderFrame,
    sent: &VecDeque<Beat>,
    renewals: &mpsc::UnboundedSender<Renewal>,
) -> Result<(), Status> {
    if frame.format != WIRE_FORMAT {
        return Err(Status::invalid_argument(format!("the leader speaks agent protocol {}", frame.format)));
    }
    let answer: Answer = serde_json::from_slice(&frame.body)
        .map_err(|error| Status::invalid_argument(format!("undecodable answer: {error}")))?;
    shared.problem("refused", answer.refused);
    if let Some(late) = answer.primary_late {
        shared.lock().primary_late = Some((late, clock::now()));
    }
    if let Some(state) = answer.state {
        shared.learn(*state);
    }
    if let Some(told) = answer.clock {
        shared.lock().leader_clock = Some((told, clock::now()));
    }
    if let Some(shown) = answer.shown
        && let Some(beat) = sent.iter().find(|beat| beat.seq == shown.seq)
    {
        shared.lock().shown_to_leader = Some((shown.epoch, beat.at.minus(shown.ago_ms)));
    }
    if let Some(seq) = answer.renewed
        && let Some(Beat { at, reigning: Some(epoch), .. }) = sent.iter().find(|beat| beat.seq == seq)
    {
        renewals.send(Renewal::Lease { epoch: *epoch, sent_at: *at }).ok();
    }
    Ok(())
}
