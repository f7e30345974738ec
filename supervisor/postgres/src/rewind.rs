//! pg_rewind of a diverged member: keep what would be destroyed, end the old life in good order, rewind, restore our
//! configuration.
//!
//! pg_rewind would finish crash recovery itself with a single-user server, but such a server refuses to start while
//! `standby.signal` exists, and that file must exist (history A13). So recovery is finished by starting a standby that
//! nobody can connect to, and stopping it once it has replayed all of the local WAL.

use crate::{
    config::MemberConfig,
    control_file::ClusterState,
    diverged::{self, Kept},
    fsio::{FsError, read_lossy, remove_durable, write_atomic},
    instance::{Instance, InstanceError, write_fence},
    layout::Layout,
    position::DiskPosition,
    process::{Postmaster, SpawnOptions, StopMode},
    settings::SettingsError,
    source::{PassFile, Source},
    stopped::{self, StoppedError},
    tool::{self, OnLine, ToolError},
};
use pgvigil_core::{id::TimelineId, lsn::Lsn};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// A rewind failed. Unless it is said otherwise, the data directory is as good as before.
#[derive(Debug, thiserror::Error)]
pub enum RewindError {
    /// Somebody started a server in the middle of it: the data directory is neither the old one nor the new one.
    #[error("somebody started PostgreSQL in the data directory while pg_rewind worked there")]
    Started,
    /// Somebody started a server before pg_rewind had overwritten anything: the WAL that was kept need not be all.
    #[error("somebody started PostgreSQL in the data directory before pg_rewind began; nothing was overwritten")]
    StartedBefore,
    /// About a file.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// About the server.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The end of the local WAL could not be read.
    #[error(transparent)]
    Position(#[from] StoppedError),
    /// Our configuration could not be written; the data directory must not be started before it is.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Crash recovery did not reach the end of the local WAL.
    #[error("recovery before the rewind did not reach {end}: the control file says {state:?} at {reached}")]
    NotRecovered {
        /// The end of the local WAL.
        end: Lsn,
        /// The state found instead.
        state: ClusterState,
        /// The minimum recovery point found.
        reached: Lsn,
    },
    /// pg_rewind would compare another timeline than the one that the WAL ends on: it would find nothing to do, or miss
    /// what is to go.
    #[error(
        "its WAL ends on timeline {timeline}, and its control file, by which pg_rewind goes, is still on timeline {control}: \
         it was promoted, and ended before its first checkpoint"
    )]
    BeforeCheckpoint {
        /// Of the last byte.
        timeline: TimelineId,
        /// Of the control file.
        control: TimelineId,
    },
    /// pg_rewind failed. The data directory may be half overwritten: clone it anew.
    #[error("{tool}; the data directory is unusable and must be cloned anew")]
    Spoilt {
        /// What it said.
        #[source]
        tool: ToolError,
    },
    /// pg_rewind refused before it changed anything.
    #[error("pg_rewind refused: {0}")]
    Refused(#[source] ToolError),
    /// Our own task died.
    #[error("a task of the rewind ended: {0}")]
    Task(String),
}

/// What a rewind did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewound {
    /// The diverged WAL, if there was any.
    pub kept: Option<Kept>,
    /// Where the old life ended.
    pub position: DiskPosition,
    /// It had crashed, and recovery was finished first.
    pub recovered: bool,
    /// How long all of it took.
    pub took: Duration,
}

/// What to rewind to, and how.
#[derive(Clone, Debug)]
pub struct RewindPlan {
    /// The promoted primary of the newest epoch.
    pub source: Source,
    /// Its timeline. Its first checkpoint there, which may take minutes, is waited for.
    pub timeline: TimelineId,
    /// The fork: where the source's timeline left ours.
    pub fork: Lsn,
    /// Names the directory of kept WAL.
    pub label: String,
    /// Our configuration, written afterwards in place of the source's.
    pub config: MemberConfig,
    /// For each of recovery and pg_rewind.
    pub limit: Duration,
}

/// The label of a rewind that has begun and was not seen to end: the data directory cannot be trusted, nor any file in it,
/// since pg_rewind replaces them all one after the other.
pub fn interrupted(layout: &Layout) -> Result<Option<String>, FsError> {
    read_lossy(&note(layout))
}

/// The directory was made anew, and marked since: nothing of a rewind that was cut off is left.
pub fn forget_interrupted(layout: &Layout) -> Result<(), FsError> {
    remove_durable(&note(layout))
}

fn note(layout: &Layout) -> PathBuf {
    layout.agent_dir.join("rewind.in-progress")
}

