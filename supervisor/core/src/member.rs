//! A member as agreed: where it is, what it may become, and which of its data directories counts.

use crate::{
    id::{Incarnation, MemberId, MemberKey, NodeId},
    position::Position,
    report::ByHand,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a member is for. The order is the order of preference for the primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Preferred home of the primary.
    #[default]
    Primary,
    /// Serves reads, may be promoted.
    Replica,
    /// Disaster-recovery standby: promoted when no primary- or replica-tier member can be.
    Emergency,
    /// Archive or delayed standby: never promoted, never counted in a durability rule.
    Backup,
}

impl Tier {
    /// The word used in configuration and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Emergency => "emergency",
            Self::Backup => "backup",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a member's configuration says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberSpec {
    /// The member's name.
    pub member: MemberId,
    /// What it is for.
    pub tier: Tier,
    /// Higher is preferred among members of one tier.
    pub priority: u32,
    /// The host under which clients and standbys reach its PostgreSQL.
    pub host: String,
    /// PostgreSQL's port.
    pub port: u16,
    /// The pgvigil process beside it.
    pub node: NodeId,
}

/// A member as agreed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// What its configuration says.
    pub spec: MemberSpec,
    /// The data directory that counts now. Older ones stay in rules, never to be sealed (history A9).
    pub incarnation: Incarnation,
    /// A position this incarnation was proven to have flushed; a seal below it is refused. Keeps S1.
    pub proven: Option<Position>,
    /// Whether this incarnation was ever named by a rule or reigned: from then on an empty directory is a loss.
    pub used: bool,
    /// The operator asked for a fresh data directory; cleared when the new incarnation is allotted.
    pub reinit_requested: bool,
    /// Number of the newest restart the operator asked for; the agent answers with the last one it did.
    pub restart_request: u64,
    /// How often it was given another name for its connections, because a name was taken by somebody else: no copy of its
    /// data directory knows the newest one.
    #[serde(default)]
    pub named: u64,
    /// The member is to leave: no rule takes it in, and it is forgotten once no open rule names it.
    pub leaving: bool,
    /// The newest promotion of it that pgvigil did not order.
    #[serde(default)]
    pub promoted_by_hand: Option<HandPromotion>,
}

/// A member was promoted by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandPromotion {
    /// Which of its data directories was.
    pub incarnation: Incarnation,
    /// What its disk shows.
    pub found: ByHand,
    /// The directory, on its host, where the WAL that it wrote since is kept, once it is.
    pub kept_in: Option<String>,
}

impl Member {
    /// The identity that rules count now.
    #[must_use]
    pub fn key(&self) -> MemberKey {
        MemberKey::new(self.spec.member.clone(), self.incarnation)
    }
}
