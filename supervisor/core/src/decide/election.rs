//! An election under way: who is sealed, who may be appointed, who must catch up first, who is missing.

use super::{Decision, candidate::preference, health::names};
use crate::{
    cluster::ClusterState,
    command::Command,
    id::{Epoch, MemberId, MemberKey},
    lsn::Lsn,
    member::Tier,
    observation::Observations,
    position::Position,
    quorum::{Evidence, describe, seal_counts},
    reign::{CatchUp, Election, ElectionKind, Reign, Seal, SealKind, Start},
    rule::Setting,
    time::Time,
};
use std::collections::BTreeSet;

/// How long an election waits for members that could still join the new rule before it appoints without them, and for
/// a catch-up or a candidate before it restarts in place. A seal takes tens of milliseconds.
const PATIENCE_MS: u64 = 1_500;

pub(super) fn decide(agreed: &ClusterState, seen: &Observations, now: Time, decision: &mut Decision) {
    let (Some(election), Some(last)) = (&agreed.election, agreed.reign()) else { return };
    let begun = seen.election_seen.filter(|(epoch, _)| *epoch == election.epoch).map_or(now, |(_, at)| at);
    let view = View::gather(agreed, seen, election, last, now, now.since(begun), decision);
    decision.wake(now.plus(100));
    if let Some(order) = forced_first(agreed, election) {
        decision.want(order, "the operator forces another choice", Vec::new());
        return;
    }
    if matches!(election.kind, ElectionKind::Renewal) && view.carry_on(decision) {
        return;
    }
    if view.promote(decision) || view.wait_or_catch_up(decision) {
        return;
    }
    if view.carry_on(decision) {
        return;
    }
    view.report_missing(decision);
}

/// A forced failover asked for during an election that cannot end begins another one.
fn forced_first(agreed: &ClusterState, election: &Election) -> Option<Command> {
    let request = agreed.request.as_ref()?;
    let forced = matches!(request.kind, ElectionKind::Forced { .. }) && election.kind != request.kind;
    forced.then(|| Command::BeginElection {
        epoch: agreed.epoch.next(),
        kind: request.kind.clone(),
        noticed_at: election.at,
    })
}

struct View<'a> {
    agreed: &'a ClusterState,
    seen: &'a Observations,
    election: &'a Election,
    last: &'a Reign,
    now: Time,
    /// How long this leader has been waiting, in milliseconds.
    waited: u64,
    seals: Vec<Seal>,
    can_stream: BTreeSet<MemberKey>,
    standing: Option<Seal>,
}

impl<'a> View<'a> {
    fn gather(
        agreed: &'a ClusterState,
        seen: &'a Observations,
        election: &'a Election,
        last: &'a Reign,
        now: Time,
        waited: u64,
        decision: &mut Decision,
    ) -> Self {
        let mut view = Self {
            agreed,
            seen,
            election,
            last,
            now,
            waited,
            seals: Vec::new(),
            can_stream: BTreeSet::new(),
            standing: None,
        };
        for (member, at) in &seen.reports {
            let Some(report) = at.report.seal.as_ref().filter(|r| r.seal.epoch == election.epoch) else { continue };
            if let Err(why) = seal_counts(agreed, election.epoch, &report.seal) {
                decision.find("seal-refused", why);
                continue;
            }
            if report.seal.key.member != *member {
                continue;
            }
            if report.seal.kind == SealKind::Standing {
                if last.primary == report.seal.key {
                    view.standing = Some(report.seal.clone());
                }
                continue;
            }
            if report.can_stream {
                view.can_stream.insert(report.seal.key.clone());
            }
            view.seals.push(report.seal.clone());
        }
        view
    }

    fn wanted(&self) -> Option<&MemberId> {
        match &self.election.kind {
            ElectionKind::Switchover { to } | ElectionKind::Forced { to, .. } => to.as_ref(),
            ElectionKind::Failover | ElectionKind::Renewal => None,
        }
    }

