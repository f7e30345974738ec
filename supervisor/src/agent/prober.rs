//! An active probe of the primary's port, made by a standby when the WAL stops coming: a postmaster that lives answers
//! a request for encryption with one byte, before any login; a frozen one accepts the connection and says nothing.

use super::shared::Shared;
use crate::clock;
use pgvigil_consensus::grid;
use pgvigil_core::{local::LocalPostgres, pace, report::Probe};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long a postmaster may take to answer. It forks a child for each connection; a busy host needs tens of
/// milliseconds, a checkpoint does not delay it.
const ANSWER: Duration = Duration::from_millis(400);
/// PostgreSQL's SSLRequest: length 8, code 80877103.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Starts the prober.
pub fn start(shared: Arc<Shared>) {
    tokio::spawn(async move {
        loop {
            let pause = shared.agreed().map_or(250, |agreed| agreed.settings.heartbeat_ms);
            tokio::time::sleep_until(grid::after(Duration::from_millis(pause))).await;
            let Some((target, host, port)) = target(&shared) else {
                shared.lock().probe = None;
                continue;
            };
            let (answered, detail) = probe(&host, port).await;
            let ended = clock::now();
            let probe = Probe { member: target, answered, age_ms: 0, detail };
            shared.lock().probe = Some((probe, ended));
            if !answered {
                shared.report.notify_one();
            }
        }
    });
}

/// Whom to probe: the primary, when its WAL has not come for two canaries and a bit.
fn target(shared: &Shared) -> Option<(pgvigil_core::id::MemberId, String, u16)> {
    let agreed = shared.agreed()?;
    let reign = agreed.reign()?;
    if reign.primary.member == *shared.me() {
        return None;
    }
    let quiet = {
        let inner = shared.lock();
        let LocalPostgres::Running(running) = &inner.local.postgres else { return None };
        let quiet_ms = clock::now().since(running.wal_moved_at);
        // Where the canary rests, no WAL comes for hours: then it is worth a look only once the leader misses the agent.
        let resting = quiet_ms > pace::ALONE_MS && inner.leader.primary_late.is_some_and(|(late, _)| !late);
        !running.streaming || (quiet_ms > 2 * agreed.settings.canary_ms + 50 && !resting)
    };
    if !quiet {
        return None;
    }
    let member = agreed.members.get(&reign.primary.member)?;
    Some((member.spec.member.clone(), member.spec.host.clone(), member.spec.port))
}

async fn probe(host: &str, port: u16) -> (bool, String) {
    let attempt = async {
        let mut stream = TcpStream::connect((host, port)).await.map_err(|error| format!("connect: {error}"))?;
        stream.write_all(&SSL_REQUEST).await.map_err(|error| format!("send: {error}"))?;
        let mut answer = [0];
        match stream.read(&mut answer).await {
            Ok(0) => Err("closed without an answer".to_owned()),
            Ok(_) => Ok("a postmaster answered".to_owned()),
            Err(error) => Err(format!("read: {error}")),
        }
    };
    match tokio::time::timeout(ANSWER, attempt).await {
        Ok(Ok(detail)) => (true, detail),
        Ok(Err(detail)) => (false, detail),
        Err(_) => (false, format!("no answer within {} ms", ANSWER.as_millis())),
    }
}
