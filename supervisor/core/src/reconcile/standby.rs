//! The agent of a standby: follow the primary of the reign, after its own WAL was seen to belong to that history.

use super::{Action, Plan, Upstream, is_counted_directory};
use crate::{
    cluster::ClusterState,
    id::{Epoch, TimelineId},
    lineage::{astray, history_of},
    local::{Local, LocalPostgres},
    lsn::Lsn,
    member::Member,
    reign::Reign,
    time::Time,
};

/// How long a server that starts behind an unknown upstream is left alone, in milliseconds.
const STARTING_MS: u64 = 30_000;

pub(super) fn follow(agreed: &ClusterState, reign: &Reign, member: &Member, local: &Local, now: Time) -> Plan {
    if reign.promotion.is_none() {
        return Plan::wait("waiting-for-primary", format!("{} is not promoted yet", reign.primary.member));
    }
    let Some(primary) = agreed.members.get(&reign.primary.member) else {
        return Plan::wait("no-primary", "the primary is not a member");
    };
    let upstream = Upstream {
        key: reign.primary.clone(),
        host: primary.spec.host.clone(),
        port: primary.spec.port,
        named: member.named,
    };
    if agreed.void.contains(&member.key()) {
        // It would stream and never count again; the leader allots another incarnation.
        return Plan::wait("given-up", "it was given up by a forced failover and is to be made anew");
    }
    match &local.postgres {
        LocalPostgres::NoData if member.used => Plan::remake("its data directory came back empty"),
        LocalPostgres::NoData => {
            Plan::act(Action::Clone { epoch: reign.epoch, upstream, incarnation: member.incarnation })
        }
        LocalPostgres::Adoptable(found) => adopt(agreed, member, found),
        LocalPostgres::Starting if !is_replaced(agreed, local) => starting(reign, local, now),
        _ if !is_counted_directory(agreed, local) => remake(agreed, reign, member, local, upstream),
        LocalPostgres::Stopped { .. } if local.directory.ruined().is_some() => {
            Plan::remake(local.directory.ruined().unwrap_or_default())
        }
        LocalPostgres::Stopped { .. } => match belongs(agreed, reign, member, local) {
            Belongs::Yes => {
                let following = Some((upstream, member.key()));
                Plan::act(Action::StartStandby { epoch: reign.epoch, following })
            }
            other => other.plan(reign.epoch),
        },
        LocalPostgres::Running(running) if running.in_recovery => {
            let in_force = local.in_force.as_ref();
            let follows = in_force
                .filter(|f| f.epoch == reign.epoch && f.upstream.as_ref() == Some(&reign.primary) && f.door_open);
            match follows {
                Some(f) if f.named == member.named => return Plan::default(),
                // It goes on where it streams already, under another name.
                Some(_) => return Plan::act(Action::Follow { epoch: reign.epoch, upstream, key: member.key() }),
                None => {}
            }
            if local.unasked_since.is_some() && running.streaming {
                // Where its WAL ends is read from a server that answers, or from a stopped one: as long as it streams, no
                // reader has to leave for that.
                return Plan::wait("cannot-ask", "it streams, and no session can be had to ask from whom");
            }
            match belongs(agreed, reign, member, local) {
                Belongs::Yes => Plan::act(Action::Follow { epoch: reign.epoch, upstream, key: member.key() }),
                other => other.plan(reign.epoch),
            }
        }
        _ => Plan::wait("not-a-standby", "PostgreSQL does not run as a standby"),
    }
}

/// A server that is not consistent yet answers nobody before it has the WAL that it lacks, and only its upstream has that.
/// From one that is gone it would wait for good: it is sealed, which ends it, and started anew behind the present primary.
fn starting(reign: &Reign, local: &Local, now: Time) -> Plan {
    let wait = Plan::wait("starting", "PostgreSQL is starting");
    let end = Plan::act(Action::ReadWalEnd { epoch: reign.epoch });
    match local.in_force.as_ref().and_then(|in_force| in_force.upstream.as_ref()) {
        Some(upstream) if *upstream == reign.primary => wait,
        Some(_) => end,
        // Of nobody; or pgvigil was restarted meanwhile and does not know: replay alone may take it there.
        None => match local.starting_since.unwrap_or(now).plus(STARTING_MS) {
            until if now < until => wait.until(until),
            _ => end,
        },
    }
}

/// Whether the data directory is an older incarnation of this member's: what starts in it is of no use.
fn is_replaced(agreed: &ClusterState, local: &Local) -> bool {
    let counted = agreed.members.get(&local.me).map(|member| member.incarnation);
    local.marker.as_ref().is_some_and(|marker| {
        marker.cluster == agreed.id && marker.member == local.me && Some(marker.incarnation) < counted
    })
}

fn adopt(agreed: &ClusterState, member: &Member, found: &crate::report::Adoptable) -> Plan {
    if agreed.system_identifier != Some(found.system_identifier) {
        return Plan::wait("other-system", "a running server of another system identifier; it is left alone");
    }
    if !found.in_recovery {
        return Plan::wait("second-primary", "a running primary that is not this cluster's; it is left alone: stop it");
    }
    if member.used {
        return Plan::remake("an unmarked data directory stands where a counted one was");
    }
    Plan::act(Action::AdoptStandby { incarnation: member.incarnation })
}

