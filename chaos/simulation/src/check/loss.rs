//! RPO: where people take the rule out of force, acknowledged commits may be lost; but no incident may say that none was.
//!
//! It may say until when the rule was shown in force: what was acknowledged after that is not what it speaks of.

use super::Check;
use crate::{
    exec::Micros,
    postgres::wal::Point,
    world::{W, World},
};
use pgvigil_core::rpo::{Ground, Verdict, verdict};

/// Acknowledged commits that a later reign does not have.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    /// The epoch in which they were acknowledged.
    pub epoch: u64,
    /// The reign without them.
    pub later: u64,
    /// When the first of them was acknowledged.
    pub at: Micros,
}

impl Check {
    /// Somebody takes the rule of the primary on `host` out of force.
    pub fn weakened(&mut self, w: &World, host: usize) {
        let epoch = w.hosts[host].pg.borrow().epoch;
        self.weakened.entry(epoch).or_insert(w.exec.now());
    }

    /// The server of epoch `before` goes on in `epoch`: what was done to it goes on too.
    pub fn goes_on(&mut self, before: u64, epoch: u64) {
        if let Some(at) = self.weakened.get(&before).copied() {
            self.weakened.entry(epoch).or_insert(at);
        }
    }

    /// A leader says "RPO 0 holds" of the reign of `epoch`, having seen the rule in force at `shown` of the true time.
    pub fn said_to_hold(&mut self, epoch: u64, shown: Micros) {
        let newest = self.held.entry(epoch).or_insert(shown);
        *newest = (*newest).max(shown);
    }

    /// Commits up to `point`, acknowledged in `epoch`, are missing from `start`, where `later` began. `true`: the first of
    /// them was acknowledged after the rule had been taken out of force by hand, so the incident has to say so.
    pub(super) fn lost_by_hand(&mut self, w: &World, point: Point, epoch: u64, start: Point, later: u64) -> bool {
        let Some(weakened) = self.weakened.get(&epoch) else { return false };
        let tree = w.tree.borrow();
        let missing =
            |(at, of, _): &&(Point, u64, Micros)| *of == epoch && at.branch == point.branch && !tree.covers(start, *at);
        let first = self.acknowledgements.iter().filter(missing).map(|(_, _, at)| *at).min();
        let by_hand = first.is_some_and(|at| at >= *weakened);
        if let (true, Some(at)) = (by_hand, first) {
            w.cover.hit("loss", "by-hand");
            self.losses.push(Loss { epoch, later, at });
            // Clocks run up to 1 % fast or slow, and what is shown is seconds old at the most.
            if let Some(held) = self.held.get(&epoch).filter(|held| at + 100_000 < **held) {
                let detail = format!(
                    "\"RPO 0 holds\" was said of epoch {epoch} as of {} us; what was acknowledged at {at} us is not in epoch \
                     {later}",
                    *held
                );
                self.fail("RPO", w.exec.now(), detail);
            }
        }
        by_hand
    }

    /// The end of the run: every loss must be named by the incident in which it happened.
    pub fn verdicts(&mut self, w: &W) {
        let Some(cluster) = w.raft.newest().and_then(|applied| applied.cluster.clone()) else { return };
        for loss in self.losses.clone() {
            let Some(incident) = cluster.incidents.iter().find(|incident| incident.epoch.0 == loss.later) else {
                continue;
            };
            let said = verdict(&cluster, incident);
            let at_ms = w.wall().0 - (w.exec.now() - loss.at) / 1_000;
            let wrong = match &said {
                Verdict::NoneLost(Ground::OwnWal(_)) => true,
                // The simulation's clocks run up to 1 % fast or slow.
                Verdict::NoneLost(Ground::Rule(shown)) => at_ms + 20 + shown.unseen_ms / 20 < shown.until.0,
                Verdict::NotProven(_) | Verdict::Forgotten => !incident.possible_data_loss,
                Verdict::Open => true,
            };
            w.cover.hit("loss", if wrong { "denied" } else { "named" });
            if wrong {
                let (of, later) = (loss.epoch, incident.epoch);
                let detail = format!(
                    "epoch {later} lacks what was acknowledged in epoch {of} from {at_ms} on, and says {said:?}"
                );
                self.fail("RPO", w.exec.now(), detail);
            }
        }
    }
}
