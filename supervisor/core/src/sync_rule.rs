//! What a member's commits wait for and what its recovery makes for, as PostgreSQL's settings say it.

use crate::{
    cluster::ClusterState,
    id::{Epoch, MemberKey, TimelineId},
    rule::Setting,
};

/// The name in `synchronous_standby_names` that no connection can have: the agent gives it to none, and the
/// replication role's application names carry another prefix.
pub const NOBODY: &str = "pgvigil_nobody";

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
    /// For a setting of `epoch`, under the names that members have by what is `agreed`. An action that was planned before a
    /// member got another name puts the new one in force under the old version of the rule, which proves nothing and is
    /// done again.
    #[must_use]
    pub fn of(agreed: Option<&ClusterState>, setting: &Setting, epoch: Epoch) -> Self {
        if setting.k == 0 {
            return Self::Local;
        }
        if setting.cohort.is_empty() {
            return Self::Nobody;
        }
        let name =
            |key: &MemberKey| agreed.map_or_else(|| key.sync_name(epoch, 0), |agreed| agreed.sync_name(key, epoch));
        Self::Any { k: u16::try_from(setting.k).unwrap_or(u16::MAX), names: setting.cohort.iter().map(name).collect() }
    }

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
    /// when the newest history file is a bare reservation: see `pgvigil_postgres::history_files`.
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

/// An SQL identifier in double quotes, also as `synchronous_standby_names` reads them.
#[must_use]
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
