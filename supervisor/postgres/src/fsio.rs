//! Durable file operations: what was written is on disk, whole or not at all, when these return.
//!
//! Everything the protocol promises (the seal, the fence) is a file first. A write that only reached the page cache is
//! no promise, so there is one way to write a promise: temporary file, fsync, rename, fsync of the directory
//! ([`write_atomic`]). What only a running server reads, and what every start writes anew, is [`replace`]d: a flush
//! costs milliseconds in which nobody can commit.

use crate::fault;
use nix::fcntl::{RenameFlags, renameat2};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {}: {source}", path.display())]
pub struct FsError {
    /// What was being done.
    pub op: &'static str,
    /// To which path.
    pub path: PathBuf,
    /// The system's reason.
    #[source]
    pub source: io::Error,
}

impl FsError {
    /// Makes the closure that puts `op` and `path` around an I/O error.
    pub fn at(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { op, path: path.to_owned(), source }
    }
}

/// Whether a write changed anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The file already had this content; it was fsynced nevertheless.
    Same,
    /// The file was created or replaced.
    Changed,
}

/// Replaces `path` by `bytes` with permissions `mode`: afterwards the new content is durable. A crash at any moment
/// leaves the old or the new file, never a mixture. An equal file is kept and only fsynced, which makes repeats cheap.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<Written, FsError> {
    let dir = parent(path)?;
    if fs::read(path).is_ok_and(|old| old == bytes) {
        let stamp = Stamp::of(path);
        if stamp.is_none() || stamp != flushed(path) {
            // Equal content may still be only in the page cache: a promise needs it on disk.
            File::open(path).and_then(|file| file.sync_all()).map_err(FsError::at("fsync", path))?;
            sync_dir(dir)?;
            remember(path, stamp);
        }
        fault::replaces(path, true);
        return Ok(Written::Same);
    }
    swap_in(path, dir, bytes, mode, true).map_err(FsError::at("write", path))?;
    let stamp = Stamp::of(path);
    sync_dir(dir)?;
    remember(path, stamp);
    Ok(Written::Changed)
}

/// Which file it is and when it was last changed in any way: as long as both are the same, what this process has
/// flushed is still flushed, and repeating a fence costs no wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// `None` where it cannot be told.
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::symlink_metadata(path).ok()?;
        Some(Self { device: meta.dev(), inode: meta.ino(), changed: (meta.ctime(), meta.ctime_nsec()) })
    }
}

static FLUSHED: Mutex<BTreeMap<PathBuf, Stamp>> = Mutex::new(BTreeMap::new());

fn flushed(path: &Path) -> Option<Stamp> {
    FLUSHED.lock().unwrap_or_else(PoisonError::into_inner).get(path).copied()
}

fn remember(path: &Path, stamp: Option<Stamp>) {
    let mut known = FLUSHED.lock().unwrap_or_else(PoisonError::into_inner);
    match stamp {
        Some(stamp) => known.insert(path.to_owned(), stamp),
        None => known.remove(path),
    };
}

/// Replaces `path` by `bytes` for every process that looks from now on, without waiting for the disk: after a crash of
/// the operating system the old content may be back. For settings of a *running* server only: that crash ends the
/// server too, every start by the agent writes its settings anew, and a start by hand finds `standby.signal` and, since
/// the last seal or start, no upstream that was flushed. Never for a seal, a fence or a promise.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<Written, FsError> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(Written::Same);
    }
    swap_in(path, parent(path)?, bytes, mode, false).map_err(FsError::at("write", path))?;
    Ok(Written::Changed)
}

/// Writes `bytes` over what is in `path`, without a flush and without another file in its place, which costs milliseconds on
/// a busy file system. Whoever is killed meanwhile may leave the new bytes with a rest of the old ones behind them: for
/// notes of a word or a line whose readers take anything else for "not known".
pub fn overwrite(path: &Path, bytes: &[u8], mode: u32) -> Result<Written, FsError> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(Written::Same);
    }
    let written = OpenOptions::new().write(true).create(true).truncate(false).mode(mode).open(path).and_then(|file| {
        file.write_all_at(bytes, 0)?;
        file.set_len(bytes.len() as u64)
    });
    written.map_err(FsError::at("write", path))?;
    Ok(Written::Changed)
}

