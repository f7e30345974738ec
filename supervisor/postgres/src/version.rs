//! Everything that differs between PostgreSQL 14 and 18, in one place, and where its programs are found.

use crate::libpq::quiet_environment;
use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The oldest major version that is supported.
pub const OLDEST: u16 = 14;
/// The newest major version that is supported.
pub const NEWEST: u16 = 18;

/// Programs that must be present beside each other.
const PROGRAMS: [&str; 5] = ["postgres", "initdb", "pg_controldata", "pg_rewind", "pg_basebackup"];

/// A PostgreSQL version such as 15.18; a pre-release counts as minor 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Major version: 14 to 18.
    pub major: u16,
    /// Minor release.
    pub minor: u16,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Version {
    /// Parses what `postgres --version` or `SHOW server_version` says: the first number of the form `15.18`, `18beta1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let word = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
        let major = digits(word);
        let minor = word[major.len()..].strip_prefix('.').map(digits).filter(|text| !text.is_empty());
        Some(Self { major: major.parse().ok()?, minor: minor.map_or(Some(0), |text| text.parse().ok())? })
    }

    /// Whether this major version is one of 14 to 18.
    #[must_use]
    pub const fn supported(self) -> bool {
        self.major >= OLDEST && self.major <= NEWEST
    }

    /// `XLOG_PAGE_MAGIC` of this major version; `None` if unsupported.
    #[must_use]
    pub const fn wal_page_magic(self) -> Option<u16> {
        match self.major {
            14 => Some(0xD10D),
            15 => Some(0xD110),
            16 => Some(0xD113),
            17 => Some(0xD116),
            18 => Some(0xD118),
            _ => None,
        }
    }

    /// Settings that this version knows beyond version 14, by name.
    #[must_use]
    pub fn knows_setting(self, name: &str) -> bool {
        let since = match name {
            "recovery_prefetch" | "archive_library" => 15,
            "reserved_connections" => 16,
            "allow_alter_system" | "sync_replication_slots" | "synchronized_standby_slots" | "summarize_wal" => 17,
            "idle_replication_slot_timeout" | "io_method" => 18,
            "promote_trigger_file" | "vacuum_defer_cleanup_age" => return self.major < 16,
            _ => OLDEST,
        };
        self.major >= since
    }

    /// 17 and later can refuse `ALTER SYSTEM` altogether.
    #[must_use]
    pub const fn can_forbid_alter_system(self) -> bool {
        self.major >= 17
    }

    /// Up to 17 `initdb` leaves data checksums off unless told; 18 has them on, but accepts the option too.
    #[must_use]
    pub const fn initdb_checksums_option(self) -> &'static str {
        "--data-checksums"
    }

    /// The predefined role that may run `CHECKPOINT`; before 15 only superusers may.
    #[must_use]
    pub const fn checkpoint_role(self) -> Option<&'static str> {
        if self.major >= 15 { Some("pg_checkpoint") } else { None }
    }

    /// Whether a role that creates another one becomes its member with ADMIN (16 and later) instead of having
    /// power over every role (up to 15).
    #[must_use]
    pub const fn createrole_is_narrow(self) -> bool {
        self.major >= 16
    }
}

/// PostgreSQL's programs could not be used.
#[derive(Debug, thiserror::Error)]
pub enum BinariesError {
    /// No directory held all programs.
    #[error("PostgreSQL programs ({}) not found; looked in {looked}", PROGRAMS.join(", "))]
    Missing {
        /// The directories that were tried, and what each one lacks.
        looked: String,
    },
    /// `postgres --version` failed or said something else.
    #[error("{} --version: {problem}", program.display())]
    Version {
        /// The program.
        program: PathBuf,
        /// What went wrong.
        problem: String,
    },
    /// A version outside 14 to 18.
    #[error("{} is PostgreSQL {version}; supported are {OLDEST} to {NEWEST}", bin_dir.display())]
    Unsupported {
        /// Where it was found.
        bin_dir: PathBuf,
        /// Its version.
        version: Version,
    },
}

