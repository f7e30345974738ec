//! The canary's session.

use super::here::Here;
use pgvigil_agent::{
    known::ServerId,
    tasks::canary::{self, Beat},
};
use pgvigil_core::time::Time;
use pgvigil_postgres::{Beat as Found, Canary};
use std::time::Duration;

/// Starts the task.
pub fn start(here: Here) {
    let session = Session { here: here.clone(), canary: None };
    tokio::spawn(async move { canary::run(&here, session).await });
}

struct Session {
    here: Here,
    canary: Option<Canary>,
}

impl canary::Canary for Session {
    fn ask(&mut self, _server: ServerId) {
        let endpoint = self.here.server().endpoint.clone();
        self.canary = Some(Canary::new(endpoint, self.here.me().as_str()));
    }

    async fn beat(&mut self, wait_ms: u64) -> Result<Beat, String> {
        let Some(canary) = &mut self.canary else { return Err("no server is asked".to_owned()) };
        match canary.beat(Duration::from_millis(wait_ms)).await {
            Ok(Found::Acknowledged { began_ms, lsn, xid, took }) => {
                let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                Ok(Beat::Acknowledged { began: Time(began_ms), lsn, xid, took_us })
            }
            Ok(Found::Pending { began_ms }) => Ok(Beat::Pending { began: Time(began_ms) }),
            Err(error) => Err(error.to_string()),
        }
    }

    fn rest(&mut self) {
        if let Some(canary) = &mut self.canary {
            canary.rest();
        }
    }

    fn reset(&mut self) {
        if let Some(canary) = &mut self.canary {
            canary.reset();
        }
    }
}
