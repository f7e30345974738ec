//! The HTTP face: metrics for scrapers, health for load balancers, the status as JSON. Read-only.
//!
//! `/primary` and `/replica` answer about the member on this host by its own agent's knowledge, so they need no Raft
//! leader; `/primary` says 200 only while the agent's right to serve has not run out. Keeps S3 towards balancers: it
//! never says more than the door.

use super::{Backend, LocalMember};
use crate::{metrics, view::status_document};
use axum::{
    Json, Router,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use pgvigil_core::report::PostgresReport;
use serde_json::json;
use std::{future::Future, io, sync::Arc};
use tokio::net::TcpListener;

/// Serves until `stop` is ready.
pub async fn serve<B: Backend>(
    listener: TcpListener,
    backend: Arc<B>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router(backend)).with_graceful_shutdown(stop).await
}

/// The routes alone.
pub fn router<B: Backend>(backend: Arc<B>) -> Router {
    Router::new()
        .route("/health", get(health::<B>))
        .route("/primary", get(primary::<B>))
        .route("/replica", get(replica::<B>))
        .route("/status", get(status::<B>))
        .route("/metrics", get(scrape::<B>))
        .with_state(backend)
}

/// Whether this member serves as the open primary now.
#[must_use]
pub fn is_open_primary(local: &LocalMember) -> bool {
    match &local.report.postgres {
        PostgresReport::Primary(primary) => primary.door_open && primary.right_ms > local.age_ms,
        _ => false,
    }
}

/// Whether this member serves reads as a standby now, at most `lag` bytes of received WAL not yet replayed.
#[must_use]
pub fn is_readable_replica(local: &LocalMember, lag_max: Option<u64>) -> bool {
    match &local.report.postgres {
        PostgresReport::Standby(standby) => {
            let lag = standby.flush_lsn.bytes_since(standby.replay_lsn);
            standby.streaming && lag_max.is_none_or(|max| lag <= max)
        }
        _ => false,
    }
}

fn answer(local: Option<&LocalMember>, yes: bool) -> Response {
    let code = if yes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = match local {
        Some(local) => json!({
            "cluster": local.cluster, "member": local.member, "answer": yes, "age_ms": local.age_ms,
        }),
        None => json!({"member": null, "answer": false}),
    };
    (code, Json(body)).into_response()
}

async fn health<B: Backend>(State(backend): State<Arc<B>>) -> Response {
    let leader = backend.leader().map(|(node, _)| node.0);
    let code = if leader.is_some() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "node": backend.node(), "leader": leader, "leads": backend.is_leader(), "version": env!("CARGO_PKG_VERSION"),
    });
    (code, Json(body)).into_response()
}

async fn primary<B: Backend>(State(backend): State<Arc<B>>) -> Response {
    let local = backend.local();
    answer(local.as_ref(), local.as_ref().is_some_and(is_open_primary))
}

async fn replica<B: Backend>(State(backend): State<Arc<B>>, RawQuery(query): RawQuery) -> Response {
    let lag = query.iter().flat_map(|query| query.split('&')).find_map(|pair| pair.strip_prefix("lag="));
    let lag_max = match lag.map(str::parse::<u64>) {
        None => None,
        Some(Ok(bytes)) => Some(bytes),
        Some(Err(_)) => {
            return (StatusCode::BAD_REQUEST, "lag: a number of bytes is expected\n").into_response();
        }
    };
    let local = backend.local();
    answer(local.as_ref(), local.as_ref().is_some_and(|local| is_readable_replica(local, lag_max)))
}

async fn status<B: Backend>(State(backend): State<Arc<B>>) -> Response {
    let (node, leads) = (backend.node(), backend.is_leader());
    let leader = if leads { Some(node) } else { backend.leader().map(|(node, _)| node).filter(|l| *l != node) };
    let documents: Vec<_> = backend.view().iter().map(|snapshot| status_document(snapshot, node, leader)).collect();
    Json(documents).into_response()
}

async fn scrape<B: Backend>(State(backend): State<Arc<B>>) -> Response {
    match metrics::render(backend.as_ref()) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
