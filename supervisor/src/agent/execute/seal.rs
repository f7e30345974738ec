//! Seal for an election, read the end of the WAL, and fetch what an election orders.

use super::{STATEMENT, instance, not_over, obey, settings};
use crate::{
    agent::{peers, shared::Shared},
    clock,
};
use anyhow::{Context, bail};
use pgvigil_core::{
    cluster::ClusterState,
    id::{Epoch, MemberKey, TimelineId},
    lineage::{Astray, OwnEnd, place},
    local::{InForce, LocalPostgres, SealedAt},
    position::Position,
    reconcile::Upstream,
    time::{Time, WallTime},
};
use pgvigil_postgres::{
    Link,
    fault::{self, Bug},
    history_files,
    position::DiskPosition,
    seal::{SealLimits, SealedServer, seal as seal_server},
    settings::write_pass_file,
};
use std::{sync::Arc, time::Duration};

/// How long a member may take to fetch what an election ordered.
const CATCH_UP: Duration = Duration::from_secs(25);

/// The promise, fsynced; upstream emptied, no walreceiver, position read. Keeps S1 (histories A4, A5, A17).
///
/// The promise is flushed beside the rest: reception that stops without a promise harms nobody, and the seal is
/// reported only when both are done.
pub async fn seal(shared: &Arc<Shared>, epoch: Epoch) -> anyhow::Result<()> {
    not_over(shared, epoch)?;
    let data_dir = Some(shared.layout.data_dir.as_path());
    fault::reach("seal:begin", data_dir).await;
    let promising = Arc::clone(shared);
    let promised =
        tokio::task::spawn_blocking(move || promising.promise(epoch, |promise| promise.sealed = Some(epoch)));
    let (promised, closed) = tokio::join!(promised, close(shared));
    promised?.context("cannot write the promise")?;
    fault::reach("seal:promised", data_dir).await;
    let (position, quiet, steps) = closed?;
    let mut inner = shared.lock();
    let strayed = inner.local.own_end.is_some();
    let Some(position) = position else { bail!("no part of its WAL is known to be of an agreed timeline") };
    inner.quiet_since = Some(quiet);
    // Up to where it left the agreed history it testifies; what lies there now is nobody's to have.
    inner.can_stream = !strayed;
    inner.local.sealed = Some(SealedAt { epoch, position });
    drop(inner);
    tracing::info!(member = %shared.me(), %epoch, %position, ?steps, "sealed");
    Ok(())
}

/// The same without a promise: to learn where the WAL ends before a new upstream is followed.
pub async fn read_wal_end(shared: &Arc<Shared>, epoch: Epoch) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    close(shared).await?;
    Ok(())
}

