//! Where things of one PostgreSQL instance lie: the data directory, and the agent's own directory beside it.

use std::path::{Path, PathBuf};

/// The two directories of one instance. The agent directory must not lie inside the data directory: a clone
/// replaces the latter as a whole, and pg_rewind would copy over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// PostgreSQL's data directory.
    pub data_dir: PathBuf,
    /// The agent's directory: pass file, locks, logs, diverged WAL.
    pub agent_dir: PathBuf,
}

impl Layout {
    /// A layout over the two directories.
    pub fn new(data_dir: impl Into<PathBuf>, agent_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), agent_dir: agent_dir.into() }
    }

    /// PostgreSQL's WAL directory (may be a symbolic link).
    #[must_use]
    pub fn pg_wal(&self) -> PathBuf {
        self.data_dir.join("pg_wal")
    }

    /// The user's configuration file, which includes ours for servers that somebody else starts.
    #[must_use]
    pub fn postgresql_conf(&self) -> PathBuf {
        self.data_dir.join("postgresql.conf")
    }

    /// What `ALTER SYSTEM` writes; overrides everything else.
    #[must_use]
    pub fn auto_conf(&self) -> PathBuf {
        self.data_dir.join("postgresql.auto.conf")
    }

    /// Our included settings file: what only a start takes up, and the file below.
    #[must_use]
    pub fn pgvigil_conf(&self) -> PathBuf {
        self.data_dir.join("pgvigil.conf")
    }

    /// Our settings that a reload takes up: the rule, the upstream. Read after every file of the user.
    #[must_use]
    pub fn rule_conf(&self) -> PathBuf {
        self.data_dir.join("pgvigil.rule.conf")
    }

    /// The configuration file that servers started by us read (`config_file`): the user's first, ours after it.
    #[must_use]
    pub fn main_conf(&self) -> PathBuf {
        self.data_dir.join("pgvigil.main.conf")
    }

    /// The door: host-based authentication.
    #[must_use]
    pub fn pg_hba(&self) -> PathBuf {
        self.data_dir.join("pg_hba.conf")
    }

    /// Map of operating-system users to roles, for peer authentication.
    #[must_use]
    pub fn pg_ident(&self) -> PathBuf {
        self.data_dir.join("pg_ident.conf")
    }

    /// The program and arguments of the last postmaster that started here; PostgreSQL writes it.
    #[must_use]
    pub fn postmaster_opts(&self) -> PathBuf {
        self.data_dir.join("postmaster.opts")
    }

    /// Its presence makes PostgreSQL start as a standby: the fence (history A13).
    #[must_use]
    pub fn standby_signal(&self) -> PathBuf {
        self.data_dir.join("standby.signal")
    }

    /// What somebody who restored a backup to a point in time leaves behind. Beside the fence PostgreSQL disregards it.
    #[must_use]
    pub fn recovery_signal(&self) -> PathBuf {
        self.data_dir.join("recovery.signal")
    }

    /// The upstream's password, which libpq reads when it connects (history A5).
    #[must_use]
    pub fn pass_file(&self) -> PathBuf {
        self.agent_dir.join("upstream.pass")
    }

    /// Where the postmaster's standard output and error go.
    #[must_use]
    pub fn log_file(&self) -> PathBuf {
        self.agent_dir.join("log").join("postgresql.log")
    }

    /// The agent's exclusive lock of this data directory.
    #[must_use]
    pub fn agent_lock(&self) -> PathBuf {
        self.agent_dir.join("agent.lock")
    }

    /// The guard's own lock.
    #[must_use]
    pub fn guard_lock(&self) -> PathBuf {
        self.agent_dir.join("guard.lock")
    }

    /// Under which diverged WAL is kept before a rewind.
    #[must_use]
    pub fn diverged_dir(&self) -> PathBuf {
        self.agent_dir.join("diverged")
    }

    /// The file of WAL segment `segment` (counted from 0/0) of `timeline` in `pg_wal`.
    #[must_use]
    pub fn segment_file(pg_wal: &Path, timeline: u32, segment: u64, segment_size: u64) -> PathBuf {
        pg_wal.join(segment_name(timeline, segment, segment_size))
    }
}

/// The name of a WAL segment file, as PostgreSQL's `XLogFileName`.
#[must_use]
pub fn segment_name(timeline: u32, segment: u64, segment_size: u64) -> String {
    let per_id = 0x1_0000_0000 / segment_size;
    format!("{timeline:08X}{:08X}{:08X}", segment / per_id, segment % per_id)
}

/// Parses the name of a WAL segment file into (timeline, segment); `None` for any other name, such as `.partial`.
#[must_use]
pub fn parse_segment_name(name: &str, segment_size: u64) -> Option<(u32, u64)> {
    if name.len() != 24 || !name.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b)) {
        return None;
    }
    let part = |from: usize| u32::from_str_radix(&name[from..from + 8], 16).ok();
    let per_id = 0x1_0000_0000 / segment_size;
    Some((part(0)?, u64::from(part(8)?) * per_id + u64::from(part(16)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_names_are_postgresqls() {
        const MB16: u64 = 16 << 20;
        assert_eq!(segment_name(1, 3, MB16), "000000010000000000000003");
        assert_eq!(segment_name(0x1F, 0x1_23, MB16), "0000001F0000000100000023");
        assert_eq!(parse_segment_name("0000001F0000000100000023", MB16), Some((0x1F, 0x123)));
        assert_eq!(parse_segment_name("0000001F0000000100000023.partial", MB16), None);
        assert_eq!(parse_segment_name("00000002.history", MB16), None);
    }
}
