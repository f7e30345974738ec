//! The agents' side door: reports in, agreed state and lease renewals out. What is said when is `pgvigil-controller`'s and
//! `pgvigil-core`'s; here it is put into frames and streams.

use super::node::{Agreed, Voter};
use crate::clock;
use futures::{Stream, StreamExt};
use pgvigil_consensus::{AppliedState, Consensus};
use pgvigil_controller::{
    attend,
    ports::{Answers, Ended, Led, Reports, Turn},
};
use pgvigil_core::{
    beats::Said,
    id::ClusterId,
    report::{Answer, Report, WIRE_FORMAT},
    session::{Heard, Reply},
    time::Time,
};
use pgvigil_proto::v1::{AgentFrame, LeaderFrame, agents_server::Agents};
use std::{pin::Pin, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tonic::{Request, Response, Status, Streaming};

/// The metadata key that names the leader.
pub const LEADER_KEY: &str = "pgvigil-leader";

/// The gRPC service `Agents`.
#[derive(Clone, Debug)]
pub struct AgentsService(Voter);

impl AgentsService {
    /// A service that feeds the inbox of `voter`.
    #[must_use]
    pub const fn new(voter: Voter) -> Self {
        Self(voter)
    }
}

fn not_leader(consensus: &Consensus) -> Status {
    let mut status = Status::failed_precondition("this node does not lead");
    let leader = consensus.leadership().borrow().leader.clone();
    if let Some((_, address)) = leader
        && let Ok(address) = address.parse()
    {
        status.metadata_mut().insert(LEADER_KEY, address);
    }
    status
}

/// The last frame of a stream.
fn last(consensus: &Consensus, why: Ended) -> Result<LeaderFrame, Status> {
    match why {
        Ended::NotLeading => Err(not_leader(consensus)),
        Ended::Heard => Ok(LeaderFrame { format: WIRE_FORMAT, body: b"{}".to_vec() }),
    }
}

type Frames = Pin<Box<dyn Stream<Item = Result<LeaderFrame, Status>> + Send>>;
type Newest = Option<(Heard, Instant)>;

#[tonic::async_trait]
impl Agents for AgentsService {
    type AttendStream = Frames;

    async fn attend(&self, request: Request<Streaming<AgentFrame>>) -> Result<Response<Self::AttendStream>, Status> {
        let voter = &self.0;
        if voter.inbox.since().is_none() {
            return Err(not_leader(&voter.consensus));
        }
        let (frames, out) = mpsc::channel(4);
        let (sender, newest) = watch::channel(None);
        let consensus = voter.consensus.clone();
        let states = consensus.states();
        let reports = Incoming {
            consensus: consensus.clone(),
            frames: request.into_inner(),
            newest: sender,
            out: frames.clone(),
        };
        let answers = Outgoing { consensus, states, newest, out: frames };
        let (reader, answerer) = (voter.clone(), voter.clone());
        tokio::spawn(async move { attend::read(&reader, reports).await });
        tokio::spawn(async move { attend::answer(&answerer, answers).await });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(out))))
    }
}

/// Where an agent's reports come in.
struct Incoming {
    consensus: Consensus,
    frames: Streaming<AgentFrame>,
    newest: watch::Sender<Newest>,
    out: mpsc::Sender<Result<LeaderFrame, Status>>,
}

impl Reports for Incoming {
    type Moment = Instant;

    async fn next(&mut self) -> Option<(Report, Time, Instant)> {
        let frame = self.frames.next().await?.ok()?;
        let (at, instant) = (clock::now(), Instant::now());
        match decode(&frame) {
            Ok(report) => Some((report, at, instant)),
            Err(status) => {
                self.out.send(Err(status)).await.ok();
                None
            }
        }
    }

    fn hand_on(&self, heard: Heard, moment: Instant) {
        self.newest.send_replace(Some((heard, moment)));
    }

    async fn end(&self, why: Ended) {
        self.out.send(last(&self.consensus, why)).await.ok();
    }
}

fn decode(frame: &AgentFrame) -> Result<Report, Status> {
    if frame.format != WIRE_FORMAT {
        return Err(Status::invalid_argument(format!(
            "agent protocol {} is not understood here ({WIRE_FORMAT} is): run the same version of pgvigil everywhere",
            frame.format
        )));
    }
    serde_json::from_slice(&frame.body)
        .map_err(|error| Status::invalid_argument(format!("undecodable report: {error}")))
}

/// Where the answers to an agent go out.
struct Outgoing {
    consensus: Consensus,
    states: watch::Receiver<Arc<AppliedState>>,
    newest: watch::Receiver<Newest>,
    out: mpsc::Sender<Result<LeaderFrame, Status>>,
}

impl Answers<Voter> for Outgoing {
    type Moment = Instant;

    async fn turn(&mut self) -> Option<Turn<Instant>> {
        loop {
            let news = tokio::select! {
                changed = self.newest.changed() => { changed.ok()?; true }
                changed = self.states.changed() => { changed.ok()?; false }
                () = self.out.closed() => return None,
            };
            if let Some((heard, moment)) = self.newest.borrow_and_update().clone() {
                return Some(Turn { heard, moment, news });
            }
        }
    }

    fn newest(&mut self) -> Agreed {
        Agreed(Arc::clone(&self.states.borrow_and_update()))
    }

    async fn led_since(&mut self, since: Instant, limit_ms: u64) -> Led {
        tokio::select! {
            led = self.consensus.led_since(since, Duration::from_millis(limit_ms)) => {
                if led.is_ok() { Led::Yes } else { Led::No }
            }
            _ = self.states.changed() => Led::Moved,
        }
    }

    async fn confirm(&self, limit_ms: u64) -> bool {
        let round = self.consensus.confirm_leadership();
        matches!(tokio::time::timeout(Duration::from_millis(limit_ms), round).await, Ok(Ok(_)))
    }

    async fn send(&self, reply: Reply, state: Option<(&Agreed, &ClusterId)>) -> bool {
        let state = state.and_then(|(agreed, cluster)| agreed.clusters.get(cluster));
        let Reply { state: _, refused, said: Said { renewed, shown, primary_late, clock } } = reply;
        let answer = Answer { state: state.cloned().map(Box::new), renewed, refused, shown, primary_late, clock };
        let frame = serde_json::to_vec(&answer).map(|body| LeaderFrame { format: WIRE_FORMAT, body });
        let encoded = frame.is_ok();
        let sent = self.out.send(frame.map_err(|error| Status::internal(error.to_string()))).await;
        encoded && sent.is_ok()
    }

    async fn end(&self, why: Ended) {
        self.out.send(last(&self.consensus, why)).await.ok();
    }
}
