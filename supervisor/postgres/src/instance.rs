//! The narrow face over one PostgreSQL instance: initdb, start, promote, reload, stop.
//!
//! Starting obeys history A13: `standby.signal` is there whenever we are not ourselves starting a primary, so that
//! whoever else starts the server gets a standby that serves no writes.

use crate::{
    control_file::{ControlFile, ControlFileError},
    datadir::{Content, DataDirError, PidFile, PostmasterStatus, content},
    fsio::{FsError, Written, create_dir_private, remove_durable, write_atomic},
    history_files::{self, HistoryError},
    kill::{KillError, Killed, kill_all_async},
    layout::Layout,
    link::{Endpoint, Link, QueryError, parse},
    process::{Exit, Postmaster, ProcessError, SpawnOptions, StopMode},
    stale_locks::SocketPlace,
    tool::{self, OnLine, ToolError},
    version::Binaries,
};
use nix::{
    sys::{
        signal::Signal,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use pgvigil_core::{id::TimelineId, lsn::Lsn};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// One instance: where it lies, which programs run it, how it is reached.
#[derive(Clone, Debug)]
pub struct Instance {
    /// PostgreSQL's programs.
    pub binaries: Binaries,
    /// Its directories.
    pub layout: Layout,
    /// Its socket, and the superuser.
    pub endpoint: Endpoint,
    /// A cgroup that holds nothing but this server's processes, where one is used.
    pub cgroup: Option<PathBuf>,
}

/// An act on the instance failed.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// About its process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// About a file.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// About its data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// About its control file.
    #[error(transparent)]
    Control(#[from] ControlFileError),
    /// About killing it.
    #[error(transparent)]
    Kill(#[from] KillError),
    /// A statement failed.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// A program failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A history file failed.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The directory for a new cluster holds something already.
    #[error("{} is not empty ({content:?})", data_dir.display())]
    NotEmpty {
        /// The directory.
        data_dir: PathBuf,
        /// What it holds.
        content: Content,
    },
    /// The postmaster ended while it was being waited for.
    #[error("PostgreSQL ended while starting ({exit:?}); its log ends: {log}")]
    Died {
        /// How.
        exit: Exit,
        /// The last lines of its log.
        log: String,
    },
    /// A wait ran out; the server is left as it is.
    #[error("{what} did not happen within {limit:?}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// PostgreSQL took another timeline than the one that was allotted. The door must stay closed (history A7).
    #[error("promoted to timeline {taken}, but {allotted} was allotted")]
    WrongTimeline {
        /// The allotted one.
        allotted: TimelineId,
        /// The one that PostgreSQL took.
        taken: TimelineId,
    },
    /// The new timeline's history file does not end with a fork.
    #[error("the history of timeline {0} names no ancestor")]
    NoFork(TimelineId),
}

/// In which role a server is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAs {
    /// In recovery, following its upstream or nobody.
    Standby,
    /// Out of recovery: only on the order of a committed appointment.
    Primary,
}

/// How far a start has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Accepts connections as a primary.
    Primary,
    /// Accepts connections as a hot standby.
    Standby,
}

/// A finished promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// The timeline that PostgreSQL took.
    pub timeline: TimelineId,
    /// The fork: where the new timeline leaves its parent. A standby that continues must not have WAL beyond it.
    pub fork: Lsn,
    /// The timeline it left.
    pub parent: TimelineId,
    /// The insert position when the promotion was seen: k of S' past this point closes the older rules.
    pub insert: Lsn,
}

/// Statements of our own during an act.
const STATEMENT: Duration = Duration::from_secs(5);
/// How long SIGKILL may take: only uninterruptible I/O takes longer than milliseconds.
pub const KILL_LIMIT: Duration = Duration::from_secs(20);

impl Instance {
    /// Creates a new cluster in an absent or empty directory: data checksums, UTF-8, locale C.UTF-8, peer and SCRAM
    /// authentication, `standby.signal` in place. Writes no settings of ours. Takes about a second.
    pub async fn initdb(&self, limit: Duration, on_line: OnLine<'_>) -> Result<(), InstanceError> {
        self.initdb_with(&[], limit, on_line).await
    }

