//! The protections, each of which can be taken out to see the counterexample that forced it.

use pgvigil_core::{cluster::ClusterState, command::Command, local::Local, lsn::Lsn, position::Position};
use serde::Serialize;

/// Which protection is taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Planted {
    /// None.
    #[default]
    Nothing,
    /// One seal fewer is enough for a rule.
    SealThreshold,
    /// An appointment closes the rules of older epochs at once.
    OldRulesDropped,
    /// The rule is completed although nobody has flushed past the promotion.
    CompleteWithoutProof,
    /// Positions are compared by LSN alone.
    LsnOnly,
    /// The appointee's position is not looked at.
    NoCatchUp,
    /// A member promotes before its new rule is in force, from an empty `synchronous_standby_names`.
    PromoteBeforeRule,
    /// A seal is not on disk: a restarted member streams where it did before.
    SealForgotten,
    /// The position is read while a walreceiver still runs.
    ReceiverLives,
    /// A data directory that came back empty is taken for the one that counted.
    WipedCounted,
    /// A directory that came back old is sealed although it was proven to have more.
    RolledBackCounted,
    /// A data directory is overwritten before its new incarnation is agreed.
    RemadeInPlace,
    /// The epoch of a position is that of the timeline last followed (history A3).
    PositionOfFollowedTimeline,
    /// A diverged member takes the synchronous name without a check of its WAL (history A6).
    DivergedFollows,
    /// A rule change is agreed as a pair of rules (history A1).
    PairOfRules,
    /// The old rule holds alone until the change is done.
    OldRuleDuringChange,
    /// The new rule holds alone from the beginning of the change.
    NewRuleAtOnce,
    /// A change is finished without any proof.
    NoProof,
    /// A proof does not ask every walsender for the marker (history A2).
    ProofWithoutWalsenders,
    /// A proof does not ask k of S' to have flushed the marker.
    ProofWithoutFlush,
    /// A proof is content with k of S' at the marker itself: what a walsender under the old setting released beyond it
    /// is forgotten.
    ProofOfMarkerOnly,
    /// A proof of the epoch before, whose marker ends where this reign began, completes its rule.
    ProofOfOlderEpoch,
    /// An agent keeps its proof to itself: nothing is lost, and nothing goes on either.
    ProofUnreported,
    /// PostgreSQL picks the number of its timeline (history A7).
    TimelineReused,
    /// A crashed primary opens its door before k of S have its end of recovery.
    RestartOpensAtOnce,
}

