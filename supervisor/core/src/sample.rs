//! What a look at a PostgreSQL server shows: a cheap one, taken several times a second, and a richer one. Plain data; the
//! adapter fills it in.

use crate::{id::TimelineId, lsn::Lsn, rpo::Waiter};
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, BTreeSet};

/// The cheap sample. Stale the moment it is read; positions only grow along one timeline.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Sample {
    /// In recovery: a standby, or a server not yet promoted.
    pub in_recovery: bool,
    /// The timeline that a primary writes; `None` in recovery.
    pub timeline: Option<TimelineId>,
    /// How far a primary has inserted WAL; `None` in recovery.
    #[serde(deserialize_with = "lsn")]
    pub insert_lsn: Option<Lsn>,
    /// How far a primary's WAL is on its disk; `None` in recovery.
    #[serde(deserialize_with = "lsn")]
    pub flush_lsn: Option<Lsn>,
    /// How far streaming has received and flushed; `None` after a restart until something is streamed; goes back at a
    /// timeline switch (history A4). A hint, never a position.
    #[serde(deserialize_with = "lsn")]
    pub receive_lsn: Option<Lsn>,
    /// How far recovery has replayed; on a primary, where recovery ended; `None` if it never recovered.
    #[serde(deserialize_with = "lsn")]
    pub replay_lsn: Option<Lsn>,
    /// Replay is paused, or was asked to pause.
    pub replay_paused: bool,
    /// The walreceiver, once it is connected; one that is starting is not shown.
    pub receiver: Option<Receiver>,
    /// Walsenders, base backups included.
    pub walsenders: Vec<Walsender>,
    /// `synchronous_standby_names` in force for this session.
    pub sync_names: String,
    /// `synchronous_commit` by default.
    pub sync_commit: String,
    /// `synchronous_commit` set for a role or database: sessions outside S1. As of every look that shows the rule: what an
    /// older one showed proves nothing since.
    #[serde(default)]
    pub commit_overrides: Vec<CommitOverride>,
    /// Whether `primary_conninfo` is non-empty.
    pub has_upstream: bool,
    /// What the promise rests on and a reload could change, by name, as this session sees it.
    pub watched: BTreeMap<String, String>,
    /// `config_file`: which file is read first.
    pub config_file: String,
    /// When this session last read the configuration files, microseconds since 1970, wall clock: it changes with every
    /// reload, whoever asked for it.
    pub loaded_us: i64,
    /// Backends that wait for standbys to confirm their commit.
    pub commit_waiters: BTreeSet<Waiter>,
    /// The canary waits for a lock, which accuses neither a standby nor the disk: for which, and who holds it.
    pub canary_lock: Option<String>,
    /// The transaction id after the newest one that has ended; `None` in recovery.
    pub next_xid: Option<u64>,
    /// Transactions under way that have written, the canary's left out.
    pub writers: u32,
    /// PostgreSQL archives a segment after every `archive_timeout` in which anything was written.
    pub archives_by_time: bool,
}

/// A row of `pg_stat_wal_receiver`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Receiver {
    /// Its process.
    pub pid: i32,
    /// `streaming`, `waiting`, …
    pub status: String,
    /// The timeline it follows, which is not the one that owns the last byte (history A3).
    pub timeline: Option<TimelineId>,
    /// How far it has flushed.
    #[serde(deserialize_with = "lsn")]
    pub flushed_lsn: Option<Lsn>,
    /// Milliseconds since the upstream's last message.
    pub silent_ms: Option<i64>,
    /// The upstream's host.
    pub host: Option<String>,
    /// The upstream's port.
    pub port: Option<i32>,
}