    /// As [`initdb`](Self::initdb), with further options of that program, such as `--wal-segsize=64`.
    pub async fn initdb_with(
        &self,
        extra: &[String],
        limit: Duration,
        on_line: OnLine<'_>,
    ) -> Result<(), InstanceError> {
        let held = content(&self.layout.data_dir)?;
        if held != Content::Empty {
            return Err(InstanceError::NotEmpty { data_dir: self.layout.data_dir.clone(), content: held });
        }
        let mut arguments = vec![
            "--pgdata".to_owned(),
            self.layout.data_dir.display().to_string(),
            format!("--username={}", self.endpoint.user),
            "--encoding=UTF8".to_owned(),
            "--locale=C.UTF-8".to_owned(),
            "--auth-local=peer".to_owned(),
            "--auth-host=scram-sha-256".to_owned(),
            self.binaries.version().initdb_checksums_option().to_owned(),
        ];
        arguments.extend_from_slice(extra);
        tool::run(self.binaries.program("initdb"), &arguments, &[], limit, on_line).await?;
        self.write_fence()?;
        Ok(())
    }

    /// Puts `standby.signal` in place, durably: whoever starts the server from now on gets a standby.
    pub fn write_fence(&self) -> Result<Written, FsError> {
        write_fence(&self.layout)
    }

    /// Whether `standby.signal` is in place.
    #[must_use]
    pub fn has_fence(&self) -> bool {
        self.layout.standby_signal().exists()
    }

    /// Starts the server and waits until it accepts connections.
    ///
    /// A standby that is not consistent yet (it waits for WAL) is no failure: it is returned with `None` when `limit`
    /// is over. A primary that is not ready then is an error, and keeps running; either way `standby.signal` is back
    /// in place when this returns or is dropped.
    pub async fn start(
        &self,
        role: StartAs,
        options: &SpawnOptions,
        limit: Duration,
    ) -> Result<(Postmaster, Option<Readiness>), InstanceError> {
        self.start_until(role, options, limit, std::future::pending()).await
    }

    /// As [`start`](Self::start); a standby is left to itself, as when `limit` is over, once `over` completes.
    pub async fn start_until(
        &self,
        role: StartAs,
        options: &SpawnOptions,
        limit: Duration,
        over: impl Future<Output = ()>,
    ) -> Result<(Postmaster, Option<Readiness>), InstanceError> {
        create_dir_private(&self.layout.agent_dir)?;
        if self.layout.recovery_signal().exists() {
            // It would outlast a promotion, and the next start as a primary would ask for a restore_command.
            remove_durable(&self.layout.recovery_signal())?;
        }
        let _put_back = match role {
            StartAs::Standby => {
                self.write_fence()?;
                None
            }
            StartAs::Primary => {
                let put_back = PutBack(&self.layout);
                remove_durable(&self.layout.standby_signal())?;
                Some(put_back)
            }
        };
        let options = self.placed(options.clone());
        let postmaster = Postmaster::spawn(&self.binaries, &self.layout, &options)?;
        let ready = tokio::select! {
            ready = self.wait_ready(&postmaster, limit) => ready,
            () = over, if role == StartAs::Standby => Err(InstanceError::Timeout { what: "readiness", limit }),
        };
        match ready {
            Ok(readiness) => {
                if role == StartAs::Primary {
                    self.write_fence()?;
                }
                Ok((postmaster, Some(readiness)))
            }
            Err(InstanceError::Timeout { .. }) if role == StartAs::Standby => Ok((postmaster, None)),
            Err(error) => Err(error),
        }
    }

    /// The options with the place of this instance's socket and its cgroup.
    pub(crate) fn placed(&self, options: SpawnOptions) -> SpawnOptions {
        let Endpoint { socket_dir, port, .. } = &self.endpoint;
        let ours_alone = *socket_dir == self.layout.agent_dir;
        let socket = Some(SocketPlace { dir: socket_dir.clone(), port: *port, ours_alone });
        SpawnOptions { socket, cgroup: self.cgroup.clone(), ..options }
    }

