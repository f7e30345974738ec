//! The gRPC service: each call is one question to the view or one proposal to the rules.

use super::{Backend, BackendError, ClusterSnapshot, reply, settings_catalogue, watch};
use crate::view::{incident_document, status_document};
use pgvigil_core::{
    Outcome, Proposal,
    cluster::ClusterState,
    command::{Actor, Command},
    id::{MemberId, NodeId},
    reign::ElectionKind,
    time::WallTime,
};
use pgvigil_proto::v1::{self, pgvigil_server::Pgvigil};
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

/// The public API over a running node.
pub(super) struct Service<B> {
    backend: Arc<B>,
}

fn member(name: String) -> Result<MemberId, Status> {
    if name.is_empty() {
        return Err(Status::invalid_argument("name a member"));
    }
    Ok(MemberId(name))
}

fn wall_now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// How often a change of settings is tried again when the agreed state moved meanwhile, and how long it pauses before.
const STALE_TRIES: u32 = 20;
const STALE_PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

impl<B: Backend> Service<B> {
    pub(super) const fn new(backend: Arc<B>) -> Self {
        Self { backend }
    }

    fn leader_only(&self) -> Result<(), Status> {
        if self.backend.is_leader() { Ok(()) } else { Err(reply::not_leader(self.backend.leader())) }
    }

    /// The named cluster, or the only one.
    fn snapshot(&self, cluster: &str) -> Result<ClusterSnapshot, Status> {
        let view = self.backend.view();
        if !cluster.is_empty() {
            let known = || view.iter().map(|s| s.state.id.as_str()).collect::<Vec<_>>().join(", ");
            return view
                .iter()
                .find(|snapshot| snapshot.state.id.as_str() == cluster)
                .cloned()
                .ok_or_else(|| Status::not_found(format!("there is no cluster {cluster:?}; there is: {}", known())));
        }
        match view.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(Status::not_found("no cluster exists yet: it is created when its nodes have met")),
            many => {
                let names: Vec<&str> = many.iter().map(|s| s.state.id.as_str()).collect();
                Err(Status::invalid_argument(format!("there are several clusters, name one of {}", names.join(", "))))
            }
        }
    }

    /// Has a request agreed; a refusal is an answer. `fill` adds what to wait for.
    async fn ask(
        &self,
        cluster: &str,
        by: &str,
        reason: String,
        command: impl FnOnce(&ClusterState) -> Result<Command, v1::Refusal>,
    ) -> Result<v1::AskReply, Status> {
        self.leader_only()?;
        let snapshot = self.snapshot(cluster)?;
        let state = snapshot.state;
        let mut answer = v1::AskReply { cluster: state.id.0.clone(), epoch: state.epoch.0, ..Default::default() };
        let command = match command(&state) {
            Ok(command) => command,
            Err(refusal) => return Ok(v1::AskReply { refusal: Some(refusal), ..Default::default() }),
        };
        if let Command::RequestRestart { member } = &command {
            answer.restart_request = state.members.get(member).map_or(0, |member| member.restart_request + 1);
        }
        if let Command::RequestReinit { member } = &command {
            answer.incarnation = state.members.get(member).map_or(0, |member| member.incarnation.0);
        }
        let by = if by.is_empty() { "someone" } else { by };
        let proposal = Proposal {
            cluster: state.id.clone(),
            // A change of settings replaces all of them, so it must not undo another operator's.
            based_on: matches!(command, Command::ChangeSettings { .. }).then_some(state.revision),
            at: wall_now(),
            by: Actor::Operator(by.to_owned()),
            reason,
            evidence: Vec::new(),
            command,
        };
        match self.backend.propose(proposal).await {
            Ok(Outcome::Agreed { revision }) => {
                answer.revision = revision.0;
                Ok(answer)
            }
            Ok(Outcome::Refused(refusal)) => {
                Ok(v1::AskReply { refusal: Some(reply::refusal(&refusal)), ..Default::default() })
            }
            Ok(Outcome::Nothing) => Err(Status::internal("the proposal was answered as an entry of Raft's own")),
            Err(BackendError::Refused { code, text }) => {
                Ok(v1::AskReply { refusal: Some(v1::Refusal { code: code.to_owned(), text }), ..Default::default() })
            }
            Err(error) => Err(reply::failure(error)),
        }
    }

    fn voters_reply(&self) -> v1::VotersReply {
        let raft = self.backend.raft();
        let leader = self.backend.leader().map(|(node, _)| node);
        v1::VotersReply {
            refusal: None,
            leader: leader.map_or(0, |node| node.0),
            term: raft.term,
            committed: raft.committed,
            voters: raft
                .peers
                .into_iter()
                .map(|peer| v1::Voter {
                    node: peer.node.0,
                    leader: Some(peer.node) == leader,
                    address: peer.address,
                    behind: peer.behind,
                    learner: peer.learner,
                })
                .collect(),
        }
    }

    fn known_voter(&self, node: NodeId) -> Result<(), BackendError> {
        let raft = self.backend.raft();
        if raft.peers.iter().any(|peer| peer.node == node) {
            return Ok(());
        }
        let known = raft.peers.iter().map(|peer| peer.node.to_string()).collect::<Vec<_>>().join(", ");
        let text = format!("node {node} is not in the Raft group; its nodes are: {known}");
        Err(BackendError::Refused { code: "unknown-voter", text })
    }

    /// The leader would leave the primary's host again at once.
    fn may_lead(&self, node: NodeId) -> Result<(), BackendError> {
        for ClusterSnapshot { state, .. } in self.backend.view().iter() {
            let primary = state.reign().and_then(|reign| state.members.get(&reign.primary.member));
            if let Some(primary) = primary.filter(|primary| primary.spec.node == node)
                && state.settings.leader_away_from_primary
            {
                let text = format!(
                    "node {node} is beside {}, the primary of {}, and the setting leader_away_from_primary is on: the \
                     leadership would leave it again at once",
                    primary.spec.member, state.id
                );
                return Err(BackendError::Refused { code: "leader-away-from-primary", text });
            }
        }
        Ok(())
    }

    fn after_voter_change(&self, done: Result<(), BackendError>) -> Answer<v1::VotersReply> {
        let refusal = match done {
            Ok(()) => None,
            Err(BackendError::Refused { code, text }) => Some(v1::Refusal { code: code.to_owned(), text }),
            Err(error) => return Err(reply::failure(error)),
        };
        Ok(Response::new(v1::VotersReply { refusal, ..self.voters_reply() }))
    }
}

