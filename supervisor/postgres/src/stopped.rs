//! The position of a stopped server, read from its disk. A `backup_label` that the control file proves to be a leftover,
//! and whose WAL is gone, is moved aside first: PostgreSQL would believe it and never start again.

use crate::{
    backup_label,
    control_file::ControlFile,
    fsio::FsError,
    instance::{Instance, InstanceError},
    position::{self, DiskPosition, PositionError},
};

/// The position of a stopped server could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StoppedError {
    /// Its control file could not be read.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// Its WAL could not be read.
    #[error(transparent)]
    Position(#[from] PositionError),
    /// A stale label could not be moved aside.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// Our own task died.
    #[error("the task that reads the position ended: {0}")]
    Task(String),
}

/// Reads the control file and the position. Nothing may run in the directory.
pub async fn read(instance: &Instance) -> Result<(ControlFile, DiskPosition), StoppedError> {
    let control = instance.control_file().await?;
    let (layout, version) = (instance.layout.clone(), instance.binaries.version());
    let reading = tokio::task::spawn_blocking(move || {
        let position = match position::of_stopped(&layout, &control, version) {
            Err(PositionError::LabelWithoutWal { label, .. }) if label.is_stale(&control) => {
                let to = backup_label::set_aside(&layout)?;
                tracing::warn!(
                    "moved a stale backup_label ({}, {}) to {}: its WAL is gone, and a server was shut down here since",
                    label.method,
                    label.made_at,
                    to.display()
                );
                position::of_stopped(&layout, &control, version)
            }
            read => read,
        };
        Ok((control, position?))
    });
    reading.await.map_err(|error| StoppedError::Task(error.to_string()))?
}
