//! `reconcile`: what this agent must do next so that its PostgreSQL matches what is agreed.
//!
//! The answer is one action; after it the agent looks again. Every action is safe to repeat and to be interrupted
//! after, since the next answer is computed from what is then found. Keeps S4.

mod primary;
mod seal;
mod standby;

pub use crate::lineage::history_of;
pub use standby::made_anew;

use crate::{
    cluster::ClusterState,
    decide::Finding,
    id::{Epoch, Incarnation, MemberKey, RuleVersion, TimelineId},
    lineage,
    local::{Local, LocalPostgres},
    reign::ElectionKind,
    rule::Setting,
    time::Time,
};
use serde::{Deserialize, Serialize};

/// An upstream to follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// Who.
    pub key: MemberKey,
    /// Where.
    pub host: String,
    /// Where.
    pub port: u16,
    /// Under which of its names this member streams from it (see [`crate::member::Member::named`]).
    #[serde(default)]
    pub named: u64,
}

/// What an agent may do to its PostgreSQL. Each names the epoch for which it is right; the executor checks it again
/// against the promise before it acts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Write the fence, see postmaster and every process gone, then report it.
    Fence {
        /// Of which reign.
        epoch: Epoch,
        /// Clients are ended first, and standbys take what was written, for at most this long (milliseconds); 0: SIGKILL
        /// at once.
        polite_ms: u64,
        /// Why.
        why: String,
    },
    /// Promise, empty the upstream, see no walreceiver, read the position.
    Seal {
        /// For which election.
        epoch: Epoch,
    },
    /// Sealed, and ordered by the election to fetch WAL from another sealed member.
    CatchUp {
        /// The election.
        epoch: Epoch,
        /// From whom.
        source: Upstream,
    },
    /// Make the first data directory of a new cluster.
    Initdb {
        /// The reign.
        epoch: Epoch,
        /// To be marked with.
        incarnation: Incarnation,
    },
    /// Take over a running primary that pgvigil did not set up.
    AdoptPrimary {
        /// The reign.
        epoch: Epoch,
        /// To be marked with.
        incarnation: Incarnation,
    },
    /// Take over a running standby that pgvigil did not set up.
    AdoptStandby {
        /// To be marked with.
        incarnation: Incarnation,
    },
    /// Start PostgreSQL as primary of this epoch, door closed, setting in force.
    StartPrimary {
        /// The reign.
        epoch: Epoch,
        /// The setting.
        setting: Setting,
        /// Its version.
        version: RuleVersion,
    },
    /// Start PostgreSQL as a standby: sealed, following nobody; or following the primary at once, which a rewound
    /// directory needs in order to become consistent.
    StartStandby {
        /// The newest agreed epoch.
        epoch: Epoch,
        /// Whom it follows, and this member's identity for the name. Only after its WAL was seen to belong there.
        following: Option<(Upstream, MemberKey)>,
    },
    /// Put setting and door in force on a primary (or on an appointee before it promotes), see it through a new
    /// connection. Closing the door ends the clients' sessions.
    Configure {
        /// The reign.
        epoch: Epoch,
        /// The setting.
        setting: Setting,
        /// Its version.
        version: RuleVersion,
        /// The door.
        door_open: bool,
    },
    /// Promote onto the allotted timeline and check it; of a server that was promoted already, only the latter.
    Promote {
        /// The reign.
        epoch: Epoch,
        /// The timeline that PostgreSQL must take.
        timeline: TimelineId,
    },
    /// A primary that runs on under a new epoch: record where.
    CarryOn {
        /// The reign.
        epoch: Epoch,
    },
    /// Prove that the setting in force is held by every walsender and confirmed by k of S.
    Prove {
        /// The reign.
        epoch: Epoch,
        /// The setting.
        setting: Setting,
        /// Its version.
        version: RuleVersion,
    },
    /// Write a checkpoint before a planned change of primary, while clients are still served: the old primary then recovers
    /// in a moment.
    Checkpoint {
        /// The reign.
        epoch: Epoch,
    },
    /// Stream from the primary under this epoch's name. Only after the WAL was seen to end at or before the fork.
    Follow {
        /// The reign.
        epoch: Epoch,
        /// The primary.
        upstream: Upstream,
        /// This member's identity, for the name.
        key: MemberKey,
    },
    /// Make the data directory anew by pg_rewind; by a clone if that does not work.
    Rewind {
        /// The reign.
        epoch: Epoch,
        /// The primary.
        upstream: Upstream,
        /// To be marked with, agreed before.
        incarnation: Incarnation,
    },
    /// Make the data directory anew by a clone into a new directory.
    Clone {
        /// The reign.
        epoch: Epoch,
        /// The primary.
        upstream: Upstream,
        /// To be marked with, agreed before.
        incarnation: Incarnation,
    },
    /// Read the end of the WAL from disk.
    ReadWalEnd {
        /// The newest agreed epoch.
        epoch: Epoch,
    },
    /// Restart PostgreSQL in its present role, as an operator asked.
    Restart {
        /// The request's number.
        request: u64,
    },
}

