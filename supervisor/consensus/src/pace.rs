//! Heartbeats at the wanted pace, with few wake-ups.
//!
//! openraft looks at its timers five times per heartbeat interval, on every node: with 100 ms fifty times a second,
//! which is much of what an idle node costs. So openraft is given the longest interval that its election timeout
//! allows, and the leader is reminded here in between. Should this task ever stop, openraft's own heartbeats still
//! hold the group together.

use crate::leadership::Leadership;
use crate::options::RaftTimings;
use crate::service::Raft;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// The interval that openraft gets, in milliseconds. It demands that its interval, one look at its timers
/// (13/64 of the interval) and the shortest distance between two heartbeats together stay below the election timeout.
pub(crate) fn inner_interval(timings: &RaftTimings) -> u64 {
    let room = timings.election_min.saturating_sub(timings.heartbeat);
    let longest = millis(room) * 64 / 77;
    longest.saturating_sub(1).max(millis(timings.heartbeat))
}

/// Within this of an answered heartbeat openraft leaves its own out, in milliseconds. A little less than the pace, so
/// that it never leaves out one of ours.
pub(crate) fn shortest_distance(timings: &RaftTimings) -> u64 {
    millis(timings.heartbeat) * 9 / 10
}

/// Whole milliseconds, as openraft takes them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reminds openraft while this node leads, until it stops.
pub(crate) fn keep(raft: Raft, mut leadership: watch::Receiver<Leadership>, pace: Duration) {
    tokio::spawn(async move {
        while leadership.wait_for(|l| l.i_am_leader).await.is_ok() {
            let mut beats = interval(pace);
            beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while leadership.borrow().i_am_leader {
                beats.tick().await;
                if raft.trigger().heartbeat().await.is_err() {
                    return;
                }
            }
        }
    });
}
