//! What an election tells the operator: who is missing, why nobody is fit, why it is not whom they named.

use super::{Decision, PATIENCE_MS, View};
use crate::{
    command::Command,
    id::{Epoch, MemberKey},
    lsn::Lsn,
    member::Tier,
    position::Position,
    quorum::describe,
};

impl View<'_> {
    /// Why it is not whom the operator named, for the incident; `None` if it is, or nobody was named.
    pub(super) fn instead_of(&self, appointee: &MemberKey) -> Option<String> {
        let to = self.wanted().filter(|to| **to != appointee.member)?;
        let seal = self.seals.iter().find(|seal| seal.key.member == *to);
        let why = match (self.agreed.members.get(to), seal) {
            (None, _) => "it is no longer a member".to_owned(),
            (Some(_), _) if *to == self.last.primary.member => "it is the primary whose reign ends".to_owned(),
            (Some(member), _) if member.leaving || member.spec.tier == Tier::Backup => {
                "it is a backup or leaving".to_owned()
            }
            _ if !self.answers(to) => format!("its agent is silent for {} ms", self.seen.silence(to, self.now)),
            (_, None) => format!("it has not sealed within {} ms", self.waited),
            (_, Some(seal)) if !self.can_stream.contains(&seal.key) => "it cannot stream to others".to_owned(),
            (_, Some(seal)) => format!("it lacks WAL: it is at {}", seal.position),
        };
        Some(format!("{to} was asked for, but {why}"))
    }

    /// The sealed members, and why none of them may be promoted.
    fn unfit(&self) -> String {
        let each = self.seals.iter().map(|seal| {
            let why = if seal.key == self.last.primary {
                "is the primary whose reign ends"
            } else if !self.answers(&seal.key.member) {
                "is silent"
            } else if !self.promotable(seal) {
                "is a backup, is leaving or cannot stream"
            } else {
                "lacks WAL that another one has"
            };
            format!("{} at {} {why}", seal.key, seal.position)
        });
        each.collect::<Vec<_>>().join("; ")
    }

    /// Nobody is promoted, and the incident says who is missing.
    pub(super) fn report_missing(&self, decision: &mut Decision) {
        let Some(evidence) = self.evidence() else { return };
        let missing = evidence.missing_at(self.agreed, Position::new(Epoch(u64::MAX), Lsn(u64::MAX)));
        let text = if missing.is_empty() {
            format!("every rule is closed, but nobody may be promoted: {}", self.unfit())
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