    fn evidence(&self) -> Option<Evidence<'_>> {
        Evidence::check(self.agreed, self.election.epoch, &self.last.primary, &self.seals).ok()
    }

    fn able(&self, evidence: &Evidence<'_>, seal: &Seal) -> bool {
        evidence.missing_at(self.agreed, seal.position).is_empty()
    }

    fn promotable(&self, seal: &Seal) -> bool {
        let member = self.agreed.members.get(&seal.key.member);
        member.is_some_and(|m| m.spec.tier != Tier::Backup && !m.leaving)
            && seal.key != self.last.primary
            && self.can_stream.contains(&seal.key)
    }

    /// The sealed members that may be promoted, best first.
    fn candidates(&self) -> Vec<&Seal> {
        let mut candidates: Vec<&Seal> = self.seals.iter().filter(|seal| self.promotable(seal)).collect();
        candidates.sort_by_key(|seal| {
            let wished = self.wanted() != Some(&seal.key.member);
            (wished, preference(self.agreed, self.seen, &seal.key))
        });
        candidates
    }

    fn setting_for(&self, appointee: &Seal) -> Setting {
        let fits = |seal: &&Seal, emergency: bool| {
            let tier = self.agreed.members.get(&seal.key.member).map(|m| (m.spec.tier, m.leaving));
            let right_tier = match tier {
                Some((Tier::Primary | Tier::Replica, false)) => true,
                Some((Tier::Emergency, false)) => emergency,
                _ => false,
            };
            right_tier
                && seal.key != appointee.key
                && seal.position <= appointee.position
                && self.can_stream.contains(&seal.key)
        };
        let k = self.agreed.settings.sync_standbys;
        let mut cohort: BTreeSet<MemberKey> =
            self.seals.iter().filter(|s| fits(s, false) && s.key != self.last.primary).map(|s| s.key.clone()).collect();
        // The former primary, stopped cleanly, and emergency hosts only where they are needed.
        for emergency in [false, true] {
            if (cohort.len() as u64) < u64::from(k) {
                cohort.extend(self.seals.iter().filter(|s| fits(s, emergency)).map(|s| s.key.clone()));
            }
        }
        Setting { cohort, k }
    }

    /// Members that are there, could be in the new rule and have not sealed yet.
    fn stragglers(&self) -> Vec<MemberId> {
        let sealed: BTreeSet<&MemberId> = self.seals.iter().map(|seal| &seal.key.member).collect();
        let limit = self.agreed.settings.suspect_ms + self.seen.starved_ms;
        self.agreed
            .members
            .values()
            .filter(|m| m.spec.tier != Tier::Backup && !m.leaving && m.spec.member != self.last.primary.member)
            .filter(|m| !sealed.contains(&m.spec.member))
            .filter(|m| {
                let fresh = self.seen.fresh(&m.spec.member, self.now, limit);
                fresh.is_some_and(|report| report.incarnation == Some(m.incarnation))
            })
            .map(|m| m.spec.member.clone())
            .collect()
    }

    fn promote(&self, decision: &mut Decision) -> bool {
        let Some(evidence) = self.evidence() else { return false };
        let candidates = self.candidates();
        let able: Vec<&&Seal> = candidates.iter().filter(|seal| self.able(&evidence, seal)).collect();
        let Some(best) = able.first() else { return false };
        if self.waited < PATIENCE_MS {
            // A better class of host, or the one the operator named, may still catch up or seal.
            let named_later = self.wanted().is_some_and(|to| *to != best.key.member);
            let emergency = self.is_emergency(&best.key);
            let better_exists = candidates.iter().any(|c| !self.is_emergency(&c.key)) || !self.stragglers().is_empty();
            if named_later || (emergency && better_exists) {
                return false;
            }
            // The former primary may hold more than the others, or be slow to come back: it is no reason to appoint
            // before the standbys that are there have sealed.
            let setting = self.setting_for(best);
            let others = setting.cohort.iter().filter(|key| **key != self.last.primary).count() as u64;
            if others < u64::from(setting.k) && !self.stragglers().is_empty() {
                decision.find(
                    "waiting-for-seals",
                    format!("waiting for {} to join the new rule", list(&self.stragglers())),
                );
                return true;
            }
        }
        let setting = self.setting_for(best);
        let timeline = self.agreed.last_timeline.next();
        self.appoint(best, Start::Promote, timeline, setting, decision);
        true
    }

    fn is_emergency(&self, key: &MemberKey) -> bool {
        self.agreed.members.get(&key.member).is_some_and(|m| m.spec.tier == Tier::Emergency)
    }

    fn appoint(
        &self,
        best: &Seal,
        start: Start,
        timeline: crate::id::TimelineId,
        setting: Setting,
        decision: &mut Decision,
    ) {
        let mut seals = self.seals.clone();
        if !seals.iter().any(|seal| seal.key == best.key) {
            seals.push(best.clone());
        }
        let evidence = seals.iter().map(|s| format!("{} sealed at {} ({:?})", s.key, s.position, s.kind)).collect();
        let reason = match start {
            Start::Continue => format!("{} goes on at {}: nobody else is needed", best.key.member, best.position),
            _ => format!(
                "{} at {} has everything that the sealed members have; new rule: any {} of {}",
                best.key.member,
                best.position,
                setting.k,
                names(&setting.cohort)
            ),
        };
        let command =
            Command::Appoint { epoch: self.election.epoch, primary: best.key.clone(), start, timeline, setting, seals };
        decision.want(command, reason, evidence);
    }

    /// A better placed member first fetches what it lacks from the best one (pg_auto_failover's fast forward).
    fn wait_or_catch_up(&self, decision: &mut Decision) -> bool {
        let Some(evidence) = self.evidence() else { return false };
        let top = Position::new(Epoch(u64::MAX), Lsn(u64::MAX));
        if !evidence.missing_at(self.agreed, top).is_empty() {
            return false;
        }
        let Some(source) = self
            .seals
            .iter()
            .filter(|s| self.can_stream.contains(&s.key) && s.key != self.last.primary)
            .filter(|s| self.able(&evidence, s))
            .min_by_key(|s| s.position)
        else {
            return false;
        };
        let candidates = self.candidates();
        let Some(best) = candidates.first().filter(|best| best.key != source.key) else { return false };
        let order = CatchUp { member: best.key.clone(), source: source.key.clone(), target: source.position };
        if self.election.catch_up.as_ref() == Some(&order) {
            decision.find(
                "catching-up",
                format!("{} fetches WAL up to {} from {}", order.member, order.target, order.source),
            );
            return self.waited < 20 * PATIENCE_MS;
        }
        let reason = format!("{} is preferred but lacks WAL that {} has", order.member.member, order.source.member);
        decision.want(Command::CatchUp { epoch: self.election.epoch, order }, reason, Vec::new());
        true
    }

    /// The primary goes on: restarted in place because nobody may take over, or the election is called off.
    fn carry_on(&self, decision: &mut Decision) -> bool {
        let own = self.seals.iter().find(|seal| seal.key == self.last.primary);
        let Some(own) = self.standing.as_ref().or(own) else { return false };
        if self.last.promotion.is_none() {
            return false;
        }
        let renewal = self.election.kind == ElectionKind::Renewal;
        let stragglers = self.stragglers();
        let impatient = self.waited >= PATIENCE_MS || (renewal && stragglers.is_empty());
        if !impatient {
            decision.find("waiting-for-seals", format!("waiting for {} before the primary goes on", list(&stragglers)));
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

    /// Nobody is promoted, and the incident says who is missing.
    fn report_missing(&self, decision: &mut Decision) {
        let Some(evidence) = self.evidence() else { return };
        let missing = evidence.missing_at(self.agreed, Position::new(Epoch(u64::MAX), Lsn(u64::MAX)));
        let text = if missing.is_empty() {
            "every rule is closed, but no sealed member may be promoted".to_owned()
        } else {
            format!("nobody can be promoted without risking an acknowledged commit: {}", describe(&missing))
        };
        decision.find("too-few-seals", text.clone());
        let incident = self.agreed.incidents.iter().rev().find(|i| i.epoch == self.election.epoch);
        let noted = incident.is_none_or(|i| i.notes.contains(&text) || i.notes.len() >= crate::incident::NOTES_MAX);
        if self.waited >= 2 * PATIENCE_MS && !noted {
            decision.want(
                Command::Note { incident: self.election.epoch, text },
                "the election cannot end yet",
                Vec::new(),
            );
        }
    }
}

fn list(names: &[MemberId]) -> String {
    names.iter().map(MemberId::as_str).collect::<Vec<_>>().join(", ")
}
