//! Keeps the replication role in order on the primary: whoever changes its password, takes away its login or drops it locks
//! every standby out at its next connection, and commits wait for good.
//!
//! Looked at aside, never in the way of a change of primary: as soon as a primary is seen to reign (promoted, carried on,
//! started, adopted, or found running by an agent that starts), closely a moment later, often while standbys are missing.

use super::shared::Shared;
use crate::clock;
use pgvigil_agent::known::ServerId;
use pgvigil_core::{id::Epoch, local::LocalPostgres, time::Time};
use pgvigil_postgres::{Link, role::Look};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinHandle;

/// Between two looks while enough standbys stream.
const CALM_MS: u64 = 8_000;
/// Between two looks while they do not.
const MISSING_MS: u64 = 1_000;
/// From the first quick look of a reign to the first close one: what a change of primary waits for comes before.
const SETTLED_MS: u64 = 2_000;
const STATEMENT: Duration = Duration::from_secs(5);

/// Decides when to look.
#[derive(Debug, Default)]
pub struct Keeper {
    /// The server and the reign that were looked at last, and since when.
    of: Option<(ServerId, Epoch, Time)>,
    last: Time,
    looking: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Looks if it is time to; called with every sample.
    pub fn round(&mut self, shared: &Arc<Shared>) {
        let Some((pid, epoch, enough)) = reigning(shared) else {
            self.of = None;
            return;
        };
        if self.looking.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let now = clock::now();
        let since = match self.of {
            Some((of, reign, since)) if (of, reign) == (pid, epoch) => Some(since),
            _ => None,
        };
        let look = match since {
            None => Look::Quick,
            Some(since) if self.last <= since && now.since(since) >= SETTLED_MS => Look::Close,
            Some(since) if now.since(since) < SETTLED_MS => return,
            Some(_) if now.since(self.last) >= if enough { CALM_MS } else { MISSING_MS } => Look::Close,
            Some(_) => return,
        };
        self.of = Some((pid, epoch, since.unwrap_or(now)));
        self.last = now;
        self.looking = Some(tokio::spawn(mend(Arc::clone(shared), look)));
    }
}

/// The primary that reigns here: its process, its epoch, and whether enough standbys stream.
fn reigning(shared: &Shared) -> Option<(ServerId, Epoch, bool)> {
    let agreed = shared.agreed()?;
    let reign = agreed.reign()?;
    let inner = shared.lock();
    let LocalPostgres::Running(running) = &inner.local.postgres else { return None };
    let promise = &inner.local.promise;
    let reigns = !running.in_recovery && promise.reigned == reign.epoch && promise.promotion.is_some();
    let mine = reign.primary.member == *shared.me() && !inner.stopping;
    let k = agreed.newest_rule().map_or(0, |rule| rule.setting.k);
    let enough = k == 0 || inner.local.standbys_enough_since.is_some();
    let pid = inner.server?;
    (reigns && mine).then_some((pid, reign.epoch, enough))
}

async fn mend(shared: Arc<Shared>, look: Look) {
    let endpoint = shared.server().endpoint.clone();
    // No standby may be able to connect: nothing that is written here can wait for one.
    let mended = async {
        let link = Link::connect(&endpoint, "role", "-c synchronous_commit=local", STATEMENT).await?;
        link.mend_replication_role(&shared.access.replication_role, &shared.secret, look, STATEMENT).await
    };
    match mended.await {
        Ok(wrong) => {
            shared.problem("role", None);
            if !wrong.is_empty() {
                let role = &shared.access.replication_role;
                tracing::warn!(member = %shared.me(), "role {role} was changed: {}; it is put back", wrong.join(", "));
            }
        }
        Err(error) if error.is_starting() => {}
        Err(error) => {
            let role = &shared.access.replication_role;
            shared.problem(
                "role",
                Some(format!("role {role}, by which standbys connect, cannot be looked after: {error}")),
            );
        }
    }
}
