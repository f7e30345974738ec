//! The load: clients that work all the time, in this process or in one of their own, and their history.

mod options;

use std::path::Path;
use std::process::Command;

use thiserror::Error;

use crate::history::{History, HistoryError};

pub use options::{LoadOptions, Mix};

/// Why a load could not be started, or its history not be read.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A program could not be run, or a file not be used.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The tables could not be made or read.
    #[error("{0}")]
    Tables(String),
    /// See there.
    #[error(transparent)]
    History(#[from] HistoryError),
}

/// How many operations ended how, so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// Writes refused.
    pub failed: u64,
    /// Writes of unknown end.
    pub unknown: u64,
    /// Writes acknowledged within the last full second.
    pub per_second: u64,
}

/// A running load. Dropping it stops it.
#[derive(Debug)]
pub struct Load {}

impl Load {
    /// Makes the tables and starts the clients in a process of their own: `program` (pgvigil-chaos) run as `load …`.
    /// `wrap` makes the command that starts it, for example inside a network namespace. The history is written to
    /// `history` as it happens.
    pub fn start(
        options: &LoadOptions,
        history: &Path,
        wrap: impl FnOnce(&Path, &[String]) -> Command,
    ) -> Result<Load, LoadError> {
        let _ = (options, history, wrap);
        Err(LoadError::Tables("not there yet".to_owned()))
    }

    /// Microseconds since the run began: the clock of the history.
    pub fn now_us(&self) -> u64 {
        0
    }

    /// What has been done so far, for a live display.
    pub fn progress(&self) -> Progress {
        Progress::default()
    }

    /// What is in the history so far.
    pub fn so_far(&self) -> History {
        History::default()
    }

    /// Stops the clients, waits for their last operations to end, and returns everything they did.
    pub fn stop(self) -> Result<History, LoadError> {
        Ok(History::default())
    }
}