/// Stops reception, reads the position, says since when it has not moved, and what each step took. `None`: no part of its
/// WAL is of an agreed timeline.
async fn close(shared: &Arc<Shared>) -> anyhow::Result<(Option<Position>, Time, Vec<(&'static str, Duration)>)> {
    let agreed = shared.agreed().context("no agreed state yet")?;
    let promotion_asked = {
        let inner = shared.lock();
        let promise = &inner.local.promise;
        promise.promotion.is_none()
            && agreed.reigns.iter().any(|r| r.epoch == promise.reigned && r.primary.member == *shared.me())
    };
    let claimed = claimed_early(shared, &agreed).await;
    if let (true, Some((position, owner))) = (fault::planted(Bug::SealSkipped), claimed) {
        shared.lock().local.wal_end = Some((position, owner));
        return Ok((Some(position), clock::now(), Vec::new()));
    }
    // Nothing is in force from here on that could be put back.
    shared.lock().expected = None;
    let sealed = seal_server(&instance(shared), &settings(shared), promotion_asked, SealLimits::default()).await;
    let lacks_wal = sealed.as_ref().err().filter(|error| error.lacks_wal()).map(ToString::to_string);
    shared.lock().local.directory.lacks_wal = lacks_wal;
    let sealed = sealed?;
    let needs = needs(&agreed, &sealed.position)?;
    let mut place = match claimed {
        Some(claimed) => Place::Agreed(claimed.0, claimed.1),
        None => locate(shared, &agreed, &sealed.position),
    };
    if let (true, Place::Agreed(position, _)) = (fault::planted(Bug::PositionInvented), &mut place) {
        position.lsn.0 += 1 << 20;
    }
    look_at_timelines(shared, sealed.position.own.timeline).await;
    match sealed.server {
        SealedServer::Running { pinned } => shared.lock().pinned = pinned,
        SealedServer::Stopped(why) => {
            let was = shared.server().postmaster.is_some();
            if was {
                tracing::warn!(member = %shared.me(), "PostgreSQL was stopped to be sealed: {why}");
            }
            let crashed = matches!(shared.lock().local.postgres, LocalPostgres::Stopped { crashed: true });
            shared.forget_running(crashed);
        }
    }
    let mut inner = shared.lock();
    inner.forget_end();
    let position = match place {
        Place::Agreed(position, owner) => {
            inner.local.wal_end = Some((position, owner));
            Some(position)
        }
        Place::Astray(own, astray) => {
            tracing::warn!(member = %shared.me(), end = %own.end, "its WAL is on no agreed timeline: {}", astray.why);
            inner.own_end_at = history_files::written_at(&shared.layout.pg_wal(), own.history.timeline).map(WallTime);
            inner.local.own_end = Some(own);
            astray.agreed_to
        }
    };
    // Sampled at or beyond the end already: quiet since that sample came in. Otherwise the last bytes came after it.
    let sampled = inner.flush_seen.filter(|(lsn, _)| position.is_some_and(|position| *lsn >= position.lsn));
    let quiet = sampled.map_or_else(clock::now, |(_, at)| at);
    inner.local.directory.needs = needs;
    inner.local.fence_on_disk = true;
    if let Some(in_force) = inner.local.in_force.take() {
        inner.local.in_force = Some(InForce { upstream: None, version: None, ..in_force });
    }
    Ok((position, quiet, sealed.steps))
}

/// With a planted bug: the position as it is while WAL still comes in. Else `None`.
async fn claimed_early(shared: &Shared, agreed: &ClusterState) -> Option<(Position, TimelineId)> {
    if !fault::planted(Bug::SealSkipped) && !fault::planted(Bug::SealNotAwaited) {
        return None;
    }
    let running = match &shared.lock().local.postgres {
        LocalPostgres::Running(running) if running.in_recovery => running.clone(),
        _ => return None,
    };
    // It streams from the primary of the last reign.
    let timeline = agreed.reign()?.timeline;
    let epoch = agreed.epoch_of_timeline(timeline)?;
    fault::reach("seal:claimed", Some(&shared.layout.data_dir)).await;
    Some((Position::new(epoch, running.flush_lsn), timeline))
}

/// What a copy that was never recovered still needs, in agreed terms.
pub(super) fn needs(agreed: &ClusterState, found: &DiskPosition) -> anyhow::Result<Option<(Position, TimelineId)>> {
    let Some((timeline, lsn)) = found.needs else { return Ok(None) };
    match agreed.epoch_of_timeline(timeline) {
        Some(epoch) => Ok(Some((Position::new(epoch, lsn), timeline))),
        None => bail!("it is a copy of a server on timeline {timeline}, which was never allotted in this cluster"),
    }
}

/// Where its WAL ends.
pub(super) enum Place {
    /// The epoch in which the owning timeline began (history A3), and that timeline.
    Agreed(Position, TimelineId),
    /// On a timeline that nobody agreed on, whatever its number (review F13).
    Astray(OwnEnd, Astray),
}

/// The position in agreed terms, by the content of the owning timeline's history file.
pub(super) fn locate(shared: &Shared, agreed: &ClusterState, found: &DiskPosition) -> Place {
    let incarnation = shared.lock().local.marker.as_ref().map(|marker| marker.incarnation).unwrap_or_default();
    let own = OwnEnd { history: found.own.clone(), end: found.end() };
    match place(agreed, &MemberKey::new(shared.me().clone(), incarnation), &own) {
        Ok(position) => Place::Agreed(position, found.timeline()),
        Err(astray) => Place::Astray(own, astray),
    }
}

/// Which numbers are taken here, for the report.
pub async fn look_at_timelines(shared: &Shared, own: TimelineId) {
    let pg_wal = shared.layout.pg_wal();
    let newest = tokio::task::spawn_blocking(move || history_files::newest(&pg_wal)).await;
    match newest {
        Ok(Ok(newest)) => shared.lock().newest_timeline = newest.unwrap_or_default().max(own),
        Ok(Err(error)) => tracing::warn!(member = %shared.me(), "the history files cannot be read: {error}"),
        Err(error) => tracing::warn!(member = %shared.me(), "the history files were not read: {error}"),
    }
}

/// The one reception of WAL that a seal allows: from another sealed member, by the election's order, under a name that
/// no rule counts.
pub async fn catch_up(shared: &Arc<Shared>, epoch: Epoch, source: &Upstream) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    let agreed = shared.agreed().context("no agreed state yet")?;
    let Some(order) = agreed.election.as_ref().filter(|e| e.epoch == epoch).and_then(|e| e.catch_up.clone()) else {
        bail!("the election for epoch {epoch} gives no such order");
    };
    let instance = instance(shared);
    let Some(postmaster) = shared.server().postmaster.clone() else { bail!("PostgreSQL does not run") };
    let role = &shared.access.replication_role;
    let mut ours = settings(shared);
    let name = format!("pgvigil_catchup_{}", shared.me());
    let mut to = pgvigil_postgres::Upstream::new(&source.host, source.port, role, &name);
    to.scram_plus = peers::trusted(shared, source).await?;
    shared.lock().expected = None;
    write_pass_file(&shared.layout, Some((&to, shared.secret.password())))?;
    ours.upstream = Some(to);
    ours.replace(shared.binaries.version(), &shared.layout)?;
    instance.reload(&postmaster)?;
    shared.lock().activity = Some(format!("fetching WAL up to {} from {}", order.target, source.key));
    let fetched = fetched(shared, epoch, order.target, source).await;
    // However it ended: WAL may have come in, and history files of timelines of which none came (found by the simulation).
    seal(shared, epoch).await?;
    fetched
}

/// Waits until the WAL up to `target` has come.
async fn fetched(shared: &Arc<Shared>, epoch: Epoch, target: Position, source: &Upstream) -> anyhow::Result<()> {
    let link: Link = instance(shared).connect("catch up", STATEMENT).await?;
    let deadline = tokio::time::Instant::now() + CATCH_UP;
    loop {
        let sample = link.sample(STATEMENT).await?;
        if sample.receive_lsn.max(sample.replay_lsn) >= Some(target.lsn) {
            return Ok(());
        }
        let still = shared.agreed().is_some_and(|a| a.election.as_ref().is_some_and(|e| e.epoch == epoch));
        if !still || tokio::time::Instant::now() > deadline {
            bail!("the WAL up to {target} did not come from {}", source.key);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
