//! Acts: an [`Action`] of the core, done to PostgreSQL through the [ports](crate::ports). Each checks its epoch against the
//! promise before it acts, does its work in an order that may be cut off anywhere, and leaves what it found in what is
//! known.

pub mod fence;
mod found;
mod prove;
mod remake;
mod seal;
mod serve;
mod standby;

pub use seal::look_at_timelines;
pub use serve::clear_overrides;

use crate::ports::Member;
use anyhow::bail;
use futures::future::{Either, select};
use pgvigil_core::{id::Epoch, reconcile::Action};
use std::{future::Future, pin::pin};

/// Does `action`.
pub async fn act<M: Member>(m: &M, action: Action) -> anyhow::Result<()> {
    match action {
        Action::Fence { polite_ms, why, .. } => {
            fence::now(m, polite_ms, &why).await;
            Ok(())
        }
        Action::Seal { epoch } => seal::seal(m, epoch).await,
        Action::CatchUp { epoch, source } => seal::catch_up(m, epoch, &source).await,
        Action::ReadWalEnd { epoch } => seal::read_wal_end(m, epoch).await,
        Action::Initdb { epoch, incarnation } => found::initdb(m, epoch, incarnation).await,
        Action::AdoptPrimary { epoch, incarnation } => found::adopt_primary(m, epoch, incarnation).await,
        Action::AdoptStandby { incarnation } => found::adopt_standby(m, incarnation).await,
        Action::StartPrimary { epoch, setting, version } => serve::start_primary(m, epoch, &setting, version).await,
        Action::Configure { epoch, setting, version, door_open } => {
            serve::configure(m, epoch, &setting, version, door_open).await
        }
        Action::Promote { epoch, timeline } => serve::promote(m, epoch, timeline).await,
        Action::Checkpoint { epoch } => serve::checkpoint(m, epoch).await,
        Action::CarryOn { epoch } => serve::carry_on(m, epoch).await,
        Action::Prove { epoch, setting, version } => prove::prove(m, epoch, &setting, version).await,
        Action::StartStandby { epoch, following } => standby::start(m, epoch, following.as_ref()).await,
        Action::Follow { epoch, upstream, key } => standby::follow(m, epoch, &upstream, &key).await,
        Action::Rewind { epoch, ref upstream, incarnation } => {
            remake::rewind(m, epoch, upstream, incarnation, &action).await
        }
        Action::Clone { epoch, ref upstream, incarnation } => {
            remake::clone(m, epoch, upstream, incarnation, &action).await
        }
        Action::Restart { request } => standby::restart(m, request).await,
    }
}

/// Refuses an act of an epoch older than the promise. Keeps S5.
fn not_over<M: Member>(m: &M, epoch: Epoch) -> anyhow::Result<()> {
    let promised = m.known().local.promise.epoch;
    if epoch < promised {
        bail!("epoch {epoch} is over: epoch {promised} was promised");
    }
    Ok(())
}

/// Refuses an act of an epoch older than the promise; promises a newer one first. Keeps S5.
async fn obey<M: Member>(m: &M, epoch: Epoch) -> anyhow::Result<()> {
    m.promise(epoch, |_| {}).await
}

/// `work`, for at most so many milliseconds.
async fn within<M: Member, T>(m: &M, ms: u64, work: impl Future<Output = T>) -> Option<T> {
    match select(pin!(work), pin!(m.pause(ms * 1_000))).await {
        Either::Left((done, _)) => Some(done),
        Either::Right(_) => None,
    }
}
