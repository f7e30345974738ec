//! What a node has seen while it leads: reports stamped with its own clock, and the findings of its last decision. Plain data;
//! every moment is the caller's. Keeps S3 and S5: what was seen in an earlier term is forgotten, and a lease is remembered
//! before anybody is told that it was renewed.

use crate::{
    State,
    cluster::ClusterState,
    decide::{Decision, Finding},
    id::{ClusterId, Epoch, MemberId, NodeId},
    lease,
    observation::Observations,
    reign::FenceDebt,
    report::{LeaderClock, PostgresReport, Report},
    starvation::Starvation,
    time::{Time, WallTime},
};
use std::collections::BTreeMap;

/// How long what was heard of an agent that cannot start is shown, in milliseconds: several of its attempts.
const AILING_MS: u64 = 10_000;

/// See the module.
#[derive(Clone, Debug)]
pub struct Inbox {
    me: NodeId,
    /// Since when this node leads and listens, and in which of Raft's terms; `None` while it does not.
    listens: Option<(Time, u64)>,
    seen: BTreeMap<ClusterId, Observations>,
    findings: BTreeMap<ClusterId, Vec<Finding>>,
    /// Members whose agents cannot start, why, and when that was heard.
    ailing: BTreeMap<(ClusterId, MemberId), (String, Time)>,
}

impl Inbox {
    /// An inbox of node `me` that does not listen yet.
    #[must_use]
    pub const fn new(me: NodeId) -> Self {
        Self { me, listens: None, seen: BTreeMap::new(), findings: BTreeMap::new(), ailing: BTreeMap::new() }
    }

    /// This node became leader of `term` at `since`: everything seen before is forgotten, silence before is no evidence.
    pub fn begin(&mut self, since: Time, term: u64) {
        *self = Self { listens: Some((since, term)), ..Self::new(self.me) };
    }

    /// This node no longer leads.
    pub fn end(&mut self) {
        *self = Self::new(self.me);
    }

    /// Whether it listens, and since when.
    #[must_use]
    pub fn since(&self) -> Option<Time> {
        self.listens.map(|(since, _)| since)
    }

    /// In which of Raft's terms it listens, if it does.
    #[must_use]
    pub fn term(&self) -> Option<u64> {
        self.listens.map(|(_, term)| term)
    }

    /// `now`, for those who are answered now.
    #[must_use]
    pub fn clock(&self, now: Time) -> Option<LeaderClock> {
        Some(LeaderClock { node: self.me, since: self.since()?, at: now })
    }

    /// Takes in a report that came in at `at`; `false` if this node does not listen.
    #[must_use]
    pub fn receive(&mut self, agreed: Option<&ClusterState>, report: Report, at: Time) -> bool {
        let Some(since) = self.since() else { return false };
        let me = self.me;
        let seen = self.seen.entry(report.cluster.clone()).or_insert_with(|| Observations::new(me, since));
        seen.receive(agreed, report, at);
        true
    }

    /// Remembers why the agent of a member cannot start. It is no sign of life: `decide` hears nothing of it. `true`: that is
    /// news.
    pub fn ailing(&mut self, report: &Report, at: Time) -> bool {
        let PostgresReport::Unusable { why } = &report.postgres else { return false };
        if self.listens.is_none() {
            return false;
        }
        let key = (report.cluster.clone(), report.spec.member.clone());
        self.ailing.insert(key, (why.clone(), at)).is_none_or(|(old, _)| old != *why)
    }

    /// Whether the heartbeat in `report`, received at `at`, renews the lease; if so it is remembered *before* anybody is told,
    /// so that no opening can overlook it. The caller has had its leadership confirmed by a quorum after `at`. Keeps S3.
    #[must_use]
    pub fn renew(&mut self, agreed: &ClusterState, report: &Report, at: Time) -> bool {
        if self.listens.is_none() || !lease::may_renew(agreed, report) {
            return false;
        }
        let (Some(seen), Some(reign)) = (self.seen.get_mut(&report.cluster), agreed.reign()) else { return false };
        let newest = seen.last_renewal.entry(reign.epoch).or_insert(at);
        *newest = (*newest).max(at);
        true
    }

