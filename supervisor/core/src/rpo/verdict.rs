//! The verdict on a change of primary: whether it is proven that no acknowledged commit was lost. From agreed state only.

use super::{Cause, Shown, Unproven};
use crate::{
    cluster::ClusterState,
    id::MemberId,
    incident::{Incident, Phase},
    reign::{Reign, SealKind, Start},
    settings::Settings,
    time::WallTime,
};

/// What is proven of a change of primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No successor is appointed: there is nothing to judge yet.
    Open,
    /// No acknowledged commit was lost, and why that is known.
    NoneLost(Ground),
    /// That is not proven, and what speaks against it, oldest first.
    NotProven(Vec<Unproven>),
    /// The reign is so long ago that nothing is remembered of it but what its incident says.
    Forgotten,
}

/// Why no acknowledged commit can be lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ground {
    /// The former primary itself was stopped and sealed, or goes on: all that it had written is there.
    OwnWal(MemberId),
    /// The successor has everything that the sealed members of every open rule had, and the rule was shown in force until
    /// then. What people may have changed after that was not seen.
    Rule(Shown),
}

/// How long before the election the rule must have been shown in force, in milliseconds: as long as a primary of which
/// nobody hears may serve by its lease, and until its silence is noticed. What lies further back is not seen.
#[must_use]
pub const fn unseen_max_ms(settings: &Settings) -> u64 {
    2 * (settings.lease_ms + settings.lease_margin_ms + settings.suspect_ms)
}

/// Judges one change of primary.
///
/// The reigns that it could have lost commits of are the last one and those before whose rules were still open. Any
/// stretch of them in which commits may have been acknowledged without k standbys makes it "not proven", unless the
/// former primary's own WAL is there.
#[must_use]
pub fn verdict(cluster: &ClusterState, incident: &Incident) -> Verdict {
    if !incident.phases.iter().any(|phase| phase.phase == Phase::Appointed) {
        return Verdict::Open;
    }
    let Some(successor) = cluster.reigns.iter().find(|reign| reign.epoch == incident.epoch) else {
        return Verdict::Forgotten;
    };
    let before: Vec<&Reign> = cluster.reigns.iter().take_while(|reign| reign.epoch < incident.epoch).collect();
    let since = before.iter().rposition(|reign| reign.complete).unwrap_or(0);
    // A successor that was never opened has acknowledged nothing: the one before it is what may have been lost.
    let served = |reign: &&Reign| reign.open || reign.start != Start::Promote;
    let last = before.iter().copied().rfind(served).or(before.last().copied());
    let (Some(last), judged) = (last, &before[since..]) else { return Verdict::Forgotten };
    let own = own_wal(cluster, last, successor);
    let mut doubts: Vec<Unproven> = judged
        .iter()
        .flat_map(|reign| reign.unproven.iter())
        .filter(|stretch| !own || loses_own_wal(stretch.cause))
        .cloned()
        .collect();
    if own && doubts.is_empty() {
        return Verdict::NoneLost(Ground::OwnWal(last.primary.member.clone()));
    }
    let limit = unseen_max_ms(&cluster.settings);
    let carried = carried(cluster, last);
    let unseen = carried.iter().filter(|reign| reign.shown.is_none_or(|shown| shown.unseen_ms > limit));
    if !own {
        doubts.extend(unseen.map(|reign| not_seen(reign, incident)));
    }
    let earliest = carried.iter().filter_map(|reign| reign.shown).min_by_key(|shown| shown.until);
    if let (true, Some(shown)) = (doubts.is_empty(), earliest) {
        return Verdict::NoneLost(Ground::Rule(shown));
    }
    doubts.sort_by_key(|stretch| stretch.from);
    Verdict::NotProven(doubts)
}

