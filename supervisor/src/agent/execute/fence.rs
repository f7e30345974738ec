//! The fence: on disk, and every process seen gone, then reported. Nothing waits for anybody. Keeps S3.

use super::{STATEMENT, instance, settings};
use crate::{agent::shared::Shared, clock};
use pgvigil_core::{cluster::ClusterState, keeper::Renewal, local::LocalPostgres, rule::Rule};
use pgvigil_postgres::{fault, hba::Door, instance::Instance, seal::seal_on_disk};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout_at};

/// Between two attempts when the file system or a process does not cooperate.
const RETRY: Duration = Duration::from_millis(20);
/// How many times. After that the guard and the lease's end are left, and the problem is reported.
const ATTEMPTS: u32 = 50;

/// How much longer than its polite part a fence may take before this agent falls silent, in milliseconds. On a disk that
/// hangs neither the fence is written nor does a process die that waits for it: then its right has to run out, which the
/// guard sees to, and must not be renewed. Keeps S3.
const OVERDUE_MS: u64 = 1_000;
/// Between two looks whether a primary is drained.
const DRAIN_PACE: Duration = Duration::from_millis(1);
/// So many looks lie between two rounds of ending clients.
const LOOKS: u32 = 20;

/// Fences this member's PostgreSQL. `polite_ms`: it is drained first, for at most that long.
pub async fn now(shared: &Arc<Shared>, polite_ms: u64, why: &str) {
    let was_dead = matches!(shared.lock().local.postgres, LocalPostgres::Stopped { crashed: true });
    tracing::warn!(member = %shared.me(), polite_ms, "fencing PostgreSQL: {why}");
    {
        let mut inner = shared.lock();
        inner.stopping = true;
        let due = clock::now().plus(polite_ms + OVERDUE_MS);
        inner.fence_due.get_or_insert(due);
    }
    fault::reach("fence:begin", Some(&shared.layout.data_dir)).await;
    for attempt in 0..ATTEMPTS {
        match attempt_once(shared, if attempt == 0 { polite_ms } else { 0 }).await {
            Ok(clean) => {
                fault::reach("fence:done", Some(&shared.layout.data_dir)).await;
                shared.forget_running(was_dead || !clean);
                let mut inner = shared.lock();
                inner.fence_due = None;
                inner.local.fence_on_disk = true;
                inner.forget_end();
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
        sleep(RETRY).await;
    }
}

/// `true`: it was drained, so that its WAL ends where its standbys' does.
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
        let end = Instant::now() + Duration::from_millis(polite_ms);
        match timeout_at(end, drain(shared, &instance)).await {
            Ok(Ok(())) => clean = true,
            Ok(Err(error)) => tracing::info!(member = %shared.me(), "it is not drained: {error:#}"),
            Err(_) => tracing::info!(member = %shared.me(), "it is not drained within {polite_ms} ms"),
        }
    }
    instance.kill().await?;
    on_disk.await??;
    Ok(clean)
}

/// Ends the clients and waits until the standbys of the rule have flushed all that this server has. It is killed right
/// after: a shutdown would first write a checkpoint, for which writes would stand still, and which would lie beyond what
/// a member that is sealed already has. What it had not flushed yet was acknowledged to nobody.
async fn drain(shared: &Shared, instance: &Instance) -> anyhow::Result<()> {
    let Some(postmaster) = shared.server().postmaster.clone() else { return Ok(()) };
    let agreed = shared.agreed();
    let named = agreed.as_ref().and_then(|agreed| Some((agreed, agreed.newest_rule()?)));
    let of = |(agreed, rule): (&Arc<ClusterState>, &Rule)| {
        rule.setting.cohort.iter().map(|key| agreed.sync_name(key, rule.epoch)).collect()
    };
    let names: Vec<String> = named.map(of).unwrap_or_default();
    // Writes stand still from here on: a session that is there already knows these views, a new one would read them first.
    let warm = shared.server().warm_link.upgrade().filter(|link| !link.is_closed());
    let link = match warm {
        Some(link) => link,
        None => Arc::new(instance.connect("drain", STATEMENT).await?),
    };
    // Sessions that are there are ended now, others do not get in any more.
    shared.write_door(Door::Closed)?;
    instance.reload(&postmaster)?;
    for look in 0_u32.. {
        // Again from time to time: one may have come in before the door was seen to be closed.
        if look.is_multiple_of(LOOKS) {
            link.terminate_clients(&[], STATEMENT).await?;
        }
        if link.is_drained(&names, STATEMENT).await? {
            break;
        }
        sleep(DRAIN_PACE).await;
    }
    Ok(())
}
