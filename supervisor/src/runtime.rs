//! Builds everything, in order, and takes it down: Raft node, agent, controller, faces.
//!
//! Ending the process never ends PostgreSQL: the next start adopts it. Only a failed store does, after the fence.

use crate::{
    agent::{Agent, ailing, shared::StartError},
    api::{self, Backend, BackendError, ClusterSnapshot, LocalMember, RaftPeer, RaftStatus},
    clock,
    config::Config,
    controller::{
        self,
        fence::Fences,
        inbox::SharedInbox,
        node::{AGREE, Voter},
        service::AgentsService,
    },
    journal::Journal,
    view::VOTER_EMPTIED,
};
use anyhow::{Context, bail};
use pgvigil_consensus::{Bootstrap, Consensus, MembershipError, Node, Options, ProposeError};
use pgvigil_controller::leader;
use pgvigil_core::{Outcome, Proposal, command::RefusalCode, decide::Finding, id::NodeId};
use pgvigil_proto::v1::agents_server::AgentsServer;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::SignalKind,
    sync::watch,
};
use tonic::transport::server::TcpIncoming;

/// Connections that the kernel keeps until they are taken.
const BACKLOG: u32 = 1024;
/// Between two attempts to found the Raft group while peers are missing.
const FOUND_RETRY: Duration = Duration::from_millis(200);
/// How often missing peers are named in the log.
const FOUND_SAY: Duration = Duration::from_secs(5);

/// Runs one node until a signal or a failure ends it.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let node = &config.node;
    let grpc = reserve(node.listen).with_context(|| {
        format!("cannot listen on {} (node.listen): is another pgvigil running, or the port taken?", node.listen)
    })?;
    let http =
        match node.http {
            Some(address) => Some(reserve(address).with_context(|| {
                format!("cannot listen on {address} (node.http): is another program using the port?")
            })?),
            None => None,
        };
    let mut options = Options::new(node.id, node.advertise.clone(), node.state_dir.join("raft"));
    options.peers.clone_from(&node.voters);
    options.group = format!("pgvigil/{}", config.cluster);
    let raft = Node::start(options).await.context("the Raft node cannot start")?;
    let result = match (grpc.listen(BACKLOG), http.map(|http| http.listen(BACKLOG)).transpose()) {
        (Ok(grpc), Ok(http)) => serve(&config, grpc, http, raft.consensus()).await,
        (Err(error), _) | (_, Err(error)) => Err(error).context("cannot listen on node.listen or node.http"),
    };
    // Also after a failure: a process that ends under an open store dies of it, instead of saying what was wrong.
    tokio::time::timeout(Duration::from_secs(5), raft.shutdown()).await.ok();
    result
}

