//! What was seen of members and must outlive the leader that saw it.

use super::{Applied, refuse};
use crate::{
    cluster::ClusterState,
    command::RefusalCode,
    id::{MemberKey, TimelineId},
    member::HandPromotion,
    position::Position,
    report::ByHand,
};

/// How far above the newest known number another one may be taken: an appointee reserves every number in between with a
/// file, and numbers rise by one.
pub const NUMBERS_MAX: u32 = 64;

/// A number that somebody holds is never allotted (history A7).
pub(super) fn timeline(cluster: &mut ClusterState, timeline: TimelineId) -> Applied {
    if timeline <= cluster.last_timeline {
        return refuse(RefusalCode::Exists, format!("timeline {timeline} is known to be taken"));
    }
    if timeline.0 - cluster.last_timeline.0 > NUMBERS_MAX {
        return refuse(
            RefusalCode::BadValue,
            format!("timeline {timeline} is more than {NUMBERS_MAX} above the newest known, {}", cluster.last_timeline),
        );
    }
    cluster.last_timeline = timeline;
    Ok(())
}

/// A member was promoted by hand, or the WAL of that promotion is now kept aside.
pub(super) fn promoted_by_hand(
    cluster: &mut ClusterState,
    key: &MemberKey,
    found: &ByHand,
    kept_in: Option<&String>,
) -> Applied {
    let Some(member) = cluster.members.get_mut(&key.member) else {
        return refuse(RefusalCode::UnknownMember, format!("{key} is not a member"));
    };
    let known = HandPromotion { incarnation: key.incarnation, found: found.clone(), kept_in: kept_in.cloned() };
    if member.promoted_by_hand.as_ref() == Some(&known) {
        return refuse(RefusalCode::Exists, "that is known");
    }
    member.promoted_by_hand = Some(known);
    Ok(())
}

/// What counted incarnations were seen to have flushed: a seal below it is refused (history A9). Keeps S1.
pub(super) fn flushed(cluster: &mut ClusterState, flushed: &[(MemberKey, Position)]) -> Applied {
    if let Some((key, position)) = flushed.iter().find(|(_, position)| position.epoch > cluster.epoch) {
        return refuse(RefusalCode::BadValue, format!("{key} cannot be at {position}: that epoch has not begun"));
    }
    let mut changed = false;
    for (key, position) in flushed {
        if let Some(member) = cluster.members.get_mut(&key.member)
            && member.incarnation == key.incarnation
            && member.proven < Some(*position)
        {
            member.proven = Some(*position);
            changed = true;
        }
    }
    if changed { Ok(()) } else { refuse(RefusalCode::Exists, "all of that is known") }
}