impl Action {
    /// Every name that [`name`](Self::name) gives.
    pub const NAMES: [&'static str; 18] = [
        "fence",
        "seal",
        "catch up",
        "read the end of WAL",
        "initdb",
        "adopt the primary",
        "adopt the standby",
        "start as primary",
        "configure",
        "promote",
        "carry on",
        "prove the rule",
        "checkpoint",
        "start as standby",
        "follow",
        "rewind",
        "clone",
        "restart",
    ];

    /// Its name, for people.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Fence { .. } => "fence",
            Self::Seal { .. } => "seal",
            Self::CatchUp { .. } => "catch up",
            Self::ReadWalEnd { .. } => "read the end of WAL",
            Self::Initdb { .. } => "initdb",
            Self::AdoptPrimary { .. } => "adopt the primary",
            Self::AdoptStandby { .. } => "adopt the standby",
            Self::StartPrimary { .. } => "start as primary",
            Self::Configure { .. } => "configure",
            Self::Promote { .. } => "promote",
            Self::CarryOn { .. } => "carry on",
            Self::Prove { .. } => "prove the rule",
            Self::Checkpoint { .. } => "checkpoint",
            Self::StartStandby { .. } => "start as standby",
            Self::Follow { .. } => "follow",
            Self::Rewind { .. } => "rewind",
            Self::Clone { .. } => "clone",
            Self::Restart { .. } => "restart",
        }
    }

    /// Whether what was agreed since has overtaken this act while it is under way. One that needs another server waits for
    /// as long as that one hangs: it is not waited for, for its own server may be the one that the next reign needs.
    #[must_use]
    pub fn is_overtaken(&self, agreed: &ClusterState) -> bool {
        match self {
            // To be sealed, or to follow somebody else.
            Self::StartStandby { epoch, .. } => {
                agreed.epoch > *epoch || agreed.election.as_ref().is_some_and(|election| election.epoch > *epoch)
            }
            // A copy of the primary that goes on under a later epoch is as good.
            Self::Clone { upstream, .. } | Self::Rewind { upstream, .. } => {
                let reign = agreed.reign_in_force().filter(|reign| reign.promotion.is_some());
                reign.is_some_and(|reign| reign.primary != upstream.key)
            }
            _ => false,
        }
    }
}

/// The answer of [`reconcile`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Plan {
    /// What to do now.
    pub action: Option<Action>,
    /// Why nothing else is done.
    pub findings: Vec<Finding>,
    /// When to ask again even if nothing changes.
    pub wake_at: Option<Time>,
    /// The data directory must be made anew first, and why: to be reported.
    pub needs_new_incarnation: Option<String>,
}

impl Plan {
    pub(crate) fn act(action: Action) -> Self {
        Self { action: Some(action), ..Self::default() }
    }

    pub(crate) fn wait(code: &str, text: impl Into<String>) -> Self {
        let finding = Finding { code: code.to_owned(), text: text.into() };
        Self { findings: vec![finding], ..Self::default() }
    }

    pub(crate) fn until(mut self, at: Time) -> Self {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
        self
    }

    pub(crate) fn remake(why: impl Into<String>) -> Self {
        let why = why.into();
        let mut plan = Self::wait("needs-new-incarnation", why.clone());
        plan.needs_new_incarnation = Some(why);
        plan
    }
}

