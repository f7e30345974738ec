//! Seal for an election, read the end of the WAL, and fetch what an election orders.

use super::{STATEMENT_MS, kill, not_over, obey, seal_on_disk};
use crate::{
    agent::{
        sampler,
        shared::{Ctx, Failed},
    },
    planted::Planted,
    postgres::data::{Conf, Upstream as Following},
    wait::both,
};
use pgvigil_core::{
    cluster::ClusterState,
    id::{Epoch, MemberKey, TimelineId},
    lineage::{Astray, OwnEnd, place},
    local::{InForce, LocalPostgres, SealedAt},
    lsn::Lsn,
    position::Position,
    reconcile::Upstream,
    time::Time,
};

const CATCH_UP_MS: u64 = 25_000;
/// How long a running server may take to be sealed before it is stopped.
const RUNNING_MS: u64 = 2_000;

/// The promise, fsynced; upstream emptied, no walreceiver, position read. Keeps S1.
pub async fn seal(c: &Ctx, epoch: Epoch) -> Result<(), Failed> {
    not_over(c, epoch)?;
    // The promise is flushed beside the rest: the seal is reported only when both are done.
    let promised = async {
        c.promise(|promise| {
            promise.epoch = epoch;
            promise.sealed = Some(epoch);
        })
        .await;
        c.step("seal.promised").await;
    };
    let ((), closed) = both(promised, close(c)).await;
    let (position, quiet) = closed?;
    let mut inner = c.a.inner.borrow_mut();
    let position = position.ok_or("no part of its WAL is known to be of an agreed timeline")?;
    inner.quiet_since = Some(quiet);
    inner.can_stream = inner.local.own_end.is_none();
    inner.local.sealed = Some(SealedAt { epoch, position });
    drop(inner);
    c.w.log_host(c.h, || format!("sealed for {epoch} at {position}"));
    Ok(())
}

/// The same without a promise: to learn where the WAL ends before a new upstream is followed.
pub async fn read_wal_end(c: &Ctx, epoch: Epoch) -> Result<(), Failed> {
    obey(c, epoch).await?;
    close(c).await.map(|_| ())
}

async fn close(c: &Ctx) -> Result<(Option<Position>, Time), Failed> {
    let agreed = c.agreed().ok_or("no agreed state yet")?;
    let promotion_asked = {
        let inner = c.a.inner.borrow();
        let promise = &inner.local.promise;
        promise.promotion.is_none()
            && agreed.reigns.iter().any(|r| r.epoch == promise.reigned && r.primary.member == inner.local.me)
    };
    // Nothing is in force from here on that could be put back.
    c.a.inner.borrow_mut().expected = None;
    if c.w.planted != Some(Planted::SealBeforeReceptionEnds) {
        seal_on_disk(c, Conf::sealed()).await;
        c.step("seal.on-disk").await;
        let runs = c.w.server_runs(c.h);
        let promoting = promotion_asked || c.w.hosts[c.h].pg.borrow().promoting;
        if !runs || promoting || !close_running(c).await {
            kill(c).await;
            let was = c.a.inner.borrow().server.is_some();
            c.w.cover.hit("seal", if was { "stopped" } else { "not-running" });
            let crashed = matches!(c.a.inner.borrow().local.postgres, LocalPostgres::Stopped { crashed: true });
            c.forget_running(crashed);
        } else {
            let pinned = c.w.hosts[c.h].pg.borrow().pinned;
            c.a.inner.borrow_mut().pinned = pinned;
            c.w.cover.hit("seal", "running");
        }
    }
    c.w.fsync(c.h).await;
    c.w.with_data(c.h, |data| data.synced = data.end.lsn);
    sampler::look_at_timelines(c);
    let located = locate(c, &agreed)?;
    let position = {
        let mut inner = c.a.inner.borrow_mut();
        inner.forget_end();
        match located {
            Ok(end) => {
                inner.local.wal_end = Some(end);
                Some(end.0)
            }
            Err((own, astray)) => {
                c.w.cover.hit("seal", "astray");
                inner.local.own_end = Some(own);
                astray.agreed_to
            }
        }
    };
    let quiet = note_end(c, position);
    c.step("seal.read").await;
    Ok((position, quiet))
}

/// Remembers where the WAL ends, and says since when it has not moved: sampled at or beyond the end already, since that
/// sample began; otherwise the last bytes came after it.
fn note_end(c: &Ctx, position: Option<Position>) -> Time {
    let mut inner = c.a.inner.borrow_mut();
    let sampled = inner.flush_seen.filter(|(lsn, _)| position.is_some_and(|position| *lsn >= position.lsn));
    inner.local.fence_on_disk = true;
    if let Some(in_force) = inner.local.in_force.take() {
        inner.local.in_force = Some(InForce { upstream: None, version: None, ..in_force });
    }
    sampled.map_or_else(|| c.w.now(c.h), |(_, began)| began)
}

