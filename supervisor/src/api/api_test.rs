//! The API over a small backend that applies proposals with the core's own rules: two nodes on loopback, of which
//! one leads.

use super::*;
use crate::{
    cli::{Client, Connection, Failure, News, follow_news},
    view::tests::healthy,
};
use pgvigil_core::{
    Outcome, Proposal, State,
    id::{ClusterId, NodeId},
};
use pgvigil_proto::v1;
use std::{sync::Mutex, time::Duration};
use tokio::{net::TcpListener, sync::watch, time::Instant};
use tonic::transport::server::TcpIncoming;

pub(super) struct Fake {
    node: NodeId,
    leader: Option<(NodeId, String)>,
    pub(super) state: Mutex<State>,
    changes: watch::Sender<u64>,
}

impl Fake {
    pub(super) fn new(node: u64, leader: Option<(NodeId, String)>) -> Arc<Self> {
        let snapshot = healthy();
        let mut state = State::default();
        state.clusters.insert(ClusterId::from("demo"), snapshot.state);
        Arc::new(Self { node: NodeId(node), leader, state: Mutex::new(state), changes: watch::channel(0).0 })
    }
}

impl Backend for Fake {
    fn node(&self) -> NodeId {
        self.node
    }

    fn view(&self) -> Arc<Vec<ClusterSnapshot>> {
        let state = self.state.lock().unwrap();
        Arc::new(state.clusters.values().map(|state| ClusterSnapshot { state: state.clone(), ..healthy() }).collect())
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn leader(&self) -> Option<(NodeId, String)> {
        self.leader.clone()
    }

    fn is_leader(&self) -> bool {
        self.leader.as_ref().is_some_and(|(node, _)| *node == self.node)
    }

    fn raft(&self) -> RaftStatus {
        let peer = RaftPeer { node: self.node, address: "127.0.0.1:1".to_owned(), learner: false, behind: Some(0) };
        RaftStatus { term: 3, committed: 9, peers: vec![peer], differs: false }
    }

    fn local(&self) -> Option<LocalMember> {
        let snapshot = healthy();
        let seen = &snapshot.observations.reports[&pgvigil_core::id::MemberId::from("pg1")];
        Some(LocalMember { cluster: "demo".into(), member: "pg1".into(), report: seen.report.clone(), age_ms: 20 })
    }

    async fn propose(&self, proposal: Proposal) -> Result<Outcome, BackendError> {
        let outcome = pgvigil_core::apply(&mut self.state.lock().unwrap(), &proposal);
        self.changes.send_modify(|count| *count += 1);
        Ok(outcome)
    }

    async fn add_voter(&self, _node: NodeId, _address: String) -> Result<(), BackendError> {
        Ok(())
    }

    async fn remove_voter(&self, _node: NodeId) -> Result<(), BackendError> {
        Err(BackendError::Refused { code: "last-voter", text: "the last voter cannot leave".to_owned() })
    }

    async fn transfer_leadership(&self, _node: NodeId) -> Result<(), BackendError> {
        Ok(())
    }
}

async fn serve(backend: &Arc<Fake>, listener: TcpListener) {
    let routes = services(backend).unwrap();
    let server =
        tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(server);
}

/// A follower on the returned address, which knows its leader.
pub(super) async fn two_nodes() -> (Client, String, Arc<Fake>) {
    let (one, two) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = two.local_addr().unwrap().to_string();
    let leads = Some((NodeId(2), address.clone()));
    let connect = one.local_addr().unwrap().to_string();
    serve(&Fake::new(1, leads.clone()), one).await;
    let leader = Fake::new(2, leads.clone());
    serve(&leader, two).await;
    let client = Client::new(&Connection { connect, cluster: None }).unwrap();
    (client, address, leader)
}

fn switchover(to: &str) -> v1::SwitchoverRequest {
    v1::SwitchoverRequest { cluster: String::new(), to: to.to_owned(), by: "test".to_owned() }
}

#[tokio::test]
async fn a_follower_leads_the_client_to_the_leader() {
    let (mut client, _, _) = two_nodes().await;
    let status = client.status().await.unwrap();
    assert!(status.from_leader);
    assert_eq!((status.node, status.cluster.as_str()), (2, "demo"));
    let stale = client.stale_status().await.unwrap();
    assert!(!stale.from_leader);
    assert_eq!((stale.node, stale.leader), (1, 2));
}

#[tokio::test]
async fn what_the_rules_forbid_is_an_answer_and_no_error() {
    let (_, leader, _) = two_nodes().await;
    let mut client = v1::pgvigil_client::PgvigilClient::connect(format!("http://{leader}")).await.unwrap();
    let answer = client.switchover(switchover("pg1")).await.unwrap().into_inner();
    assert_eq!(answer.refusal.unwrap().code, "exists");
    let answer = client.switchover(switchover("nobody")).await.unwrap().into_inner();
    assert_eq!(answer.refusal.unwrap().code, "unknown-member");
    let answer = client.switchover(switchover("pg2")).await.unwrap().into_inner();
    assert!(answer.refusal.is_none());
    assert_eq!((answer.revision, answer.epoch), (8, 1));
    let answer = client.remove_voter(v1::RemoveVoterRequest { node: 2 }).await.unwrap().into_inner();
    assert_eq!(answer.refusal.unwrap().code, "last-voter");
    let answer = client.remove_voter(v1::RemoveVoterRequest { node: 9 }).await.unwrap().into_inner();
    assert_eq!(answer.refusal.unwrap().code, "unknown-voter");
}

#[tokio::test]
async fn settings_are_changed_all_or_none() {
    let (_, leader, backend) = two_nodes().await;
    let mut client = v1::pgvigil_client::PgvigilClient::connect(format!("http://{leader}")).await.unwrap();
    let pair = |key: &str, value: &str| v1::KeyValue { key: key.to_owned(), value: value.to_owned() };
    let change = |changes| v1::ChangeSettingsRequest { cluster: "demo".to_owned(), changes, by: "test".to_owned() };
    let bad = change(vec![pair("suspect_ms", "900"), pair("lease_ms", "1")]);
    let refusal = client.change_settings(bad).await.unwrap().into_inner().refusal.unwrap();
    assert!(refusal.text.contains("at least 1000, because"), "{}", refusal.text);
    let suspect_ms = || backend.state.lock().unwrap().clusters[&ClusterId::from("demo")].settings.suspect_ms;
    assert_eq!(suspect_ms(), 800);
    let good = change(vec![pair("suspect_ms", "900")]);
    assert!(client.change_settings(good).await.unwrap().into_inner().refusal.is_none());
    assert_eq!(suspect_ms(), 900);
}

#[tokio::test]
async fn a_watch_begins_with_the_status_and_tells_events() {
    let (mut client, leader, _) = two_nodes().await;
    let mut seen = 0;
    let mut asked = false;
    let told = follow_news(&mut client, Instant::now() + Duration::from_secs(60), |news| {
        match news {
            News::Status(_) if !asked => {
                asked = true;
                let leader = leader.clone();
                tokio::spawn(async move {
                    let mut other =
                        v1::pgvigil_client::PgvigilClient::connect(format!("http://{leader}")).await.unwrap();
                    other.switchover(switchover("pg2")).await.unwrap();
                });
            }
            News::Status(_) => {}
            News::Event(event) => {
                seen += 1;
                return Some(event.text);
            }
        }
        None
    });
    let text = told.await.unwrap().unwrap();
    assert!(text.contains("switchover to pg2"), "{text}");
    assert_eq!(seen, 1);
}

#[tokio::test]
async fn nobody_there_is_a_failure_that_names_whom_was_asked() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let client = Client::new(&Connection { connect: address.clone(), cluster: None }).unwrap();
    let failure = client.looking_for(Duration::from_millis(300)).status().await.unwrap_err();
    assert!(matches!(&failure, Failure::Failed(why) if why.contains(&address) && why.contains("refused")), "{failure}");
}

