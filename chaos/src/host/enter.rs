//! Into namespaces of the run's own.
//!
//! Three processes of this program: the first stays outside, passes signals on and cleans up; the second is process 1
//! of a new process namespace and only reaps orphans, as an init must; the third does the work. When any of the first
//! two dies, the kernel kills everything inside, whatever it is.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, Uid};

use super::rundir::RunDir;
use super::{HostError, janitor, tool};
use crate::interrupt;
use crate::processes;

/// Set for the second and third process: which of the two it is, and the run's folder.
const STAGE: &str = "PGVIGIL_CHAOS_STAGE";
const DIR: &str = "PGVIGIL_CHAOS_DIR";
/// How often the outer processes look at the inner ones.
const PACE: Duration = Duration::from_millis(20);

/// What this process is.
#[derive(Debug)]
pub enum Entered {
    /// The one that does the work, in the run's folder.
    Inside(Ground),
    /// One of the others; the run is over and this is its exit code.
    Over(ExitCode),
}

/// What a cluster can stand on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ground {
    /// Hosts with networks and disks of their own, below this folder.
    Hosts(PathBuf),
    /// This machine's loopback, below this folder.
    Loopback(PathBuf),
}

impl Ground {
    /// The run's folder.
    pub fn dir(&self) -> &Path {
        match self {
            Ground::Hosts(dir) | Ground::Loopback(dir) => dir,
        }
    }
}

/// Something that hosts of their own need and that is not here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(pub String);

/// What is missing here for hosts of their own; empty: nothing.
pub fn missing() -> Vec<Missing> {
    if std::env::var_os(STAGE).is_some() {
        return Vec::new();
    }
    let mut missing = Vec::new();
    if !Uid::effective().is_root() {
        missing.push(Missing("root's rights (namespaces, loop devices)".to_owned()));
    }
    let programs = [
        ("ip", "iproute2"),
        ("nft", "nftables"),
        ("mkfs.ext4", "e2fsprogs"),
        ("mount", "mount"),
        ("losetup", "mount"),
        ("fsfreeze", "util-linux"),
        ("unshare", "util-linux"),
        ("cc", "build-essential"),
    ];
    for (program, package) in programs {
        if super::tool::find(program).is_none() {
            missing.push(Missing(format!("the program {program} (Debian: apt-get install {package})")));
        }
    }
    if missing.is_empty()
        && let Err(error) = tool("unshare", &["--mount", "--net", "--pid", "--fork", "true"], None)
    {
        missing.push(Missing(format!("the permission to make namespaces ({error})")));
    }
    missing
}

/// Goes inside. The program is started anew there with the same arguments and comes to this same call; everything
/// before it must be the same each time and start nothing.
///
/// `base` is where the run's folder is made. `hosts`: whether in namespaces, or only in a folder.
pub fn enter(base: &Path, hosts: bool) -> Result<Entered, HostError> {
    match std::env::var(STAGE).as_deref() {
        Ok("init") => reap(),
        Ok(_) => Ok(Entered::Inside(Ground::Hosts(PathBuf::from(std::env::var_os(DIR).unwrap_or_default())))),
        Err(_) => outside(base, hosts),
    }
}

fn outside(base: &Path, hosts: bool) -> Result<Entered, HostError> {
    for left in janitor::sweep(base)? {
        match left.remains.is_empty() {
            true => eprintln!("removed what a killed run had left: {}", left.dir.display()),
            false => eprintln!("a killed run has left {}: {}", left.dir.display(), left.remains.join("; ")),
        }
    }
    let dir = RunDir::create(base)?;
    open_to_all(dir.path())?;
    if !hosts {
        let ground = Ground::Loopback(dir.path().to_owned());
        // Held until the process ends; the next run's janitor, or the caller, removes the folder.
        std::mem::forget(dir);
        return Ok(Entered::Inside(ground));
    }
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID)
        .map_err(HostError::kernel("making namespaces"))?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(HostError::kernel("making mounts private"))?;
    let status = pass_on(again("init", dir.path())?)?;
    let remains = janitor::clear(dir.path());
    if !remains.is_empty() {
        eprintln!("not everything could be removed: {}", remains.join("; "));
    }
    Ok(Entered::Over(code(status)))
}

/// Process 1: mounts a `/proc` that shows the new processes, starts the worker and reaps until that one has ended.
fn reap() -> Result<Entered, HostError> {
    die_with_parent()?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>)
        .map_err(HostError::kernel("mounting /proc"))?;
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap_or_default());
    let worker = Pid::from_raw(again("work", &dir)?.id() as i32);
    let mut told = false;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == worker => {
                return Ok(Entered::Over(ExitCode::from(code as u8)));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == worker => {
                eprintln!("the run was ended by {signal}");
                return Ok(Entered::Over(ExitCode::FAILURE));
            }
            Ok(WaitStatus::StillAlive) => std::thread::sleep(PACE),
            Ok(_) => {}
            Err(source) => return Err(HostError::Kernel { what: "waiting for the run", source }),
        }
        if interrupt::check().is_err() && !told {
            told = true;
            let _gone = processes::send(worker.as_raw(), Signal::SIGTERM);
        }
    }
}

/// Waits for process 1, passing an interrupt on.
fn pass_on(mut init: std::process::Child) -> Result<ExitStatus, HostError> {
    let mut told = false;
    loop {
        if let Some(status) = init.try_wait().map_err(HostError::io("waiting for the run"))? {
            return Ok(status);
        }
        if interrupt::check().is_err() && !told {
            told = true;
            let _gone = processes::send(init.id() as i32, Signal::SIGTERM);
        }
        std::thread::sleep(PACE);
    }
}

/// This program once more, with the same arguments.
fn again(stage: &str, dir: &Path) -> Result<std::process::Child, HostError> {
    let own = std::env::current_exe().map_err(HostError::io("finding this program"))?;
    Command::new(own)
        .args(std::env::args_os().skip(1))
        .env(STAGE, stage)
        .env(DIR, dir)
        .spawn()
        .map_err(HostError::io("starting this program once more"))
}

/// The kernel kills this process when the one that started it is gone.
fn die_with_parent() -> Result<(), HostError> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(HostError::kernel("tying this process to its parent"))
}

fn code(status: ExitStatus) -> ExitCode {
    ExitCode::from(status.code().map_or(1, |code| code as u8))
}

/// The servers run as another user and must get to their folders.
fn open_to_all(dir: &Path) -> Result<(), HostError> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).map_err(HostError::io("opening a folder"))
}
