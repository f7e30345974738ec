//! What the server says about itself: a cheap sample, taken several times a second, and a richer one.
//!
//! Both are one statement each, answered as JSON, so that all of a sample is of one moment (as far as PostgreSQL's
//! views are).

use crate::link::{Link, QueryError};
use pgvigil_core::{id::TimelineId, lsn::Lsn, rpo::Waiter};
use serde::{Deserialize, Deserializer};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What the promise rests on and a reload could change; looked at with every sample.
pub const WATCHED: [&str; 8] = [
    "synchronous_standby_names",
    "synchronous_commit",
    "primary_conninfo",
    "primary_slot_name",
    "restore_command",
    "restart_after_crash",
    "fsync",
    "full_page_writes",
];

/// The cheap sample. Stale the moment it is read; positions only grow along one timeline.
#[derive(Clone, Debug, PartialEq, Deserialize)]
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
    /// The settings of [`WATCHED`] as this session sees them.
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
#[derive(Clone, Debug, PartialEq, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Deserialize)]
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

const SAMPLE: &str = "SELECT json_build_object(
 'in_recovery', r.recovering,
 'timeline', CASE WHEN NOT r.recovering THEN
   ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::bigint END,
 'insert_lsn', CASE WHEN NOT r.recovering THEN pg_current_wal_insert_lsn() END,
 'flush_lsn', CASE WHEN NOT r.recovering THEN pg_current_wal_flush_lsn() END,
 'receive_lsn', pg_last_wal_receive_lsn(),
 'replay_lsn', pg_last_wal_replay_lsn(),
 'replay_paused', CASE WHEN r.recovering THEN pg_get_wal_replay_pause_state() <> 'not paused' ELSE false END,
 'receiver', (SELECT json_build_object('pid', pid, 'status', status, 'timeline', received_tli,
   'flushed_lsn', flushed_lsn, 'host', sender_host, 'port', sender_port,
   'silent_ms', (extract(epoch FROM clock_timestamp() - last_msg_receipt_time) * 1000)::bigint)
   FROM pg_stat_wal_receiver WHERE pid IS NOT NULL),
 'walsenders', (SELECT coalesce(json_agg(json_build_object('pid', pid, 'application_name', application_name,
   'role', usename, 'address', client_addr, 'port', nullif(client_port, -1),
   'age_ms', (extract(epoch FROM clock_timestamp() - backend_start) * 1000)::bigint,
   'replied', (extract(epoch FROM reply_time) * 1000000)::bigint,
   'encrypted', (SELECT a.ssl OR coalesce(a.gss_enc, false) FROM pg_stat_get_activity(w.pid) a), 'state', state, 'sync_state', sync_state, 'sent_lsn', sent_lsn,
   'write_lsn', write_lsn, 'flush_lsn', flush_lsn, 'replay_lsn', replay_lsn,
   'reply_age_ms', (extract(epoch FROM clock_timestamp() - reply_time) * 1000)::bigint)), '[]'::json)
   FROM pg_stat_replication w),
 'sync_names', current_setting('synchronous_standby_names'),
 'sync_commit', current_setting('synchronous_commit'),
 'commit_overrides', (SELECT coalesce(json_agg(json_build_object('database', d.datname, 'role', r.rolname,
   'value', split_part(x, '=', 2))), '[]'::json)
   FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) x
   LEFT JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole
   WHERE lower(x) LIKE 'synchronous\\_commit=%' AND lower(split_part(x, '=', 2)) NOT IN ('on', 'remote_apply')),
 'has_upstream', current_setting('primary_conninfo') <> '',
 'watched', json_build_object(
   'synchronous_standby_names', current_setting('synchronous_standby_names'),
   'synchronous_commit', current_setting('synchronous_commit'),
   'primary_conninfo', current_setting('primary_conninfo'),
   'primary_slot_name', current_setting('primary_slot_name'),
   'restore_command', current_setting('restore_command'),
   'restart_after_crash', current_setting('restart_after_crash'),
   'fsync', current_setting('fsync'),
   'full_page_writes', current_setting('full_page_writes')),
 'config_file', current_setting('config_file'),
 'loaded_us', (extract(epoch FROM pg_conf_load_time()) * 1000000)::bigint,
 'commit_waiters', coalesce(b.waiters, '[]'::json), 'canary_lock', b.canary_lock, 'writers', b.writers,
 'next_xid', CASE WHEN NOT r.recovering THEN pg_snapshot_xmax(pg_current_snapshot())::text::bigint END,
 'archives_by_time', current_setting('archive_mode') <> 'off' AND current_setting('archive_timeout') <> '0')
 FROM (SELECT pg_is_in_recovery() AS recovering OFFSET 0) r,
 (SELECT json_agg(json_build_object('pid', pid, 'began_us', (extract(epoch FROM xact_start) * 1000000)::bigint))
     FILTER (WHERE wait_event = 'SyncRep' AND xact_start IS NOT NULL) AS waiters,
   count(*) FILTER (WHERE backend_xid IS NOT NULL AND NOT coalesce(application_name LIKE 'pgvigil_canary', false)) AS writers,
   min(wait_event || CASE WHEN wait_event_type = 'Lock'
     THEN ', held by process ' || array_to_string(pg_blocking_pids(pid), ', ') ELSE '' END)
     FILTER (WHERE application_name LIKE 'pgvigil_canary' AND wait_event_type IN ('Lock', 'BufferPin')) AS canary_lock
   FROM pg_stat_get_activity(NULL)) b";

