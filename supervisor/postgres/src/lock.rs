//! One owner per data directory: an OS-level lock that dies with its holder.

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use std::{
    fs::{self, File, OpenOptions},
    io::{Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// The lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{} is locked by another process (it wrote: {holder})", path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// What the holder wrote into it.
        holder: String,
    },
    /// The file could not be opened or locked.
    #[error("cannot lock {}: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

/// A held lock; released when dropped or when the process ends, however it ends.
#[derive(Debug)]
pub struct DirLock {
    _file: Flock<File>,
    path: PathBuf,
}

impl DirLock {
    /// Takes the lock at `path` without waiting, and writes the own pid and `purpose` into it for the curious.
    pub fn acquire(path: &Path, purpose: &str) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: path.to_owned(), source };
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(io)?;
        let mut file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((_, Errno::EWOULDBLOCK)) => {
                let holder = fs::read_to_string(path).unwrap_or_default().trim().to_owned();
                return Err(LockError::Held { path: path.to_owned(), holder });
            }
            Err((_, errno)) => return Err(io(errno.into())),
        };
        let note = format!("{purpose}, pid {}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(note.as_bytes()))
            .map_err(|source| LockError::Io { path: path.to_owned(), source })?;
        Ok(Self { _file: file, path: path.to_owned() })
    }

    /// Where the lock lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = DirLock::acquire(&path, "agent of b").unwrap();
        let error = DirLock::acquire(&path, "another").unwrap_err();
        assert!(matches!(&error, LockError::Held { holder, .. } if holder.contains("agent of b")), "{error}");
        drop(first);
        DirLock::acquire(&path, "another").unwrap();
    }
}
