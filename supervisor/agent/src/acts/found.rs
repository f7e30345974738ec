//! The first data directory of a cluster, and servers that already run.

use super::obey;
use crate::ports::{Member, Reigning, Session, Wake};
use anyhow::{Context, bail};
use pgvigil_core::{
    id::{Epoch, Incarnation},
    local::{InForce, LocalPostgres, Marker},
    reign::Promotion,
};

/// A session's limit, in milliseconds.
const STATEMENT_MS: u64 = 5_000;

/// Marks the data directory as this member's, in that incarnation.
pub(super) async fn mark<M: Member>(m: &M, incarnation: Incarnation) -> anyhow::Result<()> {
    let mark = Marker { cluster: m.cluster(), member: m.me().clone(), incarnation };
    m.mark(&mark).await?;
    m.known().local.marker = Some(mark);
    Ok(())
}

/// Makes the data directory of a new cluster, marked and fenced; it is started by the next act.
pub async fn initdb<M: Member>(m: &M, epoch: Epoch, incarnation: Incarnation) -> anyhow::Result<()> {
    obey(m, epoch).await?;
    m.known().activity = Some("initdb".to_owned());
    m.initdb().await?;
    // Marked last: an unmarked directory is one that this act did not finish.
    mark(m, incarnation).await?;
    let mut known = m.known();
    known.local.postgres = LocalPostgres::Stopped { crashed: false };
    known.local.fence_on_disk = true;
    Ok(())
}

/// Takes over a running primary without a restart: the mark, our included file, our lines of pg_hba.conf before its own.
/// What only a restart can change is reported.
pub async fn adopt_primary<M: Member>(m: &M, epoch: Epoch, incarnation: Incarnation) -> anyhow::Result<()> {
    obey(m, epoch).await?;
    let session = m.connect_local("adopt", STATEMENT_MS).await?;
    if session.in_recovery().await? {
        bail!("it is a standby");
    }
    m.prepare_adoption(&session, true).await?;
    let at = session.insert_lsn().await?;
    m.take_over_files(true).await?;
    m.reigns(epoch, Reigning::GoesOn);
    m.promise(epoch, move |promise| {
        promise.reigned = epoch;
        promise.promotion = Some(Promotion { fork: at, end: at, marked: false });
    })
    .await?;
    m.reach("adopt:promised").await;
    mark(m, incarnation).await.context("cannot mark the data directory")?;
    // What a boot or a person starts here from now on must be a standby, as of every primary of ours (history A13). Only
    // after the mark: before it, what people start here is still to be adopted.
    m.write_fence().await?;
    {
        let mut known = m.known();
        // Its clients stay in: the door is open as it was.
        known.local.in_force = Some(InForce { epoch, door_open: true, ..InForce::default() });
        known.local.postgres = LocalPostgres::Starting;
    }
    m.wake(Wake::Look);
    Ok(())
}

/// Takes over a running standby without a restart; where its WAL ends is checked before it follows.
pub async fn adopt_standby<M: Member>(m: &M, incarnation: Incarnation) -> anyhow::Result<()> {
    let session = m.connect("adopt", STATEMENT_MS).await?;
    m.prepare_adoption(&session, false).await?;
    m.take_over_files(false).await?;
    mark(m, incarnation).await.context("cannot mark the data directory")?;
    {
        let mut known = m.known();
        known.local.in_force = None;
        known.local.postgres = LocalPostgres::Starting;
    }
    m.wake(Wake::Look);
    Ok(())
}
