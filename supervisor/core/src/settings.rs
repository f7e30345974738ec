//! The operator's settings: part of the agreed state, so that two leaders never decide by different files.
//!
//! Every number has a lower bound with a reason; a value below it is refused with that reason.

use serde::{Deserialize, Serialize};

/// What happens when only the primary's PostgreSQL died and its host is well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CrashPolicy {
    /// Fail over when somebody may take over, restart in place otherwise.
    #[default]
    Failover,
    /// Restart in place first; fail over when that is not allowed or takes longer than `restart_timeout_ms`.
    Restart,
}

/// The operator's settings of one cluster. Times in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How many standbys must have flushed a commit before it is acknowledged (k).
    pub sync_standbys: u32,
    /// How often an agent reports, and asks for the lease to be renewed.
    pub heartbeat_ms: u64,
    /// How often the primary's agent commits its canary.
    pub canary_ms: u64,
    /// The primary's right to serve after its last renewal or canary.
    pub lease_ms: u64,
    /// How much longer than the holder the granter waits.
    pub lease_margin_ms: u64,
    /// Silence of an agent after which it is suspected.
    pub suspect_ms: u64,
    /// A canary that hangs longer, while enough standbys stream, means that PostgreSQL or its disk hangs.
    pub hang_timeout_ms: u64,
    /// A standby that is silent or does not stream for longer leaves the durability rule.
    pub standby_timeout_ms: u64,
    /// A standby that is further behind leaves the durability rule, and joins it only below a quarter of this.
    pub sync_lag_max_bytes: u64,
    /// How long a planned change of primary may drain before it is forced.
    pub switchover_drain_ms: u64,
    /// How long a restart in place may take before it counts as failed.
    pub restart_timeout_ms: u64,
    /// What happens when only PostgreSQL died.
    pub crash_policy: CrashPolicy,
    /// Whether a failover may begin without an operator.
    pub automatic_failover: bool,
    /// Whether the Raft leader keeps off the primary's host when it can, so that losing that host costs no election.
    pub leader_away_from_primary: bool,
    /// The most WAL that replication slots may hold back, in MiB; a slot that needs more is lost and reported.
    pub slot_wal_max_mib: u64,
    /// Whether a lost primary counts as fenced when its right to serve has run out. `false` where a hypervisor may stop
    /// a guest, whose clock then stands still (history A14): only its agent's word or a fence command counts.
    pub fence_by_time: bool,
    /// Whether a primary goes on serving clients while PostgreSQL cannot be made to show the agreed rule (a configuration
    /// file that does not parse, a server that reads other files). `false`: it keeps them out until the rule is shown. Left out
    /// when `false`: builds that do not know it refuse a name that they do not know.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub serve_without_rule: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sync_standbys: 1,
            heartbeat_ms: 250,
            canary_ms: 250,
            lease_ms: 1_200,
            lease_margin_ms: 100,
            suspect_ms: 800,
            hang_timeout_ms: 5_000,
            standby_timeout_ms: 3_000,
            sync_lag_max_bytes: 64 << 20,
            switchover_drain_ms: 3_000,
            restart_timeout_ms: 60_000,
            crash_policy: CrashPolicy::Failover,
            automatic_failover: true,
            leader_away_from_primary: true,
            slot_wal_max_mib: 4_096,
            fence_by_time: true,
            serve_without_rule: false,
        }
    }
}

/// A setting that is refused: which, what was given, what is allowed and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("setting {key} = {value} is refused: {allowed}, because {reason}")]
pub struct SettingRefused {
    /// The setting's name.
    pub key: String,
    /// The value that was given.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
    /// Why.
    pub reason: String,
}

/// The least margin of a lease of that length, in milliseconds: 2 % for clocks whose rates differ, and never less than a
/// guard needs to kill.
pub(crate) const fn margin_floor_ms(lease_ms: u64) -> u64 {
    let share = lease_ms / 50;
    if share > 50 { share } else { 50 }
}

impl Settings {
    /// Refuses values below their safe bound, with the bound and its reason.
    pub fn validate(&self) -> Result<(), SettingRefused> {
        let at_least = |key: &str, value: u64, bound: u64, reason: &str| {
            if value >= bound {
                return Ok(());
            }
            Err(SettingRefused {
                key: key.to_owned(),
                value: value.to_string(),
                allowed: format!("it must be at least {bound}"),
                reason: reason.to_owned(),
            })
        };
        at_least("sync_standbys", self.sync_standbys.into(), 1, "with 0 an acknowledged commit can be lost")?;
        at_least("heartbeat_ms", self.heartbeat_ms, 50, "a busy scheduler delays a heartbeat by tens of milliseconds")?;
        at_least("canary_ms", self.canary_ms, 50, "each canary is a flush on the primary and on its standbys")?;
        at_least(
            "lease_ms",
            self.lease_ms,
            1_000,
            "a disk's slow flush or a paused host must not end a healthy reign",
        )?;
        at_least(
            "lease_ms",
            self.lease_ms,
            4 * self.heartbeat_ms.max(self.canary_ms),
            "three heartbeats or canaries in a row may be lost without ending a healthy reign (4 × the longer of them)",
        )?;
        at_least(
            "lease_margin_ms",
            self.lease_margin_ms,
            margin_floor_ms(self.lease_ms),
            "it covers 2 % difference of clock rates and the time the guard needs to kill",
        )?;
        at_least(
            "suspect_ms",
            self.suspect_ms,
            2 * self.heartbeat_ms,
            "one late heartbeat is no evidence (2 × heartbeat_ms)",
        )?;
        at_least(
            "hang_timeout_ms",
            self.hang_timeout_ms,
            self.lease_ms.max(1_000),
            "a checkpoint's flush storm must not look like a hang (the lease, at least a second)",
        )?;
        at_least(
            "standby_timeout_ms",
            self.standby_timeout_ms,
            2 * self.heartbeat_ms,
            "one late heartbeat is no evidence (2 × heartbeat_ms)",
        )?;
        at_least("sync_lag_max_bytes", self.sync_lag_max_bytes, 1 << 20, "a busy standby is always some WAL behind")?;
        at_least(
            "switchover_drain_ms",
            self.switchover_drain_ms,
            200,
            "standbys must be able to take what was written",
        )?;
        at_least("restart_timeout_ms", self.restart_timeout_ms, 5_000, "crash recovery replays WAL")?;
        at_least("slot_wal_max_mib", self.slot_wal_max_mib, 64, "a standby must survive a short absence")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_allowed() {
        Settings::default().validate().unwrap();
    }

    /// A member whose pgvigil is older refuses a name that it does not know: what is not used is not told.
    #[test]
    fn settings_that_are_not_used_are_read_by_older_builds() {
        let text = serde_json::to_string(&Settings::default()).unwrap();
        assert!(!text.contains("serve_without_rule"), "{text}");
        let serving = Settings { serve_without_rule: true, ..Settings::default() };
        assert_eq!(serde_json::from_str::<Settings>(&serde_json::to_string(&serving).unwrap()).unwrap(), serving);
    }

    #[test]
    fn a_timing_below_its_bound_is_refused_with_bound_and_reason() {
        let refused = Settings { lease_ms: 999, ..Settings::default() }.validate().unwrap_err();
        assert_eq!(refused.key, "lease_ms");
        assert!(refused.to_string().contains("at least 1000"), "{refused}");
        let refused = Settings { heartbeat_ms: 500, ..Settings::default() }.validate().unwrap_err();
        assert!(refused.to_string().contains("at least 2000"), "{refused}");
        assert!(Settings { sync_standbys: 0, ..Settings::default() }.validate().is_err());
    }
}
