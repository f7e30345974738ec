//! The first data directory of a cluster, and servers that already run.

use super::{STATEMENT_MS, obey};
use crate::{
    agent::shared::{Ctx, Failed},
    postgres::{
        data::{Conf, DataDir},
        wal::{FIRST, Point},
    },
    world::World,
};
use pgvigil_core::{
    id::{Epoch, Incarnation},
    local::{InForce, LocalPostgres, Marker},
    reign::Promotion,
};
use std::{collections::BTreeMap, rc::Rc};

async fn mark(c: &Ctx, incarnation: Incarnation) {
    let mark = Marker { cluster: World::cluster(), member: c.w.member(c.h).clone(), incarnation };
    c.w.fsync(c.h).await;
    let written = mark.clone();
    c.w.with_data(c.h, |data| data.marker = Some(written));
    c.a.inner.borrow_mut().local.marker = Some(mark);
}

/// A data directory as initdb leaves it, with our settings.
#[must_use]
pub fn fresh(w: &World) -> DataDir {
    let branch = w.tree.borrow_mut().begin(1, None);
    DataDir {
        marker: None,
        signal: true,
        conf: Rc::new(Conf::sealed()),
        pass: None,
        door: false,
        end: Point { branch, lsn: FIRST },
        synced: FIRST,
        clean: true,
        histories: BTreeMap::new(),
        interrupted: false,
    }
}

/// Makes the data directory of a new cluster, marked and fenced; it is started by the next act.
pub async fn initdb(c: &Ctx, epoch: Epoch, incarnation: Incarnation) -> Result<(), Failed> {
    obey(c, epoch).await?;
    c.w.pause(200_000, 800_000).await;
    if c.w.hosts[c.h].disk.borrow().data.is_some() {
        return Err("the directory is not empty".to_owned());
    }
    let data = fresh(&c.w);
    c.w.hosts[c.h].disk.borrow_mut().data = Some(data);
    c.w.fsync(c.h).await;
    mark(c, incarnation).await;
    let mut inner = c.a.inner.borrow_mut();
    inner.local.postgres = LocalPostgres::Stopped { crashed: false };
    inner.local.fence_on_disk = true;
    Ok(())
}

/// Takes over a running primary without a restart.
pub async fn adopt_primary(c: &Ctx, epoch: Epoch, incarnation: Incarnation) -> Result<(), Failed> {
    obey(c, epoch).await?;
    if c.sample(STATEMENT_MS).await.ok_or("no server")?.in_recovery {
        return Err("it is a standby".to_owned());
    }
    let at = super::serve::insert_position(c).await?;
    c.w.hosts[c.h].pg.borrow_mut().epoch = epoch.0;
    c.promise(|promise| {
        promise.reigned = epoch;
        promise.promotion = Some(Promotion { fork: at, end: at, marked: false });
    })
    .await;
    c.step("adopt.promised").await;
    mark(c, incarnation).await;
    // What a boot starts here must be a standby, as of any primary of ours. Only after the mark: before it, what people
    // start here is still to be adopted.
    c.w.fsync(c.h).await;
    c.w.with_data(c.h, |data| data.signal = true);
    let mut inner = c.a.inner.borrow_mut();
    inner.local.in_force = Some(InForce { epoch, door_open: true, ..InForce::default() });
    inner.local.postgres = LocalPostgres::Starting;
    drop(inner);
    c.wake_look();
    Ok(())
}

/// Takes over a running standby without a restart; where its WAL ends is checked before it follows.
pub async fn adopt_standby(c: &Ctx, incarnation: Incarnation) -> Result<(), Failed> {
    mark(c, incarnation).await;
    let mut inner = c.a.inner.borrow_mut();
    inner.local.in_force = None;
    inner.local.postgres = LocalPostgres::Starting;
    drop(inner);
    c.wake_look();
    Ok(())
}