/// The mark is another one than agreed: either a new incarnation was allotted, or the directory came from elsewhere.
fn remake(agreed: &ClusterState, reign: &Reign, member: &Member, local: &Local, upstream: Upstream) -> Plan {
    let epoch = reign.epoch;
    let incarnation = member.incarnation;
    if let Some(foreign) = local.marker.as_ref().filter(|m| m.cluster != agreed.id) {
        return Plan::wait(
            "foreign",
            format!("the data directory is {}'s of cluster {}; it is left alone", foreign.member, foreign.cluster),
        );
    }
    let older = local.marker.as_ref().is_some_and(|m| m.member == local.me && m.incarnation < incarnation);
    if !older {
        if member.used {
            return Plan::remake("its data directory is not the one that counts");
        }
        return Plan::act(Action::Clone { epoch, upstream, incarnation });
    }
    if local.directory.ruined().is_some() {
        return Plan::act(Action::Clone { epoch, upstream, incarnation });
    }
    // While a rule of an older epoch stands, what is here may still be evidence: clone beside it (history A9).
    if agreed.rules.iter().any(|rule| rule.epoch < epoch) || !reign.complete {
        return Plan::act(Action::Clone { epoch, upstream, incarnation });
    }
    // Only WAL that is known to have diverged is rewound: a reinit asked for wants everything fresh.
    if !matches!(belongs(agreed, reign, member, local), Belongs::No(_)) {
        return Plan::act(Action::Clone { epoch, upstream, incarnation });
    }
    // pg_rewind compares histories by number and fork: one that has both in common with the primary's, and other WAL, it
    // would call "no rewind required".
    let number = local.own_end.as_ref().map(|own| own.history.timeline);
    if number.is_some_and(|number| history_of(agreed, reign).contains(number, Lsn::ZERO)) {
        return Plan::act(Action::Clone { epoch, upstream, incarnation });
    }
    Plan::act(Action::Rewind { epoch, upstream, incarnation })
}

enum Belongs {
    Yes,
    Unread,
    No(String),
}

impl Belongs {
    fn plan(self, epoch: Epoch) -> Plan {
        match self {
            Self::Yes => Plan::default(),
            Self::Unread => Plan::act(Action::ReadWalEnd { epoch }),
            Self::No(why) => Plan::remake(why),
        }
    }
}

/// History A6: a member takes the synchronous name of an epoch only after its WAL was verified to end at or before the
/// fork, because PostgreSQL compares LSNs without timelines. Keeps S1.
fn belongs(agreed: &ClusterState, reign: &Reign, member: &Member, local: &Local) -> Belongs {
    if let Some(astray) = astray(agreed, local) {
        let what = if astray.by_hand { "it was promoted by hand" } else { "it was away for too many failovers" };
        return Belongs::No(format!("{what}: {}", astray.why));
    }
    let Some((position, owner)) = local.wal_end else { return Belongs::Unread };
    // An incarnation that had more has come back old. Streaming on, it would soon reach what was proven of it, and its
    // seal be believed although it lacks what it confirmed since (model: three-rollback).
    if let Some(proven) = member.proven.filter(|proven| position < *proven) {
        return Belongs::No(format!("its data directory came back old: it ends at {position}, but had {proven}"));
    }
    let history = history_of(agreed, reign);
    let first = agreed.reigns.first().map_or(TimelineId(0), |reign| reign.timeline);
    let within = |owner: TimelineId, lsn: Lsn| owner < first || history.contains(owner, lsn);
    if let Some((needed, of)) = local.directory.needs.filter(|(needed, of)| !within(*of, needed.lsn)) {
        return Belongs::No(format!(
            "it is a copy that is consistent only from {} of timeline {of} on, which is not in the history of {}",
            needed.lsn, reign.timeline
        ));
    }
    if within(owner, position.lsn) {
        return Belongs::Yes;
    }
    match history.switch_point(owner) {
        Some(fork) => {
            Belongs::No(format!("its WAL goes on to {} on timeline {owner}, which ended at {fork}", position.lsn))
        }
        None => {
            Belongs::No(format!("its WAL ends on timeline {owner}, which is not in the history of {}", reign.timeline))
        }
    }
}

/// Why a directory whose WAL was read (`wal_end`, and `needs` of a copy) is not one of the reign in force, for whoever has
/// just made it anew; `Ok` where it belongs. Keeps S1 (history A6).
pub fn made_anew(agreed: &ClusterState, local: &Local) -> Result<(), String> {
    let (Some(reign), Some(member)) = (agreed.reign(), agreed.members.get(&local.me)) else {
        return Err("the cluster has no primary, or not this member".to_owned());
    };
    match belongs(agreed, reign, member, local) {
        Belongs::Yes => Ok(()),
        Belongs::Unread => Err("the end of its WAL is not known".to_owned()),
        Belongs::No(why) => Err(why),
    }
}

#[cfg(test)]
#[path = "standby_test.rs"]
mod tests;
