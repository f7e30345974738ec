//! Which histories are the agreed ones: by the content of history files, never by a timeline's number alone.
//!
//! People use numbers of timelines, too: a standby that is promoted by hand takes the next free one, and a primary that
//! is appointed later may be allotted the same. So WAL counts as an agreed timeline's only if the history file beside it
//! names the parent and the fork that were agreed, and bears the mark that the primary of that epoch put on it before
//! anybody followed it: two promotions of an idle cluster leave the same timeline at the same place. Anything else is a
//! diverged member (review F13; history A7). Keeps S1.

use crate::{
    cluster::{ClusterState, REIGNS_MAX},
    id::{Epoch, MemberKey, TimelineId},
    local::Local,
    lsn::Lsn,
    position::Position,
    reign::{Reign, Start},
    report::ByHand,
    time::WallTime,
    timeline::{Ancestor, TimelineHistory},
};
use serde::{Deserialize, Serialize};

/// Where a server's WAL ends, in its own words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnEnd {
    /// The history of the timeline that owns the last byte, as the server's own history file tells it.
    pub history: TimelineHistory,
    /// The end of the last valid record.
    pub end: Lsn,
}

/// WAL that ends on no agreed timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Astray {
    /// The timeline by its number.
    pub timeline: TimelineId,
    /// Where it left which timeline, as its own history file says.
    pub left: Option<(TimelineId, Lsn)>,
    /// Up to where its WAL is that of an agreed timeline; `None` if no part is known to be.
    pub agreed_to: Option<Position>,
    /// It is a promotion that pgvigil did not order, and not merely one that is no longer remembered.
    pub by_hand: bool,
    /// One sentence.
    pub why: String,
}

/// Where `own` is in agreed terms; `me` is the incarnation whose directory holds it.
pub fn place(agreed: &ClusterState, me: &MemberKey, own: &OwnEnd) -> Result<Position, Astray> {
    let why = match epoch_on(agreed, me, &own.history) {
        Ok(epoch) => return Ok(Position::new(epoch, own.end)),
        Err(why) => why,
    };
    let timeline = own.history.timeline;
    let left = own.history.ancestors.last().map(|a| (a.timeline, a.end));
    let mut agreed_to = None;
    let mut history = own.history.clone();
    while let Some(parent) = history.ancestors.pop() {
        history.timeline = parent.timeline;
        if let Ok(epoch) = epoch_on(agreed, me, &history) {
            agreed_to = Some(Position::new(epoch, parent.end));
            break;
        }
    }
    // Of the reigns after the first, the oldest may be forgotten.
    let forgotten = agreed.reigns.len() >= REIGNS_MAX && agreed.reigns.get(1).is_some_and(|r| timeline < r.timeline);
    Err(Astray { timeline, left, agreed_to, by_hand: !forgotten, why })
}

/// What `local` read of its own WAL, if that lies on no agreed timeline.
#[must_use]
pub fn astray(agreed: &ClusterState, local: &Local) -> Option<Astray> {
    let (own, marker) = (local.own_end.as_ref()?, local.marker.as_ref()?);
    place(agreed, &MemberKey::new(marker.member.clone(), marker.incarnation), own).err()
}

/// The promotion that nobody ordered by which `local`'s WAL came there, if one did; `at` is when its history file was written.
#[must_use]
pub fn by_hand(agreed: &ClusterState, local: &Local, at: Option<WallTime>) -> Option<ByHand> {
    let astray = astray(agreed, local).filter(|astray| astray.by_hand)?;
    let end = local.own_end.as_ref()?.end;
    Some(ByHand { timeline: astray.timeline, left: astray.left, end, at })
}