/// A row of `pg_stat_replication`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Walsender {
    /// Its process.
    pub pid: i32,
    /// The name that `synchronous_standby_names` is compared with.
    pub application_name: String,
    /// The role that connected.
    pub role: Option<String>,
    /// From where; `None` for a Unix socket.
    pub address: Option<String>,
    /// Its connection is encrypted (TLS or GSSAPI); `None` when it ended while the sample was taken.
    pub encrypted: Option<bool>,
    /// From which port; `None` for a Unix socket.
    pub port: Option<i32>,
    /// Milliseconds since it connected.
    pub age_ms: i64,
    /// When its newest reply was sent, by the standby's wall clock: another value is a new reply. `None` before the first.
    pub replied: Option<i64>,
    /// `startup`, `catchup`, `streaming`, `backup`, `stopping`.
    pub state: Option<String>,
    /// `async`, `potential`, `sync`, `quorum`.
    pub sync_state: Option<String>,
    /// Sent so far.
    #[serde(deserialize_with = "lsn")]
    pub sent_lsn: Option<Lsn>,
    /// Reported as written.
    #[serde(deserialize_with = "lsn")]
    pub write_lsn: Option<Lsn>,
    /// Reported as flushed: what acknowledges commits.
    #[serde(deserialize_with = "lsn")]
    pub flush_lsn: Option<Lsn>,
    /// Reported as replayed.
    #[serde(deserialize_with = "lsn")]
    pub replay_lsn: Option<Lsn>,
    /// Milliseconds since its last reply, by the two machines' wall clocks: a hint.
    pub reply_age_ms: Option<i64>,
}

/// The richer sample: every few seconds, or when something is decided.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct SlowSample {
    /// Identity of the cluster. As text, since JSON numbers are not wide enough for some readers.
    #[serde(deserialize_with = "number_text")]
    pub system_identifier: u64,
    /// Start of the postmaster, milliseconds since 1970, wall clock.
    pub postmaster_start_ms: i64,
    /// The control file's timeline: that of the last (restart) checkpoint.
    pub checkpoint_timeline: TimelineId,
    /// The control file's redo position: a record is known to begin there.
    #[serde(deserialize_with = "lsn")]
    pub redo_lsn: Option<Lsn>,
    /// Bytes per WAL segment.
    pub wal_segment_size: u64,
    /// The server's version, as `150018`.
    pub version_num: u32,
    /// Replication slots.
    pub slots: Vec<Slot>,
    /// Settings that take effect only at a restart and wait for one.
    pub pending_restart: Vec<String>,
    /// Prepared transactions: they hold locks across a failover.
    pub prepared_transactions: u32,
    /// Client backends by the age of their state: for the proof that leaving k = 0 has reached every session.
    pub clients: Vec<ClientBackend>,
    /// Databases (without templates) and their sizes are left to monitoring tools; this is the sum in bytes of the WAL
    /// directory's files.
    pub wal_bytes: Option<u64>,
}

/// A replication slot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// `physical` or `logical`.
    pub kind: String,
    /// The process that uses it.
    pub active_pid: Option<i32>,
    /// From where WAL is kept for it.
    #[serde(deserialize_with = "lsn")]
    pub restart_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: Option<String>,
    /// Bytes of WAL that may still be written before it is lost.
    pub safe_wal_size: Option<i64>,
}

/// `synchronous_commit` set for a role, a database or both; `None` stands for all.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct CommitOverride {
    /// The database.
    pub database: Option<String>,
    /// The role.
    pub role: Option<String>,
    /// `off`, `local`, …
    pub value: String,
}

/// A client's server process.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ClientBackend {
    /// Its process.
    pub pid: i32,
    /// What it says it is.
    pub application_name: String,
    /// Its role.
    pub role: Option<String>,
    /// Milliseconds since its transaction began; `None` when it is in none.
    pub transaction_age_ms: Option<i64>,
    /// Milliseconds since it connected.
    pub age_ms: i64,
    /// It waits for standbys.
    pub waits_for_standbys: bool,
}

fn lsn<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Lsn>, D::Error> {
    let text: Option<String> = Deserialize::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

fn number_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text: String = Deserialize::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}
