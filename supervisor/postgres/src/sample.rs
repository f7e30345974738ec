//! What the server says about itself: a cheap sample, taken several times a second, and a richer one.
//!
//! Both are one statement each, answered as JSON, so that all of a sample is of one moment (as far as PostgreSQL's
//! views are).

use crate::link::{Link, QueryError};
pub use pgvigil_core::sample::{ClientBackend, CommitOverride, Receiver, Sample, Slot, SlowSample, Walsender};
use serde::Deserialize;
use std::time::Duration;

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
    /// Takes the cheap sample (a fifth of a millisecond, but for the first one in a session).
    pub async fn sample(&self, limit: Duration) -> Result<Sample, QueryError> {
        self.json("sample", "pgvigil_sample", SAMPLE, limit).await
    }

    /// Takes the richer sample (a few milliseconds; reads the WAL directory).
    pub async fn slow_sample(&self, limit: Duration) -> Result<SlowSample, QueryError> {
        self.json("slow sample", "pgvigil_slow_sample", SLOW, limit).await
    }

    /// Whether the server is in recovery: the cheapest question of all, for watching a promotion.
    pub async fn in_recovery(&self, limit: Duration) -> Result<bool, QueryError> {
        Ok(self.value("ask for recovery", "SELECT pg_is_in_recovery()", limit).await? == "t")
    }

    async fn json<T: for<'a> Deserialize<'a>>(
        &self,
        what: &'static str,
        name: &'static str,
        sql: &str,
        limit: Duration,
    ) -> Result<T, QueryError> {
        let text = self.value_again(what, name, sql, limit).await?;
        serde_json::from_str(&text).map_err(|error| QueryError::Answer { what, problem: format!("{error} in {text}") })
    }
}
