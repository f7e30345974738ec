//! To be a standby: start, follow, restart.

use super::{obey, seal_on_disk, stop, wait_ready};
use crate::{
    agent::{
        sampler,
        shared::{Ctx, Failed},
    },
    postgres::data::{Conf, Upstream as Following},
};
use pgvigil_core::{
    id::{Epoch, MemberKey},
    local::InForce,
    reconcile::{Action, Upstream},
};

const START_MS: u64 = 30_000;

/// Starts PostgreSQL as a standby.
pub async fn start(c: &Ctx, epoch: Epoch, following: Option<&(Upstream, MemberKey)>) -> Result<(), Failed> {
    obey(c, epoch).await?;
    disarmed(c).await?;
    let owner = c.a.inner.borrow().local.wal_end.ok_or("the end of its WAL is not known")?.1;
    // History files above its own timeline could mislead its recovery: it is pinned (history A4).
    let misled = c.w.with_data(c.h, |data| data.histories.last_key_value().is_some_and(|(last, _)| *last > owner.0));
    let pinned = following.is_none() && misled.unwrap_or(false);
    launch(c, epoch, pinned, following).await
}

async fn launch(c: &Ctx, epoch: Epoch, pinned: bool, following: Option<&(Upstream, MemberKey)>) -> Result<(), Failed> {
    c.a.inner.borrow_mut().expected = None;
    seal_on_disk(c, Conf { pinned, ..Conf::sealed() }).await;
    c.step("launch.sealed").await;
    c.w.with_data(c.h, |data| data.door = following.is_some());
    if let Some((upstream, key)) = following {
        forget_dead_branches(c);
        point_at(c, epoch, upstream, key).await?;
    }
    if !c.w.start_server(c.h) {
        return Err("another postmaster works in the data directory".to_owned());
    }
    let action = Action::StartStandby { epoch, following: following.cloned() };
    wait_ready(c, START_MS, || c.agreed().is_some_and(|agreed| action.is_overtaken(&agreed))).await;
    if !c.w.server_runs(c.h) {
        return Err("it ended while starting".to_owned());
    }
    sampler::watch(c);
    let mut inner = c.a.inner.borrow_mut();
    inner.pinned = pinned;
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

/// A start that follows takes the newest history file for its target: those above its own timeline go, and what lives is
/// fetched again.
fn forget_dead_branches(c: &Ctx) {
    let Some((_, owner)) = c.a.inner.borrow().local.wal_end else { return };
    c.w.with_data(c.h, |data| data.histories.retain(|number, _| *number <= owner.0));
}

/// Writes upstream and password. From here on WAL may come in: what was read and sealed is no longer the end.
async fn point_at(c: &Ctx, epoch: Epoch, upstream: &Upstream, key: &MemberKey) -> Result<(), Failed> {
    let host = c.w.host_of(&upstream.key.member).ok_or("no such host")?;
    {
        let mut inner = c.a.inner.borrow_mut();
        inner.forget_end();
        inner.local.sealed = None;
        inner.flush_seen = None;
        inner.expected = None;
    }
    c.w.fsync(c.h).await;
    c.w.with_data(c.h, |data| data.pass = Some(host));
    c.step("point-at.password").await;
    let name = c.name(key, epoch);
    c.w.write_conf(c.h, |conf| conf.upstream = Some(Following { host, name }));
    Ok(())
}

/// The guard must not hold a deadline of a reign that is over: it would kill the standby.
async fn disarmed(c: &Ctx) -> Result<(), Failed> {
    for _ in 0..500 {
        {
            let inner = c.a.inner.borrow();
            if inner.guarded.confirmed && inner.guarded.until.is_none() {
                return Ok(());
            }
        }
        c.w.sleep(c.h, 5).await;
    }
    Err("the guard does not confirm that it is disarmed".to_owned())
}

/// Streams from the primary of `epoch` under this member's name of that epoch.
pub async fn follow(c: &Ctx, epoch: Epoch, upstream: &Upstream, key: &MemberKey) -> Result<(), Failed> {
    obey(c, epoch).await?;
    if c.a.inner.borrow().pinned {
        c.a.inner.borrow_mut().stopping = true;
        stop(c, START_MS).await;
        let following = (upstream.clone(), key.clone());
        return launch(c, epoch, false, Some(&following)).await;
    }
    if c.a.inner.borrow().server.is_none() {
        return Err("PostgreSQL does not run".to_owned());
    }
    let owner = c.a.inner.borrow().local.wal_end.map_or(0, |(_, owner)| owner.0);
    c.w.with_data(c.h, |data| {
        data.histories.retain(|number, fork| *number <= owner || fork.is_some());
        data.door = true;
    });
    point_at(c, epoch, upstream, key).await?;
    c.w.reload(c.h);
    c.a.inner.borrow_mut().local.in_force = Some(following_of(epoch, upstream));
    Ok(())
}

/// Restarts PostgreSQL in its role, as an operator asked.
pub async fn restart(c: &Ctx, request: u64) -> Result<(), Failed> {
    c.a.inner.borrow_mut().stopping = true;
    stop(c, START_MS).await;
    c.forget_running(false);
    c.promise(|promise| promise.restarted = request).await;
    c.a.inner.borrow_mut().forget_end();
    Ok(())
}
