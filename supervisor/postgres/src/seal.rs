//! The seal: from some moment on this member receives no WAL and acknowledges none, and says where its WAL ends.
//!
//! The order matters (history A5); the caller has written and fsynced the promise itself before:
//!
//! 1. On disk, fsynced: the pass file is empty, `standby.signal` is in place, `primary_conninfo` and
//!    `restore_command` are empty, also where somebody set them by `ALTER SYSTEM`.
//! 2. Reload.
//! 3. Every walreceiver is sent SIGTERM until no process of that kind exists, not even a starting one. It flushes what
//!    it received before it ends, so the position includes everything it has acknowledged.
//! 4. A *new* connection shows the empty values; then, once more, no walreceiver exists.
//! 5. The position is read from the WAL files.
//!
//! Why a startup process that still has the old connection string in memory does no harm: it can have the postmaster
//! start another walreceiver, but that one reads its password from the pass file when it connects, which is after its
//! title is set. Every walreceiver that could have read the old password had its title before step 1 ended, so it was
//! seen and ended in step 3; every later one finds an empty file, and the replication role is let in by SCRAM only.
//! It never streams, so it never acknowledges. (The server's environment is scrubbed of libpq's other sources of
//! passwords at its start, and the connection string itself never holds one.)
//!
//! A server that is no standby, that was asked to promote, that may wait for a timeline that came to nothing, or that
//! does not answer in time is stopped instead: its position is then read from disk, which is just as good.

use crate::{
    drift, fault,
    fsio::FsError,
    history_files::{self, HistoryError},
    instance::{Instance, InstanceError, write_fence},
    layout::Layout,
    link::{QueryError, parse},
    position::{self, DiskPosition, Known, PositionError},
    process::Postmaster,
    settings::{Settings, SettingsError, write_pass_file},
    stopped::{self, StoppedError},
    version::Version,
    wal::WalFormat,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pgvigil_core::{id::TimelineId, lsn::Lsn};
use std::{
    thread,
    time::{Duration, Instant},
};

/// The seal could not be completed. What is on disk already holds: repeating it is safe and needed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A file could not be written.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The settings could not be written.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// An act on the server failed.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The position could not be read.
    #[error(transparent)]
    Position(#[from] PositionError),
    /// The position of a stopped server could not be read.
    #[error(transparent)]
    Stopped(#[from] StoppedError),
    /// The history files could not be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// Our own task died.
    #[error("the task that reads the position ended: {0}")]
    Task(String),
}

impl SealError {
    /// See [`PositionError::lacks_wal`].
    #[must_use]
    pub const fn lacks_wal(&self) -> bool {
        matches!(self, Self::Stopped(StoppedError::Position(error)) if error.lacks_wal())
    }
}

/// What a seal left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealedServer {
    /// Still running as a standby, receiving nothing.
    Running {
        /// Its recovery is pinned to the timeline that it was started on: it goes over to no other one.
        pinned: bool,
    },
    /// Stopped, because it was not sealable while running (or not running before). With the reason.
    Stopped(&'static str),
}

/// A completed seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Where this member's WAL ends.
    pub position: DiskPosition,
    /// What became of the server.
    pub server: SealedServer,
    /// How long each step took, in order, for the incident's record.
    pub steps: Vec<(&'static str, Duration)>,
}

/// Limits of one seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealLimits {
    /// How long a walreceiver may take to end, and the server to show the new values, before it is stopped.
    pub running: Duration,
}

impl Default for SealLimits {
    fn default() -> Self {
        Self { running: Duration::from_secs(2) }
    }
}

/// Step 1 alone: what must be on disk. Idempotent and durable when it returns.
pub fn seal_on_disk(layout: &Layout, settings: &Settings, version: Version) -> Result<(), SealError> {
    // Nothing acts on these files before all of them are durable, so their order does not matter and their fsyncs may
    // share the disk's time.
    let (pass, fence, conf, drift) = thread::scope(|scope| {
        let pass = scope.spawn(|| write_pass_file(layout, None));
        let fence = scope.spawn(|| write_fence(layout));
        let conf = scope.spawn(|| settings.sealed().write_rule(version, layout));
        let drift = drift::remove(layout);
        (pass.join(), fence.join(), conf.join(), drift)
    });
    let died = |_| SealError::Task("it panicked while writing a file".to_owned());
    pass.map_err(died)??;
    fence.map_err(died)??;
    conf.map_err(died)??;
    for drift in drift? {
        tracing::warn!(name = drift.name, value = drift.value, "removed a setting made by ALTER SYSTEM");
    }
    Ok(())
}

/// Seals this member, whatever its server is doing. `promotion_asked`: this agent has asked it to promote before and
/// has not seen the end of that. Safe to repeat.
pub async fn seal(
    instance: &Instance,
    settings: &Settings,
    promotion_asked: bool,
    limits: SealLimits,
) -> Result<Sealed, SealError> {
    let mut clock = Steps { last: Instant::now(), steps: Vec::new() };
    let (layout, version, owned) = (instance.layout.clone(), instance.binaries.version(), settings.clone());
    tokio::task::spawn_blocking(move || seal_on_disk(&layout, &owned, version))
        .await
        .map_err(|error| SealError::Task(error.to_string()))??;
    clock.done("on disk");
    let data_dir = Some(instance.layout.data_dir.as_path());
    fault::reach("seal:on-disk", data_dir).await;
    let reason = match instance.adopt().map_err(InstanceError::from)? {
        None => "not running",
        Some(_) if promotion_asked || instance.promote_file().exists() => "a promotion was under way",
        Some(postmaster) => match running(instance, &postmaster, limits, &mut clock).await? {
            Ok((position, pinned)) => {
                return Ok(Sealed { position, server: SealedServer::Running { pinned }, steps: clock.steps });
            }
            Err(reason) => reason,
        },
    };
    instance.kill().await?;
    clock.done("killed");
    let (_, position) = stopped::read(instance).await?;
    clock.done("position");
    Ok(Sealed { position, server: SealedServer::Stopped(reason), steps: clock.steps })
}

/// Steps 2 to 5 on a running server; the inner error says why it must be stopped instead.
async fn running(
    instance: &Instance,
    postmaster: &Postmaster,
    limits: SealLimits,
    clock: &mut Steps,
) -> Result<Result<(DiskPosition, bool), &'static str>, SealError> {
    let deadline = Instant::now() + limits.running;
    instance.reload(postmaster).map_err(InstanceError::from)?;
    // The two do not depend on each other; what counts is that no walreceiver exists after the values were shown.
    let (gone, shown) = tokio::join!(end_receivers(postmaster, deadline), acknowledged(instance, deadline));
    if !gone? {
        return Ok(Err("a walreceiver did not end"));
    }
    let Some(shown) = shown else {
        return Ok(Err("the server did not show the new settings in time"));
    };
    if !shown.in_recovery {
        return Ok(Err("it is no standby"));
    }
    clock.done("receivers gone and reload shown");
    fault::reach("seal:receivers-gone", Some(&instance.layout.data_dir)).await;
    if !end_receivers(postmaster, deadline).await? {
        return Ok(Err("a walreceiver did not end"));
    }
    clock.done("receivers gone still");
    let Some(magic) = instance.binaries.version().wal_page_magic() else {
        return Err(PositionError::Version(instance.binaries.version()).into());
    };
    let pg_wal = instance.layout.pg_wal();
    let format = WalFormat { segment_size: shown.segment_size, magic, system_identifier: shown.system_identifier };
    let read = tokio::task::spawn_blocking(move || {
        // A server that has replayed nothing yet has no replay position: it is read from its checkpoint on.
        let replayed = shown.replayed.unwrap_or(shown.known.redo);
        let position = position::of_running(&pg_wal, format, shown.known, replayed)?;
        // A walreceiver fetches a timeline's history file before any of its WAL.
        let above = history_files::above(&pg_wal, position.timeline())?;
        Ok::<_, SealError>((position, above))
    });
    let (position, above) = read.await.map_err(|error| SealError::Task(error.to_string()))??;
    clock.done("position");
    if !shown.pinned && !above.is_empty() {
        return Ok(Err("it may wait for a timeline of which it has no WAL"));
    }
    Ok(Ok((position, shown.pinned)))
}

