//! The ways to the nodes that may lead: gRPC streams.

use super::here::Here;
use crate::{clock, controller::service::LEADER_KEY};
use futures::StreamExt;
use pgvigil_agent::tasks::{
    learn::{self, Applied},
    uplink::{self, Answer, Turn},
};
use pgvigil_consensus::{AppliedState, Consensus, Leadership, grid};
use pgvigil_core::{
    beats::Said,
    cluster::ClusterState,
    id::ClusterId,
    report::{Answer as Body, Report, WIRE_FORMAT},
    time::Time,
};
use pgvigil_proto::v1::{AgentFrame, LeaderFrame, agents_client::AgentsClient};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

const CONNECT: Duration = Duration::from_millis(500);

/// Starts the uplink, and the shorter way for a process that is a voter itself.
pub fn start(here: Here) {
    if let Some(consensus) = &here.consensus {
        let own = Own { states: consensus.states(), cluster: here.cluster.clone(), begun: false };
        let here = here.clone();
        tokio::spawn(async move { learn::run(&here, own).await });
    }
    let ways = Ways { here: here.clone(), turn: 0 };
    tokio::spawn(async move { uplink::run(&here, ways).await });
}

/// What this process's Raft node has applied.
struct Own {
    states: watch::Receiver<Arc<AppliedState>>,
    cluster: ClusterId,
    /// What there was at the beginning was looked at.
    begun: bool,
}

impl Applied for Own {
    async fn next(&mut self) -> Option<Arc<ClusterState>> {
        loop {
            if std::mem::replace(&mut self.begun, true) {
                self.states.changed().await.ok()?;
            }
            let agreed = self.states.borrow_and_update().state.clusters.get(&self.cluster).cloned();
            if let Some(agreed) = agreed {
                return Some(Arc::new(agreed));
            }
        }
    }
}

/// The ways to the voters.
struct Ways {
    here: Here,
    turn: usize,
}

/// A stream to a node.
struct Stream {
    here: Here,
    address: String,
    client: AgentsClient<Channel>,
    frames: mpsc::Sender<AgentFrame>,
    /// Until it is opened.
    outgoing: Option<mpsc::Receiver<AgentFrame>>,
    answers: Option<Streaming<LeaderFrame>>,
    leadership: Option<watch::Receiver<Leadership>>,
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

impl uplink::Uplink for Ways {
    type Address = String;
    type Stream = Stream;

    fn known_leader(&self) -> Option<String> {
        let leader = self.here.consensus.as_ref()?.leadership().borrow().leader.clone()?;
        Some(leader.1)
    }

    fn next_voter(&mut self) -> String {
        self.turn += 1;
        self.here.voters[self.turn % self.here.voters.len()].1.clone()
    }

    async fn connect(&mut self, to: &String) -> Option<Stream> {
        let channel = match channel(to).await {
            Ok(channel) => channel,
            Err(status) => {
                ended(to, &status);
                return None;
            }
        };
        let (frames, outgoing) = mpsc::channel(4);
        Some(Stream {
            here: self.here.clone(),
            address: to.clone(),
            client: AgentsClient::new(channel).max_decoding_message_size(64 << 20),
            frames,
            outgoing: Some(outgoing),
            answers: None,
            leadership: None,
        })
    }
}

/// Who leads, if the node at `address` has said that.
fn ended(address: &str, status: &Status) -> Option<String> {
    tracing::trace!(%address, "no leader there: {}", status.message());
    status.metadata().get(LEADER_KEY).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

impl uplink::Stream<String> for Stream {
    async fn send(&mut self, report: Report) -> bool {
        let Ok(body) = serde_json::to_vec(&report) else { return false };
        self.frames.send(AgentFrame { format: WIRE_FORMAT, body }).await.is_ok()
    }

    async fn opened(&mut self) -> Result<(), Option<String>> {
        let Some(outgoing) = self.outgoing.take() else { return Ok(()) };
        let opening = self.client.attend(ReceiverStream::new(outgoing));
        match tokio::time::timeout(2 * CONNECT, opening).await {
            Ok(Ok(answers)) => {
                self.answers = Some(answers.into_inner());
                self.leadership = self.here.consensus.as_ref().map(Consensus::leadership);
                Ok(())
            }
            Ok(Err(status)) => Err(ended(&self.address, &status)),
            Err(_) => Err(None),
        }
    }

    async fn next(&mut self, due: Time, every_ms: u64) -> Turn<String> {
        let Self { here, address, answers, leadership, .. } = self;
        let Some(answers) = answers else { return Turn::Ended(None) };
        tokio::select! {
            answer = answers.next() => match answer {
                Some(Ok(frame)) => match decode(&frame) {
                    Ok(answer) => Turn::Answer(answer),
                    Err(status) => Turn::Ended(ended(address, &status)),
                },
                Some(Err(status)) => Turn::Ended(ended(address, &status)),
                None => Turn::Ended(None),
            },
            () = here.report.notified() => Turn::Due,
            () = tokio::time::sleep_until(convenient(due, every_ms)) => Turn::Due,
            () = moved(leadership, address) => Turn::Moved,
        }
    }

    fn leave(self) {}
}

/// A moment near `due` that is shared with other loops.
fn convenient(due: Time, beat_ms: u64) -> Instant {
    let due = Instant::now() + Duration::from_millis(due.since(clock::now()));
    grid::nearest(due, Duration::from_millis(beat_ms))
}

/// Resolves when this process's own Raft node knows of another leader than the one at `address`.
async fn moved(leadership: &mut Option<watch::Receiver<Leadership>>, address: &str) {
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

fn decode(frame: &LeaderFrame) -> Result<Answer, Status> {
    if frame.format != WIRE_FORMAT {
        return Err(Status::invalid_argument(format!("the leader speaks agent protocol {}", frame.format)));
    }
    let body: Body = serde_json::from_slice(&frame.body)
        .map_err(|error| Status::invalid_argument(format!("undecodable answer: {error}")))?;
    let said = Said::from(&body);
    Ok(Answer { state: body.state.map(|state| Arc::new(*state)), refused: body.refused, said })
}