/// Takes the address, before anything is touched; nobody can connect yet. A node that cannot open its store, and is started
/// again and again, must not take a command from an operator only to break the connection.
fn reserve(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Everything above the Raft node, until a signal or a failure ends it.
async fn serve(
    config: &Config,
    listener: TcpListener,
    http: Option<TcpListener>,
    consensus: Consensus,
) -> anyhow::Result<()> {
    let node = &config.node;
    let inbox = Arc::new(SharedInbox::new(node.id));
    let voter = node.initial_voter.then(|| consensus.clone());
    let journal = match &node.journal {
        Some(path) => Journal::open(path, node.id)
            .with_context(|| format!("cannot open the journal {} (node.journal)", path.display()))?,
        None => Journal::default(),
    };
    let agent = Arc::new(OnceLock::new());
    start_agent(config, voter, &journal, &agent)?;
    let backend = Arc::new(Running::new(config, consensus.clone(), Arc::clone(&inbox), Arc::clone(&agent)));
    let this = Voter {
        me: node.id,
        consensus: consensus.clone(),
        inbox,
        bootstrap: config.bootstrap.clone().map(|bootstrap| (config.cluster.clone(), bootstrap)),
        journal,
        fences: Arc::new(Fences::new(config.fence.clone())),
    };
    let routes = api::services(&backend)?
        .add_service(consensus.service())
        .add_service(AgentsServer::new(AgentsService::new(this.clone())).max_decoding_message_size(64 << 20));
    let server = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .add_routes(routes)
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
    let server = tokio::spawn(server);
    if let Some(http) = http {
        tokio::spawn(api::http::serve(http, Arc::clone(&backend), std::future::pending()));
    }
    controller::node::start(this);
    tracing::info!(node = %node.id, listen = %node.listen, cluster = %config.cluster, "pgvigil {} runs", env!("CARGO_PKG_VERSION"));
    if node.initial_voter {
        tokio::spawn(found_group(consensus.clone(), node.voters.clone()));
    }
    let mut terminate = tokio::signal::unix::signal(SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = server => bail!("the gRPC server ended: {ended:?}"),
        why = consensus.fatal() => {
            tracing::error!("Raft has failed: {why}");
            if let Some(agent) = agent.get() {
                agent.fence_for_exit(&format!("this node's Raft store has failed: {why}")).await;
            }
            bail!("Raft has failed ({why}); PostgreSQL was stopped first");
        }
    }
    tracing::info!("stopping; PostgreSQL runs on and is adopted at the next start");
    hand_over(&consensus, node.id).await;
    Ok(())
}

/// Starts the agent. One that cannot start because of what lies in a directory must not take a voter with it: it is tried
/// again until the cause is gone, and the leader hears of it. A mistake in the configuration ends the process.
fn start_agent(
    config: &Config,
    voter: Option<Consensus>,
    journal: &Journal,
    agent: &Arc<OnceLock<Agent>>,
) -> anyhow::Result<()> {
    let why = match Agent::start(config, voter.clone(), journal.clone()) {
        Ok(started) => {
            if let Some(started) = started {
                agent.set(started).ok();
            }
            return Ok(());
        }
        Err(error @ (StartError::Config(_) | StartError::User(_) | StartError::Lock(_))) => {
            return Err(error).context("the agent cannot start");
        }
        Err(error) => error.to_string(),
    };
    tracing::error!("the agent cannot start, and is tried again; this node votes on: {why}");
    let (config, journal, agent) = (config.clone(), journal.clone(), Arc::clone(agent));
    tokio::spawn(async move {
        let mut why = why;
        loop {
            ailing::tell(&config, &why).await;
            tokio::time::sleep(ailing::RETRY).await;
            match Agent::start(&config, voter.clone(), journal.clone()) {
                Ok(started) => {
                    tracing::info!("the agent has started");
                    if let Some(started) = started {
                        agent.set(started).ok();
                    }
                    return;
                }
                Err(error) if error.to_string() != why => {
                    why = error.to_string();
                    tracing::error!("the agent still cannot start: {why}");
                }
                Err(_) => {}
            }
        }
    });
    Ok(())
}

/// A leader that stops hands over first, so that nobody has to notice its silence.
async fn hand_over(consensus: &Consensus, me: NodeId) {
    if !consensus.leadership().borrow().i_am_leader {
        return;
    }
    let metrics = consensus.metrics();
    let next =
        metrics.followers.iter().filter(|(id, _)| metrics.voters.contains(id)).min_by_key(|(_, f)| f.lag_entries);
    if let Some((to, _)) = next
        && let Err(error) = consensus.transfer_leadership(*to).await
    {
        tracing::info!(node = %me, "the Raft leadership was not handed over: {error}");
    }
}

/// Founds the Raft group once every peer has answered; says who is missing meanwhile.
async fn found_group(consensus: Consensus, voters: BTreeMap<NodeId, String>) {
    let mut said = tokio::time::Instant::now() - FOUND_SAY + FOUND_RETRY * 5;
    loop {
        match consensus.initialize(&voters).await {
            Ok(Bootstrap::Done | Bootstrap::Already) => return,
            Ok(Bootstrap::GroupExists { by }) => {
                tracing::info!("node {by} belongs to the group already; waiting for its leader");
                return;
            }
            Ok(Bootstrap::Waiting { silent }) => {
                if said.elapsed() >= FOUND_SAY {
                    said = tokio::time::Instant::now();
                    for (id, why) in &silent {
                        let address = voters.get(id).cloned().unwrap_or_default();
                        tracing::warn!(
                            "the Raft group is not founded: voter {id} at {address} does not answer ({why}); \
                             start pgvigil there, or correct [node].voters. Nothing was changed"
                        );
                    }
                }
            }
            Err(error) => {
                tracing::error!("the Raft group cannot be founded: {error}");
                return;
            }
        }
        tokio::time::sleep(FOUND_RETRY).await;
    }
}

/// The running node as the faces see it.
#[derive(Debug)]
struct Running {
    config: Config,
    consensus: Consensus,
    inbox: Arc<SharedInbox>,
    agent: Arc<OnceLock<Agent>>,
    changed: watch::Receiver<u64>,
}

impl Running {
    fn new(config: &Config, consensus: Consensus, inbox: Arc<SharedInbox>, agent: Arc<OnceLock<Agent>>) -> Self {
        let (sender, changed) = watch::channel(0_u64);
        let (mut states, mut leadership, mut seen) = (consensus.states(), consensus.leadership(), inbox.subscribe());
        tokio::spawn(async move {
            loop {
                let alive = tokio::select! {
                    changed = states.changed() => changed.is_ok(),
                    changed = leadership.changed() => changed.is_ok(),
                    changed = seen.changed() => changed.is_ok(),
                };
                if !alive {
                    return;
                }
                sender.send_modify(|count| *count += 1);
            }
        });
        Self { config: config.clone(), consensus, inbox, agent, changed }
    }
}

impl Running {
    /// Has the store of a node agreed before it gets a vote: nobody takes another one for it, whoever it never met.
    async fn remember(&self, node: NodeId, store: u64) -> Result<(), BackendError> {
        let known = self.consensus.states().borrow().state.stores.get(&node).copied();
        if known == Some(store) {
            return Ok(());
        }
        match self
            .propose(leader::remembering(self.config.node.id, clock::wall(), &self.config.cluster, (node, store)))
            .await?
        {
            Outcome::Refused(refusal) if refusal.code != RefusalCode::Exists => {
                Err(BackendError::Refused { code: "node-id-used", text: refusal.text })
            }
            _ => Ok(()),
        }
    }
}

impl Backend for Running {
    fn node(&self) -> NodeId {
        self.config.node.id
    }

    fn view(&self) -> Arc<Vec<ClusterSnapshot>> {
        let state = self.consensus.states().borrow().clone();
        let (now, wall) = (clock::now(), clock::wall());
        let differs = self.consensus.difference().map(|text| Finding { code: "state-differs".to_owned(), text });
        let emptied =
            self.consensus.emptied().into_values().map(|text| Finding { code: VOTER_EMPTIED.to_owned(), text });
        let emptied: Vec<Finding> = emptied.collect();
        let snapshots = state.state.clusters.values().map(|cluster| {
            let (observations, mut findings) = self.inbox.snapshot(&cluster.id);
            findings.extend(differs.clone());
            findings.extend(emptied.clone());
            ClusterSnapshot { state: cluster.clone(), observations, findings, now, wall }
        });
        Arc::new(snapshots.collect())
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    fn leader(&self) -> Option<(NodeId, String)> {
        self.consensus.leadership().borrow().leader.clone()
    }

    fn is_leader(&self) -> bool {
        self.inbox.since().is_some()
    }

    fn raft(&self) -> RaftStatus {
        let metrics = self.consensus.metrics();
        let addresses = self.consensus.members();
        let peers = addresses.into_iter().map(|(node, address)| RaftPeer {
            node,
            address,
            learner: metrics.learners.contains(&node),
            behind: metrics.followers.get(&node).map(|follower| follower.lag_entries),
        });
        let committed = metrics.committed_index.unwrap_or(0);
        let differs = self.consensus.difference().is_some();
        RaftStatus { term: metrics.term, committed, peers: peers.collect(), differs }
    }

    fn local(&self) -> Option<LocalMember> {
        let report = self.agent.get()?.report()?;
        Some(LocalMember { cluster: report.cluster.clone(), member: report.spec.member.clone(), report, age_ms: 0 })
    }

    async fn propose(&self, proposal: Proposal) -> Result<Outcome, BackendError> {
        self.consensus.propose(&proposal, AGREE).await.map_err(|error| match error {
            ProposeError::NotLeader { leader } => BackendError::NotLeader { leader },
            other => BackendError::Unavailable(other.to_string()),
        })
    }

    async fn add_voter(&self, node: NodeId, address: String) -> Result<(), BackendError> {
        let store = self.consensus.store_of(node, &address).await.map_err(membership)?;
        self.remember(node, store).await?;
        self.consensus.add_voter(node, &address).await.map_err(membership)
    }

    async fn remove_voter(&self, node: NodeId) -> Result<(), BackendError> {
        self.consensus.remove_voter(node).await.map_err(membership)
    }

    async fn transfer_leadership(&self, node: NodeId) -> Result<(), BackendError> {
        self.consensus.transfer_leadership(node).await.map_err(membership)
    }
}

fn membership(error: MembershipError) -> BackendError {
    match error {
        MembershipError::NotLeader { leader } => BackendError::NotLeader { leader },
        MembershipError::Distrusted(text) => BackendError::Refused { code: "node-id-used", text },
        MembershipError::Refused(_) => BackendError::Refused { code: "membership", text: error.to_string() },
        other => BackendError::Unavailable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::net::TcpStream;

    #[tokio::test]
    async fn a_node_that_has_not_opened_its_store_takes_no_connection() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let reserved = reserve(any).expect("a port");
        let address = reserved.local_addr().expect("an address");
        let early = TcpStream::connect(address).expect_err("nobody listens");
        assert_eq!(early.kind(), ErrorKind::ConnectionRefused);
        let _listener = reserved.listen(BACKLOG).expect("nobody else has it");
        TcpStream::connect(address).expect("somebody listens");
        let taken = reserve(address).expect_err("it is taken");
        assert_eq!(taken.kind(), ErrorKind::AddrInUse);
    }
}