/// Reload, no walreceiver left, the empty values shown, still no walreceiver. `false`: it must be stopped instead.
async fn close_running(c: &Ctx) -> bool {
    let deadline = c.now().plus(RUNNING_MS);
    c.w.reload(c.h);
    loop {
        if c.now() >= deadline {
            return false;
        }
        if c.w.has_receiver(c.h) {
            c.w.pause(300, 1_500).await;
            c.w.terminate_receiver(c.h);
            continue;
        }
        let Some(sample) = c.sample(deadline.since(c.now())).await else { return false };
        if c.w.hosts[c.h].pg.borrow().conf.upstream.is_some() {
            continue;
        }
        if !sample.in_recovery {
            return false;
        }
        c.step("seal.shown").await;
        if !c.w.has_receiver(c.h) {
            return !may_be_misled(c);
        }
    }
}

/// Whether its recovery may make for a timeline of which it has no WAL.
fn may_be_misled(c: &Ctx) -> bool {
    let own = c.w.own_timeline(c.h);
    let above = c.w.with_data(c.h, |data| data.has_history_above(own)).unwrap_or(false);
    let misled = above && !c.w.hosts[c.h].pg.borrow().pinned;
    if misled {
        c.w.cover.hit("seal", "may-be-misled");
    }
    misled && c.w.planted != Some(Planted::DeadTimelineUnseen)
}

/// The position in agreed terms: the epoch in which the owning timeline began (history A3), by the content of its history
/// file (review F13).
#[expect(clippy::type_complexity, reason = "a position and its timeline, or an end and why it is nowhere")]
pub(super) fn locate(
    c: &Ctx,
    agreed: &ClusterState,
) -> Result<Result<(Position, TimelineId), (OwnEnd, Astray)>, Failed> {
    let end = c.end_on_disk().ok_or("no data directory")?;
    let own = OwnEnd { history: c.w.tree.borrow().history(end.branch), end: Lsn(end.lsn) };
    let owner = own.history.timeline;
    if c.w.planted == Some(Planted::TimelineByNumber) {
        let epoch = agreed.epoch_of_timeline(owner).ok_or("its WAL ends on a timeline that was never allotted")?;
        return Ok(Ok((Position::new(epoch, own.end), owner)));
    }
    let incarnation = c.a.inner.borrow().local.marker.as_ref().map(|m| m.incarnation).unwrap_or_default();
    let me = MemberKey::new(c.w.member(c.h).clone(), incarnation);
    Ok(place(agreed, &me, &own).map(|position| (position, owner)).map_err(|astray| (own, astray)))
}

/// The one reception of WAL that a seal allows: from another sealed member, by the election's order, under a name that
/// no rule counts.
pub async fn catch_up(c: &Ctx, epoch: Epoch, source: &Upstream) -> Result<(), Failed> {
    obey(c, epoch).await?;
    let agreed = c.agreed().ok_or("no agreed state yet")?;
    let order = agreed.election.as_ref().filter(|e| e.epoch == epoch).and_then(|e| e.catch_up.clone());
    let order = order.ok_or("the election gives no such order")?;
    if c.a.inner.borrow().server.is_none() {
        return Err("PostgreSQL does not run".to_owned());
    }
    let host = c.w.host_of(&source.key.member).ok_or("no such host")?;
    let name = format!("pgvigil_catchup_{}", c.w.member(c.h)).into();
    c.w.fsync(c.h).await;
    c.w.with_data(c.h, |data| data.pass = Some(host));
    c.w.write_conf(c.h, |conf| conf.upstream = Some(Following { host, name }));
    c.w.reload(c.h);
    c.step("catch-up.begun").await;
    let fetched = fetched(c, epoch, order.target).await;
    // However it ended: WAL may have come in, and history files of timelines of which none came.
    seal(c, epoch).await?;
    fetched
}

/// Waits until the WAL up to `target` has come.
async fn fetched(c: &Ctx, epoch: Epoch, target: Position) -> Result<(), Failed> {
    let deadline = c.now().plus(CATCH_UP_MS);
    loop {
        let sample = c.sample(STATEMENT_MS).await.ok_or("no server")?;
        if sample.receive_lsn.max(sample.replay_lsn) >= Some(target.lsn) {
            return Ok(());
        }
        let still = c.agreed().is_some_and(|a| a.election.as_ref().is_some_and(|e| e.epoch == epoch));
        if !still || c.now() > deadline {
            return Err(format!("the WAL up to {target} did not come"));
        }
        c.w.pause(5_000, 8_000).await;
    }
}
