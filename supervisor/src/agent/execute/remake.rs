//! A data directory made anew: by pg_rewind where that works, by a clone beside it where not. The new incarnation was
//! agreed before (history A9); the mark is written last, so that a half-made directory counts as nobody's.

use super::{found, instance, obey, settings};
use crate::agent::{peers, shared::Shared};
use anyhow::Context;
use pgvigil_core::{
    id::{Epoch, Incarnation},
    local::LocalPostgres,
    lsn::Lsn,
    position::Position,
    reconcile::{Upstream, history_of},
    report::DiscardedWal,
};
use pgvigil_postgres::{
    clone::{ClonePlan, OldData, clone as clone_server},
    config::MemberConfig,
    diverged::{self, Kept},
    fault,
    hba::Door,
    position,
    rewind::{RewindPlan, interrupted, rewind as rewind_server},
    seal::seal_on_disk,
    source::Source,
};
use std::{sync::Arc, time::Duration};

/// How long copying may take: a terabyte over a slow line.
const COPY: Duration = Duration::from_secs(48 * 3600);
/// How long one run of pg_rewind, or of crash recovery before it, may take.
const REWIND: Duration = Duration::from_secs(3600);

async fn source(shared: &Shared, upstream: &Upstream) -> anyhow::Result<Source> {
    let scram_plus = peers::trusted(shared, upstream).await?;
    Ok(Source {
        host: upstream.host.clone(),
        port: upstream.port,
        user: shared.access.replication_role.clone(),
        password: shared.secret.password().to_owned(),
        scram_plus,
    })
}

fn config(shared: &Shared) -> MemberConfig {
    MemberConfig {
        settings: settings(shared),
        door: Door::Closed,
        access: shared.access(),
        user_hba: shared.config.hba.clone(),
    }
}

/// Where this member's own WAL left the history of the reign in force.
fn fork(shared: &Shared, owner: Option<pgvigil_core::id::TimelineId>) -> Option<Lsn> {
    let agreed = shared.agreed()?;
    let reign = agreed.reign()?;
    let history = history_of(&agreed, reign);
    owner.and_then(|owner| history.switch_point(owner)).or_else(|| reign.promotion.map(|p| p.fork))
}

/// By pg_rewind; by a clone if that does not work.
pub async fn rewind(
    shared: &Arc<Shared>,
    epoch: Epoch,
    upstream: &Upstream,
    incarnation: Incarnation,
) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    fault::reach("rewind:begin", Some(&shared.layout.data_dir)).await;
    let owner = shared.lock().local.wal_end.map(|(_, owner)| owner);
    if interrupted(&instance(shared)) {
        // An earlier rewind did not end: what it left cannot be trusted.
        return clone(shared, epoch, upstream, incarnation).await;
    }
    let Some(fork) = fork(shared, owner) else {
        return clone(shared, epoch, upstream, incarnation).await;
    };
    shared.lock().activity = Some(format!("rewinding to {fork}"));
    shared.lock().stopping = true;
    let plan = RewindPlan {
        source: source(shared, upstream).await?,
        fork,
        label: format!("i{incarnation}"),
        config: config(shared),
        limit: REWIND,
    };
    let reporter = Arc::clone(shared);
    let mut progress = move |line: &str| reporter.lock().activity = Some(format!("pg_rewind: {line}"));
    match rewind_server(&instance(shared), &plan, &mut progress).await {
        Ok(rewound) => {
            tracing::info!(member = %shared.me(), took = ?rewound.took, "rewound to {fork}");
            note_discarded(shared, rewound.kept.as_ref());
            fault::reach("rewind:done", Some(&shared.layout.data_dir)).await;
            finish(shared, incarnation)
        }
        Err(error) => {
            tracing::warn!(member = %shared.me(), "pg_rewind does not work here: {error}; cloning instead");
            clone(shared, epoch, upstream, incarnation).await
        }
    }
}

