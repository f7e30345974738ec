//! To be the primary: configure, start, promote, carry on under a new epoch.

use super::{STATEMENT_MS, fence, obey, wait_ready};
use crate::{
    agent::{
        prove, sampler,
        shared::{Ctx, Failed},
    },
    planted::Planted,
    postgres::data::Names,
};
use pgvigil_agent::{in_force::Expected, known::Known};
use pgvigil_core::{
    id::{Epoch, RuleVersion, TimelineId},
    local::{InForce, LocalPostgres},
    lsn::Lsn,
    reign::Promotion,
    rule::Setting,
    time::Time,
};

const RELOAD_MS: u64 = 10_000;
const PROMOTION_MS: u64 = 60_000;

/// Writes setting and door.
async fn write(c: &Ctx, epoch: Epoch, setting: &Setting, version: RuleVersion, door: bool) -> Names {
    let names = c.names_of(setting, epoch);
    c.w.fsync(c.h).await;
    let generation = (epoch.0, version.0, door);
    let written = names.clone();
    c.w.hosts[c.h].disk.borrow_mut().names_written = Some(names.clone());
    c.w.write_conf(c.h, |conf| {
        conf.names = written;
        conf.generation = generation;
        conf.upstream = None;
        conf.pinned = false;
    });
    c.step("write.settings").await;
    let door = door || (c.w.planted == Some(Planted::DoorOpenAtStart) && !c.w.hosts[c.h].pg.borrow().serves());
    c.w.with_data(c.h, |data| data.door = door);
    names
}

/// Puts setting and door in force and sees them through a new connection (proof step D3a).
pub async fn configure(
    c: &Ctx,
    epoch: Epoch,
    setting: &Setting,
    version: RuleVersion,
    door_open: bool,
) -> Result<(), Failed> {
    obey(c, epoch).await?;
    let before = c.a.inner.borrow().local.in_force.clone();
    let was_open = before.as_ref().is_none_or(|f| f.door_open);
    if before.is_none_or(|f| f.epoch != epoch || f.version != Some(version)) {
        c.a.inner.borrow_mut().local.proven = None;
    }
    if door_open && !was_open {
        c.a.inner.borrow_mut().local.in_force =
            Some(InForce { epoch, version: None, door_open, upstream: None, named: 0 });
    }
    let names = write(c, epoch, setting, version, door_open).await;
    if c.a.inner.borrow().server.is_none() {
        return Err("PostgreSQL does not run".to_owned());
    }
    // To the checkers, a server that a boot started is of this reign from now on.
    goes_on(c, epoch);
    c.w.reload(c.h);
    let deadline = c.now().plus(RELOAD_MS);
    loop {
        let sample = c.sample(STATEMENT_MS).await.ok_or("no server")?;
        let shown = c.w.hosts[c.h].pg.borrow().conf.generation;
        if shown == (epoch.0, version.0, door_open) && sample.sync_names == *names.value {
            break;
        }
        if c.now() > deadline {
            return Err("a new connection does not show the new settings".to_owned());
        }
        c.w.pause(1_000, 2_000).await;
    }
    c.step("configure.shown").await;
    if !door_open && was_open && c.w.planted != Some(Planted::DoorOpenAtStart) {
        c.w.end_sessions(c.h);
    }
    let mut inner = c.a.inner.borrow_mut();
    inner.local.in_force = Some(InForce { epoch, version: Some(version), door_open, upstream: None, named: 0 });
    if inner.names_in_force.as_ref().is_some_and(String::is_empty) {
        inner.local.rule_doubt.raise();
    }
    put_in_force(&mut inner, &names, c.w.now(c.h));
    Ok(())
}

fn put_in_force(inner: &mut Known, names: &Names, now: Time) {
    inner.names_in_force = Some(names.value.as_ref().to_owned());
    let shown = [("synchronous_standby_names", names.value.as_ref()), ("synchronous_commit", names.commit)];
    let shown = shown.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    inner.expected = Some(Expected { shown, since: now, seen: true });
    inner.local.rule_astray_since = None;
}