/// The reigns whose commits `last`'s primary alone may have: its own, and as long as k standbys were not seen to have everything
/// those before in which it was primary too.
pub(super) fn carried<'a>(cluster: &'a ClusterState, last: &'a Reign) -> Vec<&'a Reign> {
    let mut carried = Vec::new();
    for reign in cluster.reigns.iter().rev().skip_while(|reign| reign.epoch != last.epoch) {
        if reign.primary == last.primary {
            carried.push(reign);
        }
        if reign.complete {
            break;
        }
    }
    carried
}

/// Whether the successor's history holds all that the former primary had written.
fn own_wal(cluster: &ClusterState, last: &Reign, successor: &Reign) -> bool {
    let reigned = cluster.reigns.iter().take_while(|reign| reign.epoch <= last.epoch);
    let reigned = reigned.filter(|reign| reign.primary == last.primary);
    let promoted = reigned
        .last()
        .is_some_and(|reign| reign.promotion.is_some() || matches!(reign.start, Start::Continue | Start::Adopt));
    let appointee = successor.seals.iter().find(|seal| seal.key == successor.primary);
    let own = successor.seals.iter().find(|seal| seal.key == last.primary);
    let (Some(appointee), Some(own)) = (appointee, own) else { return false };
    promoted
        && own.position <= appointee.position
        && (own.kind == SealKind::Sealed || successor.primary == last.primary)
}

/// Commits may be missing even in the WAL of the server that acknowledged them.
const fn loses_own_wal(cause: Cause) -> bool {
    matches!(cause, Cause::CommitLowered | Cause::UnsafeSetting | Cause::Forced)
}

fn not_seen(last: &Reign, incident: &Incident) -> Unproven {
    let until = incident.phases.iter().find(|phase| phase.phase == Phase::Begun).map(|phase| phase.at);
    let primary = &last.primary.member;
    let (from, detail) = match last.shown {
        Some(shown) => (shown.until, format!("nobody saw whether {primary} had the rule in force")),
        None => {
            let at = until.unwrap_or_default();
            (at, format!("no leader that took part had seen whether {primary} had the rule in force"))
        }
    };
    Unproven { cause: Cause::NotSeen, detail, from, until, newest: 0, times: 1 }
}

impl Verdict {
    /// The sentence for people; `possible` is what the incident itself has on record.
    #[must_use]
    pub fn sentence(&self, possible: bool, time: impl Fn(WallTime) -> String) -> String {
        match self {
            Self::Open if possible => "POSSIBLE: members that may hold acknowledged commits were given up".to_owned(),
            Self::Open => "not known yet: no successor is appointed".to_owned(),
            Self::Forgotten if possible => {
                "POSSIBLE: it was not proven, and the evidence is not kept any more".to_owned()
            }
            Self::Forgotten => "none: it was proven, and the evidence is not kept any more".to_owned(),
            Self::NoneLost(Ground::OwnWal(primary)) => {
                format!("none: {primary} itself was sealed, and its successor has all that it had written")
            }
            Self::NoneLost(Ground::Rule(shown)) => format!(
                "none: the successor was proven to hold every commit that the rule acknowledged; the rule was shown in \
                 force until {}, {} ms before the election",
                time(shown.until),
                shown.unseen_ms
            ),
            Self::NotProven(doubts) => {
                let each = doubts.iter().map(|doubt| doubt.sentence(&time)).collect::<Vec<_>>().join("; ");
                format!("POSSIBLE: it is not proven that none is lost. {each}")
            }
        }
    }
}

impl Unproven {
    /// When and why, for people.
    #[must_use]
    pub fn sentence(&self, time: &impl Fn(WallTime) -> String) -> String {
        let when = match (self.until, self.times) {
            (Some(until), 1) => format!("from {} to {}", time(self.from), time(until)),
            (None, 1) => format!("from {} on", time(self.from)),
            (Some(until), times) => format!("{times} times between {} and {}", time(self.from), time(until)),
            (None, times) => format!("{times} times since {}", time(self.from)),
        };
        format!("{when}: {}", self.detail)
    }
}

#[cfg(test)]
#[path = "verdict_test.rs"]
mod tests;
