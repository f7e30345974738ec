//! The agents' side door: reports in, agreed state and lease renewals out.
//!
//! Nothing is told to an agent before a quorum has confirmed, after its report came in, that this node still leads.
//! Keeps S5.

use super::inbox::Inbox;
use crate::clock;
use futures::{Stream, StreamExt};
use pgvigil_consensus::{AppliedState, Consensus};
use pgvigil_core::{
    Outcome, Proposal,
    cluster::ClusterState,
    command::{Actor, Command},
    id::Revision,
    report::{Answer, Report, ShownToLeader, WIRE_FORMAT},
    time::Time,
};
use pgvigil_proto::v1::{AgentFrame, LeaderFrame, agents_server::Agents};
use std::{pin::Pin, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tonic::{Request, Response, Status, Streaming};

/// How long one round of confirming leadership may take before the agent is sent to look for another leader.
const CONFIRM: Duration = Duration::from_millis(1_000);

/// The metadata key that names the leader.
pub const LEADER_KEY: &str = "pgvigil-leader";

/// The gRPC service `Agents`.
#[derive(Clone, Debug)]
pub struct AgentsService {
    consensus: Consensus,
    inbox: Arc<Inbox>,
}

impl AgentsService {
    /// A service that feeds `inbox`.
    #[must_use]
    pub const fn new(consensus: Consensus, inbox: Arc<Inbox>) -> Self {
        Self { consensus, inbox }
    }

    fn not_leader(&self) -> Status {
        let mut status = Status::failed_precondition("this node does not lead");
        let leader = self.consensus.leadership().borrow().leader.clone();
        if let Some((_, address)) = leader
            && let Ok(address) = address.parse()
        {
            status.metadata_mut().insert(LEADER_KEY, address);
        }
        status
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<LeaderFrame, Status>> + Send>>;

#[tonic::async_trait]
impl Agents for AgentsService {
    type AttendStream = Answers;

    async fn attend(&self, request: Request<Streaming<AgentFrame>>) -> Result<Response<Self::AttendStream>, Status> {
        if self.inbox.since().is_none() {
            return Err(self.not_leader());
        }
        let (answers, out) = mpsc::channel(4);
        let (newest, reports) = watch::channel(None);
        let reading = read(self.clone(), request.into_inner(), newest, answers.clone());
        tokio::spawn(reading);
        tokio::spawn(answer(self.clone(), reports, answers));
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(out))))
    }
}

/// A report as it came in.
#[derive(Clone, Debug)]
struct Heard {
    report: Arc<Report>,
    /// When, for the lease.
    at: Time,
    /// The same moment on the clock by which Raft stamps its heartbeats.
    instant: Instant,
    /// Why its sender is no member.
    refused: Option<String>,
}