fn swap_in(path: &Path, dir: &Path, bytes: &[u8], mode: u32, durable: bool) -> io::Result<()> {
    let temporary = temporary(path, dir)?;
    let filled = fill(&temporary, bytes, mode, durable).and_then(|()| {
        fault::replaces(path, durable);
        fs::rename(&temporary, path)
    });
    if filled.is_err() {
        // What is left of it is taken away when the file is written next; the error matters more than this one.
        fs::remove_file(&temporary).ok();
    }
    filled
}

fn fill(temporary: &Path, bytes: &[u8], mode: u32, durable: bool) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(temporary)?;
    // What is created is cut by the umask.
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    file.write_all(bytes)?;
    if durable {
        file.sync_all()?;
    }
    Ok(())
}

const TEMPORARY: &str = ".pgvigil-tmp";

/// A name beside `path` that no other writer has: two that write one file at once (an act that was given up may still be
/// at it) each put a whole file in place. What a process that died has left there is taken away, once for each file.
fn temporary(path: &Path, dir: &Path) -> io::Result<PathBuf> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    static CLEANED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let mut stem = path.file_name().unwrap_or_default().to_owned();
    stem.push(TEMPORARY);
    let first = CLEANED.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
    if first {
        remove_left_overs(dir, &stem)?;
    }
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    stem.push(format!("{}{number}", ours()));
    Ok(dir.join(stem))
}

/// How the names of this process's temporary files go on: a container gives the same process id to each life.
fn ours() -> &'static str {
    static OURS: OnceLock<String> = OnceLock::new();
    OURS.get_or_init(|| {
        let born = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        format!("-{}-{born}-", std::process::id())
    })
}

fn remove_left_overs(dir: &Path, stem: &std::ffi::OsStr) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let Some(rest) = name.as_encoded_bytes().strip_prefix(stem.as_encoded_bytes()) else { continue };
        let writer = std::str::from_utf8(rest).ok().and_then(|rest| rest.split('-').nth(1)?.parse::<u32>().ok());
        let other_lives = |pid| pid != std::process::id() && Path::new(&format!("/proc/{pid}")).exists();
        if rest.starts_with(ours().as_bytes()) || writer.is_some_and(other_lives) {
            continue;
        }
        match fs::remove_file(dir.join(&name)) {
            Ok(()) => tracing::info!("removed {}, left by a process that died", dir.join(&name).display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fsyncs a directory, so that names created, renamed or removed in it survive a crash.
pub fn sync_dir(dir: &Path) -> Result<(), FsError> {
    File::open(dir).and_then(|file| file.sync_all()).map_err(FsError::at("fsync directory", dir))
}

/// Fsyncs one file's content.
pub fn sync_file(path: &Path) -> Result<(), FsError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(FsError::at("fsync", path))
}

/// Removes `path` durably; a file that is already absent is success.
pub fn remove_durable(path: &Path) -> Result<(), FsError> {
    match fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(FsError::at("remove", path)(error)),
    }
    sync_dir(parent(path)?)
}

/// Creates `dir` and its parents with mode 0700 for those that are missing.
pub fn create_dir_private(dir: &Path) -> Result<(), FsError> {
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(dir).map_err(FsError::at("create directory", dir))
}

/// Reads a text file; `None` when it does not exist. Bytes that are not UTF-8 are an error.
pub fn read_text(path: &Path) -> Result<Option<String>, FsError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FsError::at("read", path)(error)),
    }
}

/// Reads a file of whatever encoding; one that does not exist is empty.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>, FsError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(FsError::at("read", path)),
    }
}

/// As [`read_text`], for files that a loss of power may have left as anything: bytes that are no text are replaced.
pub fn read_lossy(path: &Path) -> Result<Option<String>, FsError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FsError::at("read", path)(error)),
    }
}

/// Puts `fresh` where `current` is and the other way round, in one atomic step, and makes it durable.
pub fn exchange(fresh: &Path, current: &Path) -> Result<(), FsError> {
    renameat2(nix::fcntl::AT_FDCWD, fresh, nix::fcntl::AT_FDCWD, current, RenameFlags::RENAME_EXCHANGE)
        .map_err(|errno| FsError::at("exchange with a new directory", current)(errno.into()))?;
    sync_dir(parent(current)?)?;
    sync_dir(parent(fresh)?)
}

