//! A data directory made anew: by pg_rewind, or by a clone beside it. The mark is written last.

use super::{kill, obey, seal::locate, seal_on_disk};
use crate::{
    agent::shared::{Ctx, Failed},
    postgres::{
        data::{Conf, DataDir},
        wal::Point,
    },
    world::World,
};
use pgvigil_core::{
    id::{Epoch, Incarnation, MemberKey},
    lineage::{self, OwnEnd},
    local::{LocalPostgres, Marker},
    lsn::Lsn,
    reconcile::{Action, Upstream, history_of},
    report::DiscardedWal,
};
use std::rc::Rc;

/// By pg_rewind; by a clone if that does not work.
pub async fn rewind(
    c: &Ctx,
    epoch: Epoch,
    upstream: &Upstream,
    incarnation: Incarnation,
    action: &Action,
) -> Result<(), Failed> {
    obey(c, epoch).await?;
    let interrupted = c.w.with_data(c.h, |data| data.interrupted).unwrap_or(true);
    let from = c.w.host_of(&upstream.key.member).ok_or("no such host")?;
    if interrupted {
        c.w.cover.hit("remake", "rewind-interrupted");
        return clone(c, epoch, upstream, incarnation, action).await;
    }
    c.a.inner.borrow_mut().stopping = true;
    seal_on_disk(c, Conf::sealed()).await;
    kill(c).await;
    c.forget_running(false);
    keep_aside(c);
    c.w.with_data(c.h, |data| data.interrupted = true);
    c.step("rewind.begun").await;
    let Some(copied) = copy(c, from, false, action).await else {
        c.w.cover.hit("remake", "rewind-failed");
        return clone(c, epoch, upstream, incarnation, action).await;
    };
    if c.w.server_runs(c.h) {
        c.w.cover.hit("remake", "started-meanwhile");
        return clone(c, epoch, upstream, incarnation, action).await;
    }
    place(c, &copied);
    c.step("rewind.copied").await;
    c.w.cover.hit("remake", "rewound");
    finish(c, incarnation).await
}

/// By pg_basebackup into a new directory.
pub async fn clone(
    c: &Ctx,
    epoch: Epoch,
    upstream: &Upstream,
    incarnation: Incarnation,
    action: &Action,
) -> Result<(), Failed> {
    obey(c, epoch).await?;
    c.a.inner.borrow_mut().stopping = true;
    let from = c.w.host_of(&upstream.key.member).ok_or("no such host")?;
    let there = c.w.hosts[c.h].disk.borrow().data.is_some();
    if there {
        seal_on_disk(c, Conf::sealed()).await;
        kill(c).await;
        c.forget_running(false);
        keep_aside(c);
    }
    c.step("clone.begun").await;
    let copied = copy(c, from, true, action).await.ok_or("the clone failed")?;
    if c.w.server_runs(c.h) {
        return Err("the old data directory is in use".to_owned());
    }
    place(c, &copied);
    c.step("clone.copied").await;
    c.w.cover.hit("remake", "cloned");
    finish(c, incarnation).await
}

/// What a copy of the source's directory holds at its end: the source's WAL and the source's mark.
async fn copy(c: &Ctx, from: usize, backup: bool, action: &Action) -> Option<DataDir> {
    let pid = c.w.hosts[from].pg.borrow().pid;
    let until = c.w.exec.now() + c.w.rng.range(50_000, if c.w.rng.chance(15) { 6_000_000 } else { 600_000 });
    loop {
        let alive = {
            let pg = c.w.hosts[from].pg.borrow();
            pg.pid == pid && pg.pid != 0 && pg.ready && !pg.stopping && (backup || !pg.in_recovery)
        };
        if !alive || !c.w.reaches_both(c.h, from) {
            return None;
        }
        if c.agreed().is_some_and(|agreed| action.is_overtaken(&agreed)) {
            c.w.cover.hit("remake", "overtaken");
            return None;
        }
        if c.w.exec.now() >= until && !c.w.exec.is_frozen(World::postgres_process(from)) {
            break;
        }
        c.w.pause(20_000, 40_000).await;
    }
    let mut copied = c.w.hosts[from].disk.borrow().data.clone()?;
    let pg = c.w.hosts[from].pg.borrow();
    let lsn = if pg.in_recovery { pg.replay } else { pg.flush };
    copied.end = c.w.tree.borrow().owner(Point { branch: copied.end.branch, lsn });
    copied.synced = copied.end.lsn;
    copied.conf = Rc::new(Conf::sealed());
    copied.signal = true;
    copied.pass = None;
    copied.door = false;
    copied.clean = false;
    copied.interrupted = false;
    Some(copied)
}

fn place(c: &Ctx, copied: &DataDir) {
    let mut disk = c.w.hosts[c.h].disk.borrow_mut();
    disk.data = Some(copied.clone());
    disk.data_synced = None;
}

/// Marks the new directory, and knows of it what was read: the primary may have been another one when the copy began.
async fn finish(c: &Ctx, incarnation: Incarnation) -> Result<(), Failed> {
    let agreed = c.agreed().ok_or("no agreed state yet")?;
    let end = locate(c, &agreed)?.map_err(|(_, astray)| astray.why)?;
    let mark = Marker { cluster: World::cluster(), member: c.w.member(c.h).clone(), incarnation };
    c.w.fsync(c.h).await;
    let written = mark.clone();
    c.w.with_data(c.h, |data| data.marker = Some(written));
    let mut inner = c.a.inner.borrow_mut();
    inner.local.marker = Some(mark);
    inner.local.postgres = LocalPostgres::Stopped { crashed: false };
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
fn keep_aside(c: &Ctx) {
    let Some(agreed) = c.agreed() else { return };
    let (Some(reign), Some(end)) = (agreed.reign(), c.end_on_disk()) else { return };
    let marker = c.a.inner.borrow().local.marker.clone();
    let Some(marker) = marker else { return };
    let own = OwnEnd { history: c.w.tree.borrow().history(end.branch), end: Lsn(end.lsn) };
    let owner = own.history.timeline;
    let astray = lineage::place(&agreed, &MemberKey::new(marker.member, marker.incarnation), &own).err();
    let by_hand = astray.as_ref().is_some_and(|astray| astray.by_hand);
    let fork = match astray {
        Some(astray) => astray.agreed_to.map(|at| at.lsn),
        None => history_of(&agreed, reign).switch_point(owner),
    };
    let Some(fork) = fork.filter(|fork| end.lsn > fork.0) else { return };
    let mut inner = c.a.inner.borrow_mut();
    let epoch = if by_hand { agreed.epoch } else { inner.local.promise.reigned };
    let to = Lsn(end.lsn);
    inner.discarded =
        Some(DiscardedWal { epoch, timeline: owner, from: fork, to, kept_in: "aside".to_owned(), by_hand });
}
