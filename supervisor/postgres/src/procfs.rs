//! Reading `/proc`: who works in a data directory, whose child is whose, and what PostgreSQL calls itself.
//!
//! Parentage alone does not find every process of a server (orphans reparent to init) and process groups do not
//! either (each PostgreSQL child calls `setsid`), so membership is decided by the working directory (history A12).

use pgvigil_core::lsn::Lsn;
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What `/proc/<pid>/stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcStat {
    /// The parent; 1 or a subreaper for an orphan.
    pub ppid: i32,
    /// One letter: R, S, D, T (stopped), Z (zombie), X (dead).
    pub state: char,
    /// Start time in clock ticks since boot: with the pid it names a process for good.
    pub start_ticks: u64,
}

impl ProcStat {
    /// Zombies and dead processes run no instruction any more: they serve nobody and hold no file.
    #[must_use]
    pub const fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// Reads a process' state; `None` when there is no such process.
pub fn stat(pid: i32) -> io::Result<Option<ProcStat>> {
    let Some(text) = gone_is_none(fs::read(format!("/proc/{pid}/stat")))? else { return Ok(None) };
    let text = String::from_utf8_lossy(&text);
    parse_stat(&text)
        .map(Some)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat says {text:?}")))
}

/// Whether a process with this pid runs (a zombie does not).
pub fn is_alive(pid: i32) -> io::Result<bool> {
    Ok(stat(pid)?.is_some_and(|stat| stat.is_alive()))
}

fn parse_stat(text: &str) -> Option<ProcStat> {
    // The second field is the command in parentheses, which may itself contain spaces and parentheses.
    let rest = &text[text.rfind(')')? + 1..];
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(ProcStat {
        state: fields.first()?.chars().next()?,
        ppid: fields.get(1)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

/// The command line as one text, blanks between arguments; PostgreSQL's children overwrite it with their title.
/// `None` when the process is gone or a zombie.
pub fn title(pid: i32) -> io::Result<Option<String>> {
    let Some(mut bytes) = gone_is_none(fs::read(format!("/proc/{pid}/cmdline")))? else { return Ok(None) };
    for byte in &mut bytes {
        if *byte == 0 {
            *byte = b' ';
        }
    }
    let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
    Ok(if text.is_empty() { None } else { Some(text) })
}

/// Which directory this is, whatever path leads to it: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DirId {
    dev: u64,
    ino: u64,
}

impl DirId {
    /// Identifies an existing directory.
    pub fn of(dir: &Path) -> io::Result<Self> {
        fs::metadata(dir).map(|meta| Self { dev: meta.dev(), ino: meta.ino() })
    }
}

/// Whether `pid` is a living PostgreSQL process that works in `dir`.
///
/// A process that may not be examined belongs to another user and is not ours: PostgreSQL runs only as the owner of
/// its data directory.
#[must_use]
pub fn works_in(pid: i32, dir: DirId) -> bool {
    DirId::of(Path::new(&format!("/proc/{pid}/cwd"))).is_ok_and(|cwd| cwd == dir)
        && is_postgres(pid)
        && is_alive(pid).unwrap_or(true)
}

/// Every living PostgreSQL process that works in `dir`. One pass over `/proc`; a pass can miss a process that was
/// forked meanwhile, so callers repeat it.
pub fn postgres_in(dir: DirId) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if works_in(pid, dir) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Every living PostgreSQL process whose directory was `dir` and has been removed.
pub fn postgres_in_removed(dir: &Path) -> io::Result<Vec<i32>> {
    let mut removed = dir.as_os_str().to_owned();
    if let (Some(parent), Some(name)) = (dir.parent().and_then(|parent| parent.canonicalize().ok()), dir.file_name()) {
        removed = parent.join(name).into_os_string();
    }
    removed.push(" (deleted)");
    let works_there = |pid: i32| {
        fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.as_os_str() == removed)
            && is_postgres(pid)
            && is_alive(pid).unwrap_or(true)
    };
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    Ok(pids.filter(|pid| works_there(*pid)).collect())
}

/// The postmaster among the living PostgreSQL processes of `dir`, found without its lock file: the one whose title is
/// that of no child and whose parent is no PostgreSQL of the directory. `None` when there is none, or only orphans.
pub fn postmaster_in(dir: DirId) -> io::Result<Option<i32>> {
    let pids = postgres_in(dir)?;
    for pid in &pids {
        let other = title(*pid)?.is_none_or(|title| {
            title.starts_with("postgres: ")
                || [" --single", " --boot", " --check"].iter().any(|mode| title.contains(mode))
        });
        if !other && stat(*pid)?.is_some_and(|stat| !pids.contains(&stat.ppid)) {
            return Ok(Some(*pid));
        }
    }
    Ok(None)
}

/// Whether this is a PostgreSQL process, of whatever directory.
#[must_use]
pub fn is_postgres(pid: i32) -> bool {
    // An upgraded package leaves "postgres (deleted)".
    let by_exe = fs::read_link(format!("/proc/{pid}/exe"))
        .is_ok_and(|exe| exe.file_name().is_some_and(|name| name.to_string_lossy().starts_with("postgres")));
    by_exe
        || title(pid).ok().flatten().is_some_and(|title| {
            let first = title.split(' ').next().unwrap_or_default();
            let name = Path::new(first).file_name().unwrap_or_default().to_string_lossy();
            first == "postgres:" || name == "postgres" || name == "postmaster"
        })
}

/// The living children of `pid`. Uses the kernel's list where there is one (microseconds), else a pass over `/proc`.
/// The kernel's list may leave out a child while another one ends.
pub fn children_of(pid: i32) -> io::Result<Vec<i32>> {
    if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
        return Ok(text.split_whitespace().filter_map(|word| word.parse().ok()).collect());
    }
    children_by_parent(pid)
}

/// The living children of `pid`, by one pass over all of `/proc`: slower (a millisecond or few), and it leaves out
/// none that lives throughout.
pub fn children_by_parent(pid: i32) -> io::Result<Vec<i32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if stat(child).ok().flatten().is_some_and(|stat| stat.ppid == pid) {
            children.push(child);
        }
    }
    Ok(children)
}

/// Whether a process title is that of a walreceiver: `postgres: [cluster_name: ]walreceiver[ streaming X/X]`.
///
/// The title is set before the walreceiver reads its connection settings, so a starting one is seen too. A client
/// backend of a role called `walreceiver` is taken for one as well; it is merely terminated needlessly.
#[must_use]
pub fn is_walreceiver_title(title: &str) -> bool {
    let names_it = |text: &str| text == "walreceiver" || text.starts_with("walreceiver ");
    title.strip_prefix("postgres: ").is_some_and(|rest| {
        names_it(rest) || rest.match_indices(": ").any(|(at, separator)| names_it(&rest[at + separator.len()..]))
    })
}

/// How far a walreceiver has flushed, if its title says that it streams.
#[must_use]
pub fn streaming_in_title(title: &str) -> Option<Lsn> {
    title.rsplit_once("walreceiver streaming ")?.1.trim().parse().ok()
}

/// The members of a cgroup (version 2) and of the groups below it.
pub fn cgroup_members(cgroup: &Path) -> io::Result<Vec<i32>> {
    let mut members = Vec::new();
    let mut groups: Vec<PathBuf> = vec![cgroup.to_owned()];
    while let Some(group) = groups.pop() {
        let text = fs::read_to_string(group.join("cgroup.procs"))?;
        members.extend(text.split_whitespace().filter_map(|word| word.parse::<i32>().ok()));
        for entry in fs::read_dir(&group)?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                groups.push(entry.path());
            }
        }
    }
    Ok(members)
}

fn gone_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        // Reading a file of a process that has just gone fails with ESRCH, opening it with ENOENT.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_does_not_confuse_the_state() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1 2 3";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.ppid, stat.state, stat.start_ticks), (7, 'S', 98765));
        assert!(!parse_stat("42 (x) Z 7 42 42 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 9").unwrap().is_alive());
    }

    #[test]
    fn this_process_is_alive_and_no_postgres() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(is_alive(me).unwrap());
        assert!(!works_in(me, DirId::of(&std::env::current_dir().unwrap()).unwrap()));
        assert!(stat(i32::MAX).unwrap().is_none() && title(i32::MAX).unwrap().is_none());
    }

    #[test]
    fn a_walreceivers_title_says_how_far_it_has_flushed() {
        assert_eq!(streaming_in_title("postgres: main: walreceiver streaming 0/3000148"), Some(Lsn(0x300_0148)));
        for title in ["postgres: walreceiver", "postgres: walreceiver ", "postgres: walsender streaming 0/3000148"] {
            assert_eq!(streaming_in_title(title), None, "{title}");
        }
    }

    #[test]
    fn walreceivers_are_known_by_their_title() {
        for title in
            ["postgres: walreceiver", "postgres: main: walreceiver streaming 0/3000148", "postgres: a: b: walreceiver"]
        {
            assert!(is_walreceiver_title(title), "{title}");
        }
        for title in ["postgres: walwriter", "postgres: startup recovering 000000010000000000000003", "vi walreceiver"]
        {
            assert!(!is_walreceiver_title(title), "{title}");
        }
    }
}
