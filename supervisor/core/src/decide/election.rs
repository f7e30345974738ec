//! An election under way: who is sealed, who may be appointed, who must catch up first, who is missing.

mod carry_on;
mod explain;

use super::{Decision, candidate::preference, health::names, requests::force_evidence};
use crate::{
    cluster::ClusterState,
    command::Command,
    id::{Epoch, MemberId, MemberKey},
    lsn::Lsn,
    member::Tier,
    observation::Observations,
    position::Position,
    quorum::{Evidence, seal_counts},
    reign::{CatchUp, Election, ElectionKind, Reign, Seal, SealKind, Start},
    rule::Setting,
    time::Time,
};
use std::collections::BTreeSet;

/// How long an election waits for members that could still join the new rule before it appoints without them, and for
/// a better placed candidate before it takes another or restarts in place. A seal takes tens of milliseconds.
const PATIENCE_MS: u64 = 1_500;

/// How long a catch-up may take when nobody else, or only an emergency host, could be promoted instead.
const CATCH_UP_MS: u64 = 20 * PATIENCE_MS;

pub(super) fn decide(agreed: &ClusterState, seen: &Observations, now: Time, decision: &mut Decision) {
    let (Some(election), Some(last)) = (&agreed.election, agreed.reign()) else { return };
    let begun = seen.election_seen.filter(|(epoch, _)| *epoch == election.epoch).map_or(now, |(_, at)| at);
    let view = View::gather(agreed, seen, election, last, now, now.since(begun), decision);
    decision.wake(now.plus(100));
    if let Some(request) = &agreed.request {
        if request.kind == election.kind {
            // Left standing, it would end the reign that this very election brings.
            decision.want(Command::DropRequest, "the change of primary asked for is under way already", Vec::new());
            return;
        }
        if let Some(order) = forced_first(agreed, election) {
            let evidence = force_evidence(last, &request.kind);
            decision.want(order, "the operator forces another choice", evidence);
            return;
        }
    }
    if matches!(election.kind, ElectionKind::Renewal) && (view.carry_on(decision) || view.primary_may_stand(decision)) {
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
    let forced = matches!(request.kind, ElectionKind::Forced { .. });
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
    /// A seal is for good: it counts whether or not its author still answers.
    seals: Vec<Seal>,
    /// The authors that were heard lately and can stream: only they can be appointed, catch up, give WAL or join a rule.
    can_stream: BTreeSet<MemberKey>,
    /// Of these, the copies that are not consistent yet: good for a rule only.
    incomplete: BTreeSet<MemberKey>,
    /// The primary of the last reign, if it was heard lately and still runs.
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
            incomplete: BTreeSet::new(),
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
            let answers = view.answers(member);
            if report.seal.kind == SealKind::Standing {
                if last.primary == report.seal.key && answers {
                    view.standing = Some(report.seal.clone());
                }
                continue;
            }
            if report.can_stream && answers {
                view.can_stream.insert(report.seal.key.clone());
            }
            if report.incomplete {
                view.incomplete.insert(report.seal.key.clone());
            }
            view.seals.push(report.seal.clone());
        }
        view
    }

    /// Whether the member was heard lately; by a leader that has just begun to listen, whether it may still be.
    fn answers(&self, member: &MemberId) -> bool {
        self.seen.silence(member, self.now) <= self.agreed.settings.suspect_ms + self.seen.starved_ms
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
            && !self.reigned(seal)
            && self.can_stream.contains(&seal.key)
            && !self.incomplete.contains(&seal.key)
    }

    /// Whether this is the old primary. An appointee that never left recovery is a sealed standby like any other.
    fn reigned(&self, seal: &Seal) -> bool {
        seal.key == self.last.primary && self.agreed.promoted_epoch_of(&seal.key) == Some(self.last.epoch)
    }

    /// The sealed members that may be promoted, best first.
    fn candidates(&self) -> Vec<&Seal> {
        let mut candidates: Vec<&Seal> = self.seals.iter().filter(|seal| self.promotable(seal)).collect();
        candidates.sort_by_key(|seal| {
            let wished = self.wanted() != Some(&seal.key.member);
            // One that was appointed and did not manage comes after the others.
            let failed = seal.key == self.last.primary;
            (wished, failed, preference(self.agreed, self.seen, &seal.key))
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
        if self.somebody_better(best, &candidates) {
            if !self.wait_or_catch_up(decision) {
                let text = format!("{} could be appointed, but is not whom the operator prefers", best.key.member);
                decision.find("waiting-for-better", text);
            }
            return true;
        }
        if self.is_moving(best) && self.waited < PATIENCE_MS {
            decision
                .find("catching-up", format!("{} fetches WAL of another timeline than its seal's", best.key.member));
            return true;
        }
        let setting = self.setting_for(best);
        let late = self.who_could_join(&setting);
        if !late.is_empty() {
            decision.find("waiting-for-seals", format!("waiting for {} to join the new rule", list(&late)));
            return true;
        }
        let timeline = self.agreed.last_timeline.next();
        self.appoint(best, Start::Promote, timeline, setting, decision);
        true
    }

    /// Whether it is fetching WAL of a later timeline than the one on which it sealed: appointed at that seal it would promote
    /// from the later one, and its timeline would not be what is agreed. Found by the simulation (`--hands`, seed 2717).
    fn is_moving(&self, seal: &Seal) -> bool {
        let ordered = self.election.catch_up.as_ref().filter(|order| order.member == seal.key);
        ordered.is_some_and(|order| order.target.epoch > seal.position.epoch)
    }

    /// Whose seal may still come that `setting` needs, so that somebody confirms commits; nobody once patience is over.
    ///
    /// The former primary may hold more than the others, or be slow to come back: it is no reason to appoint before the
    /// standbys that are there have sealed. Where they are too few, its own seal is waited for: an appointment without it
    /// would be to a rule that nobody can satisfy until it is formed anew.
    fn who_could_join(&self, setting: &Setting) -> Vec<MemberId> {
        let k = u64::from(setting.k);
        let former = &self.last.primary;
        let others = setting.cohort.iter().filter(|key| *key != former).count() as u64;
        if self.waited < PATIENCE_MS && others < k && !self.stragglers().is_empty() {
            return self.stragglers();
        }
        // In a planned change it is drained first.
        let patience = PATIENCE_MS + self.drain_ms();
        let sealed = self.seals.iter().any(|seal| seal.key == *former);
        let coming = !sealed && self.standing.is_none() && self.may_still_seal(former);
        if (setting.cohort.len() as u64) < k && coming && self.waited < patience {
            return vec![former.member.clone()];
        }
        Vec::new()
    }

    /// How long the old primary may be drained before anybody seals.
    const fn drain_ms(&self) -> u64 {
        match self.election.kind {
            ElectionKind::Switchover { .. } => self.agreed.settings.switchover_drain_ms,
            _ => 0,
        }
    }

    /// Whether the agent of the former primary is there, with the directory that counts, and could count in a rule.
    fn may_still_seal(&self, former: &MemberKey) -> bool {
        let limit = self.agreed.settings.suspect_ms + self.seen.starved_ms;
        let here =
            self.seen.fresh(&former.member, self.now, limit).is_some_and(|r| r.incarnation == Some(former.incarnation));
        let member = self.agreed.members.get(&former.member);
        here && self.agreed.is_counted(former) && member.is_some_and(|m| m.spec.tier != Tier::Backup && !m.leaving)
    }

    /// Whether somebody whom the operator prefers to `best` (by name, or by tier) may still seal or catch up.
    fn somebody_better(&self, best: &Seal, candidates: &[&Seal]) -> bool {
        if let Some(to) = self.wanted().filter(|to| **to != best.key.member) {
            // In a planned change it seals only after it has drained the old primary.
            if self.answers(to) && self.waited < PATIENCE_MS + self.drain_ms() {
                return true;
            }
        }
        let tier = self.tier(&best.key.member);
        let may_catch_up = candidates.iter().any(|candidate| self.tier(&candidate.key.member) < tier);
        let may_seal = self.stragglers().iter().any(|member| self.tier(member) < tier);
        let ordered = self.election.catch_up.is_some() && may_catch_up;
        let patience = if ordered && tier == Tier::Emergency { CATCH_UP_MS } else { PATIENCE_MS };
        (may_catch_up || may_seal) && self.waited < patience
    }

    fn tier(&self, member: &MemberId) -> Tier {
        self.agreed.members.get(member).map_or(Tier::Backup, |m| m.spec.tier)
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
        let reason = match start {
            Start::Continue => format!("{} goes on at {}: nobody else is needed", best.key.member, best.position),
            _ => {
                let at =
                    format!("{} at {} has everything that the sealed members have", best.key.member, best.position);
                format!("{at}; {}", rule_in_words(&setting))
            }
        };
        // In the reason for the log, and first in the evidence for the incident.
        let instead = self.instead_of(&best.key);
        let reason = match &instead {
            Some(why) => format!("{reason}; {why}"),
            None => reason,
        };
        let sealed = seals.iter().map(|s| format!("{} sealed at {} ({:?})", s.key, s.position, s.kind));
        let evidence = instead.into_iter().chain(sealed).collect();
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
            .filter(|s| self.can_stream.contains(&s.key) && !self.incomplete.contains(&s.key) && !self.reigned(s))
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
            return self.waited < CATCH_UP_MS;
        }
        let reason = format!("{} is preferred but lacks WAL that {} has", order.member.member, order.source.member);
        decision.want(Command::CatchUp { epoch: self.election.epoch, order }, reason, Vec::new());
        true
    }
}

/// The rule of an appointment, for its reason.
fn rule_in_words(setting: &Setting) -> String {
    let (k, who) = (setting.k, names(&setting.cohort));
    if setting.cohort.len() >= k as usize {
        return format!("new rule: any {k} of {who}");
    }
    format!(
        "new rule: any {k} of {who}, which is too few: commits wait until standbys stream from it, and the rule is formed \
         anew with them"
    )
}

fn list(names: &[MemberId]) -> String {
    names.iter().map(MemberId::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "election/choice_test.rs"]
mod tests;

#[cfg(test)]
#[path = "election/catch_up_test.rs"]
mod catch_up_tests;
