//! The watch stream: the status, every event, and the status again when it changed.

use super::{Backend, reply};
use crate::view::{StatusDocument, events_between, status_document};
use pgvigil_core::id::ClusterId;
use pgvigil_proto::v1::{WatchReply, watch_reply::What};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tonic::Status;

/// Events and statuses that a slow client may be behind; then the stream waits, and merges what happens meanwhile.
pub(super) const BACKLOG: usize = 64;

/// Sends until the client leaves, the node stops or the leadership is lost.
pub(super) async fn run<B: Backend>(
    backend: Arc<B>,
    cluster: ClusterId,
    interval: Duration,
    to: mpsc::Sender<Result<WatchReply, Status>>,
) {
    let mut changed = backend.changed();
    let mut sent: Option<StatusDocument> = None;
    let mut seen = StatusDocument::default();
    let mut next_status = Instant::now();
    loop {
        changed.borrow_and_update();
        if !backend.is_leader() {
            let _gone = to.send(Err(reply::not_leader(backend.leader()))).await;
            return;
        }
        let view = backend.view();
        let Some(snapshot) = view.iter().find(|snapshot| snapshot.state.id == cluster) else {
            let _gone = to.send(Err(Status::not_found(format!("cluster {cluster} is gone")))).await;
            return;
        };
        let status = status_document(snapshot, backend.node(), Some(backend.node()));
        let events = if sent.is_some() { events_between(&seen, &status) } else { Vec::new() };
        let due = Instant::now() >= next_status;
        let send_status = sent.is_none() || !events.is_empty() || (due && sent.as_ref() != Some(&status));
        for event in events {
            if to.send(Ok(WatchReply { what: Some(What::Event(event.into())) })).await.is_err() {
                return;
            }
        }
        seen = status.clone();
        if send_status {
            sent = Some(status.clone());
            next_status = Instant::now() + interval;
            if to.send(Ok(WatchReply { what: Some(What::Status(status.into())) })).await.is_err() {
                return;
            }
        }
        tokio::select! {
            change = changed.changed() => if change.is_err() {
                let _gone = to.send(Err(Status::unavailable("the node stops"))).await;
                return;
            },
            // Ages grow and fall silent without any change.
            () = sleep_until(next_status.max(Instant::now() + Duration::from_millis(100))) => {}
            () = to.closed() => return,
        }
    }
}
