//! What lies in a data directory and who uses it: `PG_VERSION` and `postmaster.pid`.

use crate::{
    fsio::{FsError, read_lossy, read_text},
    procfs::{self, DirId},
};
use std::{
    io,
    path::{Path, PathBuf},
};

/// A data directory that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// A file could not be read.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A process could not be examined.
    #[error("cannot examine process {pid} of {}: {source}", data_dir.display())]
    Proc {
        /// The process.
        pid: i32,
        /// The data directory.
        data_dir: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// `PG_VERSION` says something unknown.
    #[error("{} says {text:?}, which is no major version", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its text.
        text: String,
    },
    /// `postmaster.pid` cannot be understood.
    #[error("postmaster.pid line {line}: {problem}")]
    PidFile {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        problem: &'static str,
    },
}

/// What kind of thing a path is, as far as PostgreSQL is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing is there, or an empty directory: a place for initdb or a clone.
    Empty,
    /// A data directory of this major version.
    Cluster {
        /// 14 to 18, or whatever the file says.
        major: u16,
    },
    /// Files, but no `PG_VERSION`: not PostgreSQL's, or a clone that was cut short. Never to be overwritten.
    Foreign,
}

/// Looks at what `data_dir` holds.
pub fn content(data_dir: &Path) -> Result<Content, DataDirError> {
    if let Some(major) = major_version(data_dir)? {
        return Ok(Content::Cluster { major });
    }
    match std::fs::read_dir(data_dir) {
        Ok(mut entries) => Ok(if entries.next().is_none() { Content::Empty } else { Content::Foreign }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Content::Empty),
        Err(error) => Err(FsError::at("list", data_dir)(error).into()),
    }
}

/// The major version in `PG_VERSION`; `None` when there is no such file.
pub fn major_version(data_dir: &Path) -> Result<Option<u16>, DataDirError> {
    let path = data_dir.join("PG_VERSION");
    let Some(text) = read_text(&path)? else { return Ok(None) };
    match text.trim().parse() {
        Ok(major) => Ok(Some(major)),
        Err(_) => Err(DataDirError::Version { path, text }),
    }
}

/// The postmaster's status, the last line of its pid file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostmasterStatus {
    /// "starting": not yet consistent.
    Starting,
    /// "stopping".
    Stopping,
    /// "ready": accepts connections as a primary.
    Ready,
    /// "standby": accepts connections as a hot standby.
    Standby,
}

/// The content of `postmaster.pid`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PidFile {
    /// The postmaster's pid (PostgreSQL writes a negative one for a single-user server).
    pub pid: i32,
    /// Started with `--single`.
    pub single_user: bool,
    /// The data directory as PostgreSQL knows it.
    pub data_dir: PathBuf,
    /// Start time, wall clock, seconds since 1970.
    pub start_time: i64,
    /// The TCP port. Missing in a file that is still being written.
    pub port: Option<u16>,
    /// The first Unix socket directory.
    pub socket_dir: Option<PathBuf>,
    /// The status line.
    pub status: Option<PostmasterStatus>,
}

impl PidFile {
    /// Reads `postmaster.pid`; `None` when there is none.
    pub fn read(data_dir: &Path) -> Result<Option<Self>, DataDirError> {
        // PostgreSQL creates the file empty and writes it right after; a crash between leaves it so.
        match Self::read_any(data_dir)? {
            Some(Err(DataDirError::PidFile { line: 0, .. })) | None => Ok(None),
            Some(read) => read.map(Some),
        }
    }

    /// As [`read`](Self::read); the inner error says why a file that is there cannot be understood (line 0: it is empty).
    pub fn read_any(data_dir: &Path) -> Result<Option<Result<Self, DataDirError>>, FsError> {
        let Some(text) = read_lossy(&data_dir.join("postmaster.pid"))? else { return Ok(None) };
        Ok(Some(match text.trim().is_empty() {
            true => Err(DataDirError::PidFile { line: 0, problem: "the file is empty" }),
            false => Self::parse(&text),
        }))
    }