/// Starts PostgreSQL as primary with its door closed and its rule in force from the first moment.
pub async fn start_primary(c: &Ctx, epoch: Epoch, setting: &Setting, version: RuleVersion) -> Result<(), Failed> {
    obey(c, epoch).await?;
    // Not in the program when this was written: from here on it is no longer fenced, and must not report that it is.
    c.a.inner.borrow_mut().local.fence_on_disk = false;
    c.promise(|promise| {
        promise.reigned = epoch;
        promise.promotion = None;
    })
    .await;
    c.step("start-primary.promised").await;
    let names = write(c, epoch, setting, version, false).await;
    c.a.inner.borrow_mut().local.in_force =
        Some(InForce { epoch, version: None, door_open: false, upstream: None, named: 0 });
    let limit = c.agreed().map_or(60_000, |agreed| agreed.settings.restart_timeout_ms);
    c.w.fsync(c.h).await;
    c.w.with_data(c.h, |data| data.signal = false);
    c.step("start-primary.unfenced").await;
    let started = c.w.start_server(c.h);
    c.w.hosts[c.h].pg.borrow_mut().epoch = epoch.0;
    let ready = started && wait_ready(c, limit, || false).await;
    c.w.with_data(c.h, |data| data.signal = true);
    if !ready {
        fence::now(c, 0, "it did not start as primary").await;
        return Err("it did not start as primary".to_owned());
    }
    sampler::watch(c);
    c.step("start-primary.ready").await;
    let at = insert_position(c).await?;
    c.promise(|promise| promise.promotion = Some(Promotion { fork: at, end: at, marked: false })).await;
    let mut inner = c.a.inner.borrow_mut();
    inner.local.in_force = Some(InForce { epoch, version: Some(version), door_open: false, upstream: None, named: 0 });
    put_in_force(&mut inner, &names, c.w.now(c.h));
    inner.local.sealed = None;
    inner.forget_end();
    inner.forget_records();
    inner.local.fence_on_disk = false;
    Ok(())
}

/// The same server goes on in `epoch`, to the checkers.
fn goes_on(c: &Ctx, epoch: Epoch) {
    let before = std::mem::replace(&mut c.w.hosts[c.h].pg.borrow_mut().epoch, epoch.0);
    c.w.check.borrow_mut().goes_on(before, epoch.0);
}

/// The insert position.
pub async fn insert_position(c: &Ctx) -> Result<Lsn, Failed> {
    c.query(STATEMENT_MS).await.ok_or("no server")?;
    Ok(Lsn(c.w.hosts[c.h].pg.borrow().insert))
}

