//! A demo that is killed must not leave three PostgreSQL servers behind: a helper process, which hears of its end by a
//! pipe, ends whatever still works in the demo's directory.

use crate::cli::Failure;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    io::{Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// What the demo says when it has cleaned up by itself.
const DONE: &[u8] = b"done";
/// What is not dead by then hangs in the kernel.
const WITHIN: Duration = Duration::from_secs(20);
const PACE: Duration = Duration::from_millis(20);

/// The helper, as the demo holds it.
pub(super) struct Outliver {
    child: Child,
}

impl Outliver {
    /// Starts the helper for a demo in `dir`. `remove`: the directory is a temporary one and goes as well.
    pub(super) fn start(dir: &Path, remove: bool) -> Result<Self, Failure> {
        let failed =
            |error: std::io::Error| Failure::Failed(format!("cannot start the demo's helper process: {error}"));
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.arg("demo-end").arg(dir).current_dir("/").process_group(0);
        if remove {
            command.arg("--remove");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { child: command.spawn().map_err(failed)? })
    }

    /// The demo has ended everything itself.
    pub(super) fn dismiss(mut self) {
        if let Some(mut pipe) = self.child.stdin.take() {
            // A helper that is gone has nothing to be told.
            let _gone = pipe.write_all(DONE);
        }
        let _reaped = self.child.wait();
    }
}

/// The helper's own life: waits for the demo's word or its death.
pub fn end(dir: PathBuf, remove: bool) -> Result<(), Failure> {
    let mut said = Vec::new();
    // An error is the pipe's end as well.
    let _broken = std::io::stdin().read_to_end(&mut said);
    if said == DONE {
        return Ok(());
    }
    let limit = Instant::now() + WITHIN;
    while Instant::now() < limit {
        let left = working_in(&dir);
        if left.is_empty() {
            break;
        }
        for pid in left {
            // Gone meanwhile is as good.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(PACE);
    }
    if remove {
        fs::remove_dir_all(&dir).map_err(|error| Failure::Failed(format!("{}: {error}", dir.display())))?;
    }
    Ok(())
}

/// The processes whose working directory lies in `dir`: pgvigil, its guard, PostgreSQL and its programs all work there.
fn working_in(dir: &Path) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // Zombies have none; processes come and go while we look.
        if fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir)) {
            found.push(pid);
        }
    }
    found
}