/// Rewinds the (stopped or crashed) data directory so that it can follow `plan.source`. A running server is killed.
/// The member's new incarnation must be committed before (history A9). Afterwards start it as a standby. Waits without
/// limit for the source's checkpoint, and says so to `on_line`; dropped meanwhile, it has overwritten nothing.
pub async fn rewind(instance: &Instance, plan: &RewindPlan, on_line: OnLine<'_>) -> Result<Rewound, RewindError> {
    let started = Instant::now();
    instance.fence().await?;
    forget_start(&instance.layout)?;
    let (control, position) = stopped::read(instance).await?;
    let (segment_size, clean) = (control.wal_segment_size, control.state.is_clean());
    let (layout, fork, label, found) = (instance.layout.clone(), plan.fork, plan.label.clone(), position.clone());
    let kept = tokio::task::spawn_blocking(move || diverged::keep(&layout, &found, fork, segment_size, &label));
    let kept = kept.await.map_err(|error| RewindError::Task(error.to_string()))??;
    if !clean {
        was_left_alone(instance)?;
        finish_recovery(instance, &position, plan.limit).await?;
        forget_start(&instance.layout)?;
    }
    let (timeline, control) = (position.timeline(), compared(instance).await?);
    if control != timeline {
        return Err(RewindError::BeforeCheckpoint { timeline, control });
    }
    rewound(instance, plan, position.end(), on_line).await?;
    Ok(Rewound { kept, position, recovered: !clean, took: started.elapsed() })
}

/// The `cluster_name` of a server that only finishes recovery before a rewind.
const RECOVERY: &str = "pgvigil-recovery-before-rewind";

/// Whether the server that runs (if one does) only finishes recovery before a rewind. An agent that begins finds one
/// where the agent before it died meanwhile: nobody can connect to it, it follows nobody, and nothing would end it.
#[must_use]
pub fn is_recovery(layout: &Layout) -> bool {
    // Written by every postmaster when it starts: its program and arguments.
    let arguments = std::fs::read_to_string(layout.postmaster_opts()).unwrap_or_default();
    arguments.contains(&format!("\"cluster_name={RECOVERY}\""))
}

/// How long a server in archive recovery is left alone before it is stopped for a first look at how far it came.
const FIRST_LOOK: Duration = Duration::from_millis(200);

/// Finishes crash recovery behind closed doors: no TCP, no connections at all, no upstream, pinned to its own
/// timeline; stopped when all local WAL is replayed.
///
/// Stopping earlier would be silent corruption: pg_rewind takes the minimum recovery point for the end of the target's
/// WAL and would leave pages alone that were changed after it. A former primary writes that point as soon as its crash
/// recovery ends. A former standby, which never left archive recovery, writes it at restartpoints only, so minutes
/// later, and when it is stopped: it is stopped for a look, and started again for twice as long if that was too early.
async fn finish_recovery(instance: &Instance, position: &DiskPosition, limit: Duration) -> Result<(), RewindError> {
    let deadline = Instant::now() + limit;
    let mut patience = FIRST_LOOK;
    loop {
        recover(instance, position, patience, deadline).await?;
        instance.stop(StopMode::Fast, limit).await?;
        let control = instance.control_file().await?;
        if control.state.is_clean() && control.min_recovery_point >= position.end() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let (state, reached) = (control.state, control.min_recovery_point);
            return Err(RewindError::NotRecovered { end: position.end(), state, reached });
        }
        patience *= 2;
    }
}

/// Starts the server in recovery. Returns when its control file tells that all WAL is replayed, when it has been in
/// archive recovery for `patience`, or at the deadline.
async fn recover(
    instance: &Instance,
    position: &DiskPosition,
    patience: Duration,
    deadline: Instant,
) -> Result<(), RewindError> {
    let pairs = [
        ("cluster_name", RECOVERY.to_owned()),
        ("hot_standby", "off".to_owned()),
        ("listen_addresses", String::new()),
        ("primary_conninfo", String::new()),
        ("restore_command", String::new()),
        ("archive_mode", "off".to_owned()),
        ("recovery_target_timeline", position.timeline().to_string()),
    ];
    let overrides = pairs.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let options = instance.placed(SpawnOptions { overrides, ..SpawnOptions::default() });
    let postmaster = Postmaster::spawn(&instance.binaries, &instance.layout, &options).map_err(InstanceError::from)?;
    let mut in_archive_recovery = None;
    loop {
        let control = instance.control_file().await?;
        let now = Instant::now();
        if control.state == ClusterState::InArchiveRecovery {
            let since = *in_archive_recovery.get_or_insert(now);
            if control.min_recovery_point >= position.end() || now - since >= patience {
                return Ok(());
            }
        }
        if now >= deadline {
            return Ok(());
        }
        if let Ok(exit) = tokio::time::timeout(Duration::from_millis(20), postmaster.exited()).await {
            let exit = exit.map_err(InstanceError::from)?;
            return Err(InstanceError::Died { exit, log: instance.log_tail(15) }.into());
        }
    }
}

