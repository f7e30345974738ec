//! Takes back what a suite that was killed could not: its folder, and a disk that was frozen at that moment.
//!
//! Processes, networks and mounts of a run end with its namespaces (on loopback, its processes are ended here). A frozen file system does not: it keeps its loop
//! device until somebody thaws it, which works by mounting the device once more.

use std::fs;
use std::path::{Path, PathBuf};

use super::{HostError, RunDir, tool};
use crate::processes;

/// Something that an earlier run had left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Its folder.
    pub dir: PathBuf,
    /// What could not be removed, and why; empty: all is gone.
    pub remains: Vec<String>,
}

/// Removes what dead suites have left below `base`. Folders of suites that live are not touched.
pub fn sweep(base: &Path) -> Result<Vec<Left>, HostError> {
    let mut found = Vec::new();
    for dir in RunDir::all(base) {
        // Another user's, or one that is being removed by another suite right now.
        let Ok(Some(orphan)) = RunDir::orphan(&dir) else { continue };
        found.push(Left { remains: clear(orphan.path()), dir });
    }
    Ok(found)
}

/// Ends every process in `dir`, thaws and detaches every loop device whose file is in `dir`, then removes `dir`; says what did not work.
pub(super) fn clear(dir: &Path) -> Vec<String> {
    let mut remains = Vec::new();
    if let Err(error) = processes::kill_host(dir) {
        remains.push(error.to_string());
    }
    for device in loops_of(dir) {
        if let Err(error) = release(&device, dir) {
            remains.push(format!("{}: {error}", device.display()));
        }
    }
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        remains.push(format!("{}: {error}", dir.display()));
    }
    remains
}

/// The loop devices whose file is in `dir`.
pub(super) fn loops_of(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let Ok(file) = fs::read_to_string(entry.path().join("loop/backing_file")) else { continue };
        let file = file.trim_end().trim_end_matches(" (deleted)");
        if Path::new(file).starts_with(dir) {
            found.push(Path::new("/dev").join(entry.file_name()));
        }
    }
    found
}

fn release(device: &Path, dir: &Path) -> Result<(), HostError> {
    let at = dir.join("thaw");
    fs::create_dir_all(&at).map_err(HostError::io("making a folder to mount at"))?;
    let (device, at) = (device.to_string_lossy(), at.to_string_lossy());
    // In a mount namespace of this command's own, so that nothing is mounted where others see it.
    let script = "mount \"$0\" \"$1\" && { fsfreeze -u \"$1\"; umount \"$1\"; }";
    let thawed = tool("unshare", &["--mount", "sh", "-c", script, &device, &at], None);
    // It detaches itself with its last mount; asked for as well, for one whose file system was already gone.
    match (tool("losetup", &["--detach", &device], None), thawed) {
        (Ok(_), _) | (_, Ok(_)) => Ok(()),
        (Err(error), Err(_)) => Err(error),
    }
}
