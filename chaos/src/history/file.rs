//! JSON lines, written by clients and read while they still write.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::{HistoryError, Operation};

/// Writes one operation as a line.
pub fn write_line(out: &mut impl Write, operation: &Operation) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(operation).map_err(std::io::Error::other)?;
    line.push(b'\n');
    out.write_all(&line)
}

/// A reader of a growing file.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    file: std::fs::File,
    /// A line whose end has not been written yet.
    rest: Vec<u8>,
    /// Lines read.
    lines: usize,
}

impl Tail {
    /// From the beginning of the file.
    pub fn open(path: &Path) -> Result<Tail, HistoryError> {
        let file = std::fs::File::open(path).map_err(|source| HistoryError::Io {
            what: "opening",
            path: path.display().to_string(),
            source,
        })?;
        Ok(Tail { path: path.to_owned(), file, rest: Vec::new(), lines: 0 })
    }

    /// Adds what has been written since the last call.
    pub fn read_new(&mut self, into: &mut Vec<Operation>) -> Result<(), HistoryError> {
        self.file.read_to_end(&mut self.rest).map_err(|source| HistoryError::Io {
            what: "reading",
            path: self.path.display().to_string(),
            source,
        })?;
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        for line in self.rest[..end].split(|byte| *byte == b'\n') {
            self.lines += 1;
            into.push(serde_json::from_slice(line).map_err(|source| HistoryError::Line {
                path: self.path.display().to_string(),
                line: self.lines,
                source,
            })?);
        }
        self.rest.drain(..=end);
        Ok(())
    }
}
