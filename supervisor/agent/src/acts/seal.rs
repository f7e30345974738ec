//! Seal for an election, read the end of the WAL, and fetch what an election orders.

use super::{not_over, obey};
use crate::{
    bug::Bug,
    ports::{DirectoryEnd, Member, RecoveryTimeline, SealedServer, Session},
};
use anyhow::{Context, anyhow, bail};
use futures::future::join;
use pgvigil_core::{
    cluster::ClusterState,
    id::{Epoch, MemberKey, TimelineId},
    lineage::{Astray, OwnEnd, place},
    local::{InForce, LocalPostgres, SealedAt},
    position::Position,
    reconcile::Upstream,
    time::Time,
};

/// How long a member may take to fetch what an election ordered, in milliseconds.
const CATCH_UP_MS: u64 = 25_000;
/// A session's limit, in milliseconds.
const STATEMENT_MS: u64 = 5_000;

/// A position, and the timeline that owns it.
pub(super) type End = (Position, TimelineId);

/// The promise, fsynced; upstream emptied, no walreceiver, position read. Keeps S1 (histories A4, A5, A17).
///
/// The promise is flushed beside the rest: reception that stops without a promise harms nobody, and the seal is
/// reported only when both are done.
pub async fn seal<M: Member>(m: &M, epoch: Epoch) -> anyhow::Result<()> {
    not_over(m, epoch)?;
    m.reach("seal:begin").await;
    let promised = m.promise(epoch, move |promise| promise.sealed = Some(epoch));
    let (promised, closed) = join(promised, close(m)).await;
    promised.context("cannot write the promise")?;
    m.reach("seal:promised").await;
    let (position, quiet, steps) = closed?;
    let mut known = m.known();
    let strayed = known.local.own_end.is_some();
    let Some(position) = position else { bail!("no part of its WAL is known to be of an agreed timeline") };
    known.quiet_since = Some(quiet);
    // Up to where it left the agreed history it testifies; what lies there now is nobody's to have.
    known.can_stream = !strayed;
    known.local.sealed = Some(SealedAt { epoch, position });
    tracing::info!(member = %known.local.me, %epoch, %position, ?steps, "sealed");
    Ok(())
}

/// The same without a promise: to learn where the WAL ends before a new upstream is followed.
pub async fn read_wal_end<M: Member>(m: &M, epoch: Epoch) -> anyhow::Result<()> {
    obey(m, epoch).await?;
    close(m).await?;
    Ok(())
}

