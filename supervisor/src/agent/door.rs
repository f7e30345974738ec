//! Whether clients may be inside, remembered for the next agent: it finds a server running and must know whether there is a
//! right to be watched. What pg_hba.conf says is no answer: its text differs with every release and setting.

use pgvigil_postgres::fsio::{FsError, overwrite, read_lossy};
use std::path::{Path, PathBuf};

const CLOSED: &str = "closed";

fn note(agent_dir: &Path) -> PathBuf {
    agent_dir.join("door")
}

/// To be called before the door is opened, and after it was closed and the sessions ended. Not flushed: what ends the
/// operating system ends the server too.
pub fn remember(agent_dir: &Path, open: bool) -> Result<(), FsError> {
    overwrite(&note(agent_dir), if open { "open" } else { CLOSED }.as_bytes(), 0o600).map(drop)
}

/// `false` only where an agent has closed the door and nobody has opened it since.
pub fn may_be_open(agent_dir: &Path) -> bool {
    !matches!(read_lossy(&note(agent_dir)), Ok(Some(text)) if text == CLOSED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_door_that_was_seen_closed_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(may_be_open(dir.path()), "nothing is known");
        remember(dir.path(), false).unwrap();
        assert!(!may_be_open(dir.path()));
        remember(dir.path(), true).unwrap();
        assert!(may_be_open(dir.path()));
        std::fs::write(note(dir.path()), "clos").unwrap();
        assert!(may_be_open(dir.path()), "damaged");
    }
}
