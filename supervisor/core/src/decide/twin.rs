//! A name that is taken: its member gets another one, which no copy of its data directory knows.

use super::{Decision, reign::primary_report};
use crate::{
    cluster::ClusterState,
    command::Command,
    id::MemberId,
    member::Member,
    observation::Observations,
    reign::Reign,
    rpo::{Cause, DETAIL_MAX, Unproven},
    time::{Time, WallTime},
    twin::Doubt,
};
use std::collections::BTreeSet;

/// Between two new names of one member, in milliseconds: where a new name does not help (pgvigil itself was copied, and
/// both obey), its stream must not be interrupted all the time. The member is out of the rule meanwhile.
const BRAKE_MS: u64 = 30_000;

pub(super) fn rename(agreed: &ClusterState, reign: &Reign, seen: &Observations, now: Time, decision: &mut Decision) {
    if reign.promotion.is_none() || primary_report(reign, seen).is_none() {
        return;
    }
    let doubted: Vec<(&MemberId, &Doubt)> = agreed
        .members
        .iter()
        .filter(|(_, member)| agreed.is_counted(&member.key()) && member.key() != reign.primary)
        .filter_map(|(name, member)| Some((name, seen.doubt(member)?)))
        .collect();
    for (_, doubt) in &doubted {
        decision.wake(doubt.since.plus(agreed.settings.standby_timeout_ms));
    }
    let taken: Vec<_> = doubted.into_iter().filter(|(_, doubt)| doubt.sure).collect();
    if taken.is_empty() {
        return;
    }
    let evidence: Vec<String> = taken.iter().map(|(name, doubt)| format!("{name}: {}", doubt.text)).collect();
    let brake = |name: &MemberId| {
        let renamed = seen.sights.get(name).and_then(|sight| sight.renamed);
        renamed.is_some_and(|at| now.since(at) < BRAKE_MS)
    };
    let members: BTreeSet<MemberId> =
        taken.iter().map(|(name, _)| (*name).clone()).filter(|name| !brake(name)).collect();
    let what = if agreed.paused.is_some() {
        "nothing is done about it while paused: commits may be confirmed by a copy"
    } else if members.is_empty() {
        "the last new name was taken within 30 s: it is out of the durability rule where others suffice. If pgvigil \
         itself was copied with its state, stop the copy"
    } else {
        "the member gets a new name, which no copy of its data directory knows, and only that counts"
    };
    decision.find("name-taken-twice", format!("{}; {what}", evidence.join("; ")));
    if agreed.paused.is_some() || members.is_empty() {
        return;
    }
    let names = members.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let reason = format!("two walsenders of the same name, a copied standby: {names} gets a new one");
    decision.want(Command::Rename { epoch: reign.epoch, members }, reason, evidence);
}

/// Since when commits may have been confirmed by a copy: noted before its name is given up, and ended by the proof that no
/// walsender counts under it any more.
pub(super) fn stretch(agreed: &ClusterState, reign: &Reign, seen: &Observations, now: Time) -> Option<Unproven> {
    if reign.unproven.iter().any(|known| known.cause == Cause::NameTakenTwice && known.until.is_none()) {
        return None;
    }
    let doubts = agreed.members.values().filter(|member| agreed.is_counted(&member.key()));
    let taken: Vec<(&Member, &Doubt)> =
        doubts.filter_map(|member| Some((member, seen.doubt(member)?))).filter(|(_, doubt)| doubt.sure).collect();
    let since = taken.iter().map(|(_, doubt)| doubt.connected).min()?;
    let text = taken.iter().map(|(member, doubt)| format!("{}: {}", member.spec.member, doubt.text));
    Some(Unproven {
        cause: Cause::NameTakenTwice,
        detail: text.collect::<Vec<_>>().join("; ").chars().take(DETAIL_MAX).collect(),
        from: WallTime(seen.wall.0.saturating_sub(now.since(since))),
        until: None,
        // What ends it raises the version, so that each has its own.
        newest: reign.version.0,
        times: 1,
    })
}
