//! A data directory made anew: by pg_rewind where that works, by a clone beside it where not. The new incarnation was
//! agreed before (history A9); the mark is written last, so that a half-made directory counts as nobody's.

use super::{
    found, instance, obey, overtaken,
    seal::{Place, locate, needs},
    settings,
};
use crate::agent::{peers, shared::Shared};
use anyhow::{Context, bail};
use pgvigil_core::{
    id::{Epoch, Incarnation, MemberKey, TimelineId},
    lineage::{OwnEnd, place},
    local::{Directory, Local, LocalPostgres},
    lsn::Lsn,
    position::Position,
    reconcile::{Action, Upstream, history_of, made_anew},
    report::DiscardedWal,
};
use pgvigil_postgres::{
    clone::{ClonePlan, OldData, clone as clone_server},
    config::MemberConfig,
    diverged::{self, Kept},
    fault,
    hba::Door,
    rewind::{RewindPlan, interrupted, rewind as rewind_server},
    seal::seal_on_disk,
    settings::write_pass_file,
    source::Source,
    stopped,
};
use std::{sync::Arc, time::Duration};

/// How long copying may take: a terabyte over a slow line.
const COPY: Duration = Duration::from_secs(48 * 3600);
/// How long one run of pg_rewind, or of crash recovery before it, may take.
const REWIND: Duration = Duration::from_secs(3600);

/// Between two looks at what is agreed while a rewind waits.
const LOOK: Duration = Duration::from_millis(100);

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

/// Where this member's own WAL left the history of the reign in force, and whether by a promotion that nobody ordered.
struct Left {
    fork: Lsn,
    by_hand: bool,
}

/// `owner` owns the last byte; `own` is what was read of an end that lies on no agreed timeline.
fn left(shared: &Shared, owner: Option<TimelineId>, own: Option<&OwnEnd>) -> Option<Left> {
    let agreed = shared.agreed()?;
    let reign = agreed.reign()?;
    let history = history_of(&agreed, reign);
    let default = reign.promotion.map(|p| p.fork);
    let marker = shared.lock().local.marker.clone()?;
    let me = MemberKey::new(marker.member, marker.incarnation);
    let Some(astray) = own.and_then(|own| place(&agreed, &me, own).err()) else {
        let fork = owner.and_then(|owner| history.switch_point(owner)).or(default)?;
        return Some(Left { fork, by_hand: false });
    };
    let to = astray.agreed_to?;
    let on = agreed.reigns.iter().find(|r| r.epoch == to.epoch).map_or(TimelineId(0), |r| r.timeline);
    let fork = if on == history.timeline { to.lsn } else { history.switch_point(on).or(default)?.min(to.lsn) };
    Some(Left { fork, by_hand: astray.by_hand })
}

/// By pg_rewind; by a clone if that does not work.
pub async fn rewind(
    shared: &Arc<Shared>,
    epoch: Epoch,
    upstream: &Upstream,
    incarnation: Incarnation,
    action: &Action,
) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    fault::reach("rewind:begin", Some(&shared.layout.data_dir)).await;
    let (owner, own) = {
        let inner = shared.lock();
        (inner.local.wal_end.map(|(_, owner)| owner), inner.local.own_end.clone())
    };
    if interrupted(&shared.layout)?.is_some() {
        // An earlier rewind did not end: what it left cannot be trusted.
        return clone(shared, epoch, upstream, incarnation, action).await;
    }
    let reigning = shared.agreed().and_then(|agreed| agreed.reign().map(|reign| reign.timeline));
    let (Some(Left { fork, by_hand }), Some(timeline)) = (left(shared, owner, own.as_ref()), reigning) else {
        return clone(shared, epoch, upstream, incarnation, action).await;
    };
    shared.lock().activity = Some(format!("rewinding to {fork}"));
    shared.lock().stopping = true;
    let plan = RewindPlan {
        source: source(shared, upstream).await?,
        fork,
        timeline,
        label: format!("i{incarnation}"),
        config: config(shared),
        limit: REWIND,
    };
    let reporter = Arc::clone(shared);
    let mut progress = move |line: &str| reporter.lock().activity = Some(format!("pg_rewind: {line}"));
    let instance = instance(shared);
    let rewound = tokio::select! {
        rewound = rewind_server(&instance, &plan, &mut progress) => rewound,
        () = over(shared, epoch) => bail!("epoch {epoch} is over; it was not rewound to {}", upstream.key),
        () = overtaken(shared, action) => bail!("{} is the primary no more; the rewind to it was cut off", upstream.key),
    };
    let why = match rewound {
        // What such a server holds in memory is not what lies there now, and it writes that back.
        Ok(_) if matches!(instance.adopt(), Ok(Some(_))) => {
            "somebody started PostgreSQL in the middle of it".to_owned()
        }
        Ok(rewound) => {
            tracing::info!(member = %shared.me(), took = ?rewound.took, "rewound to {fork}");
            note_discarded(shared, rewound.kept.as_ref(), by_hand);
            fault::reach("rewind:done", Some(&shared.layout.data_dir)).await;
            // What pg_rewind says is not believed unread: only what belongs takes this member's name.
            match read(shared).await {
                Ok((mut local, end, needs)) => {
                    local.directory = Directory { needs, ..Directory::default() };
                    local.wal_end = Some(end);
                    let agreed = shared.agreed().context("no agreed state yet")?;
                    match made_anew(&agreed, &local) {
                        Ok(()) => return finish(shared, incarnation, end, needs),
                        Err(why) => format!("what pg_rewind left does not belong: {why}"),
                    }
                }
                Err(error) => format!("what pg_rewind left cannot be read: {error:#}"),
            }
        }
        Err(error) => format!("pg_rewind does not work here: {error}"),
    };
    tracing::warn!(member = %shared.me(), "{why}; cloning instead");
    clone(shared, epoch, upstream, incarnation, action).await
}

