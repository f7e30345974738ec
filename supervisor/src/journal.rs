//! The journal: from what this process decided and acted, a JSON line each, for `pgvigil-trace` to hold against the core.
//!
//! Off unless `node.journal` names a file. It grows without bound and is never read by pgvigil itself; a line that cannot
//! be written is lost, and nothing waits for it to be flushed.

use pgvigil_core::{id::NodeId, trace::Line};
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// An open journal, or none.
#[derive(Clone, Debug, Default)]
pub struct Journal(Option<Arc<Mutex<File>>>);

impl Journal {
    /// Opens the journal at `path` to append, and writes that a process of `node` begins.
    pub fn open(path: &Path, node: NodeId) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let journal = Self(Some(Arc::new(Mutex::new(file))));
        journal.write(|| Line::Began { node });
        Ok(journal)
    }

    /// Writes a line, which is made only if there is a journal.
    pub fn write(&self, line: impl FnOnce() -> Line) {
        let Some(file) = &self.0 else { return };
        let Ok(mut bytes) = serde_json::to_vec(&line()) else { return };
        bytes.push(b'\n');
        // One write for the whole line, so that no other one gets in between.
        let written = file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&bytes);
        if let Err(error) = written {
            tracing::warn!("a line of the journal is lost: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_appended_across_processes_and_none_is_made_without_a_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        for node in [1, 2] {
            drop(Journal::open(&path, NodeId(node)).unwrap());
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines, [Line::Began { node: NodeId(1) }, Line::Began { node: NodeId(2) }]);
        Journal::default().write(|| unreachable!("nobody wants it"));
    }
}
