//! The postmaster as a process: started so that it outlives us, or adopted; its end noticed at once through a pidfd.

use crate::{
    cgroup, conf_files,
    datadir::{self, DataDirError},
    fsio::{FsError, create_dir_private},
    kill::KillError,
    layout::Layout,
    libpq::quiet_environment,
    procfs::{self, DirId},
    stale_locks::{self, SocketPlace},
    version::Binaries,
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::Signal,
        wait::{Id, WaitPidFlag, WaitStatus, waitid},
    },
};
use pgvigil_core::lsn::Lsn;
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::{fs::OpenOptionsExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};
use tokio::io::{Interest, unix::AsyncFd};

/// How a running server is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// SIGINT: ends sessions, writes a checkpoint, waits for walsenders. For planned stops only: it ends commit waits
    /// with a warning.
    Fast,
    /// SIGQUIT: stops at once without a checkpoint; recovery follows at the next start.
    Immediate,
}

impl StopMode {
    const fn signal(self) -> Signal {
        match self {
            Self::Fast => Signal::SIGINT,
            Self::Immediate => Signal::SIGQUIT,
        }
    }
}

/// A postmaster could not be started, adopted or signalled.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The data directory could not be examined.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A file or directory failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// PostgreSQL already runs in this directory.
    #[error("a postmaster (pid {pid}) already works in {}", data_dir.display())]
    AlreadyRunning {
        /// Its pid.
        pid: i32,
        /// The directory.
        data_dir: PathBuf,
    },
    /// The postmaster is gone, but backends of it are not: kill them first.
    #[error("processes {pids:?} of an earlier server still work in {}", data_dir.display())]
    LeftOver {
        /// Which.
        pids: Vec<i32>,
        /// The directory.
        data_dir: PathBuf,
    },
    /// Processes could not be looked for.
    #[error(transparent)]
    Look(#[from] KillError),
    /// The program could not be run.
    #[error("cannot run {}: {source}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A system call on a process failed.
    #[error("{op} for process {pid}: {source}")]
    System {
        /// What was being done.
        op: &'static str,
        /// To which process.
        pid: i32,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// How a postmaster ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// It ended, but it was not our child (or somebody else reaped it): how is not known.
    Unknown,
}

impl Exit {
    /// Whether it is known to have ended in good order.
    #[must_use]
    pub const fn is_clean(self) -> bool {
        matches!(self, Self::Code(0))
    }
}

/// A living (or just ended) postmaster: a child of ours, or one that an earlier agent started.
///
/// Dropping the handle does nothing to the process.
#[derive(Debug)]
pub struct Postmaster {
    pid: i32,
    start_ticks: u64,
    pidfd: AsyncFd<OwnedFd>,
}

/// What a postmaster is started with beyond its configuration files.
#[derive(Clone, Debug, Default)]
pub struct SpawnOptions {
    /// `name=value` settings that override the files until the server stops.
    pub overrides: Vec<(String, String)>,
    /// Further environment variables.
    pub env: Vec<(String, String)>,
    /// When the log file is larger than this at the start, it is moved to `….1` first. Zero: 16 MiB.
    pub max_log_bytes: u64,
    /// Its socket, so that a lock file beside it that nobody holds is removed.
    pub socket: Option<SocketPlace>,
    /// The cgroup in which it is to run, with all its children. Where that cannot be, it runs without.
    pub cgroup: Option<PathBuf>,
}

impl Postmaster {
    /// Starts a postmaster over `layout.data_dir` that survives our death: own session, no parent-death signal,
    /// output to the log file. Returns as soon as the program runs, long before it accepts connections.
    ///
    /// Must be called within a tokio runtime.
    pub fn spawn(binaries: &Binaries, layout: &Layout, options: &SpawnOptions) -> Result<Self, ProcessError> {
        if let Some(file) = datadir::live_postmaster(&layout.data_dir)? {
            return Err(ProcessError::AlreadyRunning { pid: file.pid, data_dir: layout.data_dir.clone() });
        }
        stale_locks::clear(&layout.data_dir, options.socket.as_ref())?;
        conf_files::write_main(layout)?;
        let log = open_log(&layout.log_file(), options.max_log_bytes)?;
        let log_too = log.try_clone().map_err(FsError::at("open", &layout.log_file()))?;
        let program = binaries.program("postgres");
        let mut command = Command::new(&program);
        command.arg("-D").arg(&layout.data_dir);
        for (name, value) in conf_files::options(layout) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        // Of two options of one name the later one counts.
        for (name, value) in &options.overrides {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        quiet_environment(&mut command);
        command.envs(options.env.iter().map(|(k, v)| (k, v))).stdin(Stdio::null()).stdout(log).stderr(log_too);
        let group = options.cgroup.as_ref().and_then(|cgroup| {
            let opened = cgroup::ready(cgroup).and_then(|()| {
                let procs = cgroup.join("cgroup.procs");
                OpenOptions::new().write(true).open(&procs).map_err(FsError::at("open", &procs))
            });
            opened.inspect_err(|error| tracing::warn!("PostgreSQL runs without a cgroup of its own: {error}")).ok()
        });
        detach(&mut command, group);
        // The std handle neither kills nor reaps when dropped; `exited` reaps through the pidfd.
        let child = command.spawn().map_err(|source| ProcessError::Spawn { program, source })?;
        let pid = i32::try_from(child.id()).expect("Linux pids fit in 31 bits");
        Self::open(pid)
    }

    /// Adopts the postmaster that works in `data_dir`; `None` when there is none. Must be called within a tokio
    /// runtime.
    pub fn adopt(data_dir: &Path) -> Result<Option<Self>, ProcessError> {
        let Some(file) = datadir::live_postmaster(data_dir)? else { return Ok(None) };
        let handle = match Self::open(file.pid) {
            Ok(handle) => handle,
            Err(ProcessError::System { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(error) => return Err(error),
        };
        // The pid may have passed to another process before the pidfd was opened; from now on it cannot.
        let dir = DirId::of(data_dir).map_err(FsError::at("examine", data_dir))?;
        Ok((!handle.has_exited()? && procfs::works_in(handle.pid, dir)).then_some(handle))
    }

    fn open(pid: i32) -> Result<Self, ProcessError> {
        let system = |op| move |source| ProcessError::System { op, pid, source };
        let fd = pidfd_open(pid).map_err(system("pidfd_open"))?;
        let stat = procfs::stat(pid).map_err(system("read the state"))?;
        let pidfd = watch(fd).map_err(system("watch"))?;
        Ok(Self { pid, start_ticks: stat.map_or(0, |stat| stat.start_ticks), pidfd })
    }

    /// Its process id.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Its start in clock ticks since boot: with the pid it names this process for good.
    #[must_use]
    pub const fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// Completes as soon as the postmaster has ended (its children may live a little longer), and reaps it if it is
    /// our child. May be awaited again and by several tasks; only one of them learns the status.
    pub async fn exited(&self) -> Result<Exit, ProcessError> {
        loop {
            let system = |source| ProcessError::System { op: "watch", pid: self.pid, source };
            let mut ready = self.pidfd.readable().await.map_err(system)?;
            if self.has_exited()? {
                return Ok(self.reap());
            }
            ready.clear_ready();
        }
    }

    /// Whether it has ended, without waiting.
    pub fn has_exited(&self) -> Result<bool, ProcessError> {
        let mut fds = [PollFd::new(self.pidfd.get_ref().as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::ZERO) {
                Ok(count) => return Ok(count > 0),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => {
                    return Err(ProcessError::System { op: "poll the pidfd", pid: self.pid, source: errno.into() });
                }
            }
        }
    }

    fn reap(&self) -> Exit {
        match waitid(Id::PIDFd(self.pidfd.get_ref().as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG) {
            Ok(WaitStatus::Exited(_, code)) => Exit::Code(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => Exit::Signal(signal as i32),
            // Not our child, or already reaped.
            _ => Exit::Unknown,
        }
    }

    /// Sends a signal to this very process, never to a later one with the same pid. A process that has ended is no
    /// error.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        match pidfd_send_signal(self.pidfd.get_ref().as_fd(), signal) {
            Ok(()) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            Err(source) => Err(ProcessError::System { op: "send a signal", pid: self.pid, source }),
        }
    }

    /// Asks it to stop and waits up to `limit` for its end; `None` when it still runs then.
    pub async fn stop(&self, mode: StopMode, limit: Duration) -> Result<Option<Exit>, ProcessError> {
        self.signal(mode.signal())?;
        match tokio::time::timeout(limit, self.exited()).await {
            Ok(exit) => exit.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// What the title of its walreceiver says: `None` without one, else how far it has flushed, if it streams.
    pub fn receiver(&self) -> Result<Option<Option<Lsn>>, ProcessError> {
        let Some(pid) = self.walreceivers()?.into_iter().next() else { return Ok(None) };
        let title = procfs::title(pid).map_err(|source| ProcessError::System { op: "read the title", pid, source })?;
        Ok(title.map(|title| procfs::streaming_in_title(&title)))
    }

    /// Its children that are walreceivers, starting ones included. Reads `/proc` only (well under a millisecond).
    pub fn walreceivers(&self) -> Result<Vec<i32>, ProcessError> {
        walreceivers_of(self.pid)
    }
}

/// The children of postmaster `pid` that are walreceivers. Empty when the postmaster is gone.
///
/// The kernel's list of children may leave one out while another one ends. So an empty answer is given only when two
/// readings are equal, or else after a whole pass over `/proc`, which leaves out none that lives throughout.
pub fn walreceivers_of(pid: i32) -> Result<Vec<i32>, ProcessError> {
    let system = |source| ProcessError::System { op: "list the children", pid, source };
    let receivers = |children: &[i32]| -> Result<Vec<i32>, ProcessError> {
        let mut found = Vec::new();
        for child in children {
            let title = procfs::title(*child).map_err(system)?;
            if title.is_some_and(|title| procfs::is_walreceiver_title(&title)) {
                found.push(*child);
            }
        }
        Ok(found)
    };
    let children = procfs::children_of(pid).map_err(system)?;
    let found = receivers(&children)?;
    if !found.is_empty() || procfs::children_of(pid).map_err(system)? == children {
        return Ok(found);
    }
    receivers(&procfs::children_by_parent(pid).map_err(system)?)
}

/// How large the server's log may grow when nothing else is said.
pub const LOG_BYTES: u64 = 16 << 20;

/// Cuts the log down when it has grown beyond `max_bytes`: its content moves to `….1` (replacing that one) and the
/// file starts anew. The server keeps writing to the same open file, which appends, so nothing needs restarting; lines
/// written during the copy may be lost. Returns whether it was cut.
pub fn bound_log(log: &Path, max_bytes: u64) -> Result<bool, FsError> {
    let size = match fs::metadata(log) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(FsError::at("examine", log)(error)),
    };
    if size <= max_bytes {
        return Ok(false);
    }
    fs::copy(log, older(log)).map_err(FsError::at("copy", log))?;
    let file = OpenOptions::new().write(true).open(log).map_err(FsError::at("open", log))?;
    file.set_len(0).map_err(FsError::at("truncate", log))?;
    Ok(true)
}

fn older(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn open_log(log: &Path, max_bytes: u64) -> Result<File, FsError> {
    if let Some(dir) = log.parent() {
        create_dir_private(dir)?;
    }
    bound_log(log, if max_bytes == 0 { LOG_BYTES } else { max_bytes })?;
    OpenOptions::new().append(true).create(true).mode(0o600).open(log).map_err(FsError::at("open", log))
}

#[allow(unsafe_code, reason = "registering a descriptor demands a promise about its life")]
fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the AsyncFd from here on, and nobody closes or replaces it before that drops.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

#[allow(unsafe_code, reason = "std offers no safe way to start a child in a session of its own, nor in a cgroup")]
fn detach(command: &mut Command, group: Option<File>) {
    // SAFETY: the closure runs between fork and exec and only makes two async-signal-safe system calls.
    unsafe {
        command.pre_exec(move || {
            if let Some(group) = &group {
                // 0: whoever writes it. One that stays outside is still found by its directory.
                let _ = nix::unistd::write(group, b"0");
            }
            nix::unistd::setsid().map(drop).map_err(io::Error::from)
        });
    }
}

#[allow(unsafe_code, reason = "neither std nor nix wraps pidfd_open")]
fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor (with close-on-exec) or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: the kernel has just handed us this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[allow(unsafe_code, reason = "neither std nor nix wraps pidfd_send_signal")]
fn pidfd_send_signal(fd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is borrowed and thus open; a null siginfo is allowed and means "as kill does".
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd.as_raw_fd(), signal as i32, no_info, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_child_is_noticed_and_its_status_known() {
        let mut command = Command::new("sh");
        command.args(["-c", "read x; exit 3"]).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let handle = Postmaster::open(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(!handle.has_exited().unwrap());
        drop(child.stdin.take());
        let exit = tokio::time::timeout(Duration::from_secs(60), handle.exited()).await.unwrap().unwrap();
        assert_eq!(exit, Exit::Code(3));
        assert!(child.wait().is_err(), "it was reaped already");
        assert_eq!(handle.exited().await.unwrap(), Exit::Unknown);
        handle.signal(Signal::SIGKILL).unwrap();
    }

    #[test]
    fn a_log_is_cut_only_beyond_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert!(!bound_log(&log, 4).unwrap());
        fs::write(&log, "12345").unwrap();
        assert!(!bound_log(&log, 5).unwrap());
        assert!(bound_log(&log, 4).unwrap());
        assert_eq!((fs::metadata(&log).unwrap().len(), fs::read(older(&log)).unwrap()), (0, b"12345".to_vec()));
    }
}
