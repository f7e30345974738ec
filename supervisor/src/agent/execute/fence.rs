//! The fence: on disk first, then every process seen gone, then reported. Nothing waits for anybody. Keeps S3.

use super::{instance, settings};
use crate::agent::{right::Renewal, shared::Shared};
use pgvigil_core::local::LocalPostgres;
use pgvigil_postgres::{StopMode, seal::seal_on_disk};
use std::{sync::Arc, time::Duration};

/// Between two attempts when the file system or a process does not cooperate.
const RETRY: Duration = Duration::from_millis(20);
/// How many times. After that the guard and the lease's end are left, and the problem is reported.
const ATTEMPTS: u32 = 50;

/// Fences this member's PostgreSQL. `polite_ms`: a fast shutdown first, for at most that long.
pub async fn now(shared: &Arc<Shared>, polite_ms: u64, why: &str) {
    let was_dead = matches!(shared.lock().local.postgres, LocalPostgres::Stopped { crashed: true });
    tracing::warn!(member = %shared.me(), polite_ms, "fencing PostgreSQL: {why}");
    shared.lock().stopping = true;
    for attempt in 0..ATTEMPTS {
        match attempt_once(shared, if attempt == 0 { polite_ms } else { 0 }).await {
            Ok(clean) => {
                shared.forget_running(was_dead || !clean);
                let mut inner = shared.lock();
                inner.local.fence_on_disk = true;
                inner.local.wal_end = None;
                inner.local.right = pgvigil_core::lease::Right::default();
                inner.activity = None;
                drop(inner);
                if let Some(renewals) = shared.renewals.get() {
                    renewals.send(Renewal::Revoked).ok();
                }
                shared.problem("fence", None);
                shared.report.notify_one();
                return;
            }
            Err(error) => shared.problem("fence", Some(format!("the fence is not complete: {error:#}"))),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// `true`: it was stopped in good order.
async fn attempt_once(shared: &Arc<Shared>, polite_ms: u64) -> anyhow::Result<bool> {
    let instance = instance(shared);
    let (layout, ours, version) = (shared.layout.clone(), settings(shared), shared.binaries.version());
    if layout.data_dir.join("PG_VERSION").exists() {
        tokio::task::spawn_blocking(move || seal_on_disk(&layout, &ours, version)).await??;
    }
    let mut clean = false;
    if polite_ms > 0 {
        clean = instance.stop(StopMode::Fast, Duration::from_millis(polite_ms)).await?.is_some();
    }
    instance.kill().await?;
    Ok(clean)
}
