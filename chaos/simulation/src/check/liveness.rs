//! Once all faults are over, the cluster must heal: one open primary that acknowledges, and everybody streams from it.

use super::Check;
use crate::world::World;
use pgvigil_core::member::Tier;

impl World {
    /// What is still missing; `None` when the cluster is whole again.
    #[must_use]
    pub fn ailing(&self, since: u64) -> Option<String> {
        let newest = self.raft.newest();
        let Some(cluster) = newest.as_ref().and_then(|applied| applied.cluster.as_ref()) else {
            return Some("there is no cluster".to_owned());
        };
        let Some(reign) = cluster.reign_in_force() else { return Some(format!("election {:?}", cluster.election)) };
        if !reign.open || !reign.complete || cluster.change.is_some() || cluster.request.is_some() {
            return Some(format!(
                "epoch {}: open {}, complete {}, change {:?}, request {:?}",
                reign.epoch, reign.open, reign.complete, cluster.change, cluster.request
            ));
        }
        let (at, epoch) = self.check.borrow().last;
        if at < since || epoch != reign.epoch.0 {
            return Some(format!("epoch {} has acknowledged nothing since the faults ended", reign.epoch));
        }
        let primary = self.host_of(&reign.primary.member)?;
        for (host, place) in self.hosts.iter().enumerate() {
            let name = self.member(host);
            let Some(member) = cluster.members.get(name) else { return Some(format!("{name} is not registered")) };
            let marker = place.disk.borrow().data.as_ref().and_then(|data| data.marker.as_ref().map(|m| m.incarnation));
            if marker != Some(member.incarnation) {
                return Some(format!("{name} has incarnation {marker:?}, {} counts", member.incarnation));
            }
            if host == primary {
                continue;
            }
            let pg = place.pg.borrow();
            let streams = pg.in_recovery && pg.receiver.as_ref().is_some_and(|r| r.streaming && r.from == primary);
            if !streams {
                return Some(format!("{name} does not stream from {}", reign.primary.member));
            }
            let countable = matches!(member.spec.tier, Tier::Primary | Tier::Replica) && !member.leaving;
            let counted = cluster.newest_rule().is_some_and(|rule| rule.setting.cohort.contains(&member.key()));
            if countable && !counted {
                return Some(format!("{name} is not in the rule"));
            }
        }
        None
    }
}

impl Check {
    /// It has not healed in time.
    pub fn not_healed(&mut self, w: &World, missing: String) {
        self.fail("liveness", w.exec.now(), missing);
    }
}
