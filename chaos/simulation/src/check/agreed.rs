//! The agreed state after every entry, and S5: what agents learn never goes back and was agreed.

use super::Check;
use crate::world::World;
use pgvigil_core::{
    Outcome, Proposal, cluster::ClusterState, command::Command, id::Revision, invariant, reign::ElectionKind,
};

impl Check {
    /// An entry was applied.
    pub fn entry(
        &mut self,
        w: &World,
        proposal: &Proposal,
        outcome: &Outcome,
        before: Option<&ClusterState>,
        after: Option<&ClusterState>,
    ) {
        let name = proposal.command.name();
        w.log("raft", || format!("{name}: {} -> {outcome:?}", proposal.reason));
        let Outcome::Agreed { revision } = outcome else {
            if let Outcome::Refused(refusal) = outcome {
                w.cover.hit("refused", &format!("{:?}", refusal.code));
            }
            if before != after {
                self.fail("S4", w.exec.now(), format!("{name} was refused and changed the state"));
            }
            return;
        };
        w.exec.mix(revision.0);
        w.cover.hit("command", name);
        let Some(after) = after else { return };
        match &proposal.command {
            Command::BeginElection { kind, .. } => w.cover.hit(
                "election",
                match kind {
                    ElectionKind::Failover => "failover",
                    ElectionKind::Switchover { .. } => "switchover",
                    ElectionKind::Forced { .. } => "forced",
                    ElectionKind::Renewal => "renewal",
                },
            ),
            Command::Appoint { start, .. } => w.cover.hit("appointed", &format!("{start:?}")),
            _ => {}
        }
        if let Command::BeginElection { kind: ElectionKind::Forced { give_up, .. }, .. } = &proposal.command
            && !give_up.is_empty()
            && let Some(reign) = after.reign()
        {
            self.forgive(reign.epoch.0);
        }
        if before.is_some_and(|before| revision.0 != before.revision.0 + 1) {
            self.fail("S4", w.exec.now(), format!("{name} leads to revision {revision}"));
        }
        if let Err(violation) = invariant::check(after) {
            self.fail("invariant", w.exec.now(), format!("after {name}: {violation}"));
        }
    }

    /// `host` applied another entry than another node at the same index, or none that follows what was applied.
    pub fn agreed_otherwise(&mut self, w: &World, host: usize, applied: &str, agreed: &str) {
        let member = w.member(host);
        self.fail("agreement", w.exec.now(), format!("{member} applied entry {applied} where the group has {agreed}"));
    }

    /// A part of the Raft node on `host` ended by itself.
    pub fn panicked(&mut self, w: &World, host: usize, said: &str) {
        self.fail("raft", w.exec.now(), format!("the node of {} ended: {said}", w.member(host)));
    }

    /// The agent on `host` takes in a state of that revision.
    pub fn learned(&mut self, w: &World, host: usize, revision: Revision) {
        let life = w.hosts[host].life.get();
        let before = self.learned.insert(host, (life, revision));
        let member = w.member(host);
        if before.is_some_and(|(of, known)| of == life && known >= revision) {
            self.fail("S5", w.exec.now(), format!("{member} went back to revision {revision}"));
        }
        let newest = w.raft.newest().and_then(|applied| applied.cluster.as_ref().map(|c| c.revision));
        if newest.is_none_or(|newest| newest < revision) {
            self.fail("S5", w.exec.now(), format!("{member} learned revision {revision}, which is not agreed"));
        }
    }
}
