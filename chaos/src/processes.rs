//! The processes of one "host": pgvigil, its guard, the postmaster and all of PostgreSQL's children.
//!
//! On loopback a host is a folder. A process belongs to it if it works in that folder, names it on its command line,
//! or descends from one that does. Signals go to the whole set at once, and the set is read again until nothing new
//! has appeared meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thiserror::Error;

/// Why a signal did not reach a host.
#[derive(Debug, Error)]
pub enum SignalError {
    /// The kernel refused.
    #[error("sending {signal} to process {pid}: {source}")]
    Refused {
        /// Which signal.
        signal: Signal,
        /// To whom.
        pid: i32,
        /// Why not.
        #[source]
        source: Errno,
    },
    /// Processes went on appearing, or would not die.
    #[error("after {0:?} there are still processes in {1}: {2:?}")]
    StillThere(Duration, String, Vec<i32>),
}

/// What `/proc` says of one process.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its parent's id.
    pub parent: i32,
    /// The state letter: `R`, `S`, `T` (stopped), …; zombies are left out.
    pub state: char,
    /// The command line, arguments separated by blanks.
    pub command: String,
}

/// The living processes of the host whose folder is `dir` (an absolute path), without the calling process.
pub fn of_host(dir: &Path) -> Vec<Process> {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let needle = dir.to_string_lossy().into_owned();
    let all: BTreeMap<i32, Process> = all().into_iter().map(|p| (p.pid, p)).collect();
    let own = std::process::id() as i32;
    let mut chosen: BTreeSet<i32> = all
        .values()
        .filter(|p| p.pid != own && (works_in(p.pid, &dir) || names(&p.command, &needle)))
        .map(|p| p.pid)
        .collect();
    // Descendants, generation by generation: a child that has left the folder still belongs to its host.
    loop {
        let more: Vec<i32> = all
            .values()
            .filter(|p| p.pid != own && !chosen.contains(&p.pid) && chosen.contains(&p.parent))
            .map(|p| p.pid)
            .collect();
        if more.is_empty() {
            break;
        }
        chosen.extend(more);
    }
    chosen.iter().filter_map(|pid| all.get(pid).cloned()).collect()
}

/// Kills every process of the host with SIGKILL: all are stopped first, so that none acts on the death of another.
pub fn kill_host(dir: &Path) -> Result<(), SignalError> {
    let limit = Duration::from_secs(20);
    let began = Instant::now();
    stop_host(dir)?;
    loop {
        let left = of_host(dir);
        if left.is_empty() {
            return Ok(());
        }
        if began.elapsed() > limit {
            let pids = left.iter().map(|p| p.pid).collect();
            return Err(SignalError::StillThere(limit, dir.display().to_string(), pids));
        }
        for process in &left {
            send(process.pid, Signal::SIGKILL)?;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Freezes the host: SIGSTOP to every process, until a reading of `/proc` shows none that runs.
pub fn stop_host(dir: &Path) -> Result<(), SignalError> {
    let limit = Duration::from_secs(5);
    let began = Instant::now();
    let mut told = BTreeSet::new();
    loop {
        let running: Vec<Process> = of_host(dir).into_iter().filter(|p| !"Tt".contains(p.state)).collect();
        // `D` does nothing that a program decides, and stops when its call returns, once it was told to.
        if running.iter().all(|p| p.state == 'D' && told.contains(&p.pid)) {
            return Ok(());
        }
        if began.elapsed() > limit {
            let pids = running.iter().map(|p| p.pid).collect();
            return Err(SignalError::StillThere(limit, dir.display().to_string(), pids));
        }
        for process in running {
            send(process.pid, Signal::SIGSTOP)?;
            told.insert(process.pid);
        }
    }
}

/// Wakes a frozen host: SIGCONT to every process.
pub fn continue_host(dir: &Path) -> Result<(), SignalError> {
    for process in of_host(dir) {
        send(process.pid, Signal::SIGCONT)?;
    }
    Ok(())
}

/// Sends a signal to one process; one that is gone already counts as reached.
pub fn send(pid: i32, signal: Signal) -> Result<(), SignalError> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(source) => Err(SignalError::Refused { signal, pid, source }),
    }
}

/// The postmaster's process id, from the first line of `postmaster.pid`; `None` if there is no such file.
pub fn postmaster_pid(data_dir: &Path) -> Option<i32> {
    postmaster_line(data_dir, 0)?.parse().ok()
}

/// What the postmaster says of itself in `postmaster.pid`: `starting`, `stopping`, `ready` or `standby`.
pub fn postmaster_status(data_dir: &Path) -> Option<String> {
    postmaster_line(data_dir, 7)
}

fn postmaster_line(data_dir: &Path, number: usize) -> Option<String> {
    let file = std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    Some(file.lines().nth(number)?.trim().to_owned())
}

/// Whether a process is there and is not a zombie.
pub fn is_alive(pid: i32) -> bool {
    read(pid).is_some()
}

/// Every process on this machine that is not a zombie.
pub(crate) fn all() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter_map(read).collect()
}

