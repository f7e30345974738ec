//! The agent's promise on disk: written and fsynced before anything acts on it, checked by a checksum when read.

use pgvigil_core::{id::Epoch, local::Promise};
use pgvigil_postgres::fsio::{FsError, create_dir_private, read_text, write_atomic};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

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
    /// An act of an older epoch than the promise comes too late: an act that was given up may still be on its way.
    #[error("epoch {epoch} is over: epoch {promised} was promised")]
    Over {
        /// The act's.
        epoch: Epoch,
        /// What was promised meanwhile.
        promised: Epoch,
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

/// The one owner of the promise. Everybody who changes it does so from what was promised last, one after the other and
/// each until it is on disk: an act that was given up, and whose last step still waits for the disk or for its turn, takes
/// nothing back that was promised since. Keeps S1, S3.
#[derive(Debug)]
pub struct Promises {
    file: PromiseFile,
    held: Mutex<Promise>,
}

impl Promises {
    /// Reads what was promised.
    pub fn new(file: PromiseFile) -> Result<Self, PromiseError> {
        let held = Mutex::new(file.read()?);
        Ok(Self { file, held })
    }

    /// What is promised.
    #[must_use]
    pub fn held(&self) -> Promise {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes it for an act of `epoch`, which is promised with it: on disk and fsynced first, then told to `told` before
    /// anybody else can change it. Refused when a newer epoch was promised. Waits for the disk, and for others who do.
    pub fn change(
        &self,
        epoch: Epoch,
        change: impl FnOnce(&mut Promise),
        told: impl FnOnce(&Promise),
    ) -> Result<(), PromiseError> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if epoch < held.epoch {
            return Err(PromiseError::Over { epoch, promised: held.epoch });
        }
        let changed = |promise: &mut Promise| {
            promise.epoch = epoch;
            change(promise);
        };
        self.write(&mut held, changed, told)
    }

    /// Changes what belongs to no epoch.
    pub fn note(&self, change: impl FnOnce(&mut Promise), told: impl FnOnce(&Promise)) -> Result<(), PromiseError> {
        self.write(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner), change, told)
    }

    fn write(
        &self,
        held: &mut Promise,
        change: impl FnOnce(&mut Promise),
        told: impl FnOnce(&Promise),
    ) -> Result<(), PromiseError> {
        let mut promise = held.clone();
        change(&mut promise);
        if promise != *held {
            self.file.write(&promise)?;
            *held = promise;
        }
        told(held);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::{Arc, mpsc},
        time::Duration,
    };

    /// `abort` does not stop the blocking part of an act. This one has begun to change the promise and waits; meanwhile the
    /// seal of a newer election is promised. Whichever comes first, the newer one stands.
    #[test]
    fn an_act_that_was_given_up_takes_no_newer_promise_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = PromiseFile::new(dir.path()).unwrap();
        let promises = Arc::new(Promises::new(file.clone()).unwrap());
        let (begun, has_begun) = mpsc::channel();
        let (done, newer_is_done) = mpsc::channel();
        let given_up = std::thread::spawn({
            let promises = Arc::clone(&promises);
            move || {
                let change = |promise: &mut Promise| {
                    promise.reigned = Epoch(5);
                    begun.send(()).unwrap();
                    // Where the newer one need not wait for this one it is on disk by then.
                    newer_is_done.recv_timeout(Duration::from_millis(300)).ok();
                };
                promises.change(Epoch(5), change, |_| {})
            }
        });
        has_begun.recv().unwrap();
        promises.change(Epoch(6), |promise| promise.sealed = Some(Epoch(6)), |_| {}).unwrap();
        done.send(()).ok();
        given_up.join().unwrap().unwrap();
        let newest = Promise { epoch: Epoch(6), sealed: Some(Epoch(6)), reigned: Epoch(5), ..Promise::default() };
        assert_eq!((file.read().unwrap(), promises.held()), (newest.clone(), newest.clone()));
        // One that gets its turn only now.
        let late = promises.change(Epoch(5), |promise| promise.sealed = Some(Epoch(5)), |_| panic!("told"));
        assert!(matches!(late, Err(PromiseError::Over { promised: Epoch(6), .. })));
        assert_eq!((file.read().unwrap(), promises.held()), (newest.clone(), newest));
    }

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
