//! Reigns and elections as agreed: who is, was or is to become primary, from which evidence.

use crate::{
    id::{Epoch, MemberId, MemberKey, RuleVersion, TimelineId},
    lsn::Lsn,
    position::Position,
    rpo::{Shown, Unproven},
    rule::Setting,
    time::WallTime,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// How a reign begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// The first reign of a new cluster: the member runs initdb.
    Initdb,
    /// The first reign of a cluster whose primary already ran.
    Adopt,
    /// A standby is promoted onto a new timeline.
    Promote,
    /// The primary of the reign before goes on, on the same timeline: restarted in place, or re-appointed because an
    /// election was called off or its rule had to be formed anew (history B2).
    Continue,
}

/// What a finished promotion (or start) brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// Where the new timeline left its parent. For a reign that continues a timeline: where it was continued.
    pub fork: Lsn,
    /// The end of recovery: once k of S have flushed past it, the older rules are closed.
    pub end: Lsn,
    /// The history file of the timeline that it began bears a mark of its epoch, made before anybody follows: another
    /// promotion at the same place is told from it. `false` where it began none, and from an older build, which makes none.
    #[serde(default)]
    pub marked: bool,
}

/// One reign. Epochs rise along the list of reigns; the last one is the current one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reign {
    /// Its number.
    pub epoch: Epoch,
    /// Who.
    pub primary: MemberKey,
    /// The timeline allotted to it.
    pub timeline: TimelineId,
    /// How it begins.
    pub start: Start,
    /// The setting the primary is to have in force.
    pub setting: Setting,
    /// The version of that setting.
    pub version: RuleVersion,
    /// Set once PostgreSQL has left recovery on the allotted timeline.
    pub promotion: Option<Promotion>,
    /// Whether the door was opened to clients.
    pub open: bool,
    /// Whether the rules of older epochs are closed.
    pub complete: bool,
    /// The evidence on which it was appointed.
    pub seals: Vec<Seal>,
    /// When commits may have been acknowledged in it without k standbys, oldest first; bounded by merging.
    #[serde(default)]
    pub unproven: Vec<Unproven>,
    /// Until when its rule was shown in force, as the leader knew that noted it in the election that ended it.
    #[serde(default)]
    pub shown: Option<Shown>,
}

/// In what capacity a member sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SealKind {
    /// It receives no WAL of older epochs any more and will not start, promote or serve as their primary.
    Sealed,
    /// It is the promoted primary of the last reign, still running, and says how far it has flushed. Good for
    /// re-appointing that same member and for nothing else.
    Standing,
}

/// A member's durable promise for one election, and its position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The election for which it counts, and no other.
    pub epoch: Epoch,
    /// Who.
    pub key: MemberKey,
    /// How far its WAL goes.
    pub position: Position,
    /// In what capacity.
    pub kind: SealKind,
}

/// Why there is an election, which decides what the old primary does meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ElectionKind {
    /// The primary failed.
    Failover,
    /// An operator wants another primary: the old one is drained and stops, then its standbys seal.
    Switchover {
        /// Whom; anyone suitable if none is named.
        to: Option<MemberId>,
    },
    /// The operator forces a change although too few members answer; the members given up are void.
    Forced {
        /// Whom; the best placed if none is named.
        to: Option<MemberId>,
        /// The operator's recorded word that the old primary is off.
        old_primary_is_off: bool,
        /// The members given up: their data directories are void from the election on.
        give_up: BTreeSet<MemberId>,
    },
    /// The primary is well and is to form its rule anew under a new epoch, or to restart in place.
    Renewal,
}

/// The election's order to a better placed member: fetch what you lack from a member that is as sealed as you are.
/// The one reception of WAL that a seal allows (history B4, B5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatchUp {
    /// Who fetches.
    pub member: MemberKey,
    /// From whom.
    pub source: MemberKey,
    /// Up to where, at least.
    pub target: Position,
}

/// An election under way: seals for `epoch` are being collected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Election {
    /// The epoch that its appointment will have.
    pub epoch: Epoch,
    /// Why there is one.
    pub kind: ElectionKind,
    /// Who is to catch up before the appointment.
    pub catch_up: Option<CatchUp>,
    /// When it was begun, for people.
    pub at: WallTime,
}

/// A former primary that may still serve: before the next reign opens, it must be known to be fenced. Keeps S3.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceDebt {
    /// The reign that may still be served.
    pub epoch: Epoch,
    /// By whom.
    pub primary: MemberKey,
    /// The operator's recorded word that it is off.
    pub asserted_off: bool,
    /// It may run unguarded (paused before), or be confirmed by a member that was given up (history A16): time alone does not
    /// fence it.
    pub unguarded: bool,
    /// The longest lease that it may count by, in milliseconds.
    #[serde(default)]
    pub lease_ms: u64,
}
