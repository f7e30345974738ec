//! The durable mark: a small file beside the database that says up to which of RocksDB's sequence numbers the
//! write-ahead log was flushed.
//!
//! RocksDB cannot tell a write-ahead log whose end was never flushed from one whose end was cut off later: both just
//! stop. The mark can: it is written after every flush and before anything is reported durable, so a database that
//! reopens below its mark has lost something that was reported. It is not itself flushed each time (that would double
//! the cost of a commit): after a loss of power it may be older than the log, never newer.

use crate::error::StoreError;
use crate::frame;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What the checksum takes for the key.
const KEY: &str = "durable-mark";

/// The open file.
#[derive(Debug)]
pub(crate) struct DurableMark {
    file: File,
    path: PathBuf,
}

impl DurableMark {
    /// Makes the file, which is what completes a new store: until it exists, nothing was ever reported durable.
    pub(crate) fn create(path: &Path, sequence: u64) -> Result<Self, StoreError> {
        let failed = |action, source| StoreError::File { action, path: path.to_owned(), source };
        let temporary = path.with_extension("new");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)
            .map_err(|e| failed("create", e))?;
        file.write_all_at(&content(sequence)?, 0).map_err(|e| failed("write", e))?;
        file.sync_all().map_err(|e| failed("flush", e))?;
        std::fs::rename(&temporary, path).map_err(|e| failed("rename", e))?;
        let parent = path.parent().unwrap_or(Path::new("."));
        File::open(parent).and_then(|d| d.sync_all()).map_err(|e| failed("flush the directory of", e))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Opens the file and reads it. `None` where there is none: the store was never completed.
    pub(crate) fn open(path: &Path) -> Result<Option<(Self, u64)>, StoreError> {
        let failed = |action, source| StoreError::File { action, path: path.to_owned(), source };
        let mut file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed("open", e)),
        };
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|e| failed("read", e))?;
        let text: String = frame::decode(KEY, &bytes)?;
        let sequence = text.parse().map_err(|e| StoreError::Damaged {
            key: KEY.to_owned(),
            reason: format!("{text:?} is not a number: {e}"),
        })?;
        Ok(Some((Self { file, path: path.to_owned() }, sequence)))
    }

    /// Notes that everything up to `sequence` is flushed.
    pub(crate) fn advance(&self, sequence: u64) -> Result<(), StoreError> {
        self.file.write_all_at(&content(sequence)?, 0).map_err(|source| StoreError::File {
            action: "write",
            path: self.path.clone(),
            source,
        })
    }
}

/// The number with leading zeros, so that every mark has the same length and replaces the one before it whole.
fn content(sequence: u64) -> Result<Vec<u8>, StoreError> {
    frame::encode(KEY, &format!("{sequence:020}"))
}
