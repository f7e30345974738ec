//! A new data directory by pg_basebackup, never on top of the old one: made beside it, then exchanged in one step.

use crate::{
    config::MemberConfig,
    fsio::{FsError, exchange, rename_durable},
    instance::{Instance, InstanceError, write_fence},
    kill::{KillError, processes},
    layout::Layout,
    settings::SettingsError,
    source::{PassFile, Source},
    tool::{self, OnLine, ToolError},
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// A clone failed. The old data directory is untouched unless the exchange itself was reached.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// About a file or directory.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// About the server.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// Processes could not be looked for.
    #[error(transparent)]
    Kill(#[from] KillError),
    /// Our configuration could not be written.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// pg_basebackup failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// The old data directory is in use.
    #[error("processes {0:?} still work in the old data directory")]
    InUse(Vec<i32>),
    /// The data directory's path has no parent or name.
    #[error("{} cannot be replaced: it has no name of its own", .0.display())]
    NoName(PathBuf),
    /// Our own task died.
    #[error("a task of the clone ended: {0}")]
    Task(String),
}

/// What becomes of the old data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OldData {
    /// Renamed to `<data dir>.old-<label>`.
    Keep(String),
    /// Removed after the exchange.
    Remove,
}

/// What to clone, and how.
#[derive(Clone, Debug)]
pub struct ClonePlan {
    /// The server to copy: the appointed primary, or a sealed member.
    pub source: Source,
    /// A physical slot on the source that keeps its WAL; it must exist.
    pub slot: Option<String>,
    /// Upper bound of the transfer in pg_basebackup's words: `100M`. None: unbounded.
    pub max_rate: Option<String>,
    /// `old=new` paths for tablespaces, needed when source and clone share a host.
    pub tablespaces: Vec<String>,
    /// Configuration of the clone.
    pub config: MemberConfig,
    /// What becomes of the old data directory.
    pub old: OldData,
    /// For the base backup.
    pub limit: Duration,
}

/// Where a clone is made before it takes the data directory's place.
#[must_use]
pub fn staging_dir(layout: &Layout) -> PathBuf {
    beside(&layout.data_dir, "clone")
}

/// Makes a clone of `plan.source` and puts it in the place of the data directory. Returns where the old one was kept.
/// Progress lines (`123/456 kB (27%)`) go to `on_line`. The new incarnation must be committed before (history A9), and
/// the old server stopped by the time the copy is complete; a half-made clone of an earlier attempt is removed.
pub async fn clone(instance: &Instance, plan: &ClonePlan, on_line: OnLine<'_>) -> Result<Option<PathBuf>, CloneError> {
    let data_dir = &instance.layout.data_dir;
    if data_dir.file_name().is_none() || data_dir.parent().is_none() {
        return Err(CloneError::NoName(data_dir.clone()));
    }
    let staging = staging_dir(&instance.layout);
    remove_tree(&staging).await?;
    backup(instance, plan, &staging, on_line).await?;
    // Whoever starts the clone gets a standby with our settings, from its first moment in place.
    let fresh = Layout::new(&staging, &instance.layout.agent_dir);
    write_fence(&fresh)?;
    plan.config.write(instance.binaries.version(), &fresh)?;

    let users = processes(data_dir, instance.cgroup.as_deref())?;
    if !users.is_empty() {
        return Err(CloneError::InUse(users));
    }
    if !data_dir.exists() {
        rename_durable(&staging, data_dir)?;
        return Ok(None);
    }
    exchange(&staging, data_dir)?;
    // `staging` holds the old data from here on.
    match &plan.old {
        OldData::Remove => {
            remove_tree(&staging).await?;
            Ok(None)
        }
        OldData::Keep(label) => {
            let kept = beside(data_dir, &format!("old-{label}"));
            rename_durable(&staging, &kept)?;
            Ok(Some(kept))
        }
    }
}

async fn backup(instance: &Instance, plan: &ClonePlan, staging: &Path, on_line: OnLine<'_>) -> Result<(), CloneError> {
    let pass_file = PassFile::create(&instance.layout, "clone", &plan.source)?;
    let mut arguments = vec![
        format!("--pgdata={}", staging.display()),
        format!("--dbname={}", plan.source.conninfo(instance.binaries.version(), &instance.layout, "", "clone")),
        "--checkpoint=fast".to_owned(),
        "--wal-method=stream".to_owned(),
        "--progress".to_owned(),
        "--verbose".to_owned(),
        "--no-password".to_owned(),
    ];
    arguments.extend(plan.slot.iter().map(|slot| format!("--slot={slot}")));
    arguments.extend(plan.max_rate.iter().map(|rate| format!("--max-rate={rate}")));
    arguments.extend(plan.tablespaces.iter().map(|pair| format!("--tablespace-mapping={pair}")));
    let program = instance.binaries.program("pg_basebackup");
    Ok(tool::run(program, &arguments, &[("PGPASSFILE", pass_file.path())], plan.limit, on_line).await?)
}

async fn remove_tree(dir: &Path) -> Result<(), CloneError> {
    let dir = dir.to_owned();
    let removal = tokio::task::spawn_blocking(move || match fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(FsError::at("remove", &dir)(error)),
        _ => Ok(()),
    });
    Ok(removal.await.map_err(|error| CloneError::Task(error.to_string()))??)
}

fn beside(data_dir: &Path, suffix: &str) -> PathBuf {
    let mut name = data_dir.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{suffix}"));
    data_dir.with_file_name(name)
}
