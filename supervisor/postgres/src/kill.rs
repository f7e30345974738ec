//! The end of every process of a data directory: the last line of S3, also used by the guard.
//!
//! A signal to a process group misses PostgreSQL's backends, each of which is its own session; orphans cannot be found
//! by parentage (history A12). So: the postmaster first, that nothing new is forked, then everything that works in the
//! directory, again and again until a pass finds nothing.

use crate::{
    fault::{self, Bug},
    procfs::{self, DirId},
};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// Processes that could not be killed, or not be looked for.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// Some are still there when the time is over (uninterruptible I/O, or another user's).
    #[error("processes {pids:?} of {} are still alive {waited:?} after SIGKILL", data_dir.display())]
    Survivors {
        /// Which.
        pids: Vec<i32>,
        /// Of which directory.
        data_dir: PathBuf,
        /// How long was waited.
        waited: Duration,
    },
    /// `/proc` or the data directory could not be read: nothing is known.
    #[error("cannot look for processes of {}: {source}", data_dir.display())]
    Look {
        /// Of which directory.
        data_dir: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// What a kill did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Killed {
    /// The processes that were sent SIGKILL.
    pub pids: Vec<i32>,
    /// How long it took until none was left.
    pub took: Duration,
}

/// Every living PostgreSQL process of `data_dir`, and of `cgroup` where one is given. Those of a directory that was removed
/// under them live on for up to a minute.
pub fn processes(data_dir: &Path, cgroup: Option<&Path>) -> Result<Vec<i32>, KillError> {
    let look = |source| KillError::Look { data_dir: data_dir.to_owned(), source };
    let mut pids = match DirId::of(data_dir) {
        Ok(dir) => procfs::postgres_in(dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => procfs::postgres_in_removed(data_dir),
        Err(error) => Err(error),
    }
    .map_err(look)?;
    if let Some(cgroup) = cgroup {
        // The cgroup may have been removed with its last process.
        let members = match procfs::cgroup_members(cgroup) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(look)?,
        };
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        let alive = |pid: &i32| procfs::is_alive(*pid).unwrap_or(true);
        pids.extend(members.into_iter().filter(|pid| *pid != own).filter(alive));
        pids.sort_unstable();
        pids.dedup();
    }
    Ok(pids)
}

/// SIGKILLs every process of `data_dir` until none is left, within `limit`. Zombies do not count: they run nothing.
/// Stopped and frozen processes die too. Blocking; takes a few milliseconds. Idempotent.
///
/// `cgroup` must hold nothing but PostgreSQL (not this process): all of it is killed.
pub fn kill_all(data_dir: &Path, cgroup: Option<&Path>, limit: Duration) -> Result<Killed, KillError> {
    let started = Instant::now();
    let mut killed = HashSet::new();
    let mut pause = Duration::from_micros(500);
    loop {
        if let Some(cgroup) = cgroup {
            // One atomic act where the kernel (5.14) and our permissions allow it; the loop below does not rely on it.
            let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        }
        let pids = processes(data_dir, cgroup)?;
        if pids.is_empty() {
            let mut pids: Vec<i32> = killed.into_iter().collect();
            pids.sort_unstable();
            return Ok(Killed { pids, took: started.elapsed() });
        }
        let spared = if fault::planted(Bug::FenceMissesBackends) { pids.len() - 1 } else { 0 };
        for pid in postmaster_first(&pids).into_iter().take(pids.len() - spared) {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) => {
                    killed.insert(pid);
                }
                // Gone meanwhile, or not ours to kill: the next pass tells which.
                Err(Errno::ESRCH | Errno::EPERM) => {}
                Err(errno) => {
                    return Err(KillError::Look { data_dir: data_dir.to_owned(), source: errno.into() });
                }
            }
        }
        if fault::planted(Bug::FenceMissesBackends) {
            return Ok(Killed { pids, took: started.elapsed() });
        }
        if started.elapsed() >= limit {
            return Err(KillError::Survivors { pids, data_dir: data_dir.to_owned(), waited: started.elapsed() });
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// [`kill_all`] for async callers.
pub async fn kill_all_async(data_dir: PathBuf, cgroup: Option<PathBuf>, limit: Duration) -> Result<Killed, KillError> {
    let name = data_dir.clone();
    tokio::task::spawn_blocking(move || kill_all(&data_dir, cgroup.as_deref(), limit))
        .await
        .unwrap_or_else(|error| Err(KillError::Look { data_dir: name, source: io::Error::other(error) }))
}

/// Those whose parent is not among them come first: the postmaster (and orphans), so that it forks no more.
fn postmaster_first(pids: &[i32]) -> Vec<i32> {
    let known: HashSet<i32> = pids.iter().copied().collect();
    let is_child = |pid: &i32| procfs::stat(*pid).ok().flatten().is_some_and(|stat| known.contains(&stat.ppid));
    let (children, roots): (Vec<i32>, Vec<i32>) = pids.iter().partition(|pid| is_child(pid));
    roots.into_iter().chain(children).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_to_kill_is_success_and_others_in_the_directory_are_spared() {
        let dir = tempfile::tempdir().unwrap();
        let mut bystander = std::process::Command::new("sleep").arg("600").current_dir(dir.path()).spawn().unwrap();
        let done = kill_all(dir.path(), None, Duration::from_secs(5)).unwrap();
        assert!(done.pids.is_empty());
        assert!(procfs::is_alive(i32::try_from(bystander.id()).unwrap()).unwrap());
        bystander.kill().unwrap();
        bystander.wait().unwrap();
        assert!(kill_all(&dir.path().join("absent"), None, Duration::ZERO).unwrap().pids.is_empty());
    }
}