const SLOW: &str = "SELECT json_build_object(
 'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
 'postmaster_start_ms', (extract(epoch FROM pg_postmaster_start_time()) * 1000)::bigint,
 'checkpoint_timeline', c.timeline_id,
 'redo_lsn', c.redo_lsn,
 'wal_segment_size', (SELECT bytes_per_wal_segment FROM pg_control_init()),
 'version_num', current_setting('server_version_num')::int,
 'slots', (SELECT coalesce(json_agg(json_build_object('name', slot_name, 'kind', slot_type,
   'active_pid', active_pid, 'restart_lsn', restart_lsn, 'wal_status', wal_status,
   'safe_wal_size', safe_wal_size)), '[]'::json) FROM pg_replication_slots),
 'pending_restart', (SELECT coalesce(json_agg(name), '[]'::json) FROM pg_settings WHERE pending_restart),
 'prepared_transactions', (SELECT count(*) FROM pg_prepared_xacts),
 'clients', (SELECT coalesce(json_agg(json_build_object('pid', pid, 'application_name', application_name,
   'role', usename, 'transaction_age_ms', (extract(epoch FROM clock_timestamp() - xact_start) * 1000)::bigint,
   'age_ms', (extract(epoch FROM clock_timestamp() - backend_start) * 1000)::bigint,
   'waits_for_standbys', coalesce(wait_event = 'SyncRep', false))), '[]'::json)
   FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()),
 'wal_bytes', (SELECT sum(size) FROM pg_ls_waldir()))
 FROM pg_control_checkpoint() c";

impl Link {
    /// Takes the cheap sample (about a millisecond).
    pub async fn sample(&self, limit: Duration) -> Result<Sample, QueryError> {
        self.json("sample", SAMPLE, limit).await
    }

    /// Takes the richer sample (a few milliseconds; reads the WAL directory).
    pub async fn slow_sample(&self, limit: Duration) -> Result<SlowSample, QueryError> {
        self.json("slow sample", SLOW, limit).await
    }

    /// Whether the server is in recovery: the cheapest question of all, for watching a promotion.
    pub async fn in_recovery(&self, limit: Duration) -> Result<bool, QueryError> {
        Ok(self.value("ask for recovery", "SELECT pg_is_in_recovery()", limit).await? == "t")
    }

    async fn json<T: for<'a> Deserialize<'a>>(
        &self,
        what: &'static str,
        sql: &str,
        limit: Duration,
    ) -> Result<T, QueryError> {
        let text = self.value(what, sql, limit).await?;
        serde_json::from_str(&text).map_err(|error| QueryError::Answer { what, problem: format!("{error} in {text}") })
    }
}

fn lsn<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Lsn>, D::Error> {
    let text: Option<String> = Deserialize::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

fn number_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text: String = Deserialize::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}