/// The epoch in which the timeline of `own` began, if `own` is the agreed history of that timeline.
fn epoch_on(agreed: &ClusterState, me: &MemberKey, own: &TimelineHistory) -> Result<Epoch, String> {
    let timeline = own.timeline;
    let Some(epoch) = agreed.epoch_of_timeline(timeline) else {
        return Err(format!("its WAL ends on timeline {timeline}, which was never allotted in this cluster"));
    };
    // The first timeline, and what was before an adoption, were never allotted; of a reign long forgotten nothing is left
    // to compare.
    let promoted = |r: &&Reign| r.timeline == timeline && r.start == Start::Promote;
    let Some(reign) = agreed.reigns.iter().find(promoted) else { return Ok(epoch) };
    let left = own.ancestors.last();
    let parent = parent_of(agreed, timeline);
    let other_parent = |left: &Ancestor| parent.is_some_and(|parent| parent != left.timeline);
    let Some(promotion) = reign.promotion else {
        // Nobody follows before a promotion is recorded: only the appointee itself can have its WAL.
        let sealed = reign.seals.iter().find(|seal| seal.key == reign.primary).map(|seal| seal.position.lsn);
        let its_own = *me == reign.primary && left.is_some_and(|l| !other_parent(l) && Some(l.end) >= sealed);
        return if its_own { Ok(epoch) } else { Err(other(own, reign, "is not known to have been promoted")) };
    };
    let Some(left) = left.filter(|left| left.end == promotion.fork && !other_parent(left)) else {
        let from = parent.map_or_else(|| "its parent".to_owned(), |parent| format!("timeline {parent}"));
        return Err(other(own, reign, &format!("left {from} at {}", promotion.fork)));
    };
    if promotion.marked {
        let marked = left.mark == Some(reign.epoch);
        let text = "left it at the same place, and its history file bears a mark that this one lacks";
        return if marked { Ok(epoch) } else { Err(other(own, reign, text)) };
    }
    // Without a mark, its whole line of ancestors is compared as far as it is known.
    let mut before = own.clone();
    before.ancestors.pop();
    before.timeline = left.timeline;
    let recorded = agreed.reigns.iter().any(|r| r.timeline == before.timeline && r.promotion.is_some());
    if recorded { epoch_on(agreed, me, &before).map(|_| epoch) } else { Ok(epoch) }
}

fn other(own: &TimelineHistory, reign: &Reign, agreed: &str) -> String {
    let left = own.ancestors.last().map_or_else(
        || "has no parent in its history file".to_owned(),
        |left| format!("left timeline {} at {}", left.timeline, left.end),
    );
    format!(
        "its WAL ends on a timeline {} that {left}; the timeline of that number that {} was allotted in epoch {} {agreed}",
        own.timeline, reign.primary.member, reign.epoch
    )
}

/// The history of a reign's timeline as agreed: each promotion left the timeline of the reign from which its appointee
/// came. A branch that was never promoted is nobody's ancestor.
#[must_use]
pub fn history_of(agreed: &ClusterState, reign: &Reign) -> TimelineHistory {
    let mut ancestors: Vec<Ancestor> = Vec::new();
    let mut child = reign.timeline;
    let mut end: Option<Lsn> = None;
    for r in agreed.reigns.iter().rev().filter(|r| r.epoch <= reign.epoch) {
        if r.timeline == child {
            if r.start == Start::Promote {
                end = r.promotion.map(|promotion| promotion.fork);
            }
            continue;
        }
        // The appointee's own seal says on which reign's timeline it stood when it was promoted.
        if let Some(fork) = end
            && r.promotion.is_some()
            && parent_of(agreed, child) == Some(r.timeline)
        {
            ancestors.push(Ancestor { timeline: r.timeline, end: fork, mark: None });
            child = r.timeline;
            end = (r.start == Start::Promote).then(|| r.promotion.map(|promotion| promotion.fork)).flatten();
        }
    }
    ancestors.reverse();
    TimelineHistory { timeline: reign.timeline, ancestors }
}

/// The timeline on which the appointee of `timeline` stood when it sealed.
fn parent_of(agreed: &ClusterState, timeline: TimelineId) -> Option<TimelineId> {
    let reign = agreed.reigns.iter().find(|r| r.timeline == timeline && r.start == Start::Promote)?;
    let seal = reign.seals.iter().find(|seal| seal.key == reign.primary)?;
    let began = seal.position.epoch;
    agreed.reigns.iter().find(|r| r.epoch == began).map(|r| r.timeline)
}

#[cfg(test)]
#[path = "lineage_test.rs"]
mod tests;