/// Reads reports into the inbox as they come in, and the newest one to the answering task.
async fn read(
    service: AgentsService,
    mut incoming: Streaming<AgentFrame>,
    newest: watch::Sender<Option<Heard>>,
    answers: mpsc::Sender<Result<LeaderFrame, Status>>,
) {
    let states = service.consensus.states();
    while let Some(Ok(frame)) = incoming.next().await {
        let (at, instant) = (clock::now(), Instant::now());
        let report: Report = match decode(&frame) {
            Ok(report) => report,
            Err(status) => {
                answers.send(Err(status)).await.ok();
                return;
            }
        };
        if report.seq == Report::NO_HEARTBEAT {
            service.inbox.ailing(&report, at);
            answers.send(Ok(LeaderFrame { format: WIRE_FORMAT, body: b"{}".to_vec() })).await.ok();
            return;
        }
        let applied = Arc::clone(&states.borrow());
        let agreed = applied.state.clusters.get(&report.cluster);
        let refused = match agreed {
            Some(agreed) => register(&service, agreed, &report).await,
            None => Some(format!("there is no cluster {} yet", report.cluster)),
        };
        let report = Arc::new(report);
        if refused.is_none() && !service.inbox.receive(agreed, (*report).clone(), at) {
            answers.send(Err(service.not_leader())).await.ok();
            return;
        }
        newest.send_replace(Some(Heard { report, at, instant, refused }));
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

/// Has an unknown member, or a changed address, agreed. Says why not, if the rules refuse it.
async fn register(service: &AgentsService, agreed: &ClusterState, report: &Report) -> Option<String> {
    let known = agreed.members.get(&report.spec.member);
    if known.is_some_and(|member| member.spec == report.spec) {
        return None;
    }
    if known.is_none() && report.was_member {
        let member = &report.spec.member;
        return Some(format!(
            "{member} was removed from the cluster: its PostgreSQL is left as it is. Stop pgvigil there, or start it anew \
             to let the member join again"
        ));
    }
    let proposal = Proposal {
        cluster: report.cluster.clone(),
        based_on: None,
        at: clock::wall(),
        by: Actor::Agent(report.spec.member.clone()),
        reason: format!("node {} has member {}", report.spec.node, report.spec.member),
        evidence: Vec::new(),
        command: Command::RegisterMember { spec: report.spec.clone() },
    };
    match service.consensus.propose(&proposal, super::task::AGREE).await {
        Ok(Outcome::Refused(refusal)) => {
            // Two reports may race to register: what counts is what is agreed now.
            let states = service.consensus.states();
            let same = states
                .borrow()
                .state
                .clusters
                .get(&report.cluster)
                .and_then(|c| c.members.get(&report.spec.member).map(|m| m.spec == report.spec));
            (same != Some(true)).then_some(refusal.text)
        }
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// Answers whenever a report came in or the state has moved.
async fn answer(
    service: AgentsService,
    mut reports: watch::Receiver<Option<Heard>>,
    answers: mpsc::Sender<Result<LeaderFrame, Status>>,
) {
    let mut states = service.consensus.states();
    let mut told = Revision(0);
    let mut first = true;
    loop {
        let heard_new = tokio::select! {
            changed = reports.changed() => match changed { Ok(()) => true, Err(_) => return },
            changed = states.changed() => match changed { Ok(()) => false, Err(_) => return },
            () = answers.closed() => return,
        };
        let Some(Heard { report, at, instant, refused }) = reports.borrow_and_update().clone() else { continue };
        if heard_new && first {
            told = report.revision;
            first = false;
        }
        let before = newest(&mut states);
        let known = before.state.clusters.get(&report.cluster);
        let mut quiet = known.is_some_and(|a| a.revision <= told && a.is_settled()) && refused.is_none();
        let mut confirmed = false;
        if quiet {
            // In quiet times the next heartbeats are confirmation enough: nobody waits for this answer.
            tokio::select! {
                led = service.consensus.led_since(instant, CONFIRM) => confirmed = led.is_ok(),
                _ = states.changed() => quiet = false,
            }
        }
        if !quiet {
            let round = tokio::time::timeout(CONFIRM, service.consensus.confirm_leadership()).await;
            confirmed = matches!(round, Ok(Ok(_)));
        }
        if !confirmed || service.inbox.since().is_none() {
            answers.send(Err(service.not_leader())).await.ok();
            return;
        }
        // In quiet times only what was told already is spoken of: what moved meanwhile is told in the next turn, confirmed
        // anew.
        let applied = if quiet { Arc::clone(&states.borrow()) } else { newest(&mut states) };
        let agreed = applied.state.clusters.get(&report.cluster).filter(|agreed| !quiet || agreed.revision <= told);
        let primary_late = agreed.map(|agreed| service.inbox.primary_late(agreed));
        let mut frame = Answer { refused: refused.clone(), primary_late, ..Answer::default() };
        if let Some(agreed) = agreed {
            if refused.is_none() && service.inbox.renew(agreed, &report, at) {
                frame.renewed = Some(report.seq);
            }
            frame.shown = service.inbox.rule_shown(agreed, at).map(|(epoch, ago_ms)| ShownToLeader {
                epoch,
                ago_ms,
                seq: report.seq,
            });
            if agreed.revision > told || (heard_new && report.revision < agreed.revision && report.revision < told) {
                frame.state = Some(Box::new(agreed.clone()));
                told = agreed.revision;
            }
        }
        if !heard_new && frame.state.is_none() {
            continue;
        }
        frame.clock = service.inbox.clock();
        let body = match serde_json::to_vec(&frame) {
            Ok(body) => body,
            Err(error) => {
                answers.send(Err(Status::internal(error.to_string()))).await.ok();
                return;
            }
        };
        if answers.send(Ok(LeaderFrame { format: WIRE_FORMAT, body })).await.is_err() {
            return;
        }
    }
}

/// The newest applied state; marks it as seen.
fn newest(states: &mut watch::Receiver<Arc<AppliedState>>) -> Arc<AppliedState> {
    Arc::clone(&states.borrow_and_update())
}
