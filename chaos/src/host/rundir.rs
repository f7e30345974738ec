//! The folder of one run, locked as long as its suite lives.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::HostError;

/// How the folders are named, so that a later run finds those of a dead one.
pub(super) const PREFIX: &str = "pgvigil-chaos-world-";
const LOCK: &str = "suite.lock";

/// A locked folder.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl RunDir {
    /// Makes a new one below `base`.
    pub fn create(base: &Path) -> Result<RunDir, HostError> {
        let path = base.join(format!("{PREFIX}{}-{:08x}", std::process::id(), rand::random::<u32>()));
        std::fs::create_dir(&path).map_err(HostError::io(format!("making {}", path.display())))?;
        match lock(&path)? {
            Some(lock) => Ok(RunDir { path, _lock: lock }),
            None => unreachable!("the folder is new and nobody knows its name"),
        }
    }

    /// Takes over the folder of a suite that has ended; `None` while that suite lives.
    pub(super) fn orphan(path: &Path) -> Result<Option<RunDir>, HostError> {
        Ok(lock(path)?.map(|lock| RunDir { path: path.to_owned(), _lock: lock }))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every such folder below `base`.
    pub(super) fn all(base: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(base).into_iter().flatten().flatten();
        let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).filter(named).collect()
    }
}

fn lock(dir: &Path) -> Result<Option<Flock<File>>, HostError> {
    let path = dir.join(LOCK);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(HostError::io(format!("opening {}", path.display())))?;
    // Not inherited by the servers: std opens files close-on-exec.
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, source)) => Err(HostError::Kernel { what: "locking a run's folder", source }),
    }
}
