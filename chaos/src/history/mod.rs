//! What every client did and was told: the input of all checks.
//!
//! Times are microseconds since the run began, on the clock of `clock::now_us` (CLOCK_MONOTONIC, which every process and
//! network namespace of this machine shares). A history is kept as JSON lines, one operation each, in the order in
//! which the operations ended.

pub mod clock;
mod file;
mod operation;

use std::path::Path;

use thiserror::Error;

pub use file::{Tail, write_line};
pub use operation::{Level, Operation, Outcome, Server, Step, Work};

/// Everything the clients of one run did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// In the order in which they ended.
    pub operations: Vec<Operation>,
}

/// A history that cannot be read or written.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// The file failed.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A line is no operation.
    #[error("{path}, line {line}: {source}")]
    Line {
        /// In which file.
        path: String,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl History {
    /// Reads a file of JSON lines. A last line without its end (the writer was killed) is left out.
    pub fn read(path: &Path) -> Result<History, HistoryError> {
        let mut tail = Tail::open(path)?;
        let mut operations = Vec::new();
        tail.read_new(&mut operations)?;
        Ok(History { operations })
    }

    /// Writes a file of JSON lines.
    pub fn write(&self, path: &Path) -> Result<(), HistoryError> {
        let fail = |source| HistoryError::Io { what: "writing", path: path.display().to_string(), source };
        let mut out = std::io::BufWriter::new(std::fs::File::create(path).map_err(fail)?);
        for operation in &self.operations {
            write_line(&mut out, operation).map_err(fail)?;
        }
        std::io::Write::flush(&mut out).map_err(fail)
    }

    /// The operations that were acknowledged without a warning.
    pub fn acknowledged(&self) -> impl Iterator<Item = &Operation> {
        self.operations.iter().filter(|operation| operation.outcome == Outcome::Ok)
    }
}
