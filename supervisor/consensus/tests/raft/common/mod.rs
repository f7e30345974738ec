//! Three or more Raft nodes in one process, over loopback gRPC, with a switch in every link.

#![allow(dead_code, reason = "every test file uses its own part of the harness")]

pub(crate) mod link;

use link::Link;
use pgvigil_consensus::{Bootstrap, Consensus, Node, Options};
use pgvigil_core::command::{Actor, Command};
use pgvigil_core::id::{ClusterId, NodeId};
use pgvigil_core::settings::Settings;
use pgvigil_core::time::WallTime;
use pgvigil_core::{Outcome, Proposal};
use pgvigil_raft_store::Probe;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

/// Generous: the machine may be busy. Nothing waits this long unless it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One node: its Raft, its server on a runtime of its own (so that it can be cut off at once), its directory.
pub(crate) struct TestNode {
    pub(crate) id: NodeId,
    pub(crate) directory: TempDir,
    pub(crate) address: SocketAddr,
    running: Option<(Node, tokio::runtime::Runtime)>,
}

impl TestNode {
    pub(crate) fn consensus(&self) -> Consensus {
        self.running.as_ref().expect("the node runs").0.consensus()
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        // A runtime may not be dropped where its end would block.
        if let Some((_, runtime)) = self.running.take() {
            runtime.shutdown_background();
        }
    }
}

/// The nodes and the links between them.
pub(crate) struct Group {
    pub(crate) nodes: BTreeMap<u64, TestNode>,
    /// (from, to)
    links: BTreeMap<(u64, u64), Link>,
    pub(crate) adjust: fn(&mut Options),
}

impl Group {
    /// `count` running nodes that form a group.
    pub(crate) async fn formed(count: u64, adjust: fn(&mut Options)) -> Self {
        let mut group = Self { nodes: BTreeMap::new(), links: BTreeMap::new(), adjust };
        for id in 1..=count {
            group.add(id).await;
        }
        for id in 1..=count {
            group.start(id, None).await;
        }
        let peers = group.addresses();
        for id in 1..=count {
            let done = group.node(id).initialize(&peers).await.expect("a new group can be founded");
            assert!(matches!(done, Bootstrap::Done | Bootstrap::Already | Bootstrap::GroupExists { .. }), "{done:?}");
        }
        group.leader().await;
        group
    }

    /// Makes room for a node, without starting it.
    pub(crate) async fn add(&mut self, id: u64) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let directory = tempfile::tempdir().expect("a temporary directory");
        for other in self.nodes.values() {
            self.links.insert((id, other.id.0), Link::to(other.address).await);
            self.links.insert((other.id.0, id), Link::to(address).await);
        }
        self.nodes.insert(id, TestNode { id: NodeId(id), directory, address, running: None });
    }

    /// Starts a node on its directory and address.
    pub(crate) async fn start(&mut self, id: u64, probe: Option<Probe>) {
        let node = &self.nodes[&id];
        let mut options = Options::new(node.id, node.address.to_string(), node.directory.path().join("raft"));
        options.peers = self
            .links
            .iter()
            .filter(|((from, _), _)| *from == id)
            .map(|((_, to), link)| (NodeId(*to), link.address.to_string()))
            .collect();
        (self.adjust)(&mut options);
        let started = Node::start_probed(options, probe).await.expect("the node starts");
        let service = started.consensus().service();
        let listener = std::net::TcpListener::bind(node.address).expect("the port is free");
        listener.set_nonblocking(true).expect("a socket can be non-blocking");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
        runtime.spawn(async move {
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener).expect("a listener"));
            tonic::transport::Server::builder()
                .tcp_nodelay(true)
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .expect("the server serves");
        });
        self.nodes.get_mut(&id).expect("known").running = Some((started, runtime));
    }

    /// Ends a node in an orderly way; its directory stays.
    pub(crate) async fn stop(&mut self, id: u64) {
        let (node, runtime) = self.nodes.get_mut(&id).expect("known").running.take().expect("it runs");
        runtime.shutdown_background();
        node.shutdown().await;
    }

    /// Cuts a node off from all others, both ways, or connects it again.
    pub(crate) fn isolate(&self, id: u64, cut: bool) {
        for ((from, to), link) in &self.links {
            if *from == id || *to == id {
                link.cut(cut);
            }
        }
    }

    /// The address by which `from` reaches `to` through the switch between them.
    pub(crate) fn link(&self, from: u64, to: u64) -> String {
        self.links[&(from, to)].address.to_string()
    }

    pub(crate) fn node(&self, id: u64) -> Consensus {
        self.nodes[&id].consensus()
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = (u64, Consensus)> + '_ {
        self.nodes.values().filter(|n| n.running.is_some()).map(|n| (n.id.0, n.consensus()))
    }

    pub(crate) fn addresses(&self) -> BTreeMap<NodeId, String> {
        self.nodes.values().map(|n| (n.id, n.address.to_string())).collect()
    }

    /// The node that leads by the confirmation of a quorum.
    pub(crate) async fn leader(&self) -> u64 {
        self.leader_among(&self.running().map(|(id, _)| id).collect::<Vec<_>>()).await
    }

    /// As [`Self::leader`], asking only these.
    pub(crate) async fn leader_among(&self, ids: &[u64]) -> u64 {
        let search = async {
            loop {
                for id in ids {
                    if self.node(*id).confirm_leadership().await.is_ok() {
                        return *id;
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, search).await.expect("somebody leads")
    }

    /// Proposes on whoever leads.
    pub(crate) async fn agree(&self, name: &str) {
        let leader = self.leader().await;
        let outcome = self.node(leader).propose(&proposal(name), PATIENCE).await.expect("the leader agrees");
        assert!(matches!(outcome, Outcome::Agreed { .. }), "{outcome:?}");
    }
}

/// A proposal that creates the cluster `name`: agreed once, then refused as existing.
pub(crate) fn proposal(name: &str) -> Proposal {
    Proposal {
        cluster: ClusterId::from(name),
        based_on: None,
        at: WallTime(0),
        by: Actor::Operator("test".to_owned()),
        reason: "a test".to_owned(),
        evidence: Vec::new(),
        command: Command::CreateCluster { settings: Settings::default(), expect: BTreeSet::new() },
    }
}

/// Waits until the node's state has the cluster.
pub(crate) async fn sees(node: &Consensus, name: &str) {
    let mut states = node.states();
    let found = states.wait_for(|applied| applied.state.clusters.contains_key(&ClusterId::from(name)));
    tokio::time::timeout(PATIENCE, found).await.expect("the state arrives").expect("the node runs");
}

/// Waits until `holds`.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never came true: {what}"));
}
