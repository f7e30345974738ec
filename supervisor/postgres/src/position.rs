//! A member's position: the end of its WAL, and the timeline that owns it, whatever lines of history lie on its disk.
//!
//! Several histories may be on disk: that of a new primary arrives before its WAL does. The position is looked for
//! along every line that holds what this server has already replayed, and the greatest (owner, end) is taken: bytes of
//! a newer timeline count before more bytes of an older one, and an old tail beyond a fork is reported as what it is.

use crate::{
    control_file::ControlFile,
    fsio::{FsError, read_text},
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
    #[error("backup_label has no {0} line that can be understood")]
    BackupLabel(&'static str),
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
    let label = read_text(&layout.data_dir.join("backup_label"))?;
    let known = match &label {
        Some(text) => parse_backup_label(text)?,
        None => Known { redo: control.redo, timeline: control.timeline },
    };
    let position = best(&layout.pg_wal(), format, known, Start::Record(known.redo))?;
    // A backup that has not been recovered yet carries its source's minimum.
    if label.is_none() && position.end() < control.min_recovery_point {
        let (end, owner, minimum) = (position.end(), position.timeline(), control.min_recovery_point);
        return Err(PositionError::BelowMinimum { end, owner, minimum });
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
                    best = Some(DiskPosition { wal, line });
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

fn parse_backup_label(text: &str) -> Result<Known, PositionError> {
    let line = |label: &str| text.lines().find_map(|line| line.strip_prefix(label)).map(str::trim);
    let redo = line("START WAL LOCATION:")
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|lsn| lsn.parse().ok())
        .ok_or(PositionError::BackupLabel("START WAL LOCATION"))?;
    let timeline = line("START TIMELINE:")
        .and_then(|number| number.parse().ok())
        .ok_or(PositionError::BackupLabel("START TIMELINE"))?;
    Ok(Known { redo, timeline: TimelineId(timeline) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_label_tells_where_recovery_begins() {
        let text = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\n\
                    BACKUP METHOD: streamed\nSTART TIMELINE: 3\n";
        let known = parse_backup_label(text).unwrap();
        assert_eq!(known, Known { redo: Lsn(0x200_0028), timeline: TimelineId(3) });
        assert!(parse_backup_label("START TIMELINE: 3\n").is_err());
    }
}
