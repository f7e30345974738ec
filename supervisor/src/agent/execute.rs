//! Acts: an [`Action`] of the core, done to the real PostgreSQL. Each checks its epoch against the promise before it
//! acts, does its work in an order that may be cut off anywhere, and leaves what it found in [`Shared`].

pub mod fence;
mod found;
mod remake;
pub mod seal;
mod serve;
mod standby;

use super::{prove, shared::Shared};
use anyhow::{Context, bail};
use pgvigil_core::{id::Epoch, reconcile::Action, rule::Setting};
use pgvigil_postgres::{
    Settings, SyncRule,
    conf_files::ensure_include,
    instance::{Instance, StartAs},
    process::SpawnOptions,
    user_conf::UserValues,
};
use std::{net::IpAddr, sync::Arc, time::Duration};

/// A statement of the agent's own.
const STATEMENT: Duration = Duration::from_secs(5);

/// Does `action`.
pub async fn act(shared: &Arc<Shared>, action: Action) -> anyhow::Result<()> {
    match action {
        Action::Fence { polite_ms, why, .. } => {
            fence::now(shared, polite_ms, &why).await;
            Ok(())
        }
        Action::Seal { epoch } => seal::seal(shared, epoch).await,
        Action::CatchUp { epoch, source } => seal::catch_up(shared, epoch, &source).await,
        Action::ReadWalEnd { epoch } => seal::read_wal_end(shared, epoch).await,
        Action::Initdb { epoch, incarnation } => found::initdb(shared, epoch, incarnation).await,
        Action::AdoptPrimary { epoch, incarnation } => found::adopt_primary(shared, epoch, incarnation).await,
        Action::AdoptStandby { incarnation } => found::adopt_standby(shared, incarnation).await,
        Action::StartPrimary { epoch, setting, version } => {
            serve::start_primary(shared, epoch, &setting, version).await
        }
        Action::Configure { epoch, setting, version, door_open } => {
            serve::configure(shared, epoch, &setting, version, door_open).await
        }
        Action::Promote { epoch, timeline } => serve::promote(shared, epoch, timeline).await,
        Action::Checkpoint { epoch } => serve::checkpoint(shared, epoch).await,
        Action::CarryOn { epoch } => serve::carry_on(shared, epoch).await,
        Action::Prove { epoch, setting, version } => prove::prove(shared, epoch, &setting, version).await,
        Action::StartStandby { epoch, following } => standby::start(shared, epoch, following.as_ref()).await,
        Action::Follow { epoch, upstream, key } => standby::follow(shared, epoch, &upstream, &key).await,
        Action::Rewind { epoch, ref upstream, incarnation } => {
            remake::rewind(shared, epoch, upstream, incarnation, &action).await
        }
        Action::Clone { epoch, ref upstream, incarnation } => {
            remake::clone(shared, epoch, upstream, incarnation, &action).await
        }
        Action::Restart { request } => standby::restart(shared, request).await,
    }
}

/// Completes when what was agreed since has overtaken `action`, which is under way.
async fn overtaken(shared: &Shared, action: &Action) {
    let mut agreed = shared.agreed.subscribe();
    // The sender lives as long as this agent.
    let _ = agreed.wait_for(|agreed| agreed.as_ref().is_some_and(|agreed| action.is_overtaken(agreed))).await;
}

/// Refuses an act of an epoch older than the promise. Keeps S5.
fn not_over(shared: &Shared, epoch: Epoch) -> anyhow::Result<()> {
    let promised = shared.lock().local.promise.epoch;
    if epoch < promised {
        bail!("epoch {epoch} is over: epoch {promised} was promised");
    }
    Ok(())
}

/// Refuses an act of an epoch older than the promise; promises a newer one first. Keeps S5.
fn obey(shared: &Shared, epoch: Epoch) -> anyhow::Result<()> {
    shared.promise(epoch, |_| {}).context("cannot write the promise")
}

pub(super) fn instance(shared: &Shared) -> Instance {
    Instance {
        binaries: shared.binaries.clone(),
        layout: shared.layout.clone(),
        endpoint: shared.server().endpoint.clone(),
        cgroup: shared.cgroup.clone(),
    }
}

fn rule(shared: &Shared, setting: &Setting, epoch: Epoch) -> SyncRule {
    SyncRule::of(shared.agreed().as_deref(), setting, epoch)
}

/// Our settings file; sealed, with nobody to confirm, until the caller says otherwise.
fn settings(shared: &Shared) -> Settings {
    let endpoint = shared.server().endpoint.clone();
    let mut settings = Settings::new(shared.config.port, endpoint.socket_dir);
    settings.listen_addresses = match (&shared.config.listen_addresses, shared.config.host.parse::<IpAddr>()) {
        (Some(addresses), _) => addresses.clone(),
        (None, Ok(address)) if address.is_loopback() => address.to_string(),
        (None, _) => "*".to_owned(),
    };
    if let Some(agreed) = shared.agreed() {
        settings.max_slot_wal_keep_size_mb = i64::try_from(agreed.settings.slot_wal_max_mib).unwrap_or(i64::MAX);
    }
    settings.wal_keep_size_mb = 1024;
    settings.allow_alter_system = false;
    settings.user = shared.config.parameters.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    settings
}

/// The setting by which a new connection shows that the newest file was read.
const GENERATION: &str = "pgvigil.generation";

/// Writes what only a start takes up, and how it is started so that no file overrides that.
async fn start_options(shared: &Shared, role: StartAs) -> anyhow::Result<SpawnOptions> {
    let mut ours = settings(shared);
    ours.theirs = UserValues::read(&shared.layout);
    if role == StartAs::Standby {
        ours.floors = instance(shared).control_file().await.ok().map(|control| control.floors);
    }
    ours.write_start(&shared.layout)?;
    // For those who start it by hand.
    ensure_include(&shared.layout)?;
    let passed = shared.config.environment.iter();
    let env = passed.filter_map(|name| Some((name.clone(), std::env::var(name).ok()?))).collect();
    Ok(SpawnOptions { overrides: ours.command_line(shared.binaries.version()), env, ..SpawnOptions::default() })
}
