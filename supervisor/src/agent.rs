//! The agent of one member: sees its PostgreSQL, tells the leader, does what is agreed.
//!
//! ```text
//!   sampler, canary, prober ──► Shared ──► reconcile (core) ──► worker ──► acts ──► PostgreSQL
//!                                 │ ▲                                          │
//!                       uplink ◄──┘ └── agreed state, renewals                 └──► Shared
//! ```
//!
//! Heartbeats never wait for acts: each of these is a task of its own, and they meet only in [`shared::Shared`].

mod access;
mod adopt;
pub mod ailing;
mod canary;
mod directory;
mod door;
mod evidence;
mod here;
mod in_force;
mod marker;
mod peers;
mod prober;
mod promise;
mod released;
mod right;
mod role;
mod sampler;
mod scene;
mod server;
mod session;
pub mod shared;
mod twin;
mod unproven;
mod uplink;
mod way_in;
mod worker;

use crate::{config::Config, journal::Journal};
use pgvigil_agent::{acts, tasks};
use pgvigil_consensus::Consensus;
use pgvigil_core::report::Report;
use shared::{Shared, StartError};
use std::sync::Arc;

/// A running agent.
#[derive(Clone, Debug)]
pub struct Agent {
    shared: Arc<Shared>,
}

impl Agent {
    /// Takes the lock on the data directory, reads the promise and starts the agent's tasks. PostgreSQL, if it runs,
    /// is left as it is and adopted.
    pub fn start(config: &Config, consensus: Option<Consensus>, journal: Journal) -> Result<Option<Self>, StartError> {
        let Some(member) = &config.member else { return Ok(None) };
        let shared = Arc::new(Shared::new(config, member, consensus, journal)?);
        let here = || here::Here(Arc::clone(&shared));
        shared.renewals.set(right::start(here())).ok();
        sampler::start(here());
        canary::start(here());
        prober::start(here());
        access::start(Arc::clone(&shared));
        peers::start(Arc::clone(&shared));
        uplink::start(here());
        scene::start(here());
        worker::start(here());
        Ok(Some(Self { shared }))
    }

    /// What it would report now.
    #[must_use]
    pub fn report(&self) -> Option<Report> {
        tasks::report(&here::Here(Arc::clone(&self.shared)), 0)
    }

    /// Stops PostgreSQL for good: the store below has failed and this process is about to end. Keeps S3.
    pub async fn fence_for_exit(&self, why: &str) {
        acts::fence::now(&here::Here(Arc::clone(&self.shared)), 0, why).await;
    }
}
