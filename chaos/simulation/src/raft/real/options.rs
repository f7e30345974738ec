//! openraft's settings, after `supervisor/consensus/src/options.rs` and its defaults.

use crate::{planted::Planted, world::World};
use openraft::{Config, SnapshotPolicy};
use std::{sync::Arc, time::Duration};

/// How often the leader shows that it lives.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(100);
/// Shortest time without a leader before a follower stands for election.
const ELECTION_MIN: Duration = Duration::from_millis(250);
/// Longest such time.
pub(super) const ELECTION_MAX: Duration = Duration::from_millis(300);

/// Whole milliseconds, as openraft takes them.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The program's settings, but a snapshot after fewer entries, so that a history of some hundred has several.
pub(super) fn config(w: &World) -> Arc<Config> {
    let mut config = settings(w.rng.range(5, 100));
    if w.planted == Some(Planted::LeaderRestored) {
        config.enable_leader_restore = Some(true);
    }
    Arc::new(config)
}

/// openraft's settings with a snapshot after `every` entries.
///
/// # Panics
/// If openraft does not accept the program's own settings.
#[must_use]
pub fn settings(every: u64) -> Config {
    let room = millis(ELECTION_MIN.saturating_sub(HEARTBEAT));
    let config = Config {
        cluster_name: "simulated".to_owned(),
        heartbeat_interval: (room * 64 / 77).saturating_sub(1).max(millis(HEARTBEAT)),
        heartbeat_min_interval: Some(millis(HEARTBEAT) * 9 / 10),
        election_timeout_min: millis(ELECTION_MIN),
        election_timeout_max: millis(ELECTION_MAX),
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        replication_lag_threshold: every * 2,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(every),
        max_in_snapshot_log_to_keep: every / 10,
        purge_batch_size: 64,
        install_snapshot_timeout: 10_000,
        api_channel_size: Some(1024),
        notification_channel_size: Some(1024),
        state_machine_channel_size: Some(256),
        api_batch_linger_ms: 0,
        backoff: "20ms 50ms 100ms 200ms ..500ms".to_owned(),
        ..Config::default()
    };
    config.validate().expect("the program's own settings are valid")
}
