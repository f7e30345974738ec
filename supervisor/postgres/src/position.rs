//! A member's position: the end of its WAL, and the timeline that owns it, whatever lines of history lie on its disk.
//!
//! Several histories may be on disk: that of a new primary arrives before its WAL does. The position is looked for
//! along every line that holds what this server has already replayed, and the greatest (owner, end) is taken: bytes of
//! a newer timeline count before more bytes of an older one, and an old tail beyond a fork is reported as what it is.

use crate::{
    backup_label::BackupLabel,
    control_file::ControlFile,
    fsio::FsError,
    history_files::{self, HistoryError},
    layout::Layout,
    version::Version,
    wal::{Start, WalEnd, WalError, WalFormat, end_of_wal},
};
use pgvigil_core::{id::TimelineId, lsn::Lsn, timeline::TimelineHistory};
use std::path::Path;

/// The position could not be read.
#[derive(Debug, thiserror::Error)]
pub enum PositionError {
    /// WAL could not be read.
    #[error(transparent)]
    Wal(#[from] WalError),
    /// History files could not be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// Another file could not be read.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// `backup_label` cannot be understood.
    #[error(
        "backup_label has no {0} line that can be understood, and PostgreSQL believes that file before its own: if no \
         backup was restored here, remove it"
    )]
    BackupLabel(&'static str),
    /// `backup_label` says that recovery begins where no WAL is.
    #[error(
        "backup_label ({}, {}) says that recovery begins at {} in {}, and that WAL is not in pg_wal ({cause}). If no backup \
         was restored here, the file is a leftover: remove it and tablespace_map. If one was, put its WAL into pg_wal",
        label.method, label.made_at, label.redo, label.segment
    )]
    LabelWithoutWal {
        /// What it says.
        label: BackupLabel,
        /// What was found at that place.
        cause: String,
    },
    /// The WAL ends before the point up to which data pages were already written: it is damaged.
    #[error("WAL ends at {end} on timeline {owner}, before the minimum recovery point {minimum}")]
    BelowMinimum {
        /// Where it ends.
        end: Lsn,
        /// Its timeline.
        owner: TimelineId,
        /// What must be there.
        minimum: Lsn,
    },
    /// A version whose WAL is not known.
    #[error("the WAL of PostgreSQL {0} is not known")]
    Version(Version),
}

/// A position on disk, fsynced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPosition {
    /// The end, its owner, and how it was found.
    pub wal: WalEnd,
    /// The line of history along which it was found: recovery must be pinned to `line`, cut at the owner, to reach it.
    pub line: TimelineHistory,
    /// The directory is a copy (a clone, or what pg_rewind made) that was never recovered yet, and is of use only when it
    /// has replayed WAL up to here, which it does not have: it cannot be promoted, and follows only who has that WAL.
    pub needs: Option<(TimelineId, Lsn)>,
    /// The owner's history by its own file. `line` may be a newer one's, received from elsewhere, which means another
    /// timeline by the owner's number.
    pub own: TimelineHistory,
}

impl PositionError {
    /// It says that this data directory lacks WAL without which PostgreSQL cannot start either: unless somebody brings it
    /// back, the directory must be made anew.
    #[must_use]
    pub const fn lacks_wal(&self) -> bool {
        matches!(
            self,
            Self::LabelWithoutWal { .. }
                | Self::BelowMinimum { .. }
                | Self::Wal(WalError::NoRecord { .. } | WalError::NotOnLine { .. })
        )
    }
}

impl DiskPosition {
    /// The end of the last valid record.
    #[must_use]
    pub const fn end(&self) -> Lsn {
        self.wal.end
    }

    /// The timeline that owns the last valid byte. Recovery is to be pinned to it at a restart.
    #[must_use]
    pub const fn timeline(&self) -> TimelineId {
        self.wal.owner
    }
}

/// What PostgreSQL has certainly replayed: a record begins at `redo`, on `timeline`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where a record is known to begin.
    pub redo: Lsn,
    /// On which timeline.
    pub timeline: TimelineId,
}

