//! Heartbeats and election timers at the wanted pace, with few wake-ups.
//!
//! openraft looks at its timers five times per heartbeat interval, on every node: with 100 ms fifty times a second,
//! which is much of what an idle node costs. So its ticks are switched off wherever they have nothing to find: on a
//! leader, which is reminded of its heartbeats here, and on a follower that heard its leader lately; openraft keeps
//! faith with a leader for `election_max`, so no election comes later for it. Whoever hears nothing ticks. Should this
//! task ever end, the ticks are switched on, and openraft's own heartbeats still hold the group together.

use crate::grid;
use crate::leadership::Leadership;
use crate::options::RaftTimings;
use crate::service::Raft;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

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

/// When this node last took something from a leader that it follows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard(Arc<Mutex<Option<Instant>>>);

impl Heard {
    /// A message of a leader was accepted just now. One that was refused, as a deposed leader's is, does not count.
    pub(crate) fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn last(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// openraft's ticks; on again when this is dropped, for whatever reason.
struct Ticks(Raft);

impl Ticks {
    fn set(&self, on: bool) {
        self.0.runtime_config().tick(on);
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        self.set(true);
    }
}

/// Keeps the pace until openraft stops.
pub(crate) fn keep(raft: Raft, leadership: watch::Receiver<Leadership>, timings: RaftTimings, heard: Heard) {
    tokio::spawn(async move {
        let ticks = Ticks(raft.clone());
        let mut changes = leadership.clone();
        loop {
            if changes.borrow_and_update().i_am_leader {
                ticks.set(false);
                beat(&raft, &leadership, timings.heartbeat).await;
            }
            let now = Instant::now();
            let faithful_until = heard.last().map(|at| at + timings.election_max).filter(|until| *until > now);
            ticks.set(faithful_until.is_none());
            let look_again = faithful_until.unwrap_or(now + timings.election_max);
            if let Ok(Err(_stopped)) = timeout_at(look_again, changes.changed()).await {
                return;
            }
        }
    });
}

/// Reminds openraft of its heartbeats while this node leads: at common moments, so one may come half of their spacing
/// early or late, and the next one makes up for it.
async fn beat(raft: &Raft, leadership: &watch::Receiver<Leadership>, pace: Duration) {
    let mut due = Instant::now();
    while leadership.borrow().i_am_leader {
        if raft.trigger().heartbeat().await.is_err() {
            return;
        }
        due = (due + pace).max(Instant::now());
        sleep_until(grid::nearest(due, pace)).await;
    }
}
