//! To be the primary: configure, start, promote, carry on under a new epoch.

use super::{GENERATION, STATEMENT, fence, instance, obey, rule, settings, spawn_options};
use crate::agent::{sampler, shared::Shared};
use anyhow::{Context, bail};
use pgvigil_core::{
    id::{Epoch, RuleVersion, TimelineId},
    local::{InForce, LocalPostgres},
    lsn::Lsn,
    reign::Promotion,
    rule::Setting,
};
use pgvigil_postgres::{
    Link,
    hba::{self, Door},
    history_files,
    instance::{InstanceError, StartAs},
    link::parse,
};
use std::{sync::Arc, time::Duration};

/// How long a reload may take to be seen.
const RELOAD: Duration = Duration::from_secs(10);
/// How long a promotion may replay what it has before it is asked again.
const PROMOTION: Duration = Duration::from_secs(60);

/// Writes setting and door; returns the generation that shows them.
fn write(
    shared: &Shared,
    epoch: Epoch,
    setting: &Setting,
    version: RuleVersion,
    door_open: bool,
) -> anyhow::Result<(String, String)> {
    let mut ours = settings(shared);
    ours.rule = rule(setting, epoch);
    let names = ours.rule.names_value();
    let generation = format!("e{epoch}.v{version}.{}", if door_open { "open" } else { "closed" });
    ours.user.push((GENERATION.to_owned(), generation.clone()));
    ours.write(shared.binaries.version(), &shared.layout)?;
    let door = if door_open { Door::Open } else { Door::Closed };
    hba::write(&shared.layout, door, &shared.access, &shared.config.hba)?;
    Ok((generation, names))
}

/// Puts setting and door in force and sees them through a new connection (proof step D3a). A closed door ends the
/// sessions that are in. Keeps S1, S3.
pub async fn configure(
    shared: &Arc<Shared>,
    epoch: Epoch,
    setting: &Setting,
    version: RuleVersion,
    door_open: bool,
) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    let before = shared.lock().local.in_force.clone();
    let was_open = before.as_ref().is_none_or(|f| f.door_open);
    if before.is_none_or(|f| f.epoch != epoch || f.version != Some(version)) {
        // A door that opens leaves the rule as it was proven.
        shared.lock().local.proven = None;
    }
    let (generation, names) = write(shared, epoch, setting, version, door_open)?;
    let Some(postmaster) = shared.lock().postmaster.clone() else { bail!("PostgreSQL does not run") };
    let instance = instance(shared);
    instance.reload(&postmaster)?;
    let deadline = tokio::time::Instant::now() + RELOAD;
    let link = loop {
        let link = instance.connect("configure", STATEMENT).await?;
        let shows = link.setting(GENERATION, STATEMENT).await.is_ok_and(|shown| shown == generation)
            && link.setting("synchronous_standby_names", STATEMENT).await? == names;
        if shows {
            break link;
        }
        if tokio::time::Instant::now() > deadline {
            bail!(
                "a new connection does not show the new settings within {RELOAD:?}; is something set with ALTER SYSTEM?"
            );
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    if !door_open && was_open {
        link.terminate_clients(&[], STATEMENT).await?;
    }
    let mut inner = shared.lock();
    inner.local.in_force = Some(InForce { epoch, version: Some(version), door_open, upstream: None });
    inner.names_in_force = Some(names);
    drop(inner);
    if door_open {
        shared.problem("drift", None);
    }
    Ok(())
}

/// Starts PostgreSQL as primary with its door closed and its rule in force from the first moment.
pub async fn start_primary(
    shared: &Arc<Shared>,
    epoch: Epoch,
    setting: &Setting,
    version: RuleVersion,
) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    shared.promise(|promise| {
        promise.reigned = epoch;
        promise.promotion = None;
    })?;
    shared.lock().activity = Some("starting as primary".to_owned());
    let (_, names) = write(shared, epoch, setting, version, false)?;
    let limit = shared.agreed().map_or(60_000, |agreed| agreed.settings.restart_timeout_ms);
    let instance = instance(shared);
    let started = instance.start(StartAs::Primary, &spawn_options(), Duration::from_millis(limit)).await;
    let (postmaster, _) = match started {
        Ok(started) => started,
        Err(error) => {
            fence::now(shared, 0, "it did not start as primary").await;
            return Err(error.into());
        }
    };
    sampler::watch(shared, postmaster);
    // The rule holds already and no standby streams yet: what the agent itself writes here must not wait.
    let link = Link::connect(&instance.endpoint, "start", "-c synchronous_commit=local", STATEMENT).await?;
    link.ensure_replication_role(&shared.access.replication_role, &shared.password, STATEMENT).await?;
    let at = insert_position(&link).await?;
    shared.promise(|promise| promise.promotion = Some(Promotion { fork: at, end: at }))?;
    let mut inner = shared.lock();
    inner.local.in_force = Some(InForce { epoch, version: Some(version), door_open: false, upstream: None });
    inner.names_in_force = Some(names);
    inner.local.sealed = None;
    inner.local.wal_end = None;
    inner.local.fence_on_disk = false;
    Ok(())
}