/// By pg_basebackup into a new directory.
pub async fn clone(
    shared: &Arc<Shared>,
    epoch: Epoch,
    upstream: &Upstream,
    incarnation: Incarnation,
) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    fault::reach("clone:begin", Some(&shared.layout.data_dir)).await;
    shared.lock().stopping = true;
    let instance = instance(shared);
    let data = shared.layout.data_dir.join("PG_VERSION").exists();
    if data {
        let (layout, ours, version) = (shared.layout.clone(), settings(shared), shared.binaries.version());
        tokio::task::spawn_blocking(move || seal_on_disk(&layout, &ours, version)).await??;
        instance.kill().await?;
        shared.forget_running(false);
        keep_aside(shared, incarnation).await;
    }
    let old_rules = shared.agreed().is_some_and(|agreed| agreed.rules.iter().any(|rule| rule.epoch < epoch));
    let old = if old_rules { OldData::Keep(format!("i{incarnation}")) } else { OldData::Remove };
    shared.lock().activity = Some(format!("cloning from {}", upstream.key));
    let plan = ClonePlan {
        source: source(shared, upstream).await?,
        slot: None,
        max_rate: None,
        tablespaces: Vec::new(),
        config: config(shared),
        old,
        limit: COPY,
    };
    let reporter = Arc::clone(shared);
    let mut progress = move |line: &str| reporter.lock().activity = Some(format!("cloning: {}", line.trim()));
    let kept = clone_server(&instance, &plan, &mut progress).await.context("the clone failed")?;
    if let Some(kept) = kept {
        tracing::info!(member = %shared.me(), "the old data directory is kept in {}", kept.display());
    }
    fault::reach("clone:done", Some(&shared.layout.data_dir)).await;
    finish(shared, incarnation)
}

/// Marks the new directory and forgets what was known of the old one. It was made from the reigning primary, so its
/// WAL belongs to that history.
fn finish(shared: &Shared, incarnation: Incarnation) -> anyhow::Result<()> {
    found::mark(shared, incarnation)?;
    let agreed = shared.agreed();
    let timeline = agreed.as_ref().and_then(|agreed| agreed.reign()).map(|reign| reign.timeline);
    let epoch = timeline.and_then(|timeline| agreed.as_ref().and_then(|a| a.epoch_of_timeline(timeline)));
    let mut inner = shared.lock();
    inner.local.postgres = LocalPostgres::Stopped { crashed: false };
    inner.local.fence_on_disk = true;
    inner.local.sealed = None;
    inner.local.in_force = None;
    inner.local.wal_end = epoch.zip(timeline).map(|(epoch, timeline)| (Position::new(epoch, Lsn::ZERO), timeline));
    inner.flush_seen = None;
    inner.slow = None;
    Ok(())
}

/// The dead branch of WAL is kept before its directory goes.
async fn keep_aside(shared: &Arc<Shared>, incarnation: Incarnation) {
    let worker = Arc::clone(shared);
    let keeping = async move {
        let control = instance(&worker).control_file().await?;
        let (layout, version) = (worker.layout.clone(), worker.binaries.version());
        let found = position::of_stopped(&layout, &control, version)?;
        let Some(fork) = fork(&worker, Some(found.timeline())) else { return Ok(None) };
        let label = format!("i{incarnation}");
        let kept = tokio::task::spawn_blocking(move || {
            diverged::keep(&layout, &found, fork, control.wal_segment_size, &label)
        })
        .await??;
        anyhow::Ok(kept)
    };
    match keeping.await {
        Ok(kept) => note_discarded(shared, kept.as_ref()),
        Err(error) => shared.problem("diverged", Some(format!("its diverged WAL could not be kept aside: {error:#}"))),
    }
}

fn note_discarded(shared: &Shared, kept: Option<&Kept>) {
    let Some(kept) = kept else { return };
    let mut inner = shared.lock();
    let epoch = inner.local.promise.reigned;
    inner.discarded = Some(DiscardedWal {
        epoch,
        timeline: kept.manifest.timeline,
        from: kept.manifest.fork,
        to: kept.manifest.end,
        kept_in: kept.dir.display().to_string(),
    });
}
