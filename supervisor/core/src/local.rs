//! What an agent knows of its own member: its durable promise and what its PostgreSQL is at this moment.

use crate::{
    cluster::ClusterState,
    id::{ClusterId, Epoch, Incarnation, MemberId, MemberKey, RuleVersion, TimelineId},
    lease::Right,
    lineage::OwnEnd,
    lsn::Lsn,
    position::Position,
    reign::Promotion,
    report::Adoptable,
    rule::Rule,
    time::Time,
};
use serde::{Deserialize, Serialize};

/// The mark inside a data directory: whose it is. A copy made by pg_basebackup carries its source's mark and so counts
/// as nobody's until its own is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member.
    pub member: MemberId,
    /// The incarnation.
    pub incarnation: Incarnation,
}

/// What an agent has promised, on disk and fsynced before anything acts on it. Keeps S1, S3.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// The newest epoch it obeys; nothing of an older one is done any more.
    pub epoch: Epoch,
    /// The newest election for which it sealed.
    pub sealed: Option<Epoch>,
    /// The newest epoch as whose primary it ever started or promoted PostgreSQL.
    pub reigned: Epoch,
    /// What the promotion of `reigned` brought, once known.
    pub promotion: Option<Promotion>,
    /// The last restart that an operator asked for and that was carried out: an agent that starts anew must not do it
    /// again.
    #[serde(default)]
    pub restarted: u64,
}

/// The configuration that PostgreSQL was last seen to have in force, after a reload and a look through a new
/// connection (or at a start).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// The epoch in whose names it is written.
    pub epoch: Epoch,
    /// The version of the durability setting, on a primary or an appointee.
    pub version: Option<RuleVersion>,
    /// Whether clients may come in.
    pub door_open: bool,
    /// Whom it follows.
    pub upstream: Option<MemberKey>,
    /// Under which of its names it follows.
    #[serde(default)]
    pub named: u64,
}

/// A running PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Whether it is in recovery: a standby.
    pub in_recovery: bool,
    /// Its timeline: of the insertion point on a primary, followed or replayed on a standby.
    pub timeline: TimelineId,
    /// WAL flushed: written on a primary, received on a standby.
    pub flush_lsn: Lsn,
    /// Whether a walreceiver streams.
    pub streaming: bool,
    /// When the flushed position last moved.
    pub wal_moved_at: Time,
}

/// What the agent's PostgreSQL is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LocalPostgres {
    /// Not looked at yet.
    Unknown,
    /// The data directory is empty or missing.
    NoData,
    /// It cannot be used; nothing is touched.
    Unusable {
        /// Why.
        why: String,
    },
    /// A server that pgvigil did not set up, running.
    Adoptable(Adoptable),
    /// There is data; no process works in it.
    Stopped {
        /// It died although nobody stopped it.
        crashed: bool,
    },
    /// Processes exist, but it does not answer yet.
    Starting,
    /// It answers.
    Running(Running),
}

/// What is known of a data directory that is not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Directory {
    /// It was being made anew and that was cut off: no file in it can be trusted, its mark included. Why.
    pub half_made: Option<String>,
    /// WAL without which PostgreSQL cannot start is not there. Why; it is read again whenever it is to be sealed.
    pub lacks_wal: Option<String>,
    /// It is a copy that was never recovered yet, and is consistent only from this position (on that timeline) on, which
    /// its own WAL does not reach. Told together with `wal_end`.
    pub needs: Option<(Position, TimelineId)>,
}

impl Directory {
    /// Why it can only be made anew, if so.
    #[must_use]
    pub fn ruined(&self) -> Option<&str> {
        self.half_made.as_deref().or(self.lacks_wal.as_deref())
    }
}

/// The agent's seal as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedAt {
    /// For which election.
    pub epoch: Epoch,
    /// The position read afterwards.
    pub position: Position,
}

