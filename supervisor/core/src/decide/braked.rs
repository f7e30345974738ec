//! A brake on elections: reigns that come to nothing are not followed by the next election at once, for ever.
//!
//! How many came to nothing in a row is agreed, so that a new leader does not begin to count anew. The pause counts from
//! the last appointment. It ends at once when somebody's coming or going, room on a disk or an operator's word may have
//! removed the cause. What an operator asks for is never held back.

use super::Decision;
use crate::{
    brake::Pace,
    cluster::ClusterState,
    observation::{Observations, Stage},
    time::Time,
};

/// A second failover may well be needed because the first one's successor dies; and a third.
const PACE: Pace = Pace { first_ms: 1_000, quick: 0, longest_ms: 30_000 };
/// So many reigns may come to nothing before the next election waits.
const QUICK: u32 = 3;

/// How many reigns came to nothing since the last one whose rule was completed, the present one among them.
#[must_use]
pub fn fruitless(agreed: &ClusterState) -> u32 {
    let count = agreed.reigns.iter().rev().take_while(|reign| !reign.complete).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Whether the next election that nobody asked for is to wait, of which `why` is the reason. Says so.
pub(super) fn braked(
    agreed: &ClusterState,
    seen: &Observations,
    now: Time,
    why: &str,
    decision: &mut Decision,
) -> bool {
    let fruitless = fruitless(agreed);
    if fruitless < QUICK {
        return false;
    }
    let Some((_, since)) = seen.appointed_seen.filter(|(epoch, _)| Some(*epoch) == agreed.reign().map(|r| r.epoch))
    else {
        return false;
    };
    let begin_at = since.plus(PACE.pause(fruitless - QUICK));
    let same =
        seen.stage.as_ref().is_none_or(|(epoch, then)| *epoch != agreed.epoch || *then == Stage::of(agreed, seen, now));
    if now >= begin_at || !same {
        return false;
    }
    let left = begin_at.since(now).div_ceil(1_000);
    decision.find(
        "election-braked",
        format!(
            "{why}; the last {fruitless} changes of primary came to nothing, so the next one is begun in {left} s, or as soon \
             as a member comes back or has room on its disk again"
        ),
    );
    decision.wake(begin_at);
    true
}

#[cfg(test)]
#[path = "braked_test.rs"]
mod tests;