/// The timeline that pg_rewind takes this server to be on: up to 15 that of its last checkpoint; from 16 on also how far its
/// recovery came.
async fn compared(instance: &Instance) -> Result<TimelineId, RewindError> {
    let control = instance.control_file().await?;
    let by_recovery = instance.binaries.version().major >= 16;
    Ok(if by_recovery { control.timeline.max(control.min_recovery_timeline) } else { control.timeline })
}

/// Between two attempts while the source has not written its checkpoint.
const AGAIN: Duration = Duration::from_millis(500);

/// Runs pg_rewind until it has done something. As long as the source's control file does not show its timeline, pg_rewind (up
/// to 15) takes both servers to be on one, and says that nothing is to be done, although the local WAL goes on beyond the
/// fork. Nobody has to ask for that checkpoint: PostgreSQL has begun it with the promotion.
async fn rewound(instance: &Instance, plan: &RewindPlan, end: Lsn, on_line: OnLine<'_>) -> Result<(), RewindError> {
    while !run(instance, plan, end, on_line).await? {
        let (fork, timeline) = (plan.fork, plan.timeline);
        on_line(&format!("waiting for the source's checkpoint on timeline {timeline}: WAL from {fork} on is to go"));
        tokio::time::sleep(AGAIN).await;
    }
    Ok(())
}

/// `false`: it did nothing, though it should have.
async fn run(instance: &Instance, plan: &RewindPlan, end: Lsn, on_line: OnLine<'_>) -> Result<bool, RewindError> {
    let layout = &instance.layout;
    let pass_file = PassFile::create(layout, "rewind", &plan.source)?;
    let arguments = [
        format!("--target-pgdata={}", layout.data_dir.display()),
        format!(
            "--source-server={}",
            plan.source.conninfo(instance.binaries.version(), &instance.layout, "postgres", "rewind")
        ),
        "--progress".to_owned(),
        // We have done so, without a single-user server.
        "--no-ensure-shutdown".to_owned(),
    ];
    write_atomic(&note(layout), plan.label.as_bytes(), 0o600)?;
    let before = instance.control_file().await?;
    if let Err(error) = was_left_alone(instance) {
        remove_durable(&note(layout))?;
        return Err(error);
    }
    let program = instance.binaries.program("pg_rewind");
    let mut idle = false;
    let mut watched = |line: &str| {
        idle |= line.contains("no rewind required");
        on_line(line);
    };
    let result = tool::run(program, &arguments, &[("PGPASSFILE", pass_file.path())], plan.limit, &mut watched).await;
    if let Err(tool) = result {
        // It writes the control file and backup_label last, and data files before; only a refusal at its very
        // beginning (which it tells before "Done") leaves everything alone. We cannot see which data files changed.
        let refused = matches!(&tool, ToolError::Failed { last_words, .. } if is_refusal(last_words));
        let same = refused && instance.control_file().await.is_ok_and(|after| after == before);
        if !same {
            return Err(RewindError::Spoilt { tool });
        }
        remove_durable(&note(layout))?;
        return Err(RewindError::Refused(tool));
    }
    if idle && end > plan.fork {
        // Nothing was overwritten.
        remove_durable(&note(layout))?;
        was_left_alone(instance)?;
        return Ok(false);
    }
    // The source's configuration files have replaced ours: ours come back before the marker goes.
    write_fence(layout)?;
    plan.config.write(instance.binaries.version(), layout)?;
    // What a server that was started meanwhile held in memory is not what lay there then, and it may have written that back;
    // it may have ended again.
    was_left_alone(instance).map_err(|_| RewindError::Started)?;
    remove_durable(&note(layout))?;
    Ok(true)
}

/// Every postmaster writes this file when it starts, and leaves it. From here on one that is there was written by somebody
/// else. pg_rewind would remove one that it finds when it begins.
fn forget_start(layout: &Layout) -> Result<(), FsError> {
    remove_durable(&layout.postmaster_opts())
}

/// An error: somebody started a server, whether it still runs or not.
fn was_left_alone(instance: &Instance) -> Result<(), RewindError> {
    let started = instance.layout.postmaster_opts().exists() || !matches!(instance.adopt(), Ok(None));
    if started { Err(RewindError::StartedBefore) } else { Ok(()) }
}

/// Messages with which pg_rewind ends before it copies anything.
fn is_refusal(last_words: &[String]) -> bool {
    const REFUSALS: [&str; 7] = [
        "could not connect",
        "connection to server",
        "are from different systems",
        "must be shut down cleanly",
        "needs to use either data checksums or",
        "could not find common ancestor",
        "full_page_writes",
    ];
    let copying = last_words.iter().any(|line| line.contains("kB (") || line.contains("syncing target"));
    !copying && last_words.iter().any(|line| REFUSALS.iter().any(|refusal| line.contains(refusal)))
}
