//! To be a standby: start, follow, restart.

use super::{STATEMENT, instance, obey, overtaken, settings, start_options};
use crate::agent::{in_force, peers, sampler, shared::Shared};
use anyhow::{Context, bail};
use pgvigil_core::{
    id::{Epoch, MemberKey},
    local::InForce,
    reconcile::{Action, Upstream},
};
use pgvigil_postgres::{
    Settings, StopMode, fault,
    hba::Door,
    history_files,
    instance::StartAs,
    seal::seal_on_disk,
    settings::{RecoveryTimeline, write_pass_file},
};
use std::{sync::Arc, time::Duration};

/// How long a start may take before it is left to finish by itself.
const START: Duration = Duration::from_secs(30);

/// Starts PostgreSQL as a standby. One that follows nobody has its recovery pinned where its own files could mislead it
/// (history A4); one that follows takes the newest history of its upstream.
pub async fn start(
    shared: &Arc<Shared>,
    epoch: Epoch,
    following: Option<&(Upstream, MemberKey)>,
) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    disarmed(shared).await?;
    let wal_end = shared.lock().local.wal_end;
    let Some((_, owner)) = wal_end else { bail!("the end of its WAL is not known") };
    let timeline = match following {
        Some(_) => RecoveryTimeline::Latest,
        None => history_files::start_timeline(&shared.layout.pg_wal(), owner)?,
    };
    launch(shared, epoch, timeline, following).await
}

async fn launch(
    shared: &Arc<Shared>,
    epoch: Epoch,
    timeline: RecoveryTimeline,
    following: Option<&(Upstream, MemberKey)>,
) -> anyhow::Result<()> {
    let mut ours = settings(shared);
    ours.recovery_timeline = timeline;
    shared.lock().expected = None;
    seal_on_disk(&shared.layout, &ours, shared.binaries.version())?;
    let options = start_options(shared, StartAs::Standby).await?;
    let door = if following.is_some() { Door::Open } else { Door::Closed };
    shared.write_door(door)?;
    if following.is_some() {
        forget_dead_branches(shared).await?;
    }
    if let Some((upstream, key)) = following {
        point_at(shared, &mut ours, epoch, upstream, key).await?;
    }
    shared.lock().activity = Some("starting as standby".to_owned());
    let action = Action::StartStandby { epoch, following: following.cloned() };
    let instance = instance(shared);
    let started = instance.start_until(StartAs::Standby, &options, START, overtaken(shared, &action));
    let (postmaster, _) = started.await?;
    sampler::watch(shared, postmaster);
    let mut inner = shared.lock();
    inner.pinned = timeline != RecoveryTimeline::Latest;
    inner.local.fence_on_disk = true;
    inner.local.in_force = Some(match following {
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
async fn forget_dead_branches(shared: &Arc<Shared>) -> anyhow::Result<()> {
    let wal_end = shared.lock().local.wal_end;
    let Some((_, owner)) = wal_end else { return Ok(()) };
    let pg_wal = shared.layout.pg_wal();
    let removed = tokio::task::spawn_blocking(move || history_files::remove_above(&pg_wal, owner)).await??;
    if !removed.is_empty() {
        tracing::info!(member = %shared.me(), ?removed, "removed history files above its own timeline; what lives is fetched again");
    }
    Ok(())
}

/// Writes upstream and password. From here on WAL may come in: what was read and sealed is no longer the end.
async fn point_at(
    shared: &Shared,
    ours: &mut Settings,
    epoch: Epoch,
    upstream: &Upstream,
    key: &MemberKey,
) -> anyhow::Result<()> {
    let role = &shared.access.replication_role;
    let name = key.sync_name(epoch, upstream.named);
    let mut to = pgvigil_postgres::Upstream::new(&upstream.host, upstream.port, role, &name);
    to.scram_plus = peers::trusted(shared, upstream).await?;
    shared.server().pointed_at = Some(((upstream.host.clone(), upstream.port), to.scram_plus));
    {
        let mut inner = shared.lock();
        inner.forget_end();
        inner.local.sealed = None;
        inner.flush_seen = None;
    }
    write_pass_file(&shared.layout, Some((&to, shared.secret.password())))?;
    ours.upstream = Some(to);
    // One that is promoted by hand while no agent runs shows this and not its last reign's rule: nothing of that reign has
    // changed by it.
    shared.unproven_file.write_rule(&ours.rule.names_value())?;
    ours.replace(shared.binaries.version(), &shared.layout)?;
    // Nobody waits until it is shown, for commits wait meanwhile: the next looks hold it against the server.
    shared.lock().expected = Some(in_force::expect(ours.shown(shared.binaries.version(), &shared.layout), false));
    Ok(())
}

/// The guard must not hold a deadline of a reign that is over: it would kill the standby.
async fn disarmed(shared: &Shared) -> anyhow::Result<()> {
    for _ in 0..500 {
        {
            let inner = shared.lock();
            if inner.guarded.confirmed && inner.guarded.until.is_none() {
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bail!("the guard does not confirm that it is disarmed")
}

/// Streams from the primary of `epoch` under this member's name of that epoch. `reconcile` has seen that its WAL ends
/// at or before the fork (history A6).
pub async fn follow(shared: &Arc<Shared>, epoch: Epoch, upstream: &Upstream, key: &MemberKey) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    fault::reach("follow:begin", Some(&shared.layout.data_dir)).await;
    if shared.lock().pinned {
        // Pinned to its own timeline it would never go over to the new one. The start removes what misled it.
        shared.lock().stopping = true;
        instance(shared).stop(StopMode::Fast, START).await.context("cannot stop to unpin recovery")?;
        let following = (upstream.clone(), key.clone());
        return launch(shared, epoch, RecoveryTimeline::Latest, Some(&following)).await;
    }
    let Some(postmaster) = shared.server().postmaster.clone() else { bail!("PostgreSQL does not run") };
    let wal_end = shared.lock().local.wal_end;
    if let Some((_, owner)) = wal_end {
        history_files::clear_reservations(&shared.layout.pg_wal(), owner)?;
    }
    shared.write_door(Door::Open)?;
    point_at(shared, &mut settings(shared), epoch, upstream, key).await?;
    fault::reach("follow:pointed", Some(&shared.layout.data_dir)).await;
    instance(shared).reload(&postmaster)?;
    if shared.lock().sample.as_ref().is_some_and(|(sample, _)| sample.replay_paused) {
        // Paused by hand, it would never get to the end of its timeline and so never go over to the new primary's: it
        // would stay in the rule and confirm nothing.
        tracing::warn!(member = %shared.me(), "replay was paused; it goes on, for the primary has changed");
        instance(shared).connect("follow", STATEMENT).await?.resume_replay(STATEMENT).await?;
    }
    shared.lock().local.in_force = Some(following_of(epoch, upstream));
    Ok(())
}

/// Restarts PostgreSQL in its role, as an operator asked. A primary is restarted by the agreed way: it is stopped, and
/// the leader decides between failover and restart in place.
pub async fn restart(shared: &Arc<Shared>, request: u64) -> anyhow::Result<()> {
    shared.lock().stopping = true;
    let stopped = instance(shared).stop(StopMode::Fast, START).await;
    shared.forget_running(false);
    // Kept on disk: an agent that starts anew must not do it again.
    shared.promise_note(|promise| promise.restarted = request).context("cannot note that the restart is done")?;
    stopped.context("cannot stop PostgreSQL")?;
    shared.lock().forget_end();
    Ok(())
}
