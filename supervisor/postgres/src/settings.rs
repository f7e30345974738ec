//! Our settings file `pgvigil.conf`, rendered from values (pure), and its place in PostgreSQL's configuration.

use crate::{
    conf_text::{TextError, assignment, conninfo, identifier, pass_line},
    fsio::{FsError, Written, read_text, replace, write_atomic},
    layout::Layout,
    libpq,
    version::Version,
};
use pgvigil_core::id::TimelineId;
use std::path::PathBuf;

/// The name in `synchronous_standby_names` that no connection can have: the agent gives it to none, and the
/// replication role's application names carry another prefix.
pub const NOBODY: &str = "pgvigil_nobody";

/// Settings that belong to us: nobody may set them elsewhere, and user parameters may not name them.
pub const MANAGED: [&str; 30] = [
    "synchronous_standby_names",
    "synchronous_commit",
    "primary_conninfo",
    "primary_slot_name",
    "restore_command",
    "recovery_end_command",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "promote_trigger_file",
    "hot_standby",
    "wal_log_hints",
    "restart_after_crash",
    "wal_receiver_timeout",
    "wal_sender_timeout",
    "listen_addresses",
    "port",
    "unix_socket_directories",
    "data_directory",
    "hba_file",
    "ident_file",
    "fsync",
    "full_page_writes",
    "allow_alter_system",
    "zero_damaged_pages",
];

/// Settings could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A value cannot be written.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A user parameter belongs to us.
    #[error("parameter {name} is managed by pgvigil and cannot be set by the user")]
    Managed {
        /// Which.
        name: String,
    },
    /// A file failed.
    #[error(transparent)]
    Fs(#[from] FsError),
}

/// What a member's commits wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SyncRule {
    /// `ANY k (names)`: k ≥ 1, names non-empty.
    Any {
        /// How many of `names` must have flushed.
        k: u16,
        /// Application names.
        names: Vec<String>,
    },
    /// No rule: whoever waits, waits for ever. For every member that is no primary, so that the setting is never
    /// empty (history A8) and a server started by mistake acknowledges nothing.
    Nobody,
    /// k = 0: commits do not wait, because `synchronous_commit = local` says so; the names are `Nobody`'s, so the
    /// setting still is not empty. Sessions that set `synchronous_commit = on` themselves do wait, for ever.
    /// Leaving this rule takes effect in a session at its next command, so it is proven only when every client
    /// backend that was there at the reload has ended or begun a transaction since.
    Local,
}

impl SyncRule {
    /// The value of `synchronous_standby_names`; never empty.
    #[must_use]
    pub fn names_value(&self) -> String {
        match self {
            Self::Any { k, names } if *k > 0 && !names.is_empty() => sync_names(*k, names),
            _ => sync_names(1, &[NOBODY.to_owned()]),
        }
    }

    /// The value of `synchronous_commit`.
    #[must_use]
    pub const fn commit_value(&self) -> &'static str {
        if matches!(self, Self::Local) { "local" } else { "on" }
    }
}

/// `ANY k ("a","b")`, each name quoted; names are sorted so that equal rules give equal text.
#[must_use]
pub fn sync_names(k: u16, names: &[String]) -> String {
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort();
    sorted.dedup();
    let list: Vec<String> = sorted.into_iter().map(|name| identifier(name)).collect();
    format!("ANY {k} ({})", list.join(","))
}

/// Which timeline recovery follows. Read by PostgreSQL at its start only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryTimeline {
    /// `latest`: a streaming standby changes over to its upstream's new timeline without a restart. Refuses to start
    /// when the newest history file is a bare reservation: see [`crate::history_files`].
    Latest,
    /// `current`: the timeline of the last checkpoint in the control file.
    Current,
    /// This one, whatever history files lie about (history A4). Its history file must exist, unless it is 1.
    Pinned(TimelineId),
}

impl RecoveryTimeline {
    /// The value of `recovery_target_timeline`.
    #[must_use]
    pub fn value(self) -> String {
        match self {
            Self::Latest => "latest".to_owned(),
            Self::Current => "current".to_owned(),
            Self::Pinned(timeline) => timeline.to_string(),
        }
    }
}

