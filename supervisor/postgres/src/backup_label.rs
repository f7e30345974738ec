//! `backup_label`: from where recovery of a copied data directory begins. pg_basebackup and pg_rewind leave one, and
//! PostgreSQL believes it before its own control file, even one that a backup of last week left behind.

use crate::{
    control_file::ControlFile,
    fsio::{FsError, read_lossy, sync_dir},
    layout::Layout,
};
use pgvigil_core::{id::TimelineId, lsn::Lsn};
use std::path::PathBuf;

/// What it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupLabel {
    /// From where recovery replays; a record is known to begin there.
    pub redo: Lsn,
    /// On which timeline: that of the named segment, which also pg_rewind writes.
    pub timeline: TimelineId,
    /// The segment that holds `redo`.
    pub segment: String,
    /// By what the copy was made: `streamed`, `pg_rewind`.
    pub method: String,
    /// When, in the words of the file.
    pub made_at: String,
}

impl BackupLabel {
    /// Reads that of a data directory; `None` when there is none. The inner error names the line that makes no sense.
    pub fn read(layout: &Layout) -> Result<Option<Result<Self, &'static str>>, FsError> {
        Ok(read_lossy(&layout.data_dir.join(NAME))?.map(|text| Self::parse(&text)))
    }

    /// Parses its text as PostgreSQL does: the timeline is the segment's, and a START TIMELINE line must agree.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let line = |label: &str| text.lines().find_map(|line| line.strip_prefix(label)).map(str::trim);
        const START: &str = "START WAL LOCATION";
        let start = line("START WAL LOCATION:").ok_or(START)?;
        let redo = start.split_whitespace().next().and_then(|lsn| lsn.parse().ok()).ok_or(START)?;
        let segment = start.split_once("(file ").and_then(|(_, rest)| rest.split_once(')')).ok_or(START)?.0;
        let number = segment.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let timeline = TimelineId(number.filter(|_| segment.len() == 24).ok_or(START)?);
        if line("START TIMELINE:").is_some_and(|told| told != timeline.to_string()) {
            return Err("START TIMELINE");
        }
        Ok(Self {
            redo,
            timeline,
            segment: segment.to_owned(),
            method: line("BACKUP METHOD:").unwrap_or("unknown").to_owned(),
            made_at: line("START TIME:").unwrap_or("an unknown time").to_owned(),
        })
    }

    /// Whether the control file proves that this label belongs to no copy that still has to be recovered: it says that a
    /// server was shut down in this directory in good order. The control file of a copy is that of a running server, and a
    /// server that takes up a label no longer calls itself shut down.
    #[must_use]
    pub fn is_stale(&self, control: &ControlFile) -> bool {
        control.state.is_clean() && self.redo <= control.redo
    }
}

const NAME: &str = "backup_label";

/// Moves a label aside, and the map of tablespaces beside it, which belongs to it; returns where to.
pub fn set_aside(layout: &Layout) -> Result<PathBuf, FsError> {
    let to = layout.data_dir.join(format!("{NAME}.stale"));
    for name in ["tablespace_map", NAME] {
        let from = layout.data_dir.join(name);
        match std::fs::rename(&from, layout.data_dir.join(format!("{name}.stale"))) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(FsError::at("move aside", &from)(error));
            }
            _ => {}
        }
    }
    sync_dir(&layout.data_dir)?;
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAMED: &str = "START WAL LOCATION: 0/2000028 (file 000000030000000000000002)\nCHECKPOINT LOCATION: \
        0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-30 13:00:00 UTC\nLABEL: x\n\
        START TIMELINE: 3\n";

    /// pg_rewind writes no START TIMELINE, nor did PostgreSQL before 11.
    #[test]
    fn the_timeline_is_that_of_the_segment_and_a_line_about_it_must_agree() {
        let label = BackupLabel::parse(STREAMED).unwrap();
        assert_eq!((label.redo, label.timeline), (Lsn(0x200_0028), TimelineId(3)));
        assert_eq!((label.method.as_str(), label.made_at.as_str()), ("streamed", "2026-11-30 13:00:00 UTC"));
        let rewound = STREAMED.replace("START TIMELINE: 3\n", "").replace("streamed", "pg_rewind");
        assert_eq!(BackupLabel::parse(&rewound).unwrap().timeline, TimelineId(3));
        let other = STREAMED.replace("START TIMELINE: 3", "START TIMELINE: 4");
        assert_eq!(BackupLabel::parse(&other), Err("START TIMELINE"));
        for bad in ["", "START TIMELINE: 3\n", "START WAL LOCATION: 0/2000028\n", "START WAL LOCATION: x (file 1)\n"] {
            assert_eq!(BackupLabel::parse(bad), Err("START WAL LOCATION"), "{bad:?}");
        }
    }
}
