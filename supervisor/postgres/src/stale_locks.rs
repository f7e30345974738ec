//! Lock files that nobody holds: left by a loss of power (empty, cut short, full of zeros), or naming a pid that belongs
//! to another program by now. PostgreSQL itself refuses to start over all of these.
//!
//! Who works in the data directory is known from its processes, not from what a file says.

use crate::{
    datadir::PidFile,
    fsio::{FsError, read_lossy, remove_durable},
    kill,
    process::ProcessError,
    procfs,
};
use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

/// A socket's lock that cannot be read, in a directory that is not ours alone, is left this long to whoever may be
/// writing it.
const BEING_WRITTEN: Duration = Duration::from_secs(2);

/// The Unix socket of a server that is about to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPlace {
    /// Its directory.
    pub dir: PathBuf,
    /// The port, part of its name.
    pub port: u16,
    /// Nobody else puts sockets there.
    pub ours_alone: bool,
}

/// Removes `postmaster.pid` and the lock of `socket` where nobody holds them: unreadable, or of a zombie, or of some
/// other program. A pid that no process has is left to PostgreSQL's own checks, which also look at its shared memory.
/// Refuses while any PostgreSQL process works in `data_dir`.
pub(crate) fn clear(data_dir: &Path, socket: Option<&SocketPlace>) -> Result<(), ProcessError> {
    let unused = || {
        let pids = kill::processes(data_dir, None)?;
        if pids.is_empty() { Ok(()) } else { Err(ProcessError::LeftOver { pids, data_dir: data_dir.to_owned() }) }
    };
    unused()?;
    let lock = data_dir.join("postmaster.pid");
    let named = match PidFile::read_any(data_dir)? {
        None => None,
        Some(Ok(file)) => {
            if exists(file.pid)? {
                remove(&lock, &format!("process {} is no PostgreSQL of this directory", file.pid))?;
            }
            file.socket_dir.zip(file.port).map(|(dir, port)| SocketPlace { dir, port, ours_alone: false })
        }
        Some(Err(error)) => {
            // Whoever wrote it a moment ago works in the directory since before.
            unused()?;
            remove(&lock, &error.to_string())?;
            None
        }
    };
    for place in named.iter().chain(socket) {
        clear_socket(data_dir, place)?;
    }
    Ok(())
}

/// The lock beside the socket: never the one of a server that listens there, or of a living PostgreSQL.
fn clear_socket(data_dir: &Path, place: &SocketPlace) -> Result<(), ProcessError> {
    let socket = place.dir.join(format!(".s.PGSQL.{}", place.port));
    let lock = place.dir.join(format!(".s.PGSQL.{}.lock", place.port));
    let Some(text) = read_lossy(&lock)? else { return Ok(()) };
    let mut lines = text.lines().map(str::trim);
    let pid = lines.next().and_then(|line| line.parse::<i32>().ok()).and_then(i32::checked_abs).filter(|pid| *pid > 0);
    let of_ours = lines.next().is_some_and(|dir| Path::new(dir) == data_dir);
    let stale = match pid {
        Some(pid) => exists(pid)? && (of_ours || !procfs::is_postgres(pid)),
        None => place.ours_alone || !young(&lock),
    };
    if stale && !answers(&socket) {
        remove(&lock, "no server listens there")?;
    }
    Ok(())
}

fn exists(pid: i32) -> Result<bool, ProcessError> {
    let system = |source| ProcessError::System { op: "examine", pid, source };
    Ok(procfs::stat(pid).map_err(system)?.is_some())
}

fn answers(socket: &Path) -> bool {
    match UnixStream::connect(socket) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound),
    }
}

fn young(lock: &Path) -> bool {
    let age = lock.metadata().and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
    age.is_none_or(|age| age < BEING_WRITTEN)
}

fn remove(lock: &Path, why: &str) -> Result<(), FsError> {
    tracing::warn!("removing the stale lock file {}: {why}", lock.display());
    remove_durable(lock)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::net::UnixListener};

    /// Nothing works in the directory, so whatever the lock files say, they are nobody's; a pid without a process is
    /// PostgreSQL's own business.
    #[test]
    fn locks_that_nobody_holds_are_removed_whatever_they_say() {
        let dir = tempfile::tempdir().unwrap();
        let (data, sockets) = (dir.path().join("data"), dir.path().join("s"));
        fs::create_dir_all(&data).unwrap();
        fs::create_dir_all(&sockets).unwrap();
        let (pid, lock) = (data.join("postmaster.pid"), sockets.join(".s.PGSQL.5432.lock"));
        let place = SocketPlace { dir: sockets.clone(), port: 5432, ours_alone: true };
        let me = std::process::id();
        let foreign = format!("{me}\n{}\n1\n5432\n{}\n", data.display(), sockets.display());
        let bytes: [&[u8]; 6] = [b"", b"\n", b"12345\n", &[0; 40], b"\xff\xfe\n/d\n1\n", foreign.as_bytes()];
        for text in bytes {
            fs::write(&pid, text).unwrap();
            fs::write(&lock, text).unwrap();
            clear(&data, Some(&place)).unwrap();
            assert!(!pid.exists(), "{text:?}");
            assert!(!lock.exists() || text.starts_with(b"12345"), "{text:?}");
        }
        fs::write(&pid, format!("{}\n{}\n1\n", i32::MAX, data.display())).unwrap();
        clear(&data, Some(&place)).unwrap();
        assert!(pid.exists(), "no process has this pid");
    }

    #[test]
    fn a_socket_that_answers_keeps_its_lock_and_so_does_one_that_may_be_being_written() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir_all(&data).unwrap();
        let place = |ours_alone| SocketPlace { dir: dir.path().to_owned(), port: 1, ours_alone };
        let lock = dir.path().join(".s.PGSQL.1.lock");
        fs::write(&lock, "").unwrap();
        clear(&data, Some(&place(false))).unwrap();
        assert!(lock.exists(), "it is young, and the directory not ours alone");
        let listener = UnixListener::bind(dir.path().join(".s.PGSQL.1")).unwrap();
        clear(&data, Some(&place(true))).unwrap();
        assert!(lock.exists(), "somebody listens");
        drop(listener);
        clear(&data, Some(&place(true))).unwrap();
        assert!(!lock.exists());
    }
}