/// How long a checkpoint counts as recent, in milliseconds, for a planned change of primary.
pub const CHECKPOINT_FRESH_MS: u64 = 20_000;

/// How long before its right ends a primary is stopped politely, and how long before it is killed: a third and a
/// sixth of the lease. The guard kills still later, for an agent that is dead or stuck.
#[must_use]
pub const fn stop_margins(lease_ms: u64) -> (u64, u64) {
    (lease_ms / 3, lease_ms / 6)
}

/// Computes the next action of the agent of `local.me`.
///
/// `agreed` must be committed state and never older than one seen before. Keeps S5.
pub fn reconcile(agreed: &ClusterState, local: &Local, now: Time) -> Plan {
    let Some(member) = agreed.members.get(&local.me) else {
        return Plan::wait("not-a-member", "this member is not registered, or was removed");
    };
    if matches!(local.postgres, LocalPostgres::Unknown) {
        return Plan::wait("looking", "PostgreSQL has not been looked at yet");
    }
    if let Some(plan) = primary::must_stop(agreed, local, now) {
        return plan;
    }
    let Some(reign) = agreed.reign() else {
        return Plan::wait("not-founded", "the cluster has no primary yet");
    };
    if let LocalPostgres::Unusable { why } = &local.postgres {
        return Plan::wait("unusable", why.clone());
    }
    if local.busy {
        return Plan::wait("busy", "a longer act is under way");
    }
    if let Some(plan) = primary::keep_out(agreed, reign, local, now) {
        return plan;
    }
    if let Some(election) = &agreed.election {
        return seal::for_election(agreed, election, member, local, now);
    }
    let plan = if reign.primary.member == local.me {
        primary::reign(agreed, reign, member, local, now)
    } else {
        standby::follow(agreed, reign, member, local, now)
    };
    // Any other number than the one carried out: a member that left and joined again is counted from 1 anew.
    let asked = member.restart_request > 0 && member.restart_request != local.promise.restarted;
    let held = local.restart_due.is_some() && reign.primary.member != local.me;
    // Only a server that is ours, and up, is restarted.
    let runs = is_counted_directory(agreed, local) && matches!(local.postgres, LocalPostgres::Running(_));
    if !(asked || held) || !runs || plan.action.is_some() || plan.needs_new_incarnation.is_some() {
        return plan;
    }
    if agreed.paused.is_some() && reign.primary.member == local.me {
        // A primary that stops ends its reign, and while paused nobody begins another one.
        return Plan::wait("restart-waits", "the primary is restarted only after the pause");
    }
    Plan::act(Action::Restart { request: member.restart_request })
}

/// Reads where the WAL ends; unless that was read, and lies on no agreed timeline.
pub(crate) fn read_end(agreed: &ClusterState, local: &Local, epoch: Epoch) -> Plan {
    match lineage::astray(agreed, local) {
        Some(astray) => Plan::wait("diverged", astray.why),
        None => Plan::act(Action::ReadWalEnd { epoch }),
    }
}

/// Whether this member's PostgreSQL runs (or may be starting) as a primary.
pub(crate) fn runs_as_primary(local: &Local) -> bool {
    match &local.postgres {
        LocalPostgres::Running(running) => !running.in_recovery,
        // The fence on disk makes whatever starts a standby.
        LocalPostgres::Starting => !local.fence_on_disk,
        _ => false,
    }
}

/// Whether the data directory is the one that counts.
pub(crate) fn is_counted_directory(agreed: &ClusterState, local: &Local) -> bool {
    let counted = agreed.members.get(&local.me).map(|member| member.incarnation);
    local.marker.as_ref().is_some_and(|marker| {
        marker.cluster == agreed.id && marker.member == local.me && Some(marker.incarnation) == counted
    })
}

/// Whether the old primary is to stop for this election rather than to stand.
pub(crate) const fn ends_the_reign(kind: &ElectionKind) -> bool {
    matches!(kind, ElectionKind::Switchover { .. } | ElectionKind::Forced { .. })
}

#[cfg(test)]
#[path = "reconcile_test.rs"]
mod tests;
