//! The first data directory of a cluster, and servers that already run.

use super::{STATEMENT, instance, obey, settings};
use crate::agent::{marker, shared::Shared};
use anyhow::{Context, bail};
use pgvigil_core::{
    id::{Epoch, Incarnation},
    local::{InForce, LocalPostgres, Marker},
    reign::Promotion,
};
use pgvigil_postgres::{
    Link,
    hba::{self, Door},
    settings::ensure_include,
};
use std::{sync::Arc, time::Duration};

const INITDB: Duration = Duration::from_secs(300);

fn mark(shared: &Shared, incarnation: Incarnation) -> anyhow::Result<()> {
    let mark = Marker { cluster: shared.cluster.clone(), member: shared.me().clone(), incarnation };
    marker::write(&shared.layout.data_dir, &mark)?;
    shared.lock().local.marker = Some(mark);
    Ok(())
}

/// Makes the data directory of a new cluster, marked and fenced; it is started by the next act.
pub async fn initdb(shared: &Arc<Shared>, epoch: Epoch, incarnation: Incarnation) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    shared.lock().activity = Some("initdb".to_owned());
    let instance = instance(shared);
    let mut print = |line: &str| tracing::debug!("initdb: {line}");
    instance.initdb(INITDB, &mut print).await?;
    hba::write(&shared.layout, Door::Closed, &shared.access, &shared.config.hba)?;
    settings(shared).write(shared.binaries.version(), &shared.layout)?;
    ensure_include(&shared.layout)?;
    // Marked last: an unmarked directory is one that this act did not finish.
    mark(shared, incarnation)?;
    let mut inner = shared.lock();
    inner.local.postgres = LocalPostgres::Stopped { crashed: false };
    inner.local.fence_on_disk = true;
    Ok(())
}

/// Takes over a running primary without a restart: the mark, our included file, our lines of pg_hba.conf before its own.
/// What only a restart can change is reported.
pub async fn adopt_primary(shared: &Arc<Shared>, epoch: Epoch, incarnation: Incarnation) -> anyhow::Result<()> {
    obey(shared, epoch)?;
    let instance = instance(shared);
    let link = Link::connect(&instance.endpoint, "adopt", "-c synchronous_commit=local", STATEMENT).await?;
    if link.in_recovery(STATEMENT).await? {
        bail!("it is a standby");
    }
    let needed = [("wal_level", "minimal"), ("max_wal_senders", "0"), ("hot_standby", "off")];
    for (name, bad) in needed {
        if link.setting(name, STATEMENT).await? == bad {
            bail!("{name} = {bad}: no standby can follow it; change it and restart PostgreSQL, then it is adopted");
        }
    }
    let checksums = link.setting("data_checksums", STATEMENT).await?;
    let hints = link.setting("wal_log_hints", STATEMENT).await?;
    let text = "neither data checksums nor wal_log_hints are on: this server cannot be rewound, only cloned anew";
    shared.problem("rewind", (checksums == "off" && hints == "off").then(|| text.to_owned()));
    link.ensure_replication_role(&shared.access.replication_role, &shared.password, STATEMENT).await?;
    let at = super::serve::insert_position(&link).await?;
    ensure_include(&shared.layout)?;
    shared.promise(|promise| {
        promise.reigned = epoch;
        promise.promotion = Some(Promotion { fork: at, end: at });
    })?;
    mark(shared, incarnation).context("cannot mark the data directory")?;
    let mut inner = shared.lock();
    // Its clients stay in: the door is open as it was.
    inner.local.in_force = Some(InForce { epoch, version: None, door_open: true, upstream: None });
    inner.local.postgres = LocalPostgres::Starting;
    drop(inner);
    shared.look.notify_one();
    Ok(())
}

/// Takes over a running standby without a restart; where its WAL ends is checked before it follows.
pub async fn adopt_standby(shared: &Arc<Shared>, incarnation: Incarnation) -> anyhow::Result<()> {
    ensure_include(&shared.layout)?;
    mark(shared, incarnation).context("cannot mark the data directory")?;
    let mut inner = shared.lock();
    inner.local.in_force = None;
    inner.local.postgres = LocalPostgres::Starting;
    drop(inner);
    shared.look.notify_one();
    Ok(())
}