    /// Parses its text. Later lines appear as the server starts, so only the first three are required.
    pub fn parse(text: &str) -> Result<Self, DataDirError> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let refuse = |line, problem| DataDirError::PidFile { line, problem };
        let line = |index: usize| lines.get(index).copied().filter(|text| !text.is_empty());
        let pid: i32 = line(0).and_then(|text| text.parse().ok()).ok_or_else(|| refuse(1, "expected a pid"))?;
        let status = match line(7) {
            None => None,
            Some("starting") => Some(PostmasterStatus::Starting),
            Some("stopping") => Some(PostmasterStatus::Stopping),
            Some("ready") => Some(PostmasterStatus::Ready),
            Some("standby") => Some(PostmasterStatus::Standby),
            Some(_) => return Err(refuse(8, "unknown status")),
        };
        Ok(Self {
            pid: pid.checked_abs().ok_or_else(|| refuse(1, "expected a pid"))?,
            single_user: pid < 0,
            data_dir: line(1).map(PathBuf::from).ok_or_else(|| refuse(2, "expected the data directory"))?,
            start_time: line(2)
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| refuse(3, "expected the start time in seconds"))?,
            port: match line(3) {
                None => None,
                Some(text) => Some(text.parse().map_err(|_| refuse(4, "expected a port"))?),
            },
            socket_dir: line(4).map(PathBuf::from),
            status,
        })
    }
}

/// The living postmaster of `data_dir`; `None` when there is none. `postmaster.pid` names it; where that file is absent,
/// cannot be understood or is stale (the pid is gone, a zombie, or no PostgreSQL working in this directory), it is looked
/// for among the processes: a damaged file is no proof that nothing runs.
pub fn live_postmaster(data_dir: &Path) -> Result<Option<PidFile>, DataDirError> {
    let file = PidFile::read_any(data_dir)?.and_then(Result::ok);
    let proc_error = |pid| move |source| DataDirError::Proc { pid, data_dir: data_dir.to_owned(), source };
    let dir = match DirId::of(data_dir) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(proc_error(0)(error)),
    };
    if let Some(file) = file {
        let alive = procfs::is_alive(file.pid).map_err(proc_error(file.pid))?;
        if alive && procfs::works_in(file.pid, dir) {
            return Ok(Some(file));
        }
    }
    let found = procfs::postmaster_in(dir).map_err(proc_error(0))?;
    Ok(found.map(|pid| PidFile {
        pid,
        single_user: false,
        data_dir: data_dir.to_owned(),
        start_time: 0,
        port: None,
        socket_dir: None,
        status: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pid_file_of_version_15_is_understood() {
        let file = PidFile::parse(include_str!("../tests/fixtures/postmaster_15.pid")).unwrap();
        assert_eq!((file.pid, file.port, file.status), (18305, Some(5432), Some(PostmasterStatus::Ready)));
        assert!(!file.single_user && file.socket_dir.is_some());
    }

    #[test]
    fn a_file_still_being_written_is_understood_and_rubbish_is_not() {
        let file = PidFile::parse("12\n/d\n1700000000\n").unwrap();
        assert_eq!((file.pid, file.port, file.status), (12, None, None));
        assert!(PidFile::parse("-12\n/d\n1700000000\n5432\n").unwrap().single_user);
        for text in ["x\n/d\n1\n", "1\n\n1\n", "1\n/d\nx\n", "1\n/d\n1\nport\n", "1\n/d\n1\n1\n\n\n\nodd\n"] {
            assert!(PidFile::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_pid_file_that_names_someone_else_is_stale() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("postmaster.pid"), format!("{}\n/d\n1\n", std::process::id())).unwrap();
        assert!(live_postmaster(dir.path()).unwrap().is_none());
    }

    #[test]
    fn content_tells_nothing_from_something_foreign() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(content(&dir.path().join("absent")).unwrap(), Content::Empty);
        assert_eq!(content(dir.path()).unwrap(), Content::Empty);
        std::fs::write(dir.path().join("x"), "").unwrap();
        assert_eq!(content(dir.path()).unwrap(), Content::Foreign);
        std::fs::write(dir.path().join("PG_VERSION"), "15\n").unwrap();
        assert_eq!(content(dir.path()).unwrap(), Content::Cluster { major: 15 });
    }
}
