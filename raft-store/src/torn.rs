//! The torn tail that RocksDB does not know: a write-ahead log whose last pages never arrived and read as zeros.
//!
//! A loss of power may keep a file's new length and not its last pages. RocksDB takes a record that ends with the file
//! and has a wrong checksum for damage, whatever its bytes are, and refuses the database. Here the newest log is read
//! once more: where a record is broken, nothing but zeros follows from a sector's boundary within it, and it lies beyond
//! all that was reported durable, it was never finished, and may be cut off like any other torn tail. Anything else stays
//! damage: a broken record with something behind it, or one whose bytes are all there.

use crate::error::StoreError;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// The smallest piece that a disk writes whole.
const SECTOR: usize = 512;
/// Write-ahead logs are made of blocks; no record crosses from one to the next.
const BLOCK: usize = 32 << 10;
/// Checksum (4 bytes), length (2), type (1).
const HEADER: usize = 7;

/// Where the newest write-ahead log of a database has to be cut.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TornTail {
    log: PathBuf,
    kept: u64,
}

impl TornTail {
    /// Looks at the newest write-ahead log in directory `database`; changes nothing.
    pub(crate) fn find(database: &Path) -> Result<Option<Self>, StoreError> {
        let Some(log) = newest_log(database).map_err(|source| failed("list", database, source))? else {
            return Ok(None);
        };
        let bytes = fs::read(&log).map_err(|source| failed("read", &log, source))?;
        Ok(torn_at(&bytes).map(|kept| Self { log, kept: kept as u64 }))
    }

    /// Cuts it off, for good.
    pub(crate) fn cut(&self) -> Result<(), StoreError> {
        tracing::warn!(
            log = %self.log.display(),
            kept_bytes = self.kept,
            "the last pages of the write-ahead log never reached the disk; nothing of them was reported durable: cut off"
        );
        let file = OpenOptions::new().write(true).open(&self.log).map_err(|e| failed("open", &self.log, e))?;
        file.set_len(self.kept).map_err(|e| failed("cut", &self.log, e))?;
        file.sync_all().map_err(|e| failed("flush", &self.log, e))
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::File { action, path: path.to_owned(), source }
}

/// RocksDB names them by ascending numbers of one length.
fn newest_log(database: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for item in fs::read_dir(database)? {
        let path = item?.path();
        if path.extension().is_some_and(|e| e == "log") {
            newest = newest.max(Some(path));
        }
    }
    Ok(newest)
}

/// Where the first broken record begins, if it was torn: zeros from a sector's boundary within it to the end of the file.
fn torn_at(log: &[u8]) -> Option<usize> {
    let written = log.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let arrived = written.next_multiple_of(SECTOR);
    let mut at = 0;
    while at + HEADER <= log.len() {
        if BLOCK - at % BLOCK < HEADER {
            at = (at + 1).next_multiple_of(BLOCK);
            continue;
        }
        let end = at + HEADER + usize::from(u16::from_le_bytes([log[at + 4], log[at + 5]]));
        if log.get(at + 6..end).is_none_or(|checked| masked(crc32c::crc32c(checked)) != stored(log, at)) {
            return (arrived < end.min(log.len())).then_some(at);
        }
        at = end;
    }
    None
}

fn stored(log: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([log[at], log[at + 1], log[at + 2], log[at + 3]])
}

/// How RocksDB stores a CRC-32C, so that the checksum of text with checksums in it is no special case.
const fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of two records, the second beginning at the returned place.
    fn log() -> (Vec<u8>, usize) {
        let mut bytes = Vec::new();
        let mut second = 0;
        for length in [300_u16, 3000] {
            second = bytes.len();
            let checked = [vec![1], vec![7; usize::from(length)]].concat();
            bytes.extend(masked(crc32c::crc32c(&checked)).to_le_bytes());
            bytes.extend(length.to_le_bytes());
            bytes.extend(checked);
        }
        (bytes, second)
    }

    #[test]
    fn a_whole_log_is_not_torn() {
        assert_eq!(torn_at(&log().0), None);
        assert_eq!(torn_at(&[]), None);
    }

    #[test]
    fn zeros_from_any_sector_of_the_last_record_to_the_end_are_a_torn_tail() {
        let (whole, second) = log();
        for from in (second.next_multiple_of(SECTOR)..whole.len()).step_by(SECTOR) {
            let mut bytes = whole.clone();
            bytes[from..].fill(0);
            assert_eq!(torn_at(&bytes), Some(second), "zeros from {from}");
        }
    }

    #[test]
    fn a_flipped_bit_is_no_torn_tail() {
        let (whole, _) = log();
        for bit in (0..whole.len() * 8).step_by(13) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(torn_at(&bytes), None, "bit {bit}");
        }
    }

    #[test]
    fn zeros_with_something_behind_them_are_no_torn_tail() {
        let (mut bytes, second) = log();
        let from = second.next_multiple_of(SECTOR);
        bytes[from..from + SECTOR].fill(0);
        assert_eq!(torn_at(&bytes), None);
    }
}
