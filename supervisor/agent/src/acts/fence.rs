//! The fence: on disk, and every process seen gone, then reported. Nothing waits for anybody. Keeps S3.

use super::within;
use crate::ports::{Member, RecoveryTimeline, Session, Wake};
use futures::future::{Either, select};
use pgvigil_core::{cluster::ClusterState, keeper::Renewal, local::LocalPostgres, rule::Rule};
use std::pin::pin;

/// Between two attempts when the file system or a process does not cooperate, in microseconds.
const RETRY_US: u64 = 20_000;
/// How many times. After that the guard and the lease's end are left, and the problem is reported.
const ATTEMPTS: u32 = 50;
/// How much longer than its polite part a fence may take before this agent falls silent, in milliseconds. On a disk that
/// hangs neither the fence is written nor does a process die that waits for it: then its right has to run out, which the
/// guard sees to, and must not be renewed. Keeps S3.
const OVERDUE_MS: u64 = 1_000;
/// Between two looks whether a primary is drained, in microseconds.
const DRAIN_PACE_US: u64 = 1_000;
/// So many looks lie between two rounds of ending clients.
const LOOKS: u32 = 20;

/// Fences this member's PostgreSQL. `polite_ms`: it is drained first, for at most that long.
pub async fn now<M: Member>(m: &M, polite_ms: u64, why: &str) {
    let was_dead = {
        let mut known = m.known();
        tracing::warn!(member = %known.local.me, polite_ms, "fencing PostgreSQL: {why}");
        known.stopping = true;
        let due = m.now().plus(polite_ms + OVERDUE_MS);
        known.fence_due.get_or_insert(due);
        matches!(known.local.postgres, LocalPostgres::Stopped { crashed: true })
    };
    m.reach("fence:begin").await;
    for attempt in 0..ATTEMPTS {
        match attempt_once(m, if attempt == 0 { polite_ms } else { 0 }).await {
            Ok(clean) => {
                m.reach("fence:done").await;
                m.forget_running(was_dead || !clean);
                m.known().fenced();
                m.renew(Renewal::Revoked);
                m.problem("fence", None);
                m.wake(Wake::Report);
                return;
            }
            Err(error) => m.problem("fence", Some(format!("the fence is not complete: {error:#}"))),
        }
        m.pause(RETRY_US).await;
    }
}

/// `true`: it was drained, so that its WAL ends where its standbys' does.
async fn attempt_once<M: Member>(m: &M, polite_ms: u64) -> anyhow::Result<bool> {
    let on_disk = async { if m.has_data().await { m.seal_on_disk(RecoveryTimeline::Latest).await } else { Ok(()) } };
    // What runs is ended while the disk writes: both are seen done before the fence counts, and until then this agent
    // starts nothing. Killing goes first, and is tried again at once whatever the disk does.
    let ended = async {
        let mut clean = false;
        if polite_ms > 0 {
            match within(m, polite_ms, drain(m)).await {
                Some(Ok(())) => clean = true,
                Some(Err(error)) => tracing::info!("it is not drained: {error:#}"),
                None => tracing::info!("it is not drained within {polite_ms} ms"),
            }
        }
        m.kill().await.map(|()| clean)
    };
    match select(pin!(ended), pin!(on_disk)).await {
        Either::Left((clean, on_disk)) => {
            let clean = clean?;
            on_disk.await?;
            Ok(clean)
        }
        Either::Right((on_disk, ended)) => {
            let clean = ended.await?;
            on_disk?;
            Ok(clean)
        }
    }
}

/// Ends the clients and waits until the standbys of the rule have flushed all that this server has. It is killed right
/// after: a shutdown would first write a checkpoint, for which writes would stand still, and which would lie beyond what
/// a member that is sealed already has. What it had not flushed yet was acknowledged to nobody.
async fn drain<M: Member>(m: &M) -> anyhow::Result<()> {
    if m.known().server.is_none() {
        return Ok(());
    }
    let agreed = m.agreed();
    let named = agreed.as_deref().and_then(|agreed| Some((agreed, agreed.newest_rule()?)));
    let of = |(agreed, rule): (&ClusterState, &Rule)| {
        rule.setting.cohort.iter().map(|key| agreed.sync_name(key, rule.epoch)).collect()
    };
    let names: Vec<String> = named.map(of).unwrap_or_default();
    let session = m.urgent_session("drain").await?;
    // Sessions that are there are ended now, others do not get in any more.
    m.write_door(false).await?;
    m.reload()?;
    for look in 0_u32.. {
        // Again from time to time: one may have come in before the door was seen to be closed.
        if look.is_multiple_of(LOOKS) {
            session.end_clients().await?;
        }
        if session.is_drained(&names).await? {
            break;
        }
        m.pause(DRAIN_PACE_US).await;
    }
    Ok(())
}
