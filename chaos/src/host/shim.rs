//! The preloaded library (`shim.c`), compiled at the start of a run, and the page through which a host is controlled.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{HostError, tool};

const SOURCE: &str = include_str!("shim.c");
/// The environment variable that names the page's file.
pub const CONTROL: &str = "CHAOS_HOST_CONTROL";
/// The layout of `struct control`.
const WALL_OFFSET: u64 = 0;
const SYNC_ERRNO: u64 = 8;
const SYNC_FAILED: u64 = 12;
const PATTERN: u64 = 16;
const PATTERN_SIZE: usize = 240;
const SIZE: u64 = PATTERN + PATTERN_SIZE as u64;

/// The compiled library.
#[derive(Debug, Clone)]
pub struct Shim {
    library: PathBuf,
}

impl Shim {
    /// Compiles it in `dir`, which every account must be able to enter.
    pub fn build(dir: &Path) -> Result<Shim, HostError> {
        let (source, library) = (dir.join("shim.c"), dir.join("shim.so"));
        std::fs::write(&source, SOURCE).map_err(HostError::io("writing shim.c"))?;
        let (from, to) = (source.to_string_lossy(), library.to_string_lossy());
        tool("cc", &["-O2", "-shared", "-fPIC", "-o", &to, &from, "-ldl"], None)?;
        Ok(Shim { library })
    }

    /// The environment of a host with that page.
    pub fn environment(&self, control: &Control) -> Vec<(String, String)> {
        vec![
            ("LD_PRELOAD".to_owned(), self.library.to_string_lossy().into_owned()),
            (CONTROL.to_owned(), control.path.to_string_lossy().into_owned()),
        ]
    }
}

/// The page of one host.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    file: File,
}

impl Control {
    /// A new one, in which nothing is wrong.
    pub fn create(path: PathBuf) -> Result<Control, HostError> {
        use std::os::unix::fs::PermissionsExt;
        let made = File::options().create(true).truncate(true).read(true).write(true).open(&path);
        let file = made.map_err(HostError::io(format!("making {}", path.display())))?;
        file.set_len(SIZE).map_err(HostError::io("sizing the page of a host"))?;
        // The servers run as another user, and count in it.
        file.set_permissions(std::fs::Permissions::from_mode(0o666))
            .map_err(HostError::io("opening it to the servers"))?;
        Ok(Control { path, file })
    }

    fn put(&self, bytes: &[u8], at: u64) -> Result<(), HostError> {
        self.file.write_all_at(bytes, at).map_err(HostError::io("writing the page of a host"))
    }

    /// The host's wall clock is so many milliseconds ahead.
    pub fn wall_clock(&self, ahead_ms: i64) -> Result<(), HostError> {
        self.put(&(ahead_ms * 1_000_000).to_ne_bytes(), WALL_OFFSET)
    }

    /// fsync of a file whose path holds `pattern` fails with EIO.
    pub fn fail_sync(&self, pattern: &str) -> Result<(), HostError> {
        assert!(pattern.len() < PATTERN_SIZE, "the pattern does not fit: {pattern}");
        let mut bytes = [0_u8; PATTERN_SIZE];
        bytes[..pattern.len()].copy_from_slice(pattern.as_bytes());
        self.put(&bytes, PATTERN)?;
        self.put(&nix::libc::EIO.to_ne_bytes(), SYNC_ERRNO)
    }

    /// fsync works again.
    pub fn let_sync(&self) -> Result<(), HostError> {
        self.put(&0_i32.to_ne_bytes(), SYNC_ERRNO)
    }

    /// How many calls have failed so far.
    pub fn failed_syncs(&self) -> Result<u32, HostError> {
        let mut bytes = [0_u8; 4];
        self.file.read_exact_at(&mut bytes, SYNC_FAILED).map_err(HostError::io("reading the page of a host"))?;
        Ok(u32::from_ne_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Runs `script` with a page of its own, prepared by `set`; what it printed.
    fn with_page(set: impl FnOnce(&Control), script: &str) -> (String, u32) {
        let dir = tempfile::tempdir().expect("a folder");
        let shim = Shim::build(dir.path()).expect("compiles");
        let control = Control::create(dir.path().join("page")).expect("is made");
        set(&control);
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).current_dir(dir.path()).envs(shim.environment(&control));
        let output = shell.output().expect("sh runs");
        (String::from_utf8_lossy(&output.stdout).trim().to_owned(), control.failed_syncs().expect("is read"))
    }

    #[test]
    fn the_wall_clock_jumps() {
        let seconds = |ahead_ms: i64| -> i64 {
            let (text, _) = with_page(|page| page.wall_clock(ahead_ms).expect("is set"), "date +%s");
            text.parse().expect("a number")
        };
        let now = seconds(0);
        assert!((3_500..3_700).contains(&(seconds(3_600_000) - now)));
        assert!((-3_700..-3_500).contains(&(seconds(-3_600_000) - now)));
    }

    #[test]
    fn fsync_fails_for_the_files_named_only() {
        let script = "touch bad.wal good; sync bad.wal && echo bad; sync good && echo good";
        let (said, failed) = with_page(|page| page.fail_sync(".wal").expect("is set"), script);
        assert_eq!((said.as_str(), failed), ("good", 1));
        let (said, failed) = with_page(|_| {}, script);
        assert_eq!((said.as_str(), failed), ("bad\ngood", 0));
    }
}