/// From whom a standby streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Host name, address or socket directory.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The replication role.
    pub user: String,
    /// The name by which the rule counts this member (incarnation and epoch are in it).
    pub application_name: String,
    /// Connect by TLS with channel binding or not at all (see [`libpq::pinned`]).
    pub scram_plus: bool,
    /// Physical slot on the upstream; empty for none.
    pub slot: String,
    /// Database for slot synchronisation (17 and later); empty for none.
    pub dbname: String,
    /// Seconds until a connection attempt is given up; libpq treats 1 as 2.
    pub connect_timeout_s: u16,
    /// Milliseconds until unacknowledged data breaks the connection.
    pub tcp_user_timeout_ms: u32,
}

impl Upstream {
    /// An upstream with the timeouts that suit a local network.
    #[must_use]
    pub fn new(host: &str, port: u16, user: &str, application_name: &str) -> Self {
        Self {
            host: host.to_owned(),
            port,
            user: user.to_owned(),
            application_name: application_name.to_owned(),
            scram_plus: false,
            slot: String::new(),
            dbname: String::new(),
            connect_timeout_s: 3,
            tcp_user_timeout_ms: 3000,
        }
    }

    /// The value of `primary_conninfo`. It holds no password: that one lies in the pass file, which libpq reads at
    /// each connection attempt, so that a stale copy of this text in a process' memory opens no door (history A5).
    #[must_use]
    pub fn conninfo(&self, version: Version, layout: &Layout) -> String {
        let mut pairs = vec![
            ("host", self.host.clone()),
            ("port", self.port.to_string()),
            ("user", self.user.clone()),
            ("application_name", self.application_name.clone()),
            ("passfile", layout.pass_file().display().to_string()),
            ("connect_timeout", self.connect_timeout_s.to_string()),
            ("keepalives", "1".to_owned()),
            ("keepalives_idle", "2".to_owned()),
            ("keepalives_interval", "1".to_owned()),
            ("keepalives_count", "3".to_owned()),
            ("tcp_user_timeout", self.tcp_user_timeout_ms.to_string()),
        ];
        if !self.dbname.is_empty() {
            pairs.push(("dbname", self.dbname.clone()));
        }
        pairs.extend(libpq::pinned(version, layout, self.scram_plus));
        conninfo(&pairs)
    }
}

/// Everything in `pgvigil.conf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What commits wait for.
    pub rule: SyncRule,
    /// From whom to stream; `None` is a sealed member, or a primary.
    pub upstream: Option<Upstream>,
    /// Command that fetches archived WAL; empty (archive recovery off) on a sealed member.
    pub restore_command: String,
    /// Which timeline recovery follows.
    pub recovery_timeline: RecoveryTimeline,
    /// TCP addresses to listen on; empty for none.
    pub listen_addresses: String,
    /// Port, also part of the socket's name.
    pub port: u16,
    /// Where the Unix socket lies.
    pub socket_dir: PathBuf,
    /// Milliseconds of silence after which a walsender or walreceiver gives up.
    pub wal_timeout_ms: u32,
    /// `max_wal_senders`
    pub max_wal_senders: u32,
    /// `max_replication_slots`
    pub max_replication_slots: u32,
    /// `wal_keep_size`, megabytes.
    pub wal_keep_size_mb: u32,
    /// `max_slot_wal_keep_size`, megabytes; -1 for no bound.
    pub max_slot_wal_keep_size_mb: i64,
    /// `replica` or `logical`.
    pub wal_level: String,
    /// Let `ALTER SYSTEM` work where it could be forbidden (17 and later).
    pub allow_alter_system: bool,
    /// Parameters of the user, in their order; written before ours.
    pub user: Vec<(String, String)>,
}

impl Settings {
    /// Settings of a sealed member without upstream, that listens nowhere but on its socket.
    #[must_use]
    pub fn new(port: u16, socket_dir: impl Into<PathBuf>) -> Self {
        Self {
            rule: SyncRule::Nobody,
            upstream: None,
            restore_command: String::new(),
            recovery_timeline: RecoveryTimeline::Latest,
            listen_addresses: String::new(),
            port,
            socket_dir: socket_dir.into(),
            // Well below the usual `hang_timeout_ms`: a standby that was cut off must have left the list of those that
            // stream before a canary that waits for it is blamed on this server (found by cut-replication).
            wal_timeout_ms: 3000,
            max_wal_senders: 20,
            max_replication_slots: 20,
            wal_keep_size_mb: 256,
            max_slot_wal_keep_size_mb: 4096,
            wal_level: "replica".to_owned(),
            allow_alter_system: true,
            user: Vec::new(),
        }
    }

