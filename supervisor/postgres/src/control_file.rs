//! What `pg_controldata` says, parsed. The text is stable across 14 to 18; the binary layout is not, so it is never
//! read directly.

use crate::{libpq::quiet_environment, version::Binaries};
use pgvigil_core::{id::TimelineId, lsn::Lsn};
use std::{collections::HashMap, path::Path, path::PathBuf, process::Command, str::FromStr};

/// In what state PostgreSQL left (or keeps) its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// "starting up".
    StartingUp,
    /// "shut down": a primary stopped cleanly.
    ShutDown,
    /// "shut down in recovery": a standby stopped cleanly.
    ShutDownInRecovery,
    /// "shutting down".
    ShuttingDown,
    /// "in crash recovery".
    InCrashRecovery,
    /// "in archive recovery": a running standby, or one that crashed.
    InArchiveRecovery,
    /// "in production": a running primary, or one that crashed.
    InProduction,
}

impl ClusterState {
    /// Stopped in good order, so that pg_rewind needs no recovery first.
    #[must_use]
    pub const fn is_clean(self) -> bool {
        matches!(self, Self::ShutDown | Self::ShutDownInRecovery)
    }
}

/// The control file's content, as far as anyone here asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// Identity of the cluster, given by initdb; equal on all replicas.
    pub system_identifier: u64,
    /// State at the last update of the control file.
    pub state: ClusterState,
    /// Where the latest checkpoint record starts.
    pub checkpoint: Lsn,
    /// From where the latest checkpoint's redo starts. A record is known to begin there.
    pub redo: Lsn,
    /// Timeline of the latest checkpoint.
    pub timeline: TimelineId,
    /// The timeline before it; differs right after a promotion.
    pub prev_timeline: TimelineId,
    /// How far a standby must replay to be consistent; zero for a primary.
    pub min_recovery_point: Lsn,
    /// The timeline of that point; zero for a primary.
    pub min_recovery_timeline: TimelineId,
    /// The directory is a copy whose first recovery has begun and is not complete: from where it was copied on, or up to
    /// where a copy of a standby (or what pg_rewind made) must be replayed. PostgreSQL forgets both when it is consistent.
    pub copy_unrecovered: bool,
    /// Bytes per WAL segment.
    pub wal_segment_size: u64,
    /// Bytes per WAL page.
    pub wal_block_size: u64,
    /// 0 when data checksums are off.
    pub checksum_version: u32,
    /// The recorded `wal_level`.
    pub wal_level: String,
    /// The recorded `wal_log_hints`.
    pub wal_log_hints: bool,
    /// The primary's settings that a standby must not undercut.
    pub floors: SettingFloors,
    /// `full_page_writes` as of the latest checkpoint.
    pub full_page_writes: bool,
}

