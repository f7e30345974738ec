//! Our settings, rendered from values (pure): those that a reload takes up, and those that only a start does. Where they
//! stand among PostgreSQL's files is said in [`crate::conf_files`].

use crate::{
    conf_files::{RULE_INCLUDE, includes_rule},
    conf_text::{TextError, assignment, conninfo, pass_line},
    control_file::SettingFloors,
    fsio::{FsError, Written, replace, write_atomic},
    layout::Layout,
    libpq,
    user_conf::UserValues,
    version::Version,
};
pub use pgvigil_core::sync_rule::{NOBODY, RecoveryTimeline, SyncRule, sync_names};
use std::{collections::BTreeMap, path::PathBuf};

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

/// Settings of which we need some least value. The user may want more of them, and then that holds.
pub const FLOORS: [&str; 4] =
    ["max_wal_senders", "max_replication_slots", "superuser_reserved_connections", "wal_level"];

/// What every member needs at every time so that what it calls flushed is on its disk, and that a server which lost a
/// process does not come back by itself with commits that nobody confirmed.
pub const SAFE: [(&str, &str); 3] = [("restart_after_crash", "off"), ("fsync", "on"), ("full_page_writes", "on")];

/// Where a recovery might be told to end.
const TARGETS: [&str; 5] =
    ["recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid"];

/// PostgreSQL's own values of what a standby must have as much of as its primary.
const DEFAULTS: [(&str, u32); 4] = [
    ("max_connections", 100),
    ("max_worker_processes", 8),
    ("max_prepared_transactions", 0),
    ("max_locks_per_transaction", 64),
];

const HEADER: &str = "# Written by pgvigil; do not edit. Changes are overwritten.\n";

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