/// Renames `from` to `to` (same file system) and makes it durable.
pub fn rename_durable(from: &Path, to: &Path) -> Result<(), FsError> {
    fs::rename(from, to).map_err(FsError::at("rename", from))?;
    sync_dir(parent(to)?)?;
    sync_dir(parent(from)?)
}

fn parent(path: &Path) -> Result<&Path, FsError> {
    match path.parent() {
        Some(dir) if dir.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(dir) => Ok(dir),
        None => Err(FsError::at("find the directory of", path)(io::ErrorKind::InvalidInput.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// In place: whoever has it open sees the new bytes, and a shorter text leaves no rest of a longer one.
    #[test]
    fn what_is_overwritten_is_the_same_file_with_only_the_new_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert_eq!(overwrite(&path, b"closed", 0o600).unwrap(), Written::Changed);
        let inode = fs::metadata(&path).unwrap().ino();
        assert_eq!(overwrite(&path, b"open", 0o600).unwrap(), Written::Changed);
        assert_eq!(overwrite(&path, b"open", 0o600).unwrap(), Written::Same);
        assert_eq!(fs::read(&path).unwrap(), b"open");
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_replaces_content_and_mode_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert_eq!(write_atomic(&path, b"one", 0o600).unwrap(), Written::Changed);
        assert_eq!(write_atomic(&path, b"one", 0o600).unwrap(), Written::Same);
        assert_eq!(write_atomic(&path, b"two", 0o640).unwrap(), Written::Changed);
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_somebody_touched_since_is_flushed_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_atomic(&path, b"one", 0o600).unwrap();
        assert_eq!(flushed(&path), Stamp::of(&path));
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"one").unwrap();
        assert_ne!(flushed(&path), Stamp::of(&path), "the same bytes in another file are not known to be on disk");
        assert_eq!(write_atomic(&path, b"one", 0o600).unwrap(), Written::Same);
        assert_eq!(flushed(&path), Stamp::of(&path));
    }

    #[test]
    fn a_replacement_is_seen_at_once_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert_eq!(replace(&path, b"one", 0o600).unwrap(), Written::Changed);
        assert_eq!(replace(&path, b"one", 0o600).unwrap(), Written::Same);
        assert_eq!(replace(&path, b"two", 0o640).unwrap(), Written::Changed);
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// Two threads write one file many times: it is always one of the two, whole, and nothing is left beside it.
    #[test]
    fn writers_of_one_file_do_not_share_a_temporary_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let contents = [vec![b'a'; 70_000], vec![b'b'; 30_000]];
        std::thread::scope(|scope| {
            for content in &contents {
                scope.spawn(|| {
                    for turn in 0..200 {
                        // Never the same twice, or it would not be written.
                        let content = [content.as_slice(), format!("{turn}").as_bytes()].concat();
                        replace(&path, &content, 0o600).unwrap();
                        let read = fs::read(&path).unwrap();
                        let digits = read.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
                        let body = &read[..read.len() - digits];
                        assert!(contents.iter().any(|content| content == body), "a mixture of {} bytes", body.len());
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_dead_writers_left_is_removed_and_what_living_ones_write_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let parent = nix::unistd::getppid();
        let living = dir.path().join(format!("x.pgvigil-tmp-{parent}-7-1"));
        for left in ["x.pgvigil-tmp".to_owned(), format!("x.pgvigil-tmp-{}-7-0", std::process::id())] {
            fs::write(dir.path().join(left), "").unwrap();
        }
        fs::write(dir.path().join("x.pgvigil-tmp-4194305-7-1"), "").unwrap();
        fs::write(dir.path().join("y.pgvigil-tmp"), "").unwrap();
        fs::write(&living, "").unwrap();
        write_atomic(&path, b"one", 0o600).unwrap();
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["x".into(), living.file_name().unwrap().to_owned(), "y.pgvigil-tmp".into()]);
    }

    #[test]
    fn removing_twice_and_reading_nothing_are_no_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_atomic(&path, b"", 0o600).unwrap();
        remove_durable(&path).unwrap();
        remove_durable(&path).unwrap();
        assert!(read_text(&path).unwrap().is_none());
    }

    #[test]
    fn directories_are_exchanged() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir(&a).unwrap();
        fs::create_dir(&b).unwrap();
        fs::write(a.join("in-a"), "").unwrap();
        exchange(&a, &b).unwrap();
        assert!(b.join("in-a").exists() && !a.join("in-a").exists());
    }
}