#[tonic::async_trait]
impl<B: Backend> Pgvigil for Service<B> {
    type WatchStream = ReceiverStream<Result<v1::WatchReply, Status>>;

    async fn status(&self, request: Request<v1::StatusRequest>) -> Answer<v1::StatusReply> {
        let request = request.into_inner();
        let leads = self.backend.is_leader();
        if !leads && !request.stale_ok {
            return Err(reply::not_leader(self.backend.leader()));
        }
        let snapshot = self.snapshot(&request.cluster)?;
        let node = self.backend.node();
        // A node that was elected but does not decide yet has not seen anything either.
        let leader =
            if leads { Some(node) } else { self.backend.leader().map(|(node, _)| node).filter(|l| *l != node) };
        let status = status_document(&snapshot, node, leader);
        Ok(Response::new(v1::StatusReply { status: Some(status.into()) }))
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let request = request.into_inner();
        self.leader_only()?;
        let cluster = self.snapshot(&request.cluster)?.state.id;
        let interval = match request.status_interval_ms {
            0 => Duration::from_secs(1),
            ms => Duration::from_millis(u64::from(ms.max(50))),
        };
        let (to, from) = mpsc::channel(watch::BACKLOG);
        tokio::spawn(watch::run(Arc::clone(&self.backend), cluster, interval, to));
        Ok(Response::new(ReceiverStream::new(from)))
    }