/// Everything that `reconcile` looks at, beside the agreed state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    /// The member.
    pub me: MemberId,
    /// The mark in the data directory.
    pub marker: Option<Marker>,
    /// What it promised.
    pub promise: Promise,
    /// What its PostgreSQL is.
    pub postgres: LocalPostgres,
    /// The end of its WAL, read from disk while nothing was receiving or writing: its position and the timeline that
    /// owns the last byte. `None` until read, and again as soon as WAL may have been added.
    pub wal_end: Option<(Position, TimelineId)>,
    /// What is not as it should be with the data directory.
    #[serde(default)]
    pub directory: Directory,
    /// The same in the server's own words, when it lay on no agreed timeline as of the state under which it was read.
    #[serde(default)]
    pub own_end: Option<OwnEnd>,
    /// Its seal.
    pub sealed: Option<SealedAt>,
    /// `standby.signal` is in place, fsynced, and no primary was seen to run since: whatever starts here is a standby.
    pub fence_on_disk: bool,
    /// The configuration in force.
    pub in_force: Option<InForce>,
    /// Its right to serve.
    pub right: Right,
    /// Since when a server has said that it is starting, if that is all that it has said; `None` while nothing was heard.
    #[serde(default)]
    pub starting_since: Option<Time>,
    /// When it first held the present agreed election.
    pub election_since: Option<Time>,
    /// How long the canary under way has been waiting, in milliseconds.
    pub canary_waiting_ms: u64,
    /// Since when the walsenders have shown enough standbys of the rule as streaming; `None` while they do not.
    pub standbys_enough_since: Option<Time>,
    /// The settings version for which a proof is complete, if any.
    pub proven: Option<RuleVersion>,
    /// When the last checkpoint ended that was written because a planned change of primary was asked for.
    pub checkpointed_at: Option<Time>,
    /// A long act is under way.
    pub busy: bool,
    /// Why this standby goes on only after a restart: its primary was restarted with larger settings than it runs with,
    /// so its replay stands still, and it could not be promoted.
    pub restart_due: Option<String>,
    /// Since when this primary was not seen under the rule that was put in force, if it is not: what it acknowledges, k
    /// standbys need not have.
    #[serde(default)]
    pub rule_astray_since: Option<Time>,
    /// Whether backends may not wait by the rule although it is shown.
    #[serde(default)]
    pub rule_doubt: RuleDoubt,
    /// Since when no session can be had: what PostgreSQL is follows from its files and processes
    /// ([`crate::evidence`]), and what only a session tells is not known. `None` while sessions get in.
    #[serde(default)]
    pub unasked_since: Option<Time>,
}

/// The rule was out of force, or may have been: that backends wait by it again is known once a checkpoint has begun after it
/// was shown again. They go by a flag that the checkpointer sets after its own reload (history A8). Keeps S1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleDoubt {
    raised: u64,
    settled: u64,
}

impl RuleDoubt {
    /// The rule is, or was, out of force.
    pub const fn raise(&mut self) {
        self.raised += 1;
    }

    /// Whether a checkpoint is owed.
    #[must_use]
    pub const fn is_open(self) -> bool {
        self.settled < self.raised
    }

    /// A checkpoint has begun and ended, asked for when the doubt was `asked` and the rule was shown: what was raised since
    /// stays open.
    pub fn checkpoint_followed(&mut self, asked: Self) {
        self.settled = self.settled.max(asked.raised);
    }

    /// The server has ended: the next one has the rule in force from its beginning.
    pub const fn server_ended(&mut self) {
        self.settled = self.raised;
    }
}

impl Local {
    /// The agreed rule that this primary has in force.
    #[must_use]
    pub fn rule_in_force<'a>(&self, agreed: &'a ClusterState) -> Option<&'a Rule> {
        let in_force = self.in_force.as_ref().filter(|in_force| in_force.epoch == self.promise.reigned)?;
        agreed.rules.iter().find(|rule| rule.epoch == in_force.epoch && Some(rule.version) == in_force.version)
    }

    /// Whether PostgreSQL runs here as the primary of `epoch`: what made the right to serve longer under `epoch` counts
    /// only then. A renewal or a canary that was still under way when PostgreSQL was fenced comes too late: it must not
    /// give a right to a member that is a standby by now. Keeps S3.
    #[must_use]
    pub fn reigns_in(&self, epoch: Epoch) -> bool {
        let primary = matches!(&self.postgres, LocalPostgres::Running(running) if !running.in_recovery);
        primary && self.promise.reigned == epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_settles_the_doubts_before_it_and_no_later_one() {
        let mut doubt = RuleDoubt::default();
        assert!(!doubt.is_open());
        doubt.raise();
        let asked = doubt;
        doubt.raise();
        doubt.checkpoint_followed(asked);
        assert!(doubt.is_open(), "raised while the checkpoint ran");
        doubt.checkpoint_followed(doubt);
        doubt.checkpoint_followed(asked);
        assert!(!doubt.is_open(), "an older checkpoint ends later and takes nothing back");
        doubt.raise();
        doubt.server_ended();
        assert!(!doubt.is_open());
    }
}