/// Everything that pgvigil sets.
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
    /// What the user's own files say: a larger value of a setting of which we need some least one holds.
    pub theirs: UserValues,
    /// What the primary runs with, before a start as standby: with less PostgreSQL would refuse to start.
    pub floors: Option<SettingFloors>,
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
            theirs: UserValues::default(),
            floors: None,
        }
    }

    /// The same settings with an empty upstream and archive recovery off: what a seal puts in force.
    #[must_use]
    pub fn sealed(&self) -> Self {
        Self { upstream: None, restore_command: String::new(), ..self.clone() }
    }

    /// Renders what a reload takes up. Equal settings give equal text.
    pub fn render_rule(&self, version: Version, layout: &Layout) -> Result<String, SettingsError> {
        let mut text = String::from(HEADER);
        for (name, value) in &self.user {
            let lower = name.to_ascii_lowercase();
            if MANAGED.contains(&lower.as_str()) {
                return Err(SettingsError::Managed { name: name.clone() });
            }
            if !FLOORS.contains(&lower.as_str()) {
                text += &assignment(name, value)?;
            }
        }
        text.push('\n');
        for (name, value) in self.reloadable(version, layout) {
            text += &assignment(name, &value)?;
        }
        Ok(text)
    }

    /// Renders what only a start takes up, for servers that somebody else starts, and the line that includes the rest.
    pub fn render_start(&self) -> Result<String, SettingsError> {
        let mut text = String::from(HEADER);
        for (name, value) in self.at_start() {
            text += &assignment(name, &value)?;
        }
        Ok(text + RULE_INCLUDE + "\n")
    }

    /// What a server of ours is started with on its command line: no file overrides that, `postgresql.auto.conf` neither.
    #[must_use]
    pub fn command_line(&self, version: Version) -> Vec<(String, String)> {
        let mut all = self.at_start();
        all.extend(self.constants(version));
        let floors = self.floors.iter().flat_map(SettingFloors::by_name);
        for (name, floor) in floors.filter(|(name, _)| *name != "max_wal_senders") {
            let default = DEFAULTS.iter().find(|(n, _)| *n == name).map_or(0, |(_, value)| *value);
            let last = self.said(name).last().and_then(|value| value.parse().ok());
            let configured = self.user.iter().rev().find(|(n, _)| n.eq_ignore_ascii_case(name));
            let value = configured.and_then(|(_, value)| value.parse().ok()).or(last).unwrap_or(default);
            if value < floor {
                all.push((name, floor.to_string()));
            }
        }
        all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn reloadable(&self, version: Version, layout: &Layout) -> Vec<(&'static str, String)> {
        let timeout = format!("{}ms", self.wal_timeout_ms);
        let mut ours = self.changing(version, layout);
        ours.push(("recovery_target_timeline", self.recovery_timeline.value()));
        // A recovery that ends elsewhere than at the end of its WAL is no standby; left over from a restore, mostly.
        ours.extend(TARGETS.map(|target| (target, String::new())));
        if version.major < 16 {
            ours.push(("promote_trigger_file", String::new()));
        }
        ours.extend([
            ("wal_keep_size", format!("{}MB", self.wal_keep_size_mb)),
            ("max_slot_wal_keep_size", mb_or_unbounded(self.max_slot_wal_keep_size_mb)),
            ("wal_receiver_timeout", timeout.clone()),
            ("wal_sender_timeout", timeout),
            ("wal_receiver_status_interval", "1s".to_owned()),
            // A standby that has lost its upstream sleeps as long as this before it looks for an order to promote.
            ("wal_retrieve_retry_interval", "50ms".to_owned()),
        ]);
        ours.extend(self.constants(version));
        ours
    }

    /// What a running server has to show of [`crate::sample::WATCHED`].
    #[must_use]
    pub fn shown(&self, version: Version, layout: &Layout) -> BTreeMap<String, String> {
        let mut shown: BTreeMap<String, String> =
            self.changing(version, layout).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        shown.extend(SAFE.map(|(name, value)| (name.to_owned(), value.to_owned())));
        shown
    }

    fn changing(&self, version: Version, layout: &Layout) -> Vec<(&'static str, String)> {
        let upstream = self.upstream.as_ref();
        vec![
            ("synchronous_standby_names", self.rule.names_value()),
            ("synchronous_commit", self.rule.commit_value().to_owned()),
            ("primary_conninfo", upstream.map_or_else(String::new, |up| up.conninfo(version, layout))),
            ("primary_slot_name", upstream.map_or_else(String::new, |up| up.slot.clone())),
            ("restore_command", self.restore_command.clone()),
        ]
    }

    /// The same on every member at every time.
    fn constants(&self, version: Version) -> Vec<(&'static str, String)> {
        let mut ours: Vec<_> = SAFE.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        if version.can_forbid_alter_system() && !self.allow_alter_system {
            ours.push(("allow_alter_system", "off".to_owned()));
        }
        ours
    }

    fn at_start(&self) -> Vec<(&'static str, String)> {
        let logical =
            self.wal_level == "logical" || self.said("wal_level").any(|level| level.eq_ignore_ascii_case("logical"));
        vec![
            ("hot_standby", "on".to_owned()),
            ("wal_log_hints", "on".to_owned()),
            ("wal_level", if logical { "logical" } else { "replica" }.to_owned()),
            ("max_wal_senders", {
                let floor = self.floors.map_or(0, |floors| floors.max_wal_senders);
                self.at_least("max_wal_senders", self.max_wal_senders.max(floor))
            }),
            // Clients that gave up leave their backends waiting for a standby; the agent must get in nevertheless.
            ("superuser_reserved_connections", self.at_least("superuser_reserved_connections", 10)),
            ("max_replication_slots", self.at_least("max_replication_slots", self.max_replication_slots)),
            ("listen_addresses", self.listen_addresses.clone()),
            ("port", self.port.to_string()),
            ("unix_socket_directories", self.socket_dir.display().to_string()),
        ]
    }

    /// What the user says about a setting, in pgvigil's configuration or in PostgreSQL's files.
    fn said<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let configured = self.user.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
        configured.chain(self.theirs.get(name))
    }

    fn at_least(&self, name: &str, ours: u32) -> String {
        let said = self.said(name).filter_map(|value| value.parse().ok());
        said.max().map_or(ours, |theirs: u32| theirs.max(ours)).to_string()
    }

    /// Renders and replaces what a reload takes up, for a running server; not flushed, see [`crate::fsio::replace`].
    pub fn replace(&self, version: Version, layout: &Layout) -> Result<Written, SettingsError> {
        let text = self.render_rule(version, layout)?;
        let written = replace(&layout.rule_conf(), text.as_bytes(), 0o600)?;
        self.ensure_start(layout)?;
        Ok(written)
    }

    /// The same, durably.
    pub fn write_rule(&self, version: Version, layout: &Layout) -> Result<Written, SettingsError> {
        let text = self.render_rule(version, layout)?;
        let written = write_atomic(&layout.rule_conf(), text.as_bytes(), 0o600)?;
        self.ensure_start(layout)?;
        Ok(written)
    }

    /// Writes what only a start takes up, durably.
    pub fn write_start(&self, layout: &Layout) -> Result<Written, SettingsError> {
        Ok(write_atomic(&layout.pgvigil_conf(), self.render_start()?.as_bytes(), 0o600)?)
    }

    /// Writes everything durably.
    pub fn write(&self, version: Version, layout: &Layout) -> Result<Written, SettingsError> {
        let rule = self.write_rule(version, layout)?;
        let start = self.write_start(layout)?;
        Ok(if rule == Written::Changed { rule } else { start })
    }

    /// A file from before the two were separate, or one that somebody replaced, does not include the other one.
    fn ensure_start(&self, layout: &Layout) -> Result<(), SettingsError> {
        if !includes_rule(layout) {
            self.write_start(layout)?;
        }
        Ok(())
    }
}

fn mb_or_unbounded(megabytes: i64) -> String {
    if megabytes < 0 { "-1".to_owned() } else { format!("{megabytes}MB") }
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
#[path = "settings_test.rs"]
mod tests;
