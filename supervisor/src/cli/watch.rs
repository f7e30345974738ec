//! `pgvigil watch`: a line for each event, until the reader has had enough.

use super::{
    Client, Output,
    args::WatchArguments,
    client::Repeat,
    format::{local_time, print_line},
    outcome::Failure,
    status::render,
};
use crate::view::{EventDocument, StatusDocument};
use pgvigil_proto::v1::{self, watch_reply::What};
use serde_json::json;

pub(super) async fn run(client: &mut Client, out: Output, args: &WatchArguments) -> Result<(), Failure> {
    let mut first = true;
    let mut last_shown = StatusDocument::default();
    loop {
        let question = v1::WatchRequest { cluster: client.cluster(), status_interval_ms: 0 };
        let mut stream = client.call(Repeat::Safe, question, |mut c, q| async move { c.watch(q).await }).await?;
        loop {
            match stream.message().await {
                Ok(Some(v1::WatchReply { what: Some(What::Event(event)) })) => {
                    show_event(out, &EventDocument::from(event))?;
                }
                Ok(Some(v1::WatchReply { what: Some(What::Status(status)) })) => {
                    let status = StatusDocument::from(status);
                    if out.json {
                        print_line(&json!({"status": status}).to_string())?;
                    } else if first || (args.status && worth_showing(&last_shown, &status)) {
                        print_line(&render(&status))?;
                        last_shown = status;
                    }
                    first = false;
                }
                Ok(Some(v1::WatchReply { what: None })) => {}
                Ok(None) => break,
                Err(status) => {
                    if !out.json {
                        print_line(&format!("-- {}; looking for the Raft leader", status.message()))?;
                    }
                    break;
                }
            }
        }
    }
}

/// Positions and ages change all the time; that alone is no news.
fn worth_showing(before: &StatusDocument, after: &StatusDocument) -> bool {
    before.revision != after.revision || before.state != after.state || before.findings.len() != after.findings.len()
}

pub(crate) fn event_line(event: &EventDocument) -> String {
    format!("{}  {:<8} {}", local_time(event.at_ms), event.kind, event.text)
}

fn show_event(out: Output, event: &EventDocument) -> Result<(), Failure> {
    if out.json { print_line(&json!({"event": event}).to_string()) } else { print_line(&event_line(event)) }
}