    async fn members(&self, request: Request<v1::MembersRequest>) -> Answer<v1::MembersReply> {
        self.leader_only()?;
        let snapshot = self.snapshot(&request.into_inner().cluster)?;
        let status = status_document(&snapshot, self.backend.node(), Some(self.backend.node()));
        let missing = snapshot.state.expect.iter().filter(|name| !snapshot.state.members.contains_key(*name));
        Ok(Response::new(v1::MembersReply {
            cluster: status.cluster,
            members: status.members.into_iter().map(Into::into).collect(),
            expected: missing.map(|name| name.0.clone()).collect(),
        }))
    }

    async fn remove_member(&self, request: Request<v1::RemoveMemberRequest>) -> Answer<v1::AskReply> {
        let v1::RemoveMemberRequest { cluster, member: name, by } = request.into_inner();
        let member = member(name)?;
        let reason = format!("{member} is to leave");
        let reply = self.ask(&cluster, &by, reason, |_| Ok(Command::RequestLeave { member })).await?;
        Ok(Response::new(reply))
    }

    async fn switchover(&self, request: Request<v1::SwitchoverRequest>) -> Answer<v1::AskReply> {
        let v1::SwitchoverRequest { cluster, to, by } = request.into_inner();
        let to = (!to.is_empty()).then_some(MemberId(to));
        let kind = ElectionKind::Switchover { to };
        let reason = "an operator asked for a switchover".to_owned();
        Ok(Response::new(self.ask(&cluster, &by, reason, |_| Ok(Command::RequestElection { kind })).await?))
    }

    async fn failover(&self, request: Request<v1::FailoverRequest>) -> Answer<v1::AskReply> {
        let v1::FailoverRequest { cluster, to, give_up, old_primary_is_off, by } = request.into_inner();
        let kind = ElectionKind::Forced {
            to: (!to.is_empty()).then_some(MemberId(to)),
            old_primary_is_off,
            give_up: give_up.into_iter().map(MemberId).collect(),
        };
        let reason = "an operator forces a failover".to_owned();
        Ok(Response::new(self.ask(&cluster, &by, reason, |_| Ok(Command::RequestElection { kind })).await?))
    }

    async fn pause(&self, request: Request<v1::PauseRequest>) -> Answer<v1::AskReply> {
        let v1::PauseRequest { cluster, reason, by } = request.into_inner();
        let reason = if reason.is_empty() { "no reason given".to_owned() } else { reason };
        Ok(Response::new(self.ask(&cluster, &by, reason, |_| Ok(Command::Pause)).await?))
    }

    async fn resume(&self, request: Request<v1::ResumeRequest>) -> Answer<v1::AskReply> {
        let v1::ResumeRequest { cluster, by } = request.into_inner();
        Ok(Response::new(self.ask(&cluster, &by, "resume".to_owned(), |_| Ok(Command::Resume)).await?))
    }

    async fn reinitialise(&self, request: Request<v1::ReinitialiseRequest>) -> Answer<v1::AskReply> {
        let v1::ReinitialiseRequest { cluster, member: name, by } = request.into_inner();
        let member = member(name)?;
        let reason = format!("an operator wants a fresh data directory for {member}");
        Ok(Response::new(self.ask(&cluster, &by, reason, |_| Ok(Command::RequestReinit { member })).await?))
    }

    async fn restart(&self, request: Request<v1::RestartRequest>) -> Answer<v1::AskReply> {
        let v1::RestartRequest { cluster, member, by } = request.into_inner();
        let reason = "an operator wants PostgreSQL restarted".to_owned();
        let command = |state: &ClusterState| {
            let member = match (member.is_empty(), state.reign()) {
                (false, _) => MemberId(member),
                (true, Some(reign)) => reign.primary.member.clone(),
                (true, None) => {
                    let text = "there is no primary yet; name a member".to_owned();
                    return Err(v1::Refusal { code: "wrong-phase".to_owned(), text });
                }
            };
            Ok(Command::RequestRestart { member })
        };
        Ok(Response::new(self.ask(&cluster, &by, reason, command).await?))
    }