#[tokio::test]
async fn reflection_lists_the_services_and_health_follows_the_leadership() {
    let (_, leader, _) = two_nodes().await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{leader}")).unwrap().connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let question = tonic_health::pb::HealthCheckRequest { service: "pgvigil.v1.Pgvigil".to_owned() };
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status = health.check(question.clone()).await.map(|answer| answer.into_inner().status);
        if matches!(status, Ok(1)) {
            break;
        }
        assert!(Instant::now() < deadline, "{status:?}");
        tokio::task::yield_now().await;
    }
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let mut answers = reflection.server_reflection_info(tokio_stream::once(list)).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list");
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["pgvigil.v1.Pgvigil", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
}

pub(super) async fn get(address: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_http_face_answers_balancers_and_scrapers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let backend = Fake::new(2, Some((NodeId(2), "127.0.0.1:1".to_owned())));
    tokio::spawn(http::serve(listener, backend, std::future::pending()));
    assert!(get(&address, "/primary").await.starts_with("HTTP/1.1 200"));
    assert!(get(&address, "/replica").await.starts_with("HTTP/1.1 503"));
    assert!(get(&address, "/replica?lag=x").await.starts_with("HTTP/1.1 400"));
    assert!(get(&address, "/health").await.starts_with("HTTP/1.1 200"));
    assert!(get(&address, "/status").await.contains("\"state\":\"healthy\""));
    let metrics = get(&address, "/metrics").await;
    for line in [
        "pgvigil_rpo_zero{cluster=\"demo\"} 1",
        "pgvigil_raft_leader 1",
        "pgvigil_state{cluster=\"demo\",state=\"healthy\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[test]
fn an_old_answer_of_the_agent_is_no_primary() {
    let mut local = Fake::new(1, None).local().unwrap();
    assert!(http::is_open_primary(&local));
    local.age_ms = 1_400;
    assert!(!http::is_open_primary(&local), "its right has run out since");
}
