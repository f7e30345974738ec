//! What an idle Raft node costs: run three of them and watch their memory and CPU time.
//!
//! `idle <id> <directory> <address of node 1> <address of node 2> <address of node 3>`; prints a line every ten
//! seconds until it is stopped.

use pgvigil_consensus::{Bootstrap, Node, Options};
use pgvigil_core::id::NodeId;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_stream::wrappers::TcpListenerStream;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [id, directory, addresses @ ..] = arguments.as_slice() else { return Err("see the source".into()) };
    let id = NodeId(id.parse()?);
    let peers: BTreeMap<NodeId, String> = (1..).map(NodeId).zip(addresses.iter().cloned()).collect();
    let address = peers.get(&id).ok_or("no address for this id")?.clone();
    let node = Node::start(Options { peers: peers.clone(), ..Options::new(id, &address, directory) }).await?;
    let consensus = node.consensus();
    let incoming = TcpListenerStream::new(tokio::net::TcpListener::bind(&address).await?);
    let server = tonic::transport::Server::builder().tcp_nodelay(true).add_service(consensus.service());
    tokio::spawn(server.serve_with_incoming(incoming));
    while let Bootstrap::Waiting { .. } = consensus.initialize(&peers).await? {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut before = cpu_ms()?;
    loop {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let (now, metrics) = (cpu_ms()?, consensus.metrics());
        let role = metrics.role;
        println!(
            "node {id} {role} rss {} kB, {:.2} % of a core, {:?}",
            rss_kb()?,
            (now - before) / 100.0,
            metrics.store
        );
        before = now;
    }
}

fn cpu_ms() -> Result<f64, Box<dyn std::error::Error>> {
    // Nanoseconds on a CPU, summed over the threads.
    let mut total = 0.0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        total += text.split(' ').next().unwrap_or_default().parse::<f64>()? / 1e6;
    }
    Ok(total)
}

fn rss_kb() -> Result<String, Box<dyn std::error::Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    Ok(status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default().trim().replace(" kB", ""))
}
