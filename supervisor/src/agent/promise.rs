//! The agent's promise on disk: written and fsynced before anything acts on it, checked by a checksum when read.

use pgvigil_core::local::Promise;
use pgvigil_postgres::fsio::{FsError, create_dir_private, read_text, write_atomic};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const FORMAT: u32 = 1;

/// Where the promise lies.
#[derive(Clone, Debug)]
pub struct PromiseFile {
    path: PathBuf,
}

/// A promise that cannot be read or kept. Without it the agent must not start: it might break what it promised.
#[derive(Debug, thiserror::Error)]
pub enum PromiseError {
    /// The file system did not cooperate.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The file is damaged.
    #[error(
        "{path} is damaged ({why}): what this agent promised is not known. Remove the file only together with the \
             data directory beside it, so that both are made anew"
    )]
    Damaged {
        /// Which file.
        path: String,
        /// Why.
        why: String,
    },
    /// Written by a newer build.
    #[error("{path} has format {found}, this build understands {FORMAT}: run the newer pgvigil")]
    Newer {
        /// Which file.
        path: String,
        /// Its format.
        found: u32,
    },
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    crc32c: u32,
    promise: String,
}

impl PromiseFile {
    /// The promise in `agent_dir`, which is made if missing.
    pub fn new(agent_dir: &Path) -> Result<Self, PromiseError> {
        create_dir_private(agent_dir)?;
        Ok(Self { path: agent_dir.join("promise.json") })
    }

    fn damaged(&self, why: impl ToString) -> PromiseError {
        PromiseError::Damaged { path: self.path.display().to_string(), why: why.to_string() }
    }

    /// Reads it; a missing file is the promise of an agent that never promised anything.
    pub fn read(&self) -> Result<Promise, PromiseError> {
        let Some(text) = read_text(&self.path)? else { return Ok(Promise::default()) };
        let stored: Stored = serde_json::from_str(&text).map_err(|error| self.damaged(error))?;
        if stored.format > FORMAT {
            return Err(PromiseError::Newer { path: self.path.display().to_string(), found: stored.format });
        }
        if crc32c::crc32c(stored.promise.as_bytes()) != stored.crc32c {
            return Err(self.damaged("its checksum does not match"));
        }
        serde_json::from_str(&stored.promise).map_err(|error| self.damaged(error))
    }

    /// Writes it durably.
    pub fn write(&self, promise: &Promise) -> Result<(), PromiseError> {
        let promise = serde_json::to_string(promise).map_err(|error| self.damaged(error))?;
        let stored = Stored { format: FORMAT, crc32c: crc32c::crc32c(promise.as_bytes()), promise };
        let text = serde_json::to_string(&stored).map_err(|error| self.damaged(error))?;
        write_atomic(&self.path, text.as_bytes(), 0o600)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgvigil_core::id::Epoch;

    #[test]
    fn a_damaged_promise_is_an_error_and_never_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = PromiseFile::new(dir.path()).unwrap();
        assert_eq!(file.read().unwrap(), Promise::default());
        let promise = Promise { epoch: Epoch(7), sealed: Some(Epoch(7)), ..Promise::default() };
        file.write(&promise).unwrap();
        assert_eq!(file.read().unwrap(), promise);
        let path = dir.path().join("promise.json");
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            assert!(file.read().is_err() || file.read().unwrap() == promise, "a flipped bit at {at} went unnoticed");
        }
        std::fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert!(file.read().is_err());
    }
}
