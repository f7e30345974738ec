//! Commits that somebody releases by hand (`pg_cancel_backend` on one that waits for standbys): PostgreSQL then tells the client
//! COMMIT, with a warning that no driver shows, and no standby need have it.

use super::{sampler::LIMIT, shared::Shared};
use pgvigil_agent::confirmed::confirmed;
use pgvigil_core::{
    local::LocalPostgres,
    rpo::{Cause, Waiter},
};
use pgvigil_postgres::Link;
use std::{collections::BTreeSet, sync::Arc};

/// Holds the newest sample against those before it.
pub(super) async fn look(shared: &Arc<Shared>, link: &Link) {
    let agreed = shared.agreed();
    let released: BTreeSet<Waiter> = {
        let mut guard = shared.lock();
        let inner = &mut *guard;
        let primary = matches!(&inner.local.postgres, LocalPostgres::Running(running) if !running.in_recovery);
        let Some((sample, _)) = inner.sample.as_ref().filter(|(sample, _)| primary && !sample.in_recovery) else {
            return inner.releases.forget();
        };
        let confirmed = agreed.as_deref().and_then(|agreed| confirmed(agreed, &inner.local, &sample.walsenders));
        inner.releases.look(confirmed.unwrap_or_default(), sample.commit_waiters.clone())
    };
    if released.is_empty() {
        return;
    }
    let pids: Vec<i32> = released.iter().map(|waiter| waiter.pid).collect();
    // A session that was ended was told nothing.
    let Ok(told) = link.count_alive(&pids, LIMIT).await else { return };
    if told > 0 {
        let what = format!(
            "{told} commits that waited for standbys wait no more, and no standby has confirmed anything since: somebody \
             cancelled their wait (pg_cancel_backend), and PostgreSQL told the clients COMMIT with a warning"
        );
        shared.unproven_begins(Cause::ReleasedByHand, &what);
        shared.unproven_ends(Cause::ReleasedByHand);
    }
}
