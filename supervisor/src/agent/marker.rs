//! The mark inside the data directory: whose it is and in which incarnation. A copy of it is kept in the agent's own
//! directory, where neither pg_rewind (which replaces every file of a data directory, ours too) nor a damaged file system
//! block of PostgreSQL's volume reaches it.

use pgvigil_core::{id::MemberId, local::Marker};
use pgvigil_postgres::fsio::{FsError, read_lossy, write_atomic};
use serde::{Deserialize, Serialize};
use std::path::Path;

const NAME: &str = "pgvigil.marker";
const KEPT: &str = "directory.json";

/// The copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The mark that was last written or read.
    pub marker: Marker,
    /// The PostgreSQL version of the directory that bears it.
    pub major: u16,
}

/// What an agent that starts makes of a data directory and of what it remembers of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Whose it is.
    pub marker: Option<Marker>,
    /// Why nothing in it can be trusted.
    pub half_made: Option<String>,
    /// The mark in it is damaged, and is written anew from the copy. Why.
    pub damaged: Option<String>,
    /// The note of a rewind is a leftover: the directory was made anew and marked since.
    pub finished: bool,
}

/// Pure: `found` is the mark in the directory or why it cannot be read, `rewinding` the label of a rewind that was not seen
/// to end (`i<incarnation>`).
#[must_use]
pub fn judge(
    me: &MemberId,
    found: Result<Option<Marker>, String>,
    kept: Option<Marker>,
    rewinding: Option<&str>,
) -> Judged {
    let mine = |marker: &Marker| marker.member == *me;
    match (rewinding, found) {
        (Some(label), Ok(Some(marker))) if mine(&marker) && format!("i{}", marker.incarnation) == label => {
            Judged { marker: Some(marker), finished: true, ..Judged::default() }
        }
        (Some(_), found) => {
            let why = "pg_rewind was cut off in its data directory, which is neither the old one nor the new one; it is \
                       cloned anew";
            // The source's mark may have come with its other files.
            let marker = found.ok().flatten().filter(mine).or(kept);
            Judged { marker, half_made: Some(why.to_owned()), ..Judged::default() }
        }
        (None, Ok(marker)) => Judged { marker, ..Judged::default() },
        (None, Err(why)) if kept.is_some() => Judged { marker: kept, damaged: Some(why), ..Judged::default() },
        (None, Err(why)) => {
            let why = format!("whose data directory this is cannot be read ({why}); it is cloned anew");
            Judged { half_made: Some(why), ..Judged::default() }
        }
    }
}

/// Reads the copy in `agent_dir`. One that makes no sense counts as none: the mark itself is the truth where it can be read.
pub fn read_kept(agent_dir: &Path) -> Result<Option<Kept>, FsError> {
    Ok(read_lossy(&agent_dir.join(KEPT))?.and_then(|text| serde_json::from_str(&text).ok()))
}

/// Keeps the copy durably.
pub fn keep(agent_dir: &Path, kept: &Kept) -> Result<(), FsError> {
    let text = serde_json::to_string(kept).unwrap_or_default();
    write_atomic(&agent_dir.join(KEPT), text.as_bytes(), 0o600).map(drop)
}

/// A mark that cannot be read. Undecodable is not the same as absent.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    /// The file system did not cooperate.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The file is there but makes no sense.
    #[error("{path} is damaged: {source}")]
    Damaged {
        /// Which file.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
}

/// Reads the mark; `None` if there is none.
pub fn read(data_dir: &Path) -> Result<Option<Marker>, MarkerError> {
    let path = data_dir.join(NAME);
    let Some(text) = read_lossy(&path)? else { return Ok(None) };
    let marker = serde_json::from_str(&text)
        .map_err(|source| MarkerError::Damaged { path: path.display().to_string(), source })?;
    Ok(Some(marker))
}

/// Writes the mark durably.
pub fn write(data_dir: &Path, marker: &Marker) -> Result<(), MarkerError> {
    let path = data_dir.join(NAME);
    let text = serde_json::to_string(marker)
        .map_err(|source| MarkerError::Damaged { path: path.display().to_string(), source })?;
    write_atomic(&path, text.as_bytes(), 0o600)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgvigil_core::id::{ClusterId, Incarnation};

    fn mark(member: &str, incarnation: u64) -> Marker {
        let (cluster, member) = (ClusterId::from("c"), MemberId::from(member));
        Marker { cluster, member, incarnation: Incarnation(incarnation) }
    }

    /// Whatever pg_rewind has made of the mark when it was cut off: the old one, nothing, the source's. Which incarnation
    /// it was stays known, and that it is none of both.
    #[test]
    fn a_rewind_that_was_cut_off_is_known_whatever_has_become_of_the_mark() {
        let me = MemberId::from("a");
        let damaged = || Err("EOF while parsing".to_owned());
        for found in [Ok(Some(mark("a", 1))), Ok(None), damaged(), Ok(Some(mark("b", 2)))] {
            let judged = judge(&me, found, Some(mark("a", 1)), Some("i7"));
            assert_eq!(judged.marker, Some(mark("a", 1)));
            assert!(judged.half_made.is_some() && !judged.finished && judged.damaged.is_none());
        }
        let judged = judge(&me, Ok(Some(mark("a", 7))), Some(mark("a", 1)), Some("i7"));
        let marker = Some(mark("a", 7));
        assert_eq!(judged, Judged { marker, finished: true, ..Judged::default() }, "made anew and marked since");
    }

    #[test]
    fn a_damaged_mark_is_restored_from_the_copy_and_an_absent_one_is_not() {
        let me = MemberId::from("a");
        let judged = judge(&me, Err("?".to_owned()), Some(mark("a", 1)), None);
        assert_eq!((judged.marker, judged.half_made), (Some(mark("a", 1)), None));
        assert!(judged.damaged.is_some());
        let judged = judge(&me, Ok(None), Some(mark("a", 1)), None);
        assert_eq!(judged, Judged::default(), "an empty directory on a new disk");
        let judged = judge(&me, Err("?".to_owned()), None, None);
        assert!(judged.marker.is_none() && judged.half_made.is_some());
    }

    #[test]
    fn the_copy_is_read_back_and_rubbish_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_kept(dir.path()).unwrap(), None);
        let kept = Kept { marker: mark("a", 3), major: 15 };
        keep(dir.path(), &kept).unwrap();
        assert_eq!(read_kept(dir.path()).unwrap(), Some(kept));
        for bytes in [&b""[..], &[0; 30], b"\xff"] {
            std::fs::write(dir.path().join(KEPT), bytes).unwrap();
            assert_eq!(read_kept(dir.path()).unwrap(), None);
            std::fs::write(dir.path().join(NAME), bytes).unwrap();
            assert!(matches!(read(dir.path()), Err(MarkerError::Damaged { .. })), "{bytes:?}");
        }
    }
}