/// The format of a cluster's WAL, from its control file.
pub fn wal_format(control: &ControlFile, version: Version) -> Result<WalFormat, PositionError> {
    Ok(WalFormat {
        segment_size: control.wal_segment_size,
        magic: version.wal_page_magic().ok_or(PositionError::Version(version))?,
        system_identifier: control.system_identifier,
    })
}

/// The position of a standby that runs but receives nothing: from its replay position `replayed` on. Falls back to
/// `known` when no line on disk shows a record that ends there.
pub fn of_running(
    pg_wal: &Path,
    format: WalFormat,
    known: Known,
    replayed: Lsn,
) -> Result<DiskPosition, PositionError> {
    match best(pg_wal, format, known, Start::Boundary(replayed)) {
        Err(PositionError::Wal(WalError::NotOnLine { .. })) => best(pg_wal, format, known, Start::Record(known.redo)),
        other => other,
    }
}

/// The position of a server that is stopped (or was killed): from its last checkpoint, or the beginning of the backup
/// it is made of.
pub fn of_stopped(layout: &Layout, control: &ControlFile, version: Version) -> Result<DiskPosition, PositionError> {
    let format = wal_format(control, version)?;
    let label = BackupLabel::read(layout)?.transpose().map_err(PositionError::BackupLabel)?;
    let known = match &label {
        Some(label) => Known { redo: label.redo, timeline: label.timeline },
        None => Known { redo: control.redo, timeline: control.timeline },
    };
    let mut position = best(&layout.pg_wal(), format, known, Start::Record(known.redo)).map_err(|error| {
        let absent = matches!(
            error,
            PositionError::Wal(WalError::NoRecord { .. } | WalError::NotOnLine { .. })
                | PositionError::History(HistoryError::Absent { .. })
        );
        match &label {
            Some(label) if absent => PositionError::LabelWithoutWal { label: label.clone(), cause: error.to_string() },
            _ => error,
        }
    })?;
    let minimum = control.min_recovery_point;
    if position.end() < minimum {
        // A copy that has not been recovered yet carries its source's minimum.
        if label.is_none() && !control.copy_unrecovered {
            let (end, owner) = (position.end(), position.timeline());
            return Err(PositionError::BelowMinimum { end, owner, minimum });
        }
        position.needs = Some((control.min_recovery_timeline, minimum));
    }
    Ok(position)
}

fn best(pg_wal: &Path, format: WalFormat, known: Known, start: Start) -> Result<DiskPosition, PositionError> {
    let mut best: Option<DiskPosition> = None;
    let mut refusal = None;
    for line in lines(pg_wal, known)? {
        match end_of_wal(pg_wal, &line, format, start) {
            Ok(wal) => {
                let better = best.as_ref().is_none_or(|best| (best.wal.owner, best.wal.end) < (wal.owner, wal.end));
                if better {
                    let own = match history_files::read(pg_wal, wal.owner) {
                        Err(HistoryError::Absent { .. }) => line.cut(wal.owner),
                        own => own?,
                    };
                    best = Some(DiskPosition { wal, line, own, needs: None });
                }
            }
            // This line does not hold the start; another one may. An I/O error is no such thing.
            Err(error @ (WalError::NotOnLine { .. } | WalError::NoRecord { .. })) => refusal = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    match (best, refusal) {
        (Some(best), _) => Ok(best),
        (None, Some(refusal)) => Err(refusal.into()),
        (None, None) => Err(HistoryError::Absent { timeline: known.timeline, pg_wal: pg_wal.to_owned() }.into()),
    }
}

/// Every line of history on disk that contains what is known, the known timeline's own first.
fn lines(pg_wal: &Path, known: Known) -> Result<Vec<TimelineHistory>, PositionError> {
    let mut lines = vec![history_files::read(pg_wal, known.timeline)?];
    for (timeline, reserved) in history_files::all(pg_wal)? {
        if reserved || timeline <= known.timeline {
            continue;
        }
        let line = history_files::read(pg_wal, timeline)?;
        if line.contains(known.timeline, known.redo) {
            lines.push(line);
        }
    }
    Ok(lines)
}