/// Sends SIGTERM to the postmaster's walreceivers until none is left; `false` when one still is at the deadline.
pub async fn end_receivers(postmaster: &Postmaster, deadline: Instant) -> Result<bool, SealError> {
    loop {
        let receivers = postmaster.walreceivers().map_err(InstanceError::from)?;
        if receivers.is_empty() {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        for pid in receivers {
            // Gone meanwhile is what is wanted. A child of the living postmaster keeps its pid until that reaps it.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
}

/// What a new connection shows after the reload.
struct Shown {
    in_recovery: bool,
    replayed: Option<Lsn>,
    known: Known,
    system_identifier: u64,
    segment_size: u64,
    pinned: bool,
}

const SHOW: &str = "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn(), c.redo_lsn, c.timeline_id, \
    s.system_identifier, i.bytes_per_wal_segment, \
    current_setting('primary_conninfo') = '' AND current_setting('restore_command') = '', \
    current_setting('recovery_target_timeline') <> 'latest' \
    FROM pg_control_checkpoint() c, pg_control_system() s, pg_control_init() i";

/// Opens new connections until one shows the empty values; `None` when the time is over or the server refuses.
async fn acknowledged(instance: &Instance, deadline: Instant) -> Option<Shown> {
    loop {
        let limit = deadline.checked_duration_since(Instant::now())?;
        match show(instance, limit).await {
            Ok(Some(shown)) => return Some(shown),
            Ok(None) => tokio::time::sleep(Duration::from_millis(1)).await,
            Err(error) => {
                tracing::warn!(%error, "a running server cannot be asked and will be stopped to be sealed");
                return None;
            }
        }
    }
}

async fn show(instance: &Instance, limit: Duration) -> Result<Option<Shown>, QueryError> {
    const WHAT: &str = "read the sealed settings";
    let link = instance.connect("seal", limit).await?;
    let row = link.rows(WHAT, SHOW, limit).await?.pop().unwrap_or_default();
    let text = |index: usize| row.get(index).and_then(Option::as_deref).unwrap_or_default();
    if text(6) != "t" {
        return Ok(None);
    }
    let replayed = if text(1).is_empty() { None } else { Some(parse(WHAT, text(1))?) };
    Ok(Some(Shown {
        in_recovery: text(0) == "t",
        replayed,
        known: Known { redo: parse(WHAT, text(2))?, timeline: TimelineId(parse(WHAT, text(3))?) },
        system_identifier: parse::<i64>(WHAT, text(4))?.cast_unsigned(),
        segment_size: parse(WHAT, text(5))?,
        pinned: text(7) == "t",
    }))
}

struct Steps {
    last: Instant,
    steps: Vec<(&'static str, Duration)>,
}

impl Steps {
    fn done(&mut self, step: &'static str) {
        self.steps.push((step, self.last.elapsed()));
        self.last = Instant::now();
    }
}
