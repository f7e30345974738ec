//! What is known about whether every acknowledged commit was on k standbys: the evidence, and what follows from it.
//!
//! The primary's agent looks; what it saw is agreed and belongs to the reign ([`Unproven`]); nothing else decides.

use crate::{id::Epoch, time::WallTime};
use serde::{Deserialize, Serialize};

/// Why a commit may have been acknowledged without the k standbys of the agreed rule having it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// A new connection, or a look, showed another `synchronous_standby_names` than the agreed one.
    RuleNotInForce,
    /// `synchronous_commit` was lowered: for the server, a role, a database or a session.
    CommitLowered,
    /// The configuration was reloaded by somebody else, so any value may have been in force in between.
    ReloadByOthers,
    /// Another setting on which the promise rests (`fsync`, `full_page_writes`) was unsafe.
    UnsafeSetting,
    /// Two connections confirmed under one member's name.
    NameTakenTwice,
    /// A person let commits go that waited.
    ReleasedByHand,
    /// A forced failover gave up members that may hold acknowledged commits.
    Forced,
    /// The agreed rule demands no standby (k = 0): a cluster that was adopted so.
    NoRule,
    /// Nobody saw the primary.
    NotSeen,
}

/// A stretch of time of one reign in which commits may have been acknowledged without k standbys, as the primary's
/// agent saw it. Ages are on its own clock. Reported until it is agreed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnprovenReport {
    /// The reign.
    pub epoch: Epoch,
    /// Rises with every stretch that this agent reports: by it the agent knows what is agreed already.
    pub id: u64,
    /// Why.
    pub cause: Cause,
    /// One sentence.
    pub detail: String,
    /// How long ago it may have begun, in milliseconds: when the opposite was last seen.
    pub began_ago_ms: u64,
    /// How long ago it was seen to be over, in milliseconds; `None`: it goes on.
    pub ended_ago_ms: Option<u64>,
}

/// A stretch of time of one reign that is agreed: in it commits may have been acknowledged without k standbys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unproven {
    /// Why.
    pub cause: Cause,
    /// One sentence.
    pub detail: String,
    /// Since when, by the leader's wall clock.
    pub from: WallTime,
    /// Until when; `None`: it was not seen to end.
    pub until: Option<WallTime>,
    /// The newest report that is in it; see [`UnprovenReport::id`]. 0: no agent reported it.
    pub newest: u64,
    /// How many stretches were made one, because they were many.
    pub times: u32,
}

/// Until when the rule of a reign was shown in force, before the election that ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// By the leader's wall clock.
    pub until: WallTime,
    /// From then to the election, in milliseconds on the leader's own clock: nobody saw the primary in it.
    pub unseen_ms: u64,
}

mod ledger;
mod now;
mod released;
mod verdict;

pub use ledger::{Canaries, Ledger, Stretch, name_taken};
pub use now::doubts_now;
pub use released::{Releases, Waiter};
pub use verdict::{Ground, Verdict, unseen_max_ms, verdict};

/// How many stretches of one cause are kept apart in a reign; the newest becomes longer when there are more.
const OF_A_CAUSE_MAX: usize = 4;

/// Adds a stretch to those of a reign; `false` if it is agreed already. Nothing that was in them is left out. What an
/// agent says of one stretch comes in its own order; an end is never taken back.
pub fn merge(known: &mut Vec<Unproven>, stretch: &Unproven) -> bool {
    if let Some(same) = known.iter_mut().find(|k| k.cause == stretch.cause && k.newest == stretch.newest) {
        let ends = same.until.is_none() && stretch.until.is_some();
        if ends {
            same.until = stretch.until;
        }
        let earlier = stretch.from < same.from;
        same.from = same.from.min(stretch.from);
        return ends || earlier;
    }
    if known.iter().any(|k| k.cause == stretch.cause && k.newest > stretch.newest) {
        return false;
    }
    let of_cause = known.iter().filter(|k| k.cause == stretch.cause).count();
    match known.iter_mut().rev().find(|k| k.cause == stretch.cause).filter(|_| of_cause >= OF_A_CAUSE_MAX) {
        Some(last) => {
            last.from = last.from.min(stretch.from);
            last.until = stretch.until;
            last.newest = stretch.newest;
            last.times = last.times.saturating_add(stretch.times);
            last.detail.clone_from(&stretch.detail);
        }
        None => known.push(stretch.clone()),
    }
    true
}

/// How long a sentence of a person's doing may be where it is agreed, in characters.
pub const DETAIL_MAX: usize = 240;

/// Whether what `report` says is agreed: its stretch, and its end if it has one.
#[must_use]
pub fn is_agreed(agreed: &[Unproven], report: &UnprovenReport) -> bool {
    agreed.iter().any(|known| {
        known.cause == report.cause
            && (known.newest > report.id
                || (known.newest == report.id && (report.ended_ago_ms.is_none() || known.until.is_some())))
    })
}