/// Promotes onto the allotted timeline. Keeps S2 (history A7).
pub async fn promote(c: &Ctx, epoch: Epoch, timeline: TimelineId) -> Result<(), Failed> {
    obey(c, epoch).await?;
    // Not in the program when this was written: one that was promoted already is only looked at.
    let promoted = !c.sample(STATEMENT_MS).await.ok_or("no server")?.in_recovery;
    if !promoted {
        ask(c, epoch, timeline).await?;
    }
    let deadline = c.now().plus(PROMOTION_MS);
    while c.sample(STATEMENT_MS).await.ok_or("the promotion is not complete")?.in_recovery {
        if c.now() > deadline {
            return Err("the promotion is not complete".to_owned());
        }
        c.w.pause(1_000, 2_000).await;
    }
    c.step("promote.promoted").await;
    c.w.hosts[c.h].pg.borrow_mut().epoch = epoch.0;
    c.w.fsync(c.h).await;
    c.w.with_data(c.h, |data| data.signal = true);
    let sample = c.sample(STATEMENT_MS).await.ok_or("the promotion is not complete")?;
    if sample.timeline != Some(timeline) {
        fence::now(c, 0, "it was promoted to another timeline than the one allotted").await;
        return Err("another timeline was taken".to_owned());
    }
    let fork = {
        let disk = c.w.hosts[c.h].disk.borrow();
        let branch = disk.data.as_ref().map(|data| data.end.branch);
        branch.and_then(|branch| c.w.tree.borrow().fork(branch)).map_or(0, |fork| fork.lsn)
    };
    let branch = c.w.with_data(c.h, |data| data.end.branch);
    if let Some(branch) = branch {
        c.w.tree.borrow_mut().mark(branch, epoch.0);
    }
    let end = Lsn(c.w.hosts[c.h].pg.borrow().insert);
    let promotion = Promotion { fork: Lsn(fork), end, marked: true };
    c.promise(|promise| promise.promotion = Some(promotion)).await;
    c.step("promote.recorded").await;
    let mut inner = c.a.inner.borrow_mut();
    if let LocalPostgres::Running(running) = &mut inner.local.postgres {
        running.in_recovery = false;
        running.timeline = timeline;
        running.flush_lsn = end;
    }
    inner.local.sealed = None;
    inner.forget_end();
    inner.forget_records();
    inner.local.fence_on_disk = false;
    inner.flush_seen = None;
    Ok(())
}

/// Has the number reserved, promises, and asks.
async fn ask(c: &Ctx, epoch: Epoch, timeline: TimelineId) -> Result<(), Failed> {
    let owner = c.a.inner.borrow().local.wal_end.ok_or("the end of its WAL is not known")?.1;
    reserve(c, owner, timeline).await?;
    c.step("promote.reserved").await;
    c.promise(|promise| {
        promise.reigned = epoch;
        promise.promotion = None;
    })
    .await;
    c.step("promote.promised").await;
    {
        let mut pg = c.w.hosts[c.h].pg.borrow_mut();
        pg.replay_paused = false;
        pg.epoch = epoch.0;
        pg.by_hand = false;
    }
    // Whoever reads the end again stops a server that may promote yet.
    c.a.inner.borrow_mut().forget_end();
    c.w.replay(c.h);
    c.w.ask_promotion(c.h);
    c.step("promote.asked").await;
    Ok(())
}

/// Makes sure that the promotion takes the number `allotted`.
async fn reserve(c: &Ctx, owner: TimelineId, allotted: TimelineId) -> Result<(), Failed> {
    c.w.fsync(c.h).await;
    c.w.with_data(c.h, |data| {
        if allotted <= owner || data.histories.contains_key(&allotted.0) {
            return Err("the timeline is taken".to_owned());
        }
        for number in owner.0 + 1..allotted.0 {
            if c.w.planted == Some(Planted::DeadTimelineKept) {
                data.histories.entry(number).or_default();
            } else {
                data.histories.insert(number, None);
            }
        }
        Ok(())
    })
    .unwrap_or_else(|| Err("no data directory".to_owned()))
}

/// Writes a checkpoint before a planned change.
pub async fn checkpoint(c: &Ctx, epoch: Epoch) -> Result<(), Failed> {
    obey(c, epoch).await?;
    let doubt = c.a.inner.borrow().local.rule_doubt;
    prove::checkpointer_reloads(c).await?;
    c.step("checkpoint.written").await;
    let now = c.now();
    let mut inner = c.a.inner.borrow_mut();
    inner.local.checkpointed_at = Some(now);
    inner.local.rule_doubt.checkpoint_followed(doubt);
    Ok(())
}

/// The same server goes on under a new epoch; its rule is in force already.
pub async fn carry_on(c: &Ctx, epoch: Epoch) -> Result<(), Failed> {
    obey(c, epoch).await?;
    let at = insert_position(c).await?;
    goes_on(c, epoch);
    c.promise(|promise| {
        promise.reigned = epoch;
        promise.promotion = Some(Promotion { fork: at, end: at, marked: false });
    })
    .await;
    c.step("carry-on.promised").await;
    Ok(())
}
