//! An agent that cannot start: the voter in its process lives on, the leader hears why, and it is tried again.
//!
//! What it says is no heartbeat: a primary whose agent does not run is as silent as one whose host is lost, and its guard
//! ends it when its right runs out.

use super::uplink::channel;
use crate::{clock, config::Config, controller::service::LEADER_KEY};
use futures::StreamExt;
use pgvigil_core::{
    id::{Epoch, Revision},
    report::{PostgresReport, Report, TimelinesReport, WIRE_FORMAT},
};
use pgvigil_proto::v1::{AgentFrame, agents_client::AgentsClient};
use std::time::Duration;
use tonic::Status;

/// Between two attempts to start, and two messages.
pub const RETRY: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_millis(800);

/// Tells the leader, whoever of the voters it is, why the agent of this node's member does not run.
pub async fn tell(config: &Config, why: &str) {
    let Some(report) = report(config, why) else { return };
    let Ok(body) = serde_json::to_vec(&report) else { return };
    let mut asked: Vec<String> = config.node.voters.values().cloned().collect();
    let mut hints = 2;
    let until = clock::now().plus(5_000);
    while let Some(address) = asked.pop()
        && clock::now() < until
    {
        let told = tokio::time::timeout(LIMIT, send(&address, body.clone())).await;
        match told.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))) {
            Ok(()) => return,
            Err(status) => {
                let named = status.metadata().get(LEADER_KEY).and_then(|v| v.to_str().ok());
                if let Some(named) = named.filter(|_| hints > 0) {
                    hints -= 1;
                    asked.push(named.to_owned());
                }
            }
        }
    }
}

async fn send(address: &str, body: Vec<u8>) -> Result<(), Status> {
    let mut client = AgentsClient::new(channel(address).await?).max_decoding_message_size(64 << 20);
    let frame = AgentFrame { format: WIRE_FORMAT, body };
    // The stream stays open until the answer has come.
    let frames = futures::stream::iter([frame]).chain(futures::stream::pending());
    let mut answers = client.attend(frames).await?.into_inner();
    match answers.next().await {
        Some(Err(status)) => Err(status),
        _ => Ok(()),
    }
}

fn report(config: &Config, why: &str) -> Option<Report> {
    let member = config.member.as_ref()?;
    Some(Report {
        cluster: config.cluster.clone(),
        spec: member.spec(config.node.id),
        seq: Report::NO_HEARTBEAT,
        incarnation: None,
        revision: Revision::default(),
        promised: Epoch::default(),
        postgres: PostgresReport::Unusable { why: why.to_owned() },
        seal: None,
        fenced: None,
        starved_ms: 0,
        guard_armed: false,
        probe: None,
        disk_full: false,
        activity: None,
        problems: Vec::new(),
        needs_new_incarnation: None,
        restarted: 0,
        was_member: false,
        discarded_wal: None,
        timelines: TimelinesReport::default(),
        unproven: Vec::new(),
        shown_to_leader: None,
        echo: None,
    })
}
