//! To be a standby: start, follow, restart.

use super::obey;
use crate::{
    in_force::Expected,
    ports::{Member, RecoveryTimeline, Session, StartAs},
};
use anyhow::{Context, bail};
use pgvigil_core::{
    id::{Epoch, MemberKey},
    local::InForce,
    reconcile::{Action, Upstream},
};

/// How long a start may take before it is left to finish by itself, in milliseconds.
const START_MS: u64 = 30_000;
/// A session's limit, in milliseconds.
const STATEMENT_MS: u64 = 5_000;

/// Starts PostgreSQL as a standby. One that follows nobody has its recovery pinned where its own files could mislead it
/// (history A4); one that follows takes the newest history of its upstream.
pub async fn start<M: Member>(m: &M, epoch: Epoch, following: Option<&(Upstream, MemberKey)>) -> anyhow::Result<()> {
    obey(m, epoch).await?;
    disarmed(m).await?;
    let wal_end = m.known().local.wal_end;
    let Some((_, owner)) = wal_end else { bail!("the end of its WAL is not known") };
    let timeline = match following {
        Some(_) => RecoveryTimeline::Latest,
        None => m.start_timeline(owner).await?,
    };
    launch(m, epoch, timeline, following).await
}

async fn launch<M: Member>(
    m: &M,
    epoch: Epoch,
    timeline: RecoveryTimeline,
    following: Option<&(Upstream, MemberKey)>,
) -> anyhow::Result<()> {
    m.known().expected = None;
    m.seal_on_disk(timeline).await?;
    m.reach("launch:sealed").await;
    m.write_door(following.is_some()).await?;
    if let Some((upstream, key)) = following {
        forget_dead_branches(m).await?;
        point_at(m, timeline, epoch, upstream, key).await?;
    }
    m.known().activity = Some("starting as standby".to_owned());
    let action = Action::StartStandby { epoch, following: following.cloned() };
    m.start(StartAs::Standby, START_MS, m.overtaken(&action)).await?;
    let mut known = m.known();
    known.pinned = timeline != RecoveryTimeline::Latest;
    known.local.fence_on_disk = true;
    known.local.in_force = Some(match following {
        Some((upstream, _)) => following_of(epoch, upstream),
        None => InForce::default(),
    });
    Ok(())
}

fn following_of(epoch: Epoch, upstream: &Upstream) -> InForce {
    InForce { epoch, version: None, door_open: true, upstream: Some(upstream.key.clone()), named: upstream.named }
}

/// A promotion that was cut off, or made by hand, leaves a file that names a timeline which never was, or another one by
/// the same number: a start that follows `latest` would ask its upstream for it for ever.
async fn forget_dead_branches<M: Member>(m: &M) -> anyhow::Result<()> {
    let wal_end = m.known().local.wal_end;
    let Some((_, owner)) = wal_end else { return Ok(()) };
    let removed = m.remove_histories_above(owner).await?;
    if !removed.is_empty() {
        tracing::info!(member = %m.me(), ?removed, "removed history files above its own timeline; what lives is fetched again");
    }
    Ok(())
}

/// Writes upstream and password. From here on WAL may come in: what was read and sealed is no longer the end.
async fn point_at<M: Member>(
    m: &M,
    timeline: RecoveryTimeline,
    epoch: Epoch,
    upstream: &Upstream,
    key: &MemberKey,
) -> anyhow::Result<()> {
    let name = key.sync_name(epoch, upstream.named);
    let bind_channel = m.trusted(upstream).await?;
    {
        let mut known = m.known();
        known.forget_end();
        known.local.sealed = None;
        known.flush_seen = None;
    }
    let shown = m.point_at(upstream, &name, bind_channel, timeline).await?;
    // Nobody waits until it is shown, for commits wait meanwhile: the next looks hold it against the server.
    m.known().expected = Some(Expected { shown, since: m.now(), seen: false });
    Ok(())
}

/// The guard must not hold a deadline of a reign that is over: it would kill the standby.
async fn disarmed<M: Member>(m: &M) -> anyhow::Result<()> {
    for _ in 0..500 {
        {
            let known = m.known();
            if known.guarded.confirmed && known.guarded.until.is_none() {
                return Ok(());
            }
        }
        m.pause(5_000).await;
    }
    bail!("the guard does not confirm that it is disarmed")
}

/// Streams from the primary of `epoch` under this member's name of that epoch. `reconcile` has seen that its WAL ends
/// at or before the fork (history A6).
pub async fn follow<M: Member>(m: &M, epoch: Epoch, upstream: &Upstream, key: &MemberKey) -> anyhow::Result<()> {
    obey(m, epoch).await?;
    m.reach("follow:begin").await;
    if m.known().pinned {
        // Pinned to its own timeline it would never go over to the new one. The start removes what misled it.
        m.known().stopping = true;
        m.stop(START_MS).await.context("cannot stop to unpin recovery")?;
        let following = (upstream.clone(), key.clone());
        return launch(m, epoch, RecoveryTimeline::Latest, Some(&following)).await;
    }
    if m.known().server.is_none() {
        bail!("PostgreSQL does not run");
    }
    let wal_end = m.known().local.wal_end;
    if let Some((_, owner)) = wal_end {
        m.clear_reservations(owner).await?;
    }
    m.write_door(true).await?;
    point_at(m, RecoveryTimeline::Latest, epoch, upstream, key).await?;
    m.reach("follow:pointed").await;
    m.reload()?;
    let paused = m.known().sample.as_ref().is_some_and(|(sample, _)| sample.replay_paused);
    if paused {
        // Paused by hand, it would never get to the end of its timeline and so never go over to the new primary's: it
        // would stay in the rule and confirm nothing.
        tracing::warn!(member = %m.me(), "replay was paused; it goes on, for the primary has changed");
        m.connect("follow", STATEMENT_MS).await?.resume_replay().await?;
    }
    m.known().local.in_force = Some(following_of(epoch, upstream));
    Ok(())
}

/// Restarts PostgreSQL in its role, as an operator asked. A primary is restarted by the agreed way: it is stopped, and
/// the leader decides between failover and restart in place.
pub async fn restart<M: Member>(m: &M, request: u64) -> anyhow::Result<()> {
    m.known().stopping = true;
    let stopped = m.stop(START_MS).await;
    m.forget_running(false);
    // Kept on disk: an agent that starts anew must not do it again.
    m.promise_note(move |promise| promise.restarted = request).await.context("cannot note that the restart is done")?;
    stopped.context("cannot stop PostgreSQL")?;
    m.known().forget_end();
    Ok(())
}
