//! The public faces of a running node: gRPC (with reflection and health) and a read-only HTTP page.

pub mod backend;
pub mod convert;
pub mod http;
mod reply;
mod service;
pub mod settings_catalogue;
mod watch;

pub use backend::{Backend, BackendError, ClusterSnapshot, LocalMember, RaftPeer, RaftStatus};

use pgvigil_proto::{FILE_DESCRIPTOR_SET, v1::pgvigil_server::PgvigilServer};
use std::sync::Arc;
use tonic::service::{Routes, RoutesBuilder};
use tonic_health::{ServingStatus, server::HealthReporter};

/// Metadata of a `FAILED_PRECONDITION`: host:port of the Raft leader.
pub const LEADER_METADATA: &str = "pgvigil-leader";

/// The name under which the health service says whether this node leads.
pub const LEADER_HEALTH: &str = "pgvigil.leader";

/// The file descriptors of this build cannot be read: a broken build.
#[derive(Debug, thiserror::Error)]
#[error("gRPC reflection: {0}")]
pub struct ServicesError(#[from] tonic_reflection::server::Error);

/// The public services: the API, server reflection and the standard health service. The caller adds its own with
/// `add_service`.
///
/// Health: the empty name and `pgvigil.v1.Pgvigil` serve while the process does; [`LEADER_HEALTH`] serves on the Raft
/// leader only. Must be called inside a Tokio runtime: a task follows the leadership until the backend ends.
pub fn services<B: Backend>(backend: &Arc<B>) -> Result<Routes, ServicesError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    tokio::spawn(follow_leadership(Arc::clone(backend), health));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(PgvigilServer::new(service::Service::new(Arc::clone(backend))))
        .add_service(health_service)
        .add_service(reflection);
    Ok(routes.routes())
}

async fn follow_leadership<B: Backend>(backend: Arc<B>, health: HealthReporter) {
    health.set_serving::<PgvigilServer<service::Service<B>>>().await;
    let mut changed = backend.changed();
    let mut shown = None;
    loop {
        let leads = backend.is_leader();
        if shown.replace(leads) != Some(leads) {
            let status = if leads { ServingStatus::Serving } else { ServingStatus::NotServing };
            health.set_service_status(LEADER_HEALTH, status).await;
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
#[path = "api/api_test.rs"]
mod tests;

#[cfg(test)]
#[path = "api/fuzz_test.rs"]
mod fuzz;
