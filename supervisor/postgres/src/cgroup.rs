//! A cgroup (version 2) of PostgreSQL's own, below the one that was delegated to pgvigil: nothing that a server starts can
//! leave it, whatever directory it works in, and `cgroup.kill` ends all of it in one act.

use crate::fsio::FsError;
use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
};

/// The cgroup of this process, where cgroups of version 2 are mounted and it is not the machine's root: that one is
/// delegated to nobody.
#[must_use]
pub fn own() -> Option<PathBuf> {
    let read = |path| fs::read_to_string(path).ok();
    parse_own(&read("/proc/self/mounts")?, &read("/proc/self/cgroup")?)
}

fn parse_own(mounts: &str, cgroups: &str) -> Option<PathBuf> {
    let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let root = mount.into_iter().find(|fields| fields.get(2) == Some(&"cgroup2"))?.get(1)?.to_owned();
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // "(deleted)" is no name.
    (!path.is_empty() && !path.contains(' ')).then(|| Path::new(root).join(path))
}

/// Makes `name` below `parent`; also where it is there already. `Err`: `parent` is not delegated to this user.
pub fn below(parent: &Path, name: &str) -> Result<PathBuf, FsError> {
    let dir = parent.join(name);
    ready(&dir)?;
    Ok(dir)
}

/// Sees that a cgroup exists and takes processes from this user.
pub fn ready(dir: &Path) -> Result<(), FsError> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(FsError::at("make the cgroup", dir)(error));
        }
        _ => {}
    }
    let procs = dir.join("cgroup.procs");
    OpenOptions::new().write(true).open(&procs).map(drop).map_err(FsError::at("open", &procs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_found_and_the_root_is_not_ours() {
        let mounts = "tmpfs /run tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n";
        let own = parse_own(mounts, "4:memory:/x\n0::/system.slice/pgvigil.service\n");
        assert_eq!(own, Some(PathBuf::from("/sys/fs/cgroup/system.slice/pgvigil.service")));
        assert_eq!(parse_own(mounts, "0::/\n"), None);
        assert_eq!(parse_own(mounts, "0::/gone.service (deleted)\n"), None);
        assert_eq!(parse_own("tmpfs /run tmpfs rw 0 0\n", "0::/a\n"), None);
    }
}
