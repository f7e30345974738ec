//! Settings of the Raft node, their defaults and their bounds.

use crate::error::StartError;
use crate::pace::{self, millis};
use openraft::{Config, SnapshotPolicy};
use pgvigil_core::id::NodeId;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Times within Raft. A change of Raft leader costs the PostgreSQL primary nothing, so they may be short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftTimings {
    /// How often the leader shows that it lives. Halving it doubles what an idle group costs. Heartbeats go through TCP,
    /// where none is lost but one may be late: what counts is the time left for that in an election timeout.
    pub heartbeat: Duration,
    /// Shortest time without a leader before a follower stands for election.
    pub election_min: Duration,
    /// Longest such time; also how long followers keep faith with a silent leader.
    pub election_max: Duration,
}

impl Default for RaftTimings {
    /// A lost leader is replaced after `election_max` plus a draw from the range: 0.55 to 0.6 seconds.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(250),
            election_max: Duration::from_millis(300),
        }
    }
}

impl RaftTimings {
    /// Below this a busy machine's scheduling alone looks like a lost leader.
    pub const HEARTBEAT_MIN: Duration = Duration::from_millis(10);

    fn validate(&self) -> Result<(), StartError> {
        let refuse = |text: String| Err(StartError::Settings(text));
        if self.heartbeat < Self::HEARTBEAT_MIN {
            return refuse(format!(
                "a heartbeat of {:?} is below {:?}: the scheduling of a busy machine would look like a lost leader",
                self.heartbeat,
                Self::HEARTBEAT_MIN
            ));
        }
        if self.election_min < self.heartbeat * 2 {
            return refuse(format!(
                "an election timeout of {:?} is below two heartbeats of {:?}: one late heartbeat would cost an election",
                self.election_min, self.heartbeat
            ));
        }
        if self.election_max <= self.election_min {
            return refuse(format!(
                "the longest election timeout {:?} must exceed the shortest, {:?}: otherwise candidates keep colliding",
                self.election_max, self.election_min
            ));
        }
        Ok(())
    }
}

/// Everything a Raft node is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node. Never reused for another store.
    pub node_id: NodeId,
    /// host:port at which the other nodes reach this one.
    pub address: String,
    /// Directory of the Raft store; made if missing. Nothing else may be in it.
    pub data_dir: PathBuf,
    /// host:port of nodes, this one may be among them. Preferred to the addresses in the agreed membership, so that
    /// an operator can move a node by configuration.
    pub peers: BTreeMap<NodeId, String>,
    /// Name of the group: nodes of different groups refuse each other.
    pub group: String,
    /// See there.
    pub timings: RaftTimings,
    /// Log entries between two snapshots. Ten times as many make a restart re-read ten times as much.
    pub snapshot_every: u64,
    /// Log entries kept behind a snapshot, for followers that are only a little late.
    pub keep_entries: u64,
}

impl Options {
    /// The usual settings for `node_id` in `data_dir`.
    #[must_use]
    pub fn new(node_id: NodeId, address: impl Into<String>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            node_id,
            address: address.into(),
            data_dir: data_dir.into(),
            peers: BTreeMap::new(),
            group: "pgvigil".to_owned(),
            timings: RaftTimings::default(),
            snapshot_every: 2000,
            keep_entries: 200,
        }
    }

    /// openraft's settings that come of these, as JSON: by them a test sees that the simulation runs the same.
    pub fn raft_settings(&self) -> Result<serde_json::Value, StartError> {
        serde_json::to_value(self.raft_config()?).map_err(|e| StartError::Settings(e.to_string()))
    }

    pub(crate) fn raft_config(&self) -> Result<Config, StartError> {
        self.timings.validate()?;
        let config = Config {
            cluster_name: self.group.clone(),
            heartbeat_interval: pace::inner_interval(&self.timings),
            heartbeat_min_interval: Some(pace::shortest_distance(&self.timings)),
            election_timeout_min: millis(self.timings.election_min),
            election_timeout_max: millis(self.timings.election_max),
            enable_pre_vote: Some(true),
            // A leader sends entries before its own disk has them. After a loss of power it may lack what a follower has, and in
            // its old term it would write something else under the same log id. Keeps S4 (found by the simulation).
            enable_leader_restore: Some(false),
            // Followers late by more than this get the snapshot; must exceed the distance between snapshots.
            replication_lag_threshold: self.snapshot_every * 2,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.keep_entries,
            purge_batch_size: 64,
            // A whole snapshot in one call.
            install_snapshot_timeout: 10_000,
            // openraft's defaults would set aside channels for tens of thousands of messages.
            api_channel_size: Some(1024),
            notification_channel_size: Some(1024),
            state_machine_channel_size: Some(256),
            api_batch_linger_ms: 0,
            // A follower that comes back is found again within half a second.
            backoff: "20ms 50ms 100ms 200ms ..500ms".to_owned(),
            ..Config::default()
        };
        config.validate().map_err(|e| StartError::Settings(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        Options::new(NodeId(1), "localhost:1", "unused").raft_config().expect("defaults are valid");
    }

    #[test]
    fn every_permitted_combination_satisfies_openraft() {
        let mut options = Options::new(NodeId(1), "localhost:1", "unused");
        for heartbeat in [10, 25, 50, 100, 250] {
            for factor in [3, 4, 5, 10, 40] {
                let (heartbeat, election_min) =
                    (Duration::from_millis(heartbeat), Duration::from_millis(heartbeat * factor));
                let election_max = election_min + Duration::from_millis(1);
                options.timings = RaftTimings { heartbeat, election_min, election_max };
                options.raft_config().expect("openraft accepts it");
            }
        }
    }

    #[test]
    fn timings_out_of_bounds_are_refused_with_the_reason() {
        let wrong = |change: fn(&mut RaftTimings)| {
            let mut options = Options::new(NodeId(1), "localhost:1", "unused");
            change(&mut options.timings);
            options.raft_config().expect_err("must be refused").to_string()
        };
        assert!(wrong(|t| t.heartbeat = Duration::from_millis(1)).contains("scheduling"));
        assert!(wrong(|t| t.election_min = Duration::from_millis(60)).contains("two heartbeats"));
        assert!(wrong(|t| t.election_max = t.election_min).contains("colliding"));
    }
}
