//! What PostgreSQL is when it answers every session with a refusal: gathered by the adapter, judged by the
//! core.

use super::{in_force, sampler, shared::Shared};
use crate::clock;
use pgvigil_core::{evidence::judge, local::LocalPostgres};
use pgvigil_postgres::{Postmaster, evidence::gather};
use std::sync::Arc;

/// Looks at `postmaster`, which lives and has refused a session just now.
pub async fn look(shared: &Arc<Shared>, postmaster: Arc<Postmaster>) {
    if shared.lock().local.marker.is_none() {
        return;
    }
    let (looking, asked) = (Arc::clone(shared), Arc::clone(&postmaster));
    let gathered =
        tokio::task::spawn_blocking(move || gather(&looking.binaries, &looking.layout.data_dir, &asked)).await;
    let seen = match gathered {
        Ok(Ok(Some(seen))) => seen,
        Ok(Ok(None)) | Err(_) => return,
        Ok(Err(error)) => {
            tracing::debug!(member = %shared.me(), "no evidence of what PostgreSQL is: {error:#}");
            return;
        }
    };
    let agreed = shared.agreed();
    let mut inner = shared.lock();
    if inner.server != Some(sampler::id(&postmaster)) || postmaster.has_exited().unwrap_or(true) {
        return;
    }
    let promise = &inner.local.promise;
    let reigned = promise.promotion.and(agreed.as_deref()).and_then(|agreed| {
        agreed
            .reigns
            .iter()
            .find(|r| r.epoch == promise.reigned && r.primary.member == *shared.me())
            .map(|r| r.timeline)
    });
    let now = clock::now();
    let before = match &inner.local.postgres {
        LocalPostgres::Running(running) => Some(running.clone()),
        _ => None,
    };
    let Some(running) = judge(&seen, before.as_ref(), reigned, now) else { return };
    let first = inner.local.unasked_since.is_none();
    inner.local.unasked_since.get_or_insert(now);
    // What a session told is old by now, and what it does not tell is not known.
    inner.sample = None;
    inner.local.standbys_enough_since = None;
    if !running.in_recovery {
        inner.local.fence_on_disk = false;
    }
    let changed = before.is_none_or(|b| {
        (b.in_recovery, b.timeline, b.streaming) != (running.in_recovery, running.timeline, running.streaming)
    });
    inner.local.postgres = LocalPostgres::Running(running);
    drop(inner);
    in_force::unasked(shared);
    if changed || first {
        tracing::warn!(member = %shared.me(), ?seen, "PostgreSQL lets pgvigil in no more; what it is follows from its files and processes");
        shared.work.notify_one();
        shared.report.notify_one();
    }
}
