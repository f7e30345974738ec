//! Acts: an [`Action`] of the core, done to the simulated PostgreSQL in the order of `agent/execute` of the program,
//! with a place to be struck between any two steps.

pub mod fence;
pub mod found;
pub mod remake;
pub mod seal;
pub mod serve;
pub mod standby;

use super::{
    prove,
    shared::{Ctx, Failed},
};
use crate::{
    planted::Planted,
    postgres::data::{Conf, Name, Names},
    world::World,
};
use pgvigil_core::{
    id::{Epoch, MemberKey},
    reconcile::Action,
    rule::Setting,
    sync_rule::SyncRule,
};
use std::rc::Rc;

/// A statement of the agent's own, in milliseconds.
pub const STATEMENT_MS: u64 = 5_000;

/// Does `action`.
pub async fn act(c: &Ctx, action: Action) -> Result<(), Failed> {
    match action {
        Action::Fence { polite_ms, why, .. } => {
            fence::now(c, polite_ms, &why).await;
            Ok(())
        }
        Action::Seal { epoch } => seal::seal(c, epoch).await,
        Action::CatchUp { epoch, source } => seal::catch_up(c, epoch, &source).await,
        Action::ReadWalEnd { epoch } => seal::read_wal_end(c, epoch).await,
        Action::Initdb { epoch, incarnation } => found::initdb(c, epoch, incarnation).await,
        Action::AdoptPrimary { epoch, incarnation } => found::adopt_primary(c, epoch, incarnation).await,
        Action::AdoptStandby { incarnation } => found::adopt_standby(c, incarnation).await,
        Action::StartPrimary { epoch, setting, version } => serve::start_primary(c, epoch, &setting, version).await,
        Action::Configure { epoch, setting, version, door_open } => {
            serve::configure(c, epoch, &setting, version, door_open).await
        }
        Action::Promote { epoch, timeline } => serve::promote(c, epoch, timeline).await,
        Action::Checkpoint { epoch } => serve::checkpoint(c, epoch).await,
        Action::CarryOn { epoch } => serve::carry_on(c, epoch).await,
        Action::Prove { epoch, setting, version } => prove::prove(c, epoch, &setting, version).await,
        Action::StartStandby { epoch, following } => standby::start(c, epoch, following.as_ref()).await,
        Action::Follow { epoch, upstream, key } => standby::follow(c, epoch, &upstream, &key).await,
        Action::Rewind { epoch, ref upstream, incarnation } => {
            remake::rewind(c, epoch, upstream, incarnation, &action).await
        }
        Action::Clone { epoch, ref upstream, incarnation } => {
            remake::clone(c, epoch, upstream, incarnation, &action).await
        }
        Action::Restart { request } => standby::restart(c, request).await,
    }
}

/// Every action's name.
pub const NAMES: &[&str] = &[
    "fence",
    "seal",
    "catch up",
    "read the end of WAL",
    "initdb",
    "adopt the primary",
    "adopt the standby",
    "start as primary",
    "configure",
    "promote",
    "carry on",
    "prove the rule",
    "checkpoint",
    "start as standby",
    "follow",
    "rewind",
    "clone",
    "restart",
];

/// Refuses an act of an epoch older than the promise. Keeps S5.
fn not_over(c: &Ctx, epoch: Epoch) -> Result<(), Failed> {
    let promised = c.a.inner.borrow().local.promise.epoch;
    if epoch < promised {
        return Err(format!("epoch {epoch} is over: epoch {promised} was promised"));
    }
    Ok(())
}

/// The same, and promises a newer one first. Keeps S5.
async fn obey(c: &Ctx, epoch: Epoch) -> Result<(), Failed> {
    not_over(c, epoch)?;
    c.promise(|promise| promise.epoch = epoch).await;
    c.step("obey").await;
    Ok(())
}

impl Ctx {
    /// The value of `synchronous_standby_names` for a setting of `epoch`.
    #[must_use]
    pub fn names_of(&self, setting: &Setting, epoch: Epoch) -> Names {
        Names::of(&SyncRule::of(self.agreed().as_deref(), setting, epoch))
    }

    /// The name under which `key` streams in `epoch`.
    #[must_use]
    pub fn name(&self, key: &MemberKey, epoch: Epoch) -> Name {
        self.agreed().map_or_else(|| key.sync_name(epoch, 0), |agreed| agreed.sync_name(key, epoch)).into()
    }
}

/// Writes what must be on disk of a seal: no password, `standby.signal`, nobody to follow and nobody to confirm.
async fn seal_on_disk(c: &Ctx, conf: Conf) {
    c.w.fsync(c.h).await;
    let mut disk = c.w.hosts[c.h].disk.borrow_mut();
    if c.w.planted == Some(Planted::SealNotDurable) {
        disk.before_unsynced();
    } else {
        disk.data_synced = None;
    }
    if let Some(data) = &mut disk.data {
        data.pass = None;
        data.signal = true;
        data.conf = Rc::new(conf);
    }
}

/// Waits until a start has come to an end: ready, dead, or the time is over.
async fn wait_ready(c: &Ctx, limit_ms: u64, over: impl Fn() -> bool) -> bool {
    let deadline = c.now().plus(limit_ms);
    loop {
        if !c.w.server_runs(c.h) {
            return false;
        }
        if c.w.hosts[c.h].pg.borrow().ready && !c.w.exec.is_frozen(World::postgres_process(c.h)) {
            return true;
        }
        if c.now() >= deadline || over() {
            return false;
        }
        c.w.pause(3_000, 5_000).await;
    }
}

/// A shutdown in good order, for at most so long; then a kill. `true` if it was in good order.
async fn stop(c: &Ctx, limit_ms: u64) -> bool {
    let ran = c.w.server_runs(c.h);
    if ran {
        c.w.stop_server(c.h);
    }
    let deadline = c.now().plus(limit_ms);
    while c.w.server_runs(c.h) && c.now() < deadline {
        c.w.pause(1_000, 4_000).await;
    }
    let clean = !c.w.server_runs(c.h);
    kill(c).await;
    clean
}

/// Kills everything that works in the data directory and sees it gone.
async fn kill(c: &Ctx) {
    c.w.pause(500, 8_000).await;
    c.w.fence_kill(c.h);
}