/// Settings of the primary that a standby must have at least as large, or it refuses to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettingFloors {
    /// `max_connections`
    pub max_connections: u32,
    /// `max_worker_processes`
    pub max_worker_processes: u32,
    /// `max_wal_senders`
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`
    pub max_locks_per_transaction: u32,
}

impl SettingFloors {
    /// The floors under PostgreSQL's names.
    #[must_use]
    pub fn by_name(&self) -> [(&'static str, u32); 5] {
        [
            ("max_connections", self.max_connections),
            ("max_worker_processes", self.max_worker_processes),
            ("max_wal_senders", self.max_wal_senders),
            ("max_prepared_transactions", self.max_prepared_transactions),
            ("max_locks_per_transaction", self.max_locks_per_transaction),
        ]
    }
}

/// The control file could not be read or believed.
#[derive(Debug, thiserror::Error)]
pub enum ControlFileError {
    /// `pg_controldata` could not be run, failed, or warned about the file.
    #[error("pg_controldata {}: {problem}", data_dir.display())]
    Run {
        /// Of which data directory.
        data_dir: PathBuf,
        /// The status and what it said on standard error.
        problem: String,
    },
    /// A line is missing.
    #[error("pg_controldata printed no line {0:?}")]
    Absent(&'static str),
    /// A line cannot be understood.
    #[error("pg_controldata line {label:?} has the unexpected value {value:?}")]
    Value {
        /// Which line.
        label: &'static str,
        /// What it says.
        value: String,
    },
}

impl ControlFile {
    /// Runs `pg_controldata` (a few milliseconds; blocking). Works with the server up or down; a torn read of a
    /// running server's file is tried again.
    pub fn read(binaries: &Binaries, data_dir: &Path) -> Result<Self, ControlFileError> {
        let mut problem = String::new();
        for _ in 0..3 {
            let mut command = Command::new(binaries.program("pg_controldata"));
            quiet_environment(&mut command);
            let output =
                command.arg("-D").arg(data_dir).env("LC_ALL", "C").env_remove("LANGUAGE").output().map_err(
                    |error| ControlFileError::Run { data_dir: data_dir.to_owned(), problem: error.to_string() },
                )?;
            let stdout = String::from_utf8_lossy(&output.stdout);
            let stderr = String::from_utf8_lossy(&output.stderr);
            // A wrong checksum is only a warning to pg_controldata, which then prints what may be rubbish.
            let warned = !stderr.trim().is_empty() || stdout.lines().any(|line| line.starts_with("WARNING"));
            if output.status.success() && !warned {
                return Self::parse(&stdout);
            }
            problem = format!("{}: {}", output.status, stderr.trim());
            if !output.status.success() {
                break;
            }
        }
        Err(ControlFileError::Run { data_dir: data_dir.to_owned(), problem })
    }

    /// Parses the text that `LC_ALL=C pg_controldata` prints.
    pub fn parse(text: &str) -> Result<Self, ControlFileError> {
        let lines = Lines(text.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k, v.trim())).collect());
        Ok(Self {
            system_identifier: lines.get("Database system identifier")?,
            state: lines.state()?,
            checkpoint: lines.get("Latest checkpoint location")?,
            redo: lines.get("Latest checkpoint's REDO location")?,
            timeline: TimelineId(lines.get("Latest checkpoint's TimeLineID")?),
            prev_timeline: TimelineId(lines.get("Latest checkpoint's PrevTimeLineID")?),
            min_recovery_point: lines.get("Minimum recovery ending location")?,
            min_recovery_timeline: TimelineId(lines.get("Min recovery ending loc's timeline")?),
            copy_unrecovered: lines.get::<Lsn>("Backup start location")? != Lsn::ZERO
                || lines.get::<Lsn>("Backup end location")? != Lsn::ZERO,
            wal_segment_size: lines.get("Bytes per WAL segment")?,
            wal_block_size: lines.get("WAL block size")?,
            checksum_version: lines.get("Data page checksum version")?,
            wal_level: lines.text("wal_level setting")?.to_owned(),
            wal_log_hints: lines.on("wal_log_hints setting", "on")?,
            floors: SettingFloors {
                max_connections: lines.get("max_connections setting")?,
                max_worker_processes: lines.get("max_worker_processes setting")?,
                max_wal_senders: lines.get("max_wal_senders setting")?,
                max_prepared_transactions: lines.get("max_prepared_xacts setting")?,
                max_locks_per_transaction: lines.get("max_locks_per_xact setting")?,
            },
            full_page_writes: lines.on("Latest checkpoint's full_page_writes", "on")?,
        })
    }
}

struct Lines<'a>(HashMap<&'a str, &'a str>);

impl Lines<'_> {
    fn text(&self, label: &'static str) -> Result<&str, ControlFileError> {
        self.0.get(label).copied().ok_or(ControlFileError::Absent(label))
    }

    fn get<T: FromStr>(&self, label: &'static str) -> Result<T, ControlFileError> {
        let value = self.text(label)?;
        value.parse().map_err(|_| ControlFileError::Value { label, value: value.to_owned() })
    }

    fn on(&self, label: &'static str, yes: &str) -> Result<bool, ControlFileError> {
        match self.text(label)? {
            value if value == yes => Ok(true),
            "off" | "no" => Ok(false),
            value => Err(ControlFileError::Value { label, value: value.to_owned() }),
        }
    }

    fn state(&self) -> Result<ClusterState, ControlFileError> {
        const LABEL: &str = "Database cluster state";
        Ok(match self.text(LABEL)? {
            "starting up" => ClusterState::StartingUp,
            "shut down" => ClusterState::ShutDown,
            "shut down in recovery" => ClusterState::ShutDownInRecovery,
            "shutting down" => ClusterState::ShuttingDown,
            "in crash recovery" => ClusterState::InCrashRecovery,
            "in archive recovery" => ClusterState::InArchiveRecovery,
            "in production" => ClusterState::InProduction,
            value => return Err(ControlFileError::Value { label: LABEL, value: value.to_owned() }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXTURE: &str = include_str!("../tests/fixtures/pg_controldata_15.txt");

    #[test]
    fn the_text_of_version_15_is_understood() {
        let control = ControlFile::parse(FIXTURE).unwrap();
        assert_eq!(control.state, ClusterState::InProduction);
        assert_eq!(control.wal_segment_size, 16 << 20);
        assert_eq!(control.wal_block_size, 8192);
        assert_eq!(control.timeline, TimelineId(1));
        assert_eq!(control.checksum_version, 1);
        assert!(control.redo <= control.checkpoint && control.redo > Lsn::ZERO);
        assert_eq!(control.floors.max_connections, 100);
        assert_eq!(control.wal_level, "replica");
        assert!(control.full_page_writes && !control.wal_log_hints && !control.copy_unrecovered);
        let copied = FIXTURE
            .replace("Backup end location:                  0/0", "Backup end location:                  0/3000148");
        assert!(ControlFile::parse(&copied).unwrap().copy_unrecovered);
    }

    #[test]
    fn a_missing_or_strange_line_is_an_error() {
        let without = FIXTURE.replace("Latest checkpoint's REDO location", "Something else");
        assert!(matches!(ControlFile::parse(&without), Err(ControlFileError::Absent(_))));
        let strange = FIXTURE.replace("in production", "unrecognized status code");
        assert!(matches!(ControlFile::parse(&strange), Err(ControlFileError::Value { .. })));
    }
}