/// One installation of PostgreSQL's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    bin_dir: PathBuf,
    version: Version,
}

impl Binaries {
    /// Finds an installation: `bin_dir` when it is named (nothing else is tried then), else the directory of
    /// `postgres` on PATH, else the newest of `/usr/lib/postgresql/*/bin` and `/usr/pgsql-*/bin`.
    pub fn find(bin_dir: Option<&Path>) -> Result<Self, BinariesError> {
        Self::find_major(bin_dir, None)
    }

    /// As [`find`](Self::find), but only an installation of `major`: a data directory can be run by no other.
    pub fn find_major(bin_dir: Option<&Path>, major: Option<u16>) -> Result<Self, BinariesError> {
        let mut looked = Vec::new();
        for dir in bin_dir.map_or_else(places, |dir| vec![dir.to_owned()]) {
            let missing: Vec<_> = PROGRAMS.into_iter().filter(|name| !dir.join(name).is_file()).collect();
            if !missing.is_empty() {
                looked.push(format!("{} (no {})", dir.display(), missing.join(", ")));
                continue;
            }
            let version = ask_version(&dir.join("postgres"))?;
            if major.is_some_and(|major| major != version.major) {
                looked.push(format!("{} (version {version})", dir.display()));
                continue;
            }
            if !version.supported() {
                if bin_dir.is_some() {
                    return Err(BinariesError::Unsupported { bin_dir: dir, version });
                }
                looked.push(format!("{} (unsupported version {version})", dir.display()));
                continue;
            }
            return Ok(Self { bin_dir: dir, version });
        }
        if looked.is_empty() {
            looked.push("PATH and /usr/lib/postgresql/*/bin, which hold none".to_owned());
        }
        Err(BinariesError::Missing { looked: looked.join("; ") })
    }

    /// The directory that holds the programs.
    #[must_use]
    pub fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// The version of all of them.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The path of one program.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }
}

fn places() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = env::var_os("PATH")
        .map(|path| env::split_paths(&path).filter(|dir| dir.join("postgres").is_file()).collect())
        .unwrap_or_default();
    let mut packaged: Vec<(u16, PathBuf)> = Vec::new();
    for (root, prefix) in [("/usr/lib/postgresql", ""), ("/usr", "pgsql-")] {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(major) = name.strip_prefix(prefix).and_then(|text| text.parse().ok()) {
                packaged.push((major, entry.path().join("bin")));
            }
        }
    }
    packaged.sort_by(|a, b| b.cmp(a));
    places.extend(packaged.into_iter().map(|(_, dir)| dir));
    places
}

fn ask_version(program: &Path) -> Result<Version, BinariesError> {
    let refuse = |problem: String| BinariesError::Version { program: program.to_owned(), problem };
    let mut command = Command::new(program);
    quiet_environment(&mut command);
    let output = command.arg("--version").output().map_err(|error| refuse(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Version::parse(&text).ok_or_else(|| refuse(format!("unexpected answer {text:?} ({})", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_the_programs_say() {
        let parse = |text| Version::parse(text).map(|v| (v.major, v.minor));
        assert_eq!(parse("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some((15, 18)));
        assert_eq!(parse("postgres (PostgreSQL) 18beta1"), Some((18, 0)));
        assert_eq!(parse("17.2"), Some((17, 2)));
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn a_missing_installation_names_the_places() {
        let dir = tempfile::tempdir().unwrap();
        let error = Binaries::find(Some(dir.path())).unwrap_err().to_string();
        assert!(error.contains(&dir.path().display().to_string()) && error.contains("pg_rewind"), "{error}");
    }

    #[test]
    fn settings_of_later_versions_are_not_known_to_earlier_ones() {
        let v = |major| Version { major, minor: 0 };
        assert!(!v(16).knows_setting("allow_alter_system") && v(17).knows_setting("allow_alter_system"));
        assert!(v(15).knows_setting("promote_trigger_file") && !v(16).knows_setting("promote_trigger_file"));
        assert!(v(14).knows_setting("wal_keep_size"));
    }
}
