//! What can be seen of a running server without a session: its pid file, its control file, the titles of its processes.

use crate::{
    control_file::{ClusterState, ControlFile},
    datadir::{PidFile, PostmasterStatus},
    instance::InstanceError,
    process::Postmaster,
    version::Binaries,
};
use pgvigil_core::evidence::{Control, Evidence, Status};
use std::path::Path;

/// Gathers it (a few milliseconds; blocking). `None`: the pid file is not that of `postmaster`.
pub fn gather(
    binaries: &Binaries,
    data_dir: &Path,
    postmaster: &Postmaster,
) -> Result<Option<Evidence>, InstanceError> {
    let Some(file) = PidFile::read(data_dir)?.filter(|file| file.pid == postmaster.pid()) else { return Ok(None) };
    let control = ControlFile::read(binaries, data_dir)?;
    Ok(Some(Evidence {
        status: match file.status {
            Some(PostmasterStatus::Ready) => Status::Ready,
            Some(PostmasterStatus::Standby) => Status::Standby,
            Some(PostmasterStatus::Starting | PostmasterStatus::Stopping) | None => Status::Other,
        },
        control: Control {
            in_production: control.state == ClusterState::InProduction,
            in_recovery: control.state == ClusterState::InArchiveRecovery,
            timeline: control.timeline,
            flushed: control.checkpoint.max(control.min_recovery_point),
        },
        receiver: postmaster.receiver()?,
    }))
}