/// The insert position.
pub async fn insert_position(link: &Link) -> anyhow::Result<Lsn> {
    const WHAT: &str = "read the insert position";
    Ok(parse(WHAT, &link.value(WHAT, "SELECT pg_current_wal_insert_lsn()", STATEMENT).await?)?)
}

/// Promotes onto the allotted timeline. The new setting is in force and the door closed (`reconcile` sees to it).
/// Keeps S2 (history A7).
pub async fn promote(shared: &Arc<Shared>, epoch: Epoch, timeline: TimelineId) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    let instance = instance(shared);
    let Some(postmaster) = shared.lock().postmaster.clone() else { bail!("PostgreSQL does not run") };
    let link = instance.connect("promote", STATEMENT).await?;
    // What was sealed must be all there is.
    let sealed = shared.lock().local.wal_end;
    let Some((_, owner)) = sealed else { bail!("the end of its WAL is not known") };
    history_files::reserve(&shared.layout.pg_wal(), owner, timeline)?;
    shared.promise(|promise| {
        promise.reigned = epoch;
        promise.promotion = None;
    })?;
    shared.lock().activity = Some(format!("promoting to timeline {timeline}"));
    link.resume_replay(STATEMENT).await.ok();
    instance.promote(&postmaster)?;
    let promoted = match instance.wait_promoted(&link, Some(timeline), PROMOTION).await {
        Ok(promoted) => promoted,
        Err(error @ (InstanceError::WrongTimeline { .. } | InstanceError::NoFork(_))) => {
            fence::now(shared, 0, "it was promoted to another timeline than the one allotted").await;
            return Err(error.into());
        }
        Err(error) => return Err(error).context("the promotion is not complete"),
    };
    let promotion = Promotion { fork: promoted.fork, end: promoted.insert };
    shared.promise(|promise| promise.promotion = Some(promotion))?;
    let mut inner = shared.lock();
    if let LocalPostgres::Running(running) = &mut inner.local.postgres {
        running.in_recovery = false;
        running.timeline = promoted.timeline;
        running.flush_lsn = promoted.insert;
    }
    inner.local.sealed = None;
    inner.local.wal_end = None;
    inner.local.fence_on_disk = false;
    inner.flush_seen = None;
    drop(inner);
    // A checkpoint on the new timeline is what pg_rewind needs; nobody waits for it.
    tokio::spawn(async move {
        if let Err(error) = link.checkpoint(Duration::from_secs(600)).await {
            tracing::debug!("no checkpoint after the promotion: {error}");
        }
    });
    Ok(())
}

/// The same server goes on under a new epoch; its rule is in force already.
pub async fn carry_on(shared: &Arc<Shared>, epoch: Epoch) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    let link = instance(shared).connect("carry on", STATEMENT).await?;
    let at = insert_position(&link).await?;
    shared.promise(|promise| {
        promise.reigned = epoch;
        promise.promotion = Some(Promotion { fork: at, end: at });
    })?;
    Ok(())
}
