//! The fence: on disk, and every process seen gone, then reported. Nothing waits for anybody. Keeps S3.

use super::{instance, settings};
use crate::agent::{right::Renewal, shared::Shared};
use pgvigil_core::local::LocalPostgres;
use pgvigil_postgres::{StopMode, fault, seal::seal_on_disk};
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
    fault::reach("fence:begin", Some(&shared.layout.data_dir)).await;
    for attempt in 0..ATTEMPTS {
        match attempt_once(shared, if attempt == 0 { polite_ms } else { 0 }).await {
            Ok(clean) => {
                fault::reach("fence:done", Some(&shared.layout.data_dir)).await;
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
    let on_disk = tokio::task::spawn_blocking(move || match layout.data_dir.join("PG_VERSION").exists() {
        true => seal_on_disk(&layout, &ours, version),
        false => Ok(()),
    });
    // What runs is ended while the disk writes: both are seen done before the fence counts, and until then this agent
    // starts nothing.
    let mut clean = false;
    if polite_ms > 0 {
        clean = instance.stop(StopMode::Fast, Duration::from_millis(polite_ms)).await?.is_some();
    }
    instance.kill().await?;
    on_disk.await??;
    Ok(clean)
}