/// One process; `None` if it is gone or a zombie.
fn read(pid: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may itself hold blanks and parentheses.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    if "ZX".contains(state) {
        return None;
    }
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).replace('\0', " ").trim_end().to_owned();
    Some(Process { pid, parent, state, command })
}

fn works_in(pid: i32, dir: &Path) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
}

/// Whether this is a program of pgvigil's or PostgreSQL's whose command line names the folder or something in it (and
/// not one whose name merely begins alike).
fn names(command: &str, dir: &str) -> bool {
    let program = command.split(' ').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let ours = ["pgvigil", "postgres", "pg_", "initdb"].iter().any(|name| program.starts_with(name));
    ours && command
        .match_indices(dir)
        .any(|(at, _)| matches!(command[at + dir.len()..].chars().next(), None | Some('/' | ' ' | '"' | '\'' | ',')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// Waits for a condition with a generous limit.
    fn eventually(what: &str, condition: impl Fn() -> bool) {
        let began = Instant::now();
        while !condition() {
            assert!(began.elapsed() < Duration::from_secs(60), "never came true: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A shell that works in `dir` and has a child which works elsewhere.
    fn family(dir: &Path) -> Child {
        Command::new("sh")
            .args(["-c", "(cd / && exec sleep 600) & wait"])
            .current_dir(dir)
            .spawn()
            .expect("sh can be started")
    }

    #[test]
    fn a_host_is_its_folder_and_all_descendants() {
        let one = tempfile::tempdir().expect("a folder");
        let other = tempfile::tempdir().expect("a folder");
        let (mut a, mut b) = (family(one.path()), family(other.path()));
        eventually("both shells have their child", || {
            of_host(one.path()).len() == 2 && of_host(other.path()).len() == 2
        });

        stop_host(one.path()).expect("stops");
        eventually("all are stopped", || of_host(one.path()).iter().all(|p| p.state == 'T'));
        assert!(of_host(other.path()).iter().all(|p| p.state != 'T'));
        continue_host(one.path()).expect("continues");
        eventually("none is stopped", || of_host(one.path()).iter().all(|p| p.state != 'T'));

        kill_host(one.path()).expect("dies");
        assert!(of_host(one.path()).is_empty());
        assert_eq!(of_host(other.path()).len(), 2);
        kill_host(other.path()).expect("dies");
        a.wait().expect("is reaped");
        b.wait().expect("is reaped");
    }

    #[test]
    fn a_folder_is_named_whole() {
        assert!(names("pgvigil run --config /x/n1/pgvigil.toml", "/x/n1"));
        assert!(names("pgvigil guard /x/n1", "/x/n1"));
        assert!(!names("pgvigil guard /x/n10", "/x/n1"));
        assert!(!names("tail -f /x/n1/pgvigil.log", "/x/n1"));
    }
}
