//! Diverged WAL, kept before a rewind or a clone destroys it: nothing that a former primary wrote disappears without a
//! trace.

use crate::{
    fsio::{FsError, create_dir_private, remove_durable, sync_dir, sync_file, write_atomic},
    history_files,
    layout::{Layout, parse_segment_name},
    position::DiskPosition,
};
use pgvigil_core::{id::TimelineId, lsn::Lsn};
use serde::{Deserialize, Serialize};
use std::{fs, path::PathBuf};

/// What is kept in one directory of diverged WAL; stored beside it as `manifest.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The caller's label: the incident, the time.
    pub label: String,
    /// The timeline that was left behind.
    pub timeline: TimelineId,
    /// Where the surviving line left it. WAL before this is common to both.
    pub fork: Lsn,
    /// Where the diverged WAL ends.
    pub end: Lsn,
    /// Bytes that exist only here: `end - fork`, records of which some may be mere bookkeeping.
    pub diverged_bytes: u64,
    /// The files kept, of the segment that holds the fork and all later ones.
    pub files: Vec<String>,
}

/// What was kept, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The directory.
    pub dir: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
}

/// What was kept under that label, if that is complete.
#[must_use]
pub fn kept(layout: &Layout, label: &str) -> Option<Kept> {
    let dir = layout.diverged_dir().join(label);
    let manifest = serde_json::from_str(&fs::read_to_string(dir.join("manifest.json")).ok()?).ok()?;
    Some(Kept { dir, manifest })
}

/// Copies the segments from the fork to the end of `position` (of a stopped server) into
/// `<agent dir>/diverged/<label>/`, fsynced, and writes the manifest last: a directory without one is incomplete.
/// `None` when nothing lies beyond the fork. Repeating it with the same label copies again. Blocking.
///
/// `pg_waldump --path <dir> --start <fork>` shows what was lost.
pub fn keep(
    layout: &Layout,
    position: &DiskPosition,
    fork: Lsn,
    segment_size: u64,
    label: &str,
) -> Result<Option<Kept>, FsError> {
    if position.end() <= fork {
        return Ok(None);
    }
    let dir = layout.diverged_dir().join(label);
    create_dir_private(&dir)?;
    // What an earlier attempt kept is overwritten: until that is complete, nothing is.
    remove_durable(&dir.join("manifest.json"))?;
    let pg_wal = layout.pg_wal();
    let (first, last) = (fork.0 / segment_size, position.end().0.saturating_sub(1) / segment_size);
    let mut files = Vec::new();
    for entry in fs::read_dir(&pg_wal).map_err(FsError::at("list", &pg_wal))? {
        let entry = entry.map_err(FsError::at("list", &pg_wal))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let wanted = match parse_segment_name(&name, segment_size) {
            Some((timeline, segment)) => timeline <= position.timeline().0 && (first..=last).contains(&segment),
            None => history_files::path(&pg_wal, position.timeline()).file_name() == Some(entry.file_name().as_ref()),
        };
        if wanted {
            let to = dir.join(&name);
            // A copy, no link: PostgreSQL recycles segments by writing into the same file.
            fs::copy(entry.path(), &to).map_err(FsError::at("copy", &entry.path()))?;
            sync_file(&to)?;
            files.push(name);
        }
    }
    files.sort_unstable();
    sync_dir(&dir)?;
    let manifest = Manifest {
        label: label.to_owned(),
        timeline: position.timeline(),
        fork,
        end: position.end(),
        diverged_bytes: position.end().bytes_since(fork),
        files,
    };
    let text = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
    write_atomic(&dir.join("manifest.json"), &text, 0o600)?;
    sync_dir(&layout.diverged_dir())?;
    Ok(Some(Kept { dir, manifest }))
}
