//! The same primary goes on: only where that loses nothing.

use super::{Decision, PATIENCE_MS, View, list};
use crate::{
    id::MemberKey,
    member::Tier,
    reign::{ElectionKind, Start},
};

impl View<'_> {
    /// The primary goes on: restarted in place because nobody may take over, or the election is called off.
    pub(super) fn carry_on(&self, decision: &mut Decision) -> bool {
        // Sealed and silent since, it would not start again.
        // Nor one that has diverged since, by hand.
        let own = self.seals.iter().find(|seal| seal.key == self.last.primary && self.can_stream.contains(&seal.key));
        let Some(own) = self.standing.as_ref().or(own) else { return false };
        // A restart in place that was cut short before it was done can be begun again.
        if self.agreed.promoted_epoch_of(&self.last.primary) != Some(self.last.epoch) {
            return false;
        }
        let renewal = self.election.kind == ElectionKind::Renewal;
        let stragglers = self.stragglers();
        let impatient = self.waited >= PATIENCE_MS || (renewal && stragglers.is_empty());
        if !impatient {
            let who = if stragglers.is_empty() { "somebody who could take over".to_owned() } else { list(&stragglers) };
            decision.find("waiting-for-seals", format!("waiting for {who} before the primary goes on"));
            return renewal;
        }
        // History A10: its WAL may have come back shorter than what a standby flushed.
        if let Some(ahead) = self.seals.iter().find(|seal| seal.position > own.position) {
            decision.find(
                "primary-behind",
                format!("{} is ahead of the primary ({} > {})", ahead.key, ahead.position, own.position),
            );
            return false;
        }
        let mut setting = self.setting_for(own);
        if self.standing.is_some() {
            setting.cohort.extend(self.streaming_now());
            setting.cohort.remove(&own.key);
        }
        self.appoint(own, Start::Continue, self.last.timeline, setting, decision);
        true
    }

    /// A renewal is for the primary that is there: nobody else is appointed only because their seals came in first.
    pub(super) fn primary_may_stand(&self, decision: &mut Decision) -> bool {
        let primary = &self.last.primary;
        let limit = self.agreed.settings.suspect_ms + self.seen.starved_ms;
        let there = self.seen.fresh(&primary.member, self.now, limit);
        let heard = self.standing.is_some() || self.seals.iter().any(|seal| seal.key == *primary);
        let waits =
            !heard && self.waited < PATIENCE_MS && there.is_some_and(|r| r.incarnation == Some(primary.incarnation));
        if waits {
            let text = format!("waiting for {} to stand, or to seal what it has", primary.member);
            decision.find("waiting-for-seals", text);
        }
        waits
    }

    /// Members whose agents are there in the counted incarnation: they can stream from a primary that never stopped.
    fn streaming_now(&self) -> Vec<MemberKey> {
        let sealed = self.seals.iter().map(|seal| seal.key.clone());
        sealed
            .filter(|key| {
                let tier = self.agreed.members.get(&key.member).map(|m| m.spec.tier);
                matches!(tier, Some(Tier::Primary | Tier::Replica)) && self.can_stream.contains(key)
            })
            .collect()
    }
}

#[cfg(test)]
#[path = "carry_on_test.rs"]
mod tests;