    /// The same settings with an empty upstream and archive recovery off: what a seal puts in force.
    #[must_use]
    pub fn sealed(&self) -> Self {
        Self { upstream: None, restore_command: String::new(), ..self.clone() }
    }

    /// Renders the file. Equal settings give equal text.
    pub fn render(&self, version: Version, layout: &Layout) -> Result<String, SettingsError> {
        let mut text = String::from("# Written by pgvigil; do not edit. Changes are overwritten.\n");
        for (name, value) in &self.user {
            if MANAGED.contains(&name.to_ascii_lowercase().as_str()) {
                return Err(SettingsError::Managed { name: name.clone() });
            }
            text += &assignment(name, value)?;
        }
        text.push('\n');
        for (name, value) in self.ours(version, layout) {
            text += &assignment(name, &value)?;
        }
        Ok(text)
    }

    fn ours(&self, version: Version, layout: &Layout) -> Vec<(&'static str, String)> {
        let upstream = self.upstream.as_ref();
        let timeout = format!("{}ms", self.wal_timeout_ms);
        let mut ours: Vec<(&'static str, String)> = vec![
            ("synchronous_standby_names", self.rule.names_value()),
            ("synchronous_commit", self.rule.commit_value().to_owned()),
            ("primary_conninfo", upstream.map_or_else(String::new, |up| up.conninfo(version, layout))),
            ("primary_slot_name", upstream.map_or_else(String::new, |up| up.slot.clone())),
            ("restore_command", self.restore_command.clone()),
            ("recovery_target_timeline", self.recovery_timeline.value()),
            ("hot_standby", "on".to_owned()),
            ("wal_log_hints", "on".to_owned()),
            ("wal_level", self.wal_level.clone()),
            ("max_wal_senders", self.max_wal_senders.to_string()),
            // Clients that gave up leave their backends waiting for a standby; the agent must get in nevertheless.
            ("superuser_reserved_connections", "10".to_owned()),
            ("max_replication_slots", self.max_replication_slots.to_string()),
            ("wal_keep_size", format!("{}MB", self.wal_keep_size_mb)),
            ("max_slot_wal_keep_size", mb_or_unbounded(self.max_slot_wal_keep_size_mb)),
            ("wal_receiver_timeout", timeout.clone()),
            ("wal_sender_timeout", timeout),
            ("wal_receiver_status_interval", "1s".to_owned()),
            // A standby that has lost its upstream sleeps as long as this before it looks for an order to promote.
            ("wal_retrieve_retry_interval", "50ms".to_owned()),
            ("restart_after_crash", "off".to_owned()),
            ("fsync", "on".to_owned()),
            ("full_page_writes", "on".to_owned()),
            ("listen_addresses", self.listen_addresses.clone()),
            ("port", self.port.to_string()),
            ("unix_socket_directories", self.socket_dir.display().to_string()),
        ];
        if version.can_forbid_alter_system() && !self.allow_alter_system {
            ours.push(("allow_alter_system", "off".to_owned()));
        }
        ours
    }

    /// Renders and replaces `pgvigil.conf` for a running server, or one about to be started; not flushed, see
    /// [`crate::fsio::replace`].
    pub fn replace(&self, version: Version, layout: &Layout) -> Result<Written, SettingsError> {
        let text = self.render(version, layout)?;
        Ok(replace(&layout.pgvigil_conf(), text.as_bytes(), 0o600)?)
    }

    /// Renders and writes `pgvigil.conf` durably.
    pub fn write(&self, version: Version, layout: &Layout) -> Result<Written, SettingsError> {
        let text = self.render(version, layout)?;
        Ok(write_atomic(&layout.pgvigil_conf(), text.as_bytes(), 0o600)?)
    }
}

fn mb_or_unbounded(megabytes: i64) -> String {
    if megabytes < 0 { "-1".to_owned() } else { format!("{megabytes}MB") }
}

const INCLUDE: &str = "include 'pgvigil.conf'";