impl Planted {
    /// What is taken out, in a sentence.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Nothing => "Nothing is taken out.",
            Self::SealThreshold => "One seal fewer is enough for a rule.",
            Self::OldRulesDropped => "An appointment closes the rules of older epochs at once.",
            Self::CompleteWithoutProof => "The rule is completed although nobody has flushed past the promotion.",
            Self::LsnOnly => "Positions are compared by LSN alone.",
            Self::NoCatchUp => "The appointee's position is not looked at.",
            Self::PromoteBeforeRule => {
                "A member promotes before its new rule is in force, from an empty `synchronous_standby_names`."
            }
            Self::SealForgotten => "A seal is not on disk: a restarted member streams where it did before.",
            Self::ReceiverLives => "The position is read while a walreceiver still runs.",
            Self::WipedCounted => "A data directory that came back empty is taken for the one that counted.",
            Self::RolledBackCounted => "A directory that came back old is sealed although it was proven to have more.",
            Self::RemadeInPlace => "A data directory is overwritten before its new incarnation is agreed.",
            Self::PositionOfFollowedTimeline => {
                "The epoch of a position is that of the timeline last followed (history A3)."
            }
            Self::DivergedFollows => {
                "A diverged member takes the synchronous name without a check of its WAL (history A6)."
            }
            Self::PairOfRules => "A rule change is agreed as a pair of rules (history A1).",
            Self::OldRuleDuringChange => "The old rule holds alone until the change is done.",
            Self::NewRuleAtOnce => "The new rule holds alone from the beginning of the change.",
            Self::NoProof => "A change is finished without any proof.",
            Self::ProofWithoutWalsenders => "A proof does not ask every walsender for the marker (history A2).",
            Self::ProofWithoutFlush => "A proof does not ask k of S' to have flushed the marker.",
            Self::ProofOfMarkerOnly => {
                "A proof is content with k of S' at the marker itself: what a walsender under the old setting released beyond it is forgotten."
            }
            Self::ProofOfOlderEpoch => {
                "A proof of the epoch before, whose marker ends where this reign began, completes its rule."
            }
            Self::ProofUnreported => "An agent keeps its proof to itself: nothing is lost, and nothing goes on either.",
            Self::TimelineReused => "PostgreSQL picks the number of its timeline (history A7).",
            Self::RestartOpensAtOnce => "A crashed primary opens its door before k of S have its end of recovery.",
        }
    }

    /// The command as `apply` without the protection would take it.
    #[must_use]
    pub fn command(self, command: &Command) -> Command {
        let mut command = command.clone();
        if matches!(self, Self::DivergedFollows | Self::ProofOfOlderEpoch)
            && let Command::Appoint { primary, seals, setting, .. } = &mut command
            && let Some(own) = seals.iter().find(|seal| seal.key == *primary).map(|seal| seal.position)
        {
            // That a promotion's rule counts only whoever sealed and is not ahead is a second line behind these.
            setting.cohort.retain(|key| seals.iter().any(|seal| seal.key == *key && seal.position <= own));
        }
        command
    }

    /// The agreed state as a core without the protection would see it.
    #[must_use]
    pub fn before_apply(self, agreed: &ClusterState, command: &Command) -> ClusterState {
        let mut input = agreed.clone();
        match (self, command) {
            (Self::SealThreshold, Command::Appoint { .. }) => {
                for rule in &mut input.rules {
                    rule.setting.k += 1;
                }
            }
            (
                Self::RolledBackCounted
                | Self::LsnOnly
                | Self::WipedCounted
                | Self::RemadeInPlace
                | Self::ProofWithoutFlush
                | Self::CompleteWithoutProof
                | Self::NoProof
                | Self::ProofOfOlderEpoch,
                Command::Appoint { .. },
            ) => {
                // What was proven of a member is a second line behind these: it would refuse the seal that does the harm.
                for member in input.members.values_mut() {
                    member.proven = None;
                }
            }
            (Self::TimelineReused, Command::Appoint { timeline, .. }) => {
                input.last_timeline = pgvigil_core::id::TimelineId(timeline.0 - 1);
            }
            (Self::RestartOpensAtOnce, Command::Open { .. }) => {
                if let Some(reign) = input.reigns.last_mut() {
                    reign.complete = true;
                }
            }
            _ => {}
        }
        input
    }

    /// The outcome as a core without the protection would leave it.
    #[must_use]
    pub fn after_apply(self, before: &ClusterState, command: &Command, mut after: ClusterState) -> ClusterState {
        match (self, command) {
            (Self::SealThreshold, Command::Appoint { .. }) => {
                for rule in &mut after.rules {
                    if let Some(old) = before.rules.iter().find(|old| old.epoch == rule.epoch) {
                        rule.setting.k = old.setting.k;
                    }
                }
            }
            (Self::DivergedFollows | Self::ProofOfOlderEpoch, Command::Appoint { setting, .. }) => {
                if let (Some(reign), Some(rule)) = (after.reigns.last_mut(), after.rules.last_mut()) {
                    reign.setting.clone_from(setting);
                    rule.setting.clone_from(setting);
                }
            }
            (Self::OldRulesDropped, Command::Appoint { epoch, .. }) => after.rules.retain(|rule| rule.epoch >= *epoch),
            (Self::PairOfRules, Command::BeginChange { to, .. }) => {
                if let (Some(old), Some(new)) = (before.rules.last(), after.rules.last_mut()) {
                    new.setting = to.clone();
                    let at = after.rules.len() - 1;
                    after.rules.insert(at, old.clone());
                }
            }
            (Self::PairOfRules, Command::FinishChange { .. }) => {
                let newest = after.rules.last().map(|rule| rule.version);
                let epoch = after.rules.last().map(|rule| rule.epoch);
                after.rules.retain(|rule| Some(rule.epoch) != epoch || Some(rule.version) == newest);
            }
            (Self::OldRuleDuringChange, Command::BeginChange { .. }) => {
                if let (Some(old), Some(new)) = (before.rules.last(), after.rules.last_mut()) {
                    new.setting = old.setting.clone();
                }
            }
            (Self::NewRuleAtOnce, Command::BeginChange { to, .. }) => {
                if let Some(new) = after.rules.last_mut() {
                    new.setting = to.clone();
                }
            }
            (Self::RestartOpensAtOnce, Command::Open { epoch }) => {
                let was = before.reigns.iter().find(|reign| reign.epoch == *epoch).is_some_and(|reign| reign.complete);
                if let Some(reign) = after.reigns.last_mut() {
                    reign.complete = was;
                }
            }
            _ => {}
        }
        after
    }

    /// The local facts as an agent without the protection would believe them.
    #[must_use]
    pub fn before_reconcile(self, agreed: &ClusterState, mut local: Local) -> Local {
        let Some(reign) = agreed.reign() else { return local };
        let mine = reign.primary.member == local.me;
        if self == Self::PromoteBeforeRule && mine && reign.promotion.is_none() && agreed.election.is_none() {
            local.in_force = Some(pgvigil_core::local::InForce {
                epoch: reign.epoch,
                version: Some(reign.version),
                door_open: false,
                upstream: None,
                named: 0,
            });
        }
        if self == Self::NoCatchUp
            && mine
            && let Some((end, owner)) = local.wal_end
            && let Some(seal) = reign.seals.iter().find(|seal| seal.key == reign.primary)
        {
            // That an appointee compares its own end with its seal is a second line behind this one.
            local.wal_end = Some((end.max(seal.position), owner));
        }
        if self == Self::DivergedFollows
            && !mine
            && agreed.election.is_none()
            && local.wal_end.is_some()
            && let Some(began) = agreed.epoch_of_timeline(reign.timeline)
        {
            local.wal_end = Some((Position::new(began, Lsn::ZERO), reign.timeline));
        }
        local
    }

    /// What a member without a rule has in `synchronous_standby_names`.
    #[must_use]
    pub fn without_rule(self) -> crate::state::Held {
        if self == Self::PromoteBeforeRule {
            crate::state::Held { epoch: 0, names: 0, k: 0 }
        } else {
            crate::state::Held::NOBODY
        }
    }
}