/// Completes when the reign of `epoch` is over, or an election has begun, while pg_rewind waits: the source may be another
/// one by then. One that is at work ends with its source.
async fn over(shared: &Shared, epoch: Epoch) {
    loop {
        tokio::time::sleep(LOOK).await;
        let over = shared.agreed().is_some_and(|agreed| agreed.election.is_some() || agreed.epoch > epoch);
        if over && matches!(interrupted(&shared.layout), Ok(None)) {
            return;
        }
    }
}

type End = (Position, TimelineId);

/// Where the WAL of a directory ends that was just made anew, in agreed terms, and what it still needs.
async fn read(shared: &Shared) -> anyhow::Result<(Local, End, Option<End>)> {
    let (_, found) = stopped::read(&instance(shared)).await?;
    let agreed = shared.agreed().context("no agreed state yet")?;
    let mut local = shared.lock().local.clone();
    local.own_end = None;
    match locate(shared, &agreed, &found) {
        Place::Agreed(position, owner) => Ok((local, (position, owner), needs(&agreed, &found)?)),
        Place::Astray(_, astray) => bail!("{}", astray.why),
    }
}

/// By pg_basebackup into a new directory.
pub async fn clone(
    shared: &Arc<Shared>,
    epoch: Epoch,
    upstream: &Upstream,
    incarnation: Incarnation,
    action: &Action,
) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    fault::reach("clone:begin", Some(&shared.layout.data_dir)).await;
    shared.lock().stopping = true;
    let instance = instance(shared);
    let half_made = interrupted(&shared.layout)?.is_some() || shared.lock().local.directory.half_made.is_some();
    let data = half_made || shared.layout.data_dir.join("PG_VERSION").exists();
    if half_made && shared.layout.data_dir.exists() {
        // Its WAL was kept before, and its settings need not be readable any more.
        write_pass_file(&shared.layout, None)?;
        instance.fence().await?;
        shared.forget_running(true);
    } else if data {
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
    let kept = tokio::select! {
        cloned = clone_server(&instance, &plan, &mut progress) => cloned.context("the clone failed")?,
        () = overtaken(shared, action) => bail!("{} is the primary no more; the clone of it was cut off", upstream.key),
    };
    if let Some(kept) = kept {
        tracing::info!(member = %shared.me(), "the old data directory is kept in {}", kept.display());
    }
    fault::reach("clone:done", Some(&shared.layout.data_dir)).await;
    // The primary may have been another one before the copy was complete: whether it belongs is seen from what is there.
    let (_, end, needs) = read(shared).await.context("the clone cannot be read")?;
    finish(shared, incarnation, end, needs)
}

/// Marks the new directory, and knows of it what was read.
fn finish(shared: &Shared, incarnation: Incarnation, end: End, needs: Option<End>) -> anyhow::Result<()> {
    found::mark(shared, incarnation)?;
    let mut inner = shared.lock();
    inner.local.postgres = LocalPostgres::Stopped { crashed: false };
    inner.local.directory = Directory { needs, ..Directory::default() };
    inner.local.fence_on_disk = true;
    inner.local.sealed = None;
    inner.local.in_force = None;
    inner.forget_end();
    inner.local.wal_end = Some(end);
    inner.flush_seen = None;
    inner.slow = None;
    Ok(())
}

/// The dead branch of WAL is kept before its directory goes.
async fn keep_aside(shared: &Arc<Shared>, incarnation: Incarnation) {
    let worker = Arc::clone(shared);
    let keeping = async move {
        let (control, found) = stopped::read(&instance(&worker)).await?;
        let layout = worker.layout.clone();
        let own = OwnEnd { history: found.own.clone(), end: found.end() };
        let Some(Left { fork, by_hand }) = left(&worker, Some(found.timeline()), Some(&own)) else { return Ok(None) };
        let label = format!("i{incarnation}");
        let kept = tokio::task::spawn_blocking(move || {
            diverged::keep(&layout, &found, fork, control.wal_segment_size, &label)
        })
        .await??;
        anyhow::Ok(kept.map(|kept| (kept, by_hand)))
    };
    match keeping.await {
        Ok(kept) => {
            note_discarded(shared, kept.as_ref().map(|(kept, _)| kept), kept.as_ref().is_some_and(|(_, by)| *by))
        }
        Err(error) => shared.problem("diverged", Some(format!("its diverged WAL could not be kept aside: {error:#}"))),
    }
}

fn note_discarded(shared: &Shared, kept: Option<&Kept>, by_hand: bool) {
    let Some(kept) = kept else { return };
    let newest = shared.agreed().map(|agreed| agreed.epoch).unwrap_or_default();
    let mut inner = shared.lock();
    let epoch = if by_hand { newest } else { inner.local.promise.reigned };
    inner.discarded = Some(DiscardedWal {
        epoch,
        timeline: kept.manifest.timeline,
        from: kept.manifest.fork,
        to: kept.manifest.end,
        kept_in: kept.dir.display().to_string(),
        by_hand,
    });
}