/// Makes sure that `postgresql.conf` ends with the line that includes ours, so that nothing in it overrides us.
/// Idempotent.
pub fn ensure_include(layout: &Layout) -> Result<Written, FsError> {
    let path = layout.postgresql_conf();
    let old = read_text(&path)?.unwrap_or_default();
    write_atomic(&path, with_include(&old).as_bytes(), 0o600)
}

fn with_include(old: &str) -> String {
    let last = old.lines().rev().find(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    if last.is_some_and(|line| line.trim() == INCLUDE) {
        return old.to_owned();
    }
    let mut text: String =
        old.lines().filter(|line| line.trim() != INCLUDE).fold(String::new(), |text, line| text + line + "\n");
    text += INCLUDE;
    text.push('\n');
    text
}

/// Writes the upstream's password where libpq reads it at connect time, or empties that file durably: `None` is the
/// seal's "no walreceiver can authenticate any more".
///
/// The password is for that upstream's address alone. A startup process that has not taken up a reload yet still holds the
/// connection string of an older reign: given a password for every host, its walreceiver would connect to the primary of
/// that reign, under its name there, and confirm commits that the next primary does not have (history A5, S1).
pub fn write_pass_file(layout: &Layout, upstream: Option<(&Upstream, &str)>) -> Result<Written, SettingsError> {
    Ok(match upstream {
        Some((to, password)) => {
            let line = pass_line(&to.host, to.port, &to.user, password)?;
            replace(&layout.pass_file(), line.as_bytes(), 0o600)?
        }
        None => write_atomic(&layout.pass_file(), b"", 0o600)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout::new("/data", "/agent dir")
    }

    const V15: Version = Version { major: 15, minor: 0 };
    const V17: Version = Version { major: 17, minor: 0 };

    #[test]
    fn a_streaming_standby_golden() {
        let mut settings = Settings::new(5433, "/run/pg");
        let mut upstream = Upstream::new("10.0.0.1", 5432, "pgvigil_repl", "pgvigil_b_i2_e7");
        upstream.slot = "pgvigil_b".to_owned();
        settings.upstream = Some(upstream);
        settings.user = vec![("work_mem".into(), "8MB".into()), ("cluster_name".into(), "it's".into())];
        settings.listen_addresses = "*".to_owned();
        assert_eq!(settings.render(V15, &layout()).unwrap(), include_str!("../tests/fixtures/standby.conf"));
    }

    #[test]
    fn a_primary_under_a_rule_golden() {
        let mut settings = Settings::new(5433, "/run/pg");
        settings.rule = SyncRule::Any { k: 1, names: vec!["pgvigil_c_i1_e7".into(), "pgvigil_b_i2_e7".into()] };
        settings.allow_alter_system = false;
        assert_eq!(settings.render(V17, &layout()).unwrap(), include_str!("../tests/fixtures/primary.conf"));
    }

    #[test]
    fn the_rule_is_never_empty() {
        for rule in [SyncRule::Nobody, SyncRule::Local, SyncRule::Any { k: 1, names: vec![] }] {
            assert_eq!(rule.names_value(), "ANY 1 (\"pgvigil_nobody\")");
        }
        assert_eq!(sync_names(2, &["b".into(), "a\"".into(), "b".into()]), "ANY 2 (\"a\"\"\",\"b\")");
    }

    #[test]
    fn a_sealed_member_has_no_upstream_and_no_archive() {
        let mut settings = Settings::new(1, "/s");
        settings.upstream = Some(Upstream::new("h", 1, "u", "n"));
        settings.restore_command = "cp x".to_owned();
        let text = settings.sealed().render(V15, &layout()).unwrap();
        assert!(text.contains("primary_conninfo = ''\n") && text.contains("restore_command = ''\n"));
    }

    #[test]
    fn the_user_cannot_set_what_is_ours() {
        let mut settings = Settings::new(1, "/s");
        settings.user = vec![("Synchronous_Commit".into(), "off".into())];
        assert!(matches!(settings.render(V15, &layout()), Err(SettingsError::Managed { .. })));
    }

    #[test]
    fn the_include_line_comes_last_and_once() {
        assert_eq!(with_include("a = 1"), "a = 1\ninclude 'pgvigil.conf'\n");
        let text = with_include("include 'pgvigil.conf'\nport = 1\n");
        assert_eq!(text, "port = 1\ninclude 'pgvigil.conf'\n");
        assert_eq!(with_include(&text), text);
    }
}