    /// Waits until the server accepts connections, which its pid file tells; an end of the postmaster is noticed at
    /// once.
    pub async fn wait_ready(&self, postmaster: &Postmaster, limit: Duration) -> Result<Readiness, InstanceError> {
        let deadline = Instant::now() + limit;
        loop {
            let status = match PidFile::read(&self.layout.data_dir) {
                Ok(file) => file.filter(|file| file.pid == postmaster.pid()).and_then(|file| file.status),
                // It is being written: look again.
                Err(DataDirError::PidFile { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            match status {
                Some(PostmasterStatus::Ready) => return Ok(Readiness::Primary),
                Some(PostmasterStatus::Standby) => return Ok(Readiness::Standby),
                Some(PostmasterStatus::Starting | PostmasterStatus::Stopping) | None => {}
            }
            if Instant::now() >= deadline {
                return Err(InstanceError::Timeout { what: "readiness", limit });
            }
            // The pid file is rewritten in place, so there is no event to wait for; a look costs microseconds.
            match tokio::time::timeout(Duration::from_millis(3), postmaster.exited()).await {
                Ok(exit) => return Err(InstanceError::Died { exit: exit?, log: self.log_tail(15) }),
                Err(_) => continue,
            }
        }
    }

    /// Connects to the running server.
    pub async fn connect(&self, purpose: &str, limit: Duration) -> Result<Link, QueryError> {
        Link::connect(&self.endpoint, purpose, "", limit).await
    }

    /// The postmaster that works in the data directory, ours or another agent's.
    pub fn adopt(&self) -> Result<Option<Postmaster>, ProcessError> {
        Postmaster::adopt(&self.layout.data_dir)
    }

    /// Re-reads the configuration files. Returns when the signal is sent; see [`crate::link::fresh_value`] for proof.
    pub fn reload(&self, postmaster: &Postmaster) -> Result<(), ProcessError> {
        postmaster.signal(Signal::SIGHUP)
    }

    /// Asks a standby to promote itself, without waiting: the same file and signal as `pg_promote(false)`, a little
    /// sooner. Repeating it is harmless. The settings of the new reign must be in force before, the allotted timeline
    /// reserved ([`history_files::reserve`]), and the door closed.
    pub fn promote(&self, postmaster: &Postmaster) -> Result<(), InstanceError> {
        let file = self.promote_file();
        // Not durable on purpose: an order to promote must not survive a crash.
        std::fs::write(&file, "").map_err(FsError::at("write", &file))?;
        postmaster.signal(Signal::SIGUSR1)?;
        Ok(())
    }

    /// Where the order to promote lies until the startup process has taken it.
    #[must_use]
    pub fn promote_file(&self) -> PathBuf {
        self.layout.data_dir.join("promote")
    }

    /// Watches a promotion on a warm connection (every millisecond) and reads what came of it. PostgreSQL removes
    /// `standby.signal` when it promotes; the caller puts it back ([`write_fence`](Self::write_fence)) before anything
    /// else counts on the new primary. A timeline other than `allotted` is an error (the server is then a primary with
    /// its door still closed: stop it). Also for a repeat: a server that is promoted already is only asked.
    pub async fn wait_promoted(
        &self,
        link: &Link,
        allotted: Option<TimelineId>,
        limit: Duration,
    ) -> Result<Promoted, InstanceError> {
        let deadline = Instant::now() + limit;
        while link.in_recovery(STATEMENT).await? {
            if Instant::now() >= deadline {
                return Err(InstanceError::Timeout { what: "the promotion", limit });
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.promoted(link, allotted).await
    }

    async fn promoted(&self, link: &Link, allotted: Option<TimelineId>) -> Result<Promoted, InstanceError> {
        const WHAT: &str = "read the new timeline";
        let sql = "SELECT ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint, \
                   pg_current_wal_insert_lsn()";
        let mut rows = link.rows(WHAT, sql, STATEMENT).await?;
        let mut row = rows.pop().unwrap_or_default().into_iter().map(Option::unwrap_or_default);
        let timeline = TimelineId(parse(WHAT, &row.next().unwrap_or_default())?);
        let insert = parse(WHAT, &row.next().unwrap_or_default())?;
        if let Some(allotted) = allotted.filter(|allotted| *allotted != timeline) {
            return Err(InstanceError::WrongTimeline { allotted, taken: timeline });
        }
        let history = history_files::read(&self.layout.pg_wal(), timeline)?;
        let last = history.ancestors.last().ok_or(InstanceError::NoFork(timeline))?;
        Ok(Promoted { timeline, fork: last.end, parent: last.timeline, insert })
    }

    /// Stops the server in good order within `limit`, else kills it. `None`: it had to be killed, so recovery follows
    /// at the next start. In any case nothing of it runs when this returns `Ok`.
    pub async fn stop(&self, mode: StopMode, limit: Duration) -> Result<Option<Exit>, InstanceError> {
        let exit = match self.adopt()? {
            Some(postmaster) => postmaster.stop(mode, limit).await?,
            None => Some(Exit::Unknown),
        };
        // Also after a clean end: children may outlive the postmaster by a moment, and strays may exist without one.
        self.kill().await?;
        Ok(exit)
    }

    /// Stops the server as [`stop`](Self::stop) does and starts it again in `role`. A primary is restarted in place
    /// only where the rules allow it (histories A10 and the crash-restart trap): the door must be closed.
    pub async fn restart(
        &self,
        role: StartAs,
        options: &SpawnOptions,
        limit: Duration,
    ) -> Result<(Postmaster, Option<Readiness>), InstanceError> {
        self.stop(StopMode::Fast, limit).await?;
        self.start(role, options, limit).await
    }

    /// The fence: `standby.signal` first, then every process of the data directory is killed and seen gone.
    pub async fn fence(&self) -> Result<Killed, InstanceError> {
        self.write_fence()?;
        self.kill().await
    }

    /// SIGKILLs every process of the data directory and sees them gone.
    pub async fn kill(&self) -> Result<Killed, InstanceError> {
        let killed = kill_all_async(self.layout.data_dir.clone(), self.cgroup.clone(), KILL_LIMIT).await?;
        for pid in &killed.pids {
            // Our own child would stay a zombie, which PostgreSQL's lock file takes for a living server. One that is
            // not our child, or whose end a handle has already collected, is none of our business.
            let _ = waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG));
        }
        Ok(killed)
    }

    /// The control file, read in a blocking thread.
    pub async fn control_file(&self) -> Result<ControlFile, InstanceError> {
        let (binaries, data_dir) = (self.binaries.clone(), self.layout.data_dir.clone());
        let read = tokio::task::spawn_blocking(move || ControlFile::read(&binaries, &data_dir));
        let joined = read.await.map_err(|error| ControlFileError::Run {
            data_dir: self.layout.data_dir.clone(),
            problem: error.to_string(),
        })?;
        Ok(joined?)
    }

    /// The last lines of the server's log, for errors and incidents.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let bytes = std::fs::read(self.layout.log_file()).unwrap_or_default();
        let from = bytes.len().saturating_sub(16 << 10);
        let text = String::from_utf8_lossy(&bytes[from..]).into_owned();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// Puts `standby.signal` in place, durably.
pub fn write_fence(layout: &Layout) -> Result<Written, FsError> {
    write_atomic(&layout.standby_signal(), b"", 0o600)
}

/// Puts `standby.signal` back when a start as primary ends in any way, also when its future is dropped.
struct PutBack<'a>(&'a Layout);

impl Drop for PutBack<'_> {
    fn drop(&mut self) {
        if let Err(error) = write_fence(self.0) {
            tracing::error!(%error, "standby.signal could not be put back");
        }
    }
}