type Closed = (Option<Position>, Time, Vec<(&'static str, u64)>);

/// Stops reception, reads the position, says since when it has not moved, and what each step took. `None`: no part of its
/// WAL is of an agreed timeline.
async fn close<M: Member>(m: &M) -> anyhow::Result<Closed> {
    let agreed = m.agreed().context("no agreed state yet")?;
    let promotion_asked = {
        let known = m.known();
        let promise = &known.local.promise;
        promise.promotion.is_none()
            && agreed.reigns.iter().any(|r| r.epoch == promise.reigned && r.primary.member == known.local.me)
    };
    let claimed = claimed_early(m, &agreed).await;
    if let (true, Some((position, owner))) = (m.planted(Bug::SealSkipped), claimed) {
        m.known().local.wal_end = Some((position, owner));
        return Ok((Some(position), m.now(), Vec::new()));
    }
    // Nothing is in force from here on that could be put back.
    m.known().expected = None;
    let sealed = m.seal(promotion_asked).await;
    let lacks_wal = sealed.as_ref().err().filter(|no| no.lacks_wal).map(|no| format!("{:#}", no.why));
    m.known().local.directory.lacks_wal = lacks_wal;
    let sealed = sealed.map_err(|no| no.why)?;
    let needs = needs(&agreed, &sealed.end)?;
    let mut place = match claimed {
        Some(claimed) => Ok(claimed),
        None => locate(m, &agreed, &sealed.end)?,
    };
    if let (true, Ok((position, _))) = (m.planted(Bug::PositionInvented), &mut place) {
        position.lsn.0 += 1 << 20;
    }
    look_at_timelines(m, sealed.end.own.history.timeline).await;
    match sealed.server {
        SealedServer::Running { pinned } => m.known().pinned = pinned,
        SealedServer::Stopped(why) => {
            let (was, crashed) = {
                let known = m.known();
                (known.server.is_some(), matches!(known.local.postgres, LocalPostgres::Stopped { crashed: true }))
            };
            if was {
                tracing::warn!("PostgreSQL was stopped to be sealed: {why}");
            }
            m.forget_running(crashed);
        }
    }
    let mut known = m.known();
    known.forget_end();
    let position = match place {
        Ok((position, owner)) => {
            known.local.wal_end = Some((position, owner));
            Some(position)
        }
        Err((own, astray)) => {
            tracing::warn!(end = %own.end, "its WAL is on no agreed timeline: {}", astray.why);
            known.own_end_at = m.history_written_at(own.history.timeline);
            known.local.own_end = Some(own);
            astray.agreed_to
        }
    };
    // Sampled at or beyond the end already: quiet since that sample came in. Otherwise the last bytes came after it.
    let sampled = known.flush_seen.filter(|(lsn, _)| position.is_some_and(|position| *lsn >= position.lsn));
    let quiet = sampled.map_or_else(|| m.now(), |(_, at)| at);
    known.local.directory.needs = needs;
    known.local.fence_on_disk = true;
    if let Some(in_force) = known.local.in_force.take() {
        known.local.in_force = Some(InForce { upstream: None, version: None, ..in_force });
    }
    Ok((position, quiet, sealed.steps))
}

/// With a planted bug: the position as it is while WAL still comes in. Else `None`.
async fn claimed_early<M: Member>(m: &M, agreed: &ClusterState) -> Option<End> {
    if !m.planted(Bug::SealSkipped) && !m.planted(Bug::SealNotAwaited) {
        return None;
    }
    let running = match &m.known().local.postgres {
        LocalPostgres::Running(running) if running.in_recovery => running.clone(),
        _ => return None,
    };
    // It streams from the primary of the last reign.
    let timeline = agreed.reign()?.timeline;
    let epoch = agreed.epoch_of_timeline(timeline)?;
    m.reach("seal:claimed").await;
    Some((Position::new(epoch, running.flush_lsn), timeline))
}

/// What a copy that was never recovered still needs, in agreed terms.
pub(super) fn needs(agreed: &ClusterState, end: &DirectoryEnd) -> anyhow::Result<Option<End>> {
    let Some((timeline, lsn)) = end.needs else { return Ok(None) };
    match agreed.epoch_of_timeline(timeline) {
        Some(epoch) => Ok(Some((Position::new(epoch, lsn), timeline))),
        None => bail!("it is a copy of a server on timeline {timeline}, which was never allotted in this cluster"),
    }
}

/// Where its WAL ends: the epoch in which the owning timeline began (history A3) and that timeline, by the content of the
/// timeline's history file; or an end on a timeline that nobody agreed on, whatever its number (review F13).
pub(super) fn locate<M: Member>(
    m: &M,
    agreed: &ClusterState,
    end: &DirectoryEnd,
) -> anyhow::Result<Result<End, (OwnEnd, Astray)>> {
    let owner = end.own.history.timeline;
    if m.planted(Bug::TimelineByNumber) {
        let epoch = agreed.epoch_of_timeline(owner).ok_or_else(|| anyhow!("timeline {owner} was never allotted"))?;
        return Ok(Ok((Position::new(epoch, end.own.end), owner)));
    }
    let key = {
        let known = m.known();
        let incarnation = known.local.marker.as_ref().map(|marker| marker.incarnation).unwrap_or_default();
        MemberKey::new(known.local.me.clone(), incarnation)
    };
    Ok(match place(agreed, &key, &end.own) {
        Ok(position) => Ok((position, owner)),
        Err(astray) => Err((end.own.clone(), astray)),
    })
}

/// Which numbers are taken here, for the report.
pub async fn look_at_timelines<M: Member>(m: &M, own: TimelineId) {
    match m.newest_timeline().await {
        Ok(newest) => m.known().newest_timeline = newest.max(own),
        Err(error) => tracing::warn!("the history files cannot be read: {error:#}"),
    }
}

/// The one reception of WAL that a seal allows: from another sealed member, by the election's order, under a name that
/// no rule counts.
pub async fn catch_up<M: Member>(m: &M, epoch: Epoch, source: &Upstream) -> anyhow::Result<()> {
    obey(m, epoch).await?;
    let agreed = m.agreed().context("no agreed state yet")?;
    let Some(order) = agreed.election.as_ref().filter(|e| e.epoch == epoch).and_then(|e| e.catch_up.clone()) else {
        bail!("the election for epoch {epoch} gives no such order");
    };
    if m.known().server.is_none() {
        bail!("PostgreSQL does not run");
    }
    let name = format!("pgvigil_catchup_{}", m.known().local.me);
    let bind_channel = m.trusted(source).await?;
    m.known().expected = None;
    m.point_at(source, &name, bind_channel, RecoveryTimeline::Latest).await?;
    m.reload()?;
    m.reach("catch-up:begun").await;
    m.known().activity = Some(format!("fetching WAL up to {} from {}", order.target, source.key));
    let fetched = fetched(m, epoch, order.target, source).await;
    // However it ended: WAL may have come in, and history files of timelines of which none came (found by the simulation).
    seal(m, epoch).await?;
    fetched
}

/// Waits until the WAL up to `target` has come.
async fn fetched<M: Member>(m: &M, epoch: Epoch, target: Position, source: &Upstream) -> anyhow::Result<()> {
    let session = m.connect("catch up", STATEMENT_MS).await?;
    let deadline = m.now().plus(CATCH_UP_MS);
    loop {
        let sample = session.sample().await?;
        if sample.receive_lsn.max(sample.replay_lsn) >= Some(target.lsn) {
            return Ok(());
        }
        let still = m.agreed().is_some_and(|a| a.election.as_ref().is_some_and(|e| e.epoch == epoch));
        if !still || m.now() > deadline {
            bail!("the WAL up to {target} did not come from {}", source.key);
        }
        m.pause(5_000).await;
    }
}