    /// The newest reign of which the rule was shown in force, to this leader or to one before, and how long before `at`, in
    /// milliseconds.
    #[must_use]
    pub fn rule_shown(&self, agreed: &ClusterState, at: Time) -> Option<(Epoch, u64)> {
        let (epoch, shown) = self.seen.get(&agreed.id)?.rule_shown?;
        Some((epoch, at.since(shown)))
    }

    /// Whether the reigning primary's agent has missed a heartbeat. Evidence of nothing: standbys then look at its port.
    #[must_use]
    pub fn primary_late(&self, agreed: &ClusterState, now: Time) -> bool {
        let limit = agreed.settings.heartbeat_ms * 3 / 2;
        let (Some(seen), Some(reign)) = (self.seen.get(&agreed.id), agreed.reign()) else { return false };
        seen.silence(&reign.primary.member, now) > limit
    }

    /// What was seen of `cluster`; `None` while it does not listen.
    pub fn of(&mut self, agreed: &ClusterState) -> Option<&mut Observations> {
        let since = self.since()?;
        let me = self.me;
        Some(self.seen.entry(agreed.id.clone()).or_insert_with(|| Observations::new(me, since)))
    }

    /// Decides: what was seen is made current with `agreed`, `judge` judges it, and an appointment that comes of it is
    /// remembered. With it, the debts for which a fence command is due. `None` while this node does not listen.
    pub fn decide(
        &mut self,
        agreed: &ClusterState,
        starved: &Starvation,
        (now, wall): (Time, WallTime),
        judge: impl FnOnce(&Observations) -> Decision,
    ) -> Option<(Decision, Vec<FenceDebt>)> {
        let seen = self.of(agreed)?;
        seen.wall = wall;
        starved.tell(seen);
        seen.notice(agreed, now);
        let decision = judge(seen);
        if let Some(wanted) = &decision.command {
            seen.appointing(&wanted.command);
        }
        let to_fence = lease::to_fence(agreed, seen, now);
        Some((decision, to_fence))
    }

    /// The fence command for `member` succeeded for `epoch`, begun while this node listened since `since`: it serves nobody.
    /// `false`: another leadership has begun meanwhile.
    pub fn fence_command_done(&mut self, cluster: &ClusterId, member: &MemberId, epoch: Epoch, since: Time) -> bool {
        if self.since() != Some(since) {
            return false;
        }
        if let Some(seen) = self.seen.get_mut(cluster) {
            seen.fence_commands_done.insert(member.clone(), epoch);
        }
        true
    }

    /// Keeps the findings of the last decision, for the status page. `true`: they are others than before.
    pub fn found(&mut self, cluster: &ClusterId, findings: &[Finding]) -> bool {
        let news = self.findings.get(cluster).is_none_or(|held| held != findings);
        if news {
            self.findings.insert(cluster.clone(), findings.to_vec());
        }
        news
    }

    /// A copy of what was seen and found, for faces.
    #[must_use]
    pub fn snapshot(&self, cluster: &ClusterId, now: Time) -> (Observations, Vec<Finding>) {
        let seen = self.seen.get(cluster).cloned();
        let mut findings = self.findings.get(cluster).cloned().unwrap_or_default();
        let ailing = self.ailing.iter().filter(|((of, _), (_, at))| of == cluster && now.since(*at) < AILING_MS);
        findings.extend(ailing.map(|((_, member), (why, _))| Finding {
            code: "agent-cannot-start".to_owned(),
            text: format!("the agent of {member} cannot start and is tried again; its node votes on meanwhile: {why}"),
        }));
        (seen.unwrap_or_else(|| Observations { me: self.me, ..Observations::default() }), findings)
    }

    /// A copy of everything seen, for the leader's placement.
    #[must_use]
    pub fn all(&self, state: &State) -> BTreeMap<ClusterId, Observations> {
        let known = self.seen.iter().filter(|(id, _)| state.clusters.contains_key(id));
        known.map(|(id, seen)| (id.clone(), seen.clone())).collect()
    }
}

#[cfg(test)]
#[path = "inbox_test.rs"]
mod tests;
