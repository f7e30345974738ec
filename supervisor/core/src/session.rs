//! A leader's side of one agent's stream: who is listened to, which confirmation an answer needs, and what it says. Plain data.
//!
//! Nothing is told to an agent before a quorum has confirmed, after its report came in, that this node still leads.
//! Keeps S5; and S3, for a renewal is such an answer.

use crate::{
    Outcome, Proposal,
    beats::Said,
    cluster::ClusterState,
    command::{Actor, Command},
    id::Revision,
    inbox::Inbox,
    report::{Report, ShownToLeader},
    time::{Time, WallTime},
};
use std::sync::Arc;

/// A report as it came in.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The report.
    pub report: Arc<Report>,
    /// When it had come in, on the leader's clock: the lease counts from here for the leader.
    pub at: Time,
    /// Why its sender is no member.
    pub refused: Option<String>,
}

/// Whether the sender of a report is listened to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// A member, as it is agreed.
    Member,
    /// It is not, and why.
    Refused(String),
    /// A new member, or another address: once this is agreed.
    Register(Box<Proposal>),
}

/// Judges the sender of `report`.
#[must_use]
pub fn admit(agreed: Option<&ClusterState>, report: &Report, wall: WallTime) -> Admission {
    let Some(agreed) = agreed else { return Admission::Refused(format!("there is no cluster {} yet", report.cluster)) };
    let known = agreed.members.get(&report.spec.member);
    if known.is_some_and(|member| member.spec == report.spec) {
        return Admission::Member;
    }
    let member = &report.spec.member;
    if known.is_none() && report.was_member {
        return Admission::Refused(format!(
            "{member} was removed from the cluster: its PostgreSQL is left as it is. Stop pgvigil there, or start it anew \
             to let the member join again"
        ));
    }
    Admission::Register(Box::new(Proposal {
        cluster: report.cluster.clone(),
        based_on: None,
        at: wall,
        by: Actor::Agent(member.clone()),
        reason: format!("node {} has member {member}", report.spec.node),
        evidence: Vec::new(),
        command: Command::RegisterMember { spec: report.spec.clone() },
    }))
}

/// Why the sender of `report` is no member, after its registration was proposed: `agreed` is the state since.
#[must_use]
pub fn registered(outcome: Outcome, agreed: Option<&ClusterState>, report: &Report) -> Option<String> {
    let Outcome::Refused(refusal) = outcome else { return None };
    // Two reports may race to register: what counts is what is agreed now.
    let known = agreed.and_then(|agreed| agreed.members.get(&report.spec.member));
    (!known.is_some_and(|member| member.spec == report.spec)).then_some(refusal.text)
}

/// What an agent is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The agreed state is told.
    pub state: bool,
    /// Why this agent is not listened to.
    pub refused: Option<String>,
    /// All the rest.
    pub said: Said,
}

/// How an agent's turn is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// Nobody waits for this answer: heartbeats that a quorum acknowledges after the report came in are enough, if the agreed
    /// state does not move before.
    NextHeartbeats,
    /// A round of its own, begun after the report came in.
    Round,
}

/// This node does not lead, or not any more: the agent is to look for the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotListening;

/// One stream of one agent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Session {
    /// The newest revision that the agent was told here, or had before; nothing before its first report.
    told: Option<Revision>,
}

impl Session {
    /// A turn begins: which confirmation its answer needs. `news`: `heard` has come in since the last one; otherwise the state
    /// has moved.
    pub fn turn(&mut self, news: bool, heard: &Heard, agreed: Option<&ClusterState>) -> Confirmation {
        if news {
            self.told.get_or_insert(heard.report.revision);
        }
        let told = self.told();
        let quiet = heard.refused.is_none() && agreed.is_some_and(|a| a.revision <= told && a.is_settled());
        if quiet { Confirmation::NextHeartbeats } else { Confirmation::Round }
    }

    fn told(&self) -> Revision {
        self.told.unwrap_or(Revision(0))
    }

    /// What of the agreed state is spoken of. In quiet times only what was told already: what moved meanwhile is told in the
    /// next turn, confirmed anew.
    pub fn speaks_of<'a>(&self, by: Confirmation, agreed: Option<&'a ClusterState>) -> Option<&'a ClusterState> {
        agreed.filter(|agreed| by == Confirmation::Round || agreed.revision <= self.told())
    }

    /// The answer, if there is one; the leadership was confirmed `by` that, after `heard` had come in.
    pub fn reply(
        &mut self,
        inbox: &mut Inbox,
        (news, heard): (bool, &Heard),
        (by, agreed): (Confirmation, Option<&ClusterState>),
        now: Time,
    ) -> Result<Option<Reply>, NotListening> {
        let clock = Some(inbox.clock(now).ok_or(NotListening)?);
        let (report, told) = (&heard.report, self.told());
        let mut said = Said { clock, ..Said::default() };
        let mut state = false;
        if let Some(agreed) = self.speaks_of(by, agreed) {
            said.primary_late = Some(inbox.primary_late(agreed, now));
            said.renewed = (heard.refused.is_none() && inbox.renew(agreed, report, heard.at)).then_some(report.seq);
            let shown = inbox.rule_shown(agreed, heard.at);
            said.shown = shown.map(|(epoch, ago_ms)| ShownToLeader { epoch, ago_ms, seq: report.seq });
            // It may have forgotten what it was told.
            let behind = news && report.revision < agreed.revision && report.revision < told;
            state = agreed.revision > told || behind;
            if state {
                self.told = Some(agreed.revision);
            }
        }
        Ok((news || state).then(|| Reply { state, refused: heard.refused.clone(), said }))
    }
}

#[cfg(test)]
#[path = "session_test.rs"]
mod tests;