    async fn get_settings(&self, request: Request<v1::GetSettingsRequest>) -> Answer<v1::GetSettingsReply> {
        self.leader_only()?;
        let snapshot = self.snapshot(&request.into_inner().cluster)?;
        let settings = settings_catalogue::catalogue(&snapshot.state.settings)
            .into_iter()
            .map(|shown| v1::Setting {
                key: shown.key,
                value: shown.value,
                default_value: shown.default_value,
                allowed: shown.allowed,
                meaning: shown.meaning.to_owned(),
            })
            .collect();
        Ok(Response::new(v1::GetSettingsReply { cluster: snapshot.state.id.0, settings }))
    }

    async fn change_settings(&self, request: Request<v1::ChangeSettingsRequest>) -> Answer<v1::AskReply> {
        let v1::ChangeSettingsRequest { cluster, changes, by } = request.into_inner();
        let words: Vec<String> = changes.iter().map(|change| format!("{} = {}", change.key, change.value)).collect();
        let reason = format!("settings: {}", words.join(", "));
        let command = |state: &ClusterState| {
            let pairs = changes.iter().map(|change| (change.key.as_str(), change.value.as_str()));
            settings_catalogue::changed(&state.settings, pairs)
                .map(|settings| Command::ChangeSettings { settings })
                .map_err(|refused| v1::Refusal { code: "bad-value".to_owned(), text: refused.to_string() })
        };
        let mut reply = self.ask(&cluster, &by, reason.clone(), command).await?;
        // Something else was agreed between the reading and the writing: read again, so that no other change is undone.
        for _ in 0..STALE_TRIES {
            if reply.refusal.as_ref().is_none_or(|refusal| refusal.code != "stale") {
                break;
            }
            tokio::time::sleep(STALE_PAUSE).await;
            reply = self.ask(&cluster, &by, reason.clone(), command).await?;
        }
        Ok(Response::new(reply))
    }

    async fn incidents(&self, request: Request<v1::IncidentsRequest>) -> Answer<v1::IncidentsReply> {
        self.leader_only()?;
        let v1::IncidentsRequest { cluster, number } = request.into_inner();
        let snapshot = self.snapshot(&cluster)?;
        let wanted = snapshot.state.incidents.iter().filter(|incident| number == 0 || incident.epoch.0 == number);
        let incidents: Vec<v1::Incident> =
            wanted.map(|incident| incident_document(&snapshot.state, incident).into()).collect();
        if number != 0 && incidents.is_empty() {
            return Err(Status::not_found(format!("there is no incident {number} (any more)")));
        }
        Ok(Response::new(v1::IncidentsReply { cluster: snapshot.state.id.0, incidents }))
    }

    async fn voters(&self, _request: Request<v1::VotersRequest>) -> Answer<v1::VotersReply> {
        self.leader_only()?;
        Ok(Response::new(self.voters_reply()))
    }

    async fn add_voter(&self, request: Request<v1::AddVoterRequest>) -> Answer<v1::VotersReply> {
        let v1::AddVoterRequest { node, address } = request.into_inner();
        self.leader_only()?;
        if node == 0 || !address.contains(':') {
            return Err(Status::invalid_argument("a node id from 1 and its HOST:PORT are expected"));
        }
        let done = self.backend.add_voter(NodeId(node), address).await;
        self.after_voter_change(done)
    }

    async fn remove_voter(&self, request: Request<v1::RemoveVoterRequest>) -> Answer<v1::VotersReply> {
        self.leader_only()?;
        let node = NodeId(request.into_inner().node);
        let known = self.known_voter(node);
        let done = if known.is_ok() { self.backend.remove_voter(node).await } else { known };
        self.after_voter_change(done)
    }

    async fn transfer_leadership(&self, request: Request<v1::TransferLeadershipRequest>) -> Answer<v1::VotersReply> {
        self.leader_only()?;
        let node = NodeId(request.into_inner().node);
        let allowed = self.known_voter(node).and_then(|()| self.may_lead(node));
        let done = if allowed.is_ok() { self.backend.transfer_leadership(node).await } else { allowed };
        self.after_voter_change(done)
    }
}
