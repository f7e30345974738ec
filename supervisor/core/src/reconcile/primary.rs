//! The agent of a primary: when it must stop, and how it becomes and remains one.

use super::{
    Action, CHECKPOINT_FRESH_MS, Plan, ends_the_reign, is_counted_directory, read_end, runs_as_primary, stop_margins,
};
use crate::{
    cluster::ClusterState,
    local::{InForce, Local, LocalPostgres},
    member::Member,
    position::Position,
    reign::{ElectionKind, Reign, Start},
    time::Time,
};

/// Everything that ends a primary at once, whatever else is going on. Keeps S3 (and S2 by obeying newer epochs).
pub(super) fn must_stop(agreed: &ClusterState, local: &Local, now: Time) -> Option<Plan> {
    if !runs_as_primary(local) || local.marker.is_none() {
        return None;
    }
    let epoch = local.promise.reigned;
    let fence = |polite_ms: u64, why: String| Some(Plan::act(Action::Fence { epoch, polite_ms, why }));
    let reign = agreed.reign()?;
    if !is_counted_directory(agreed, local) {
        return fence(0, "this data directory is not the one that counts".to_owned());
    }
    let mine = reign.primary.member == local.me;
    if reign.epoch > epoch && !(mine && reign.start == Start::Continue) {
        return fence(0, format!("epoch {} has begun; {} is its primary", reign.epoch, reign.primary.member));
    }
    if !mine {
        return fence(0, format!("{} is the primary of epoch {}", reign.primary.member, reign.epoch));
    }
    if let Some(election) = agreed.election.as_ref().filter(|election| ends_the_reign(&election.kind)) {
        let polite = match election.kind {
            ElectionKind::Switchover { .. } => agreed.settings.switchover_drain_ms / 2,
            _ => 0,
        };
        return fence(polite, format!("an election for epoch {} ends this reign", election.epoch));
    }
    // A canary also waits while standbys are missing; only with enough of them does its hanging accuse this server.
    let accused_ms = local.standbys_enough_since.map_or(0, |since| now.since(since)).min(local.canary_waiting_ms);
    // A kill that no failover may follow would only make a stall that may end by itself an outage that does not.
    let replaceable = agreed.paused.is_none() && agreed.settings.automatic_failover;
    if replaceable && accused_ms >= agreed.settings.hang_timeout_ms {
        let waited = accused_ms;
        return fence(0, format!("the canary has hung for {waited} ms although enough standbys stream"));
    }
    right_ran_out(agreed, local, now)
}

/// A reign that was never opened has nothing to serve and needs no right; a paused one is ended only by a fence.
fn right_ran_out(agreed: &ClusterState, local: &Local, now: Time) -> Option<Plan> {
    let epoch = local.promise.reigned;
    let open = local.in_force.as_ref().is_some_and(|f| f.door_open);
    if agreed.paused.is_some() || !open {
        return None;
    }
    let (polite, kill) = stop_margins(agreed.settings.lease_ms);
    // Without any right yet (a restarted agent), the guard's deadline still stands; one lease from now is the most.
    let until = local.right.until(&agreed.settings)?;
    let left = until.since(now);
    if left <= kill {
        let why = format!("its right to serve ends in {left} ms");
        return Some(Plan::act(Action::Fence { epoch, polite_ms: 0, why }));
    }
    if left <= polite {
        let why = format!("its right to serve ends in {left} ms");
        return Some(Plan::act(Action::Fence { epoch, polite_ms: left - kill, why }));
    }
    None
}

pub(super) fn reign(agreed: &ClusterState, reign: &Reign, member: &Member, local: &Local, now: Time) -> Plan {
    let epoch = reign.epoch;
    let in_recovery = matches!(&local.postgres, LocalPostgres::Running(r) if r.in_recovery);
    let promoting = in_recovery && reign.promotion.is_none() && reign.start == Start::Promote;
    // A first start that failed (its port taken, a wrong parameter) is tried again: nothing was ever served, and nobody
    // else could.
    let stopped = matches!(local.postgres, LocalPostgres::Stopped { .. });
    let founding = reign.start == Start::Initdb && reign.promotion.is_none() && stopped;
    // An adoption that was cut short before the mark was written finds its server unmarked still, or stopped. It serves
    // as it did before there was a cluster, and nobody else can be appointed before it is adopted: a fence would make it
    // a standby of nobody, which is never adopted (found by the simulation).
    let adopting = reign.start == Start::Adopt && reign.promotion.is_none() && local.marker.is_none();
    if local.promise.reigned == epoch && !runs_as_primary(local) && !promoting && !founding && !adopting {
        // It was begun and is no longer there: this reign is over; the leader decides what comes next.
        return gone(local, epoch);
    }
    let found = matches!(local.postgres, LocalPostgres::NoData | LocalPostgres::Adoptable(_));
    if !found && !is_counted_directory(agreed, local) {
        // It was appointed for another data directory than the one that is here now (history A9).
        return Plan::wait("not-counted", format!("epoch {epoch} belongs to another data directory than this one"));
    }
    match reign.start {
        Start::Initdb => match &local.postgres {
            // Once it was promoted there was data: a directory that came back empty, its promise lost with it, is a loss
            // and no beginning. Keeps S1, S2.
            LocalPostgres::NoData if reign.promotion.is_none() => {
                return Plan::act(Action::Initdb { epoch, incarnation: member.incarnation });
            }
            LocalPostgres::Stopped { .. } if local.marker.is_some() => return start(reign),
            // Somebody else started it, and the fence on disk made it a standby.
            _ if in_recovery => {
                return Plan::act(Action::Fence { epoch, polite_ms: 0, why: "to be started as primary".to_owned() });
            }
            _ => {}
        },
        Start::Adopt => {
            if let LocalPostgres::Adoptable(found) = &local.postgres
                && !found.in_recovery
                && agreed.system_identifier == Some(found.system_identifier)
            {
                return Plan::act(Action::AdoptPrimary { epoch, incarnation: member.incarnation });
            }
        }
        Start::Promote => {
            if let Some(plan) = promote(agreed, reign, local) {
                return plan;
            }
        }
        Start::Continue => match &local.postgres {
            LocalPostgres::Stopped { .. } => return restart(agreed, reign, local),
            LocalPostgres::Running(running) if running.in_recovery => {
                return Plan::act(Action::Fence { epoch, polite_ms: 0, why: "to be restarted as primary".to_owned() });
            }
            LocalPostgres::Running(_) if local.promise.reigned < epoch => return carry_on(reign, local),
            _ => {}
        },
    }
    if unrecorded(reign, local) {
        // The agent ended between PostgreSQL's becoming primary and its own note of where: it looks again.
        return Plan::act(match reign.start {
            Start::Promote => Action::Promote { epoch, timeline: reign.timeline },
            _ => Action::CarryOn { epoch },
        });
    }
    if !runs_as_primary(local) || local.promise.reigned < epoch {
        return Plan::wait("becoming-primary", format!("on the way to be primary of epoch {epoch}"));
    }
    keep(agreed, reign, local, now)
}

fn unrecorded(reign: &Reign, local: &Local) -> bool {
    let runs = matches!(&local.postgres, LocalPostgres::Running(running) if !running.in_recovery);
    runs && local.promise.reigned == reign.epoch && local.promise.promotion.is_none() && reign.promotion.is_none()
}

fn gone(local: &Local, epoch: crate::id::Epoch) -> Plan {
    match &local.postgres {
        LocalPostgres::Starting => Plan::wait("starting", "PostgreSQL is starting"),
        LocalPostgres::Stopped { .. } | LocalPostgres::NoData if local.fence_on_disk => {
            Plan::wait("fenced", format!("PostgreSQL of epoch {epoch} is gone and fenced"))
        }
        _ => Plan::act(Action::Fence { epoch, polite_ms: 0, why: format!("the primary of epoch {epoch} is gone") }),
    }
}

fn start(reign: &Reign) -> Plan {
    Plan::act(Action::StartPrimary { epoch: reign.epoch, setting: reign.setting.clone(), version: reign.version })
}

/// Where the appointee's WAL ends, and where it was when it sealed.
fn ends(reign: &Reign, local: &Local) -> Option<(Position, Position)> {
    let (end, _) = local.wal_end?;
    Some((end, reign.seals.iter().find(|seal| seal.key == reign.primary)?.position))
}

/// It was appointed at the position of its own seal. If its directory came back older than that, it lacks commits that
/// it had acknowledged: it neither starts nor promotes, and the next election refuses its seal. Keeps S1 (history A10;
/// model: three-rollback).
fn came_back_old(reign: &Reign, local: &Local) -> Option<Plan> {
    let (end, sealed) = ends(reign, local)?;
    (end < sealed)
        .then(|| Plan::wait("came-back-old", format!("its WAL ends at {end}, but it was appointed at {sealed}")))
}

/// It was moved to a later timeline since it sealed: promoted from there, its new timeline would have another parent than the
/// one that is agreed, and no member could follow. The next election seals it where it is.
fn moved_on(reign: &Reign, local: &Local) -> Option<Plan> {
    let (end, sealed) = ends(reign, local)?;
    let text = format!("its WAL ends at {end}, on another timeline than {sealed}, where it was appointed");
    (end.epoch > sealed.epoch).then(|| Plan::wait("moved-on", text))
}

fn restart(agreed: &ClusterState, reign: &Reign, local: &Local) -> Plan {
    if local.wal_end.is_none() {
        return read_end(agreed, local, reign.epoch);
    }
    came_back_old(reign, local).unwrap_or_else(|| start(reign))
}

/// The new setting is in force, and the door closed, before it promotes (model: promoting first loses a commit).
fn promote(agreed: &ClusterState, reign: &Reign, local: &Local) -> Option<Plan> {
    // An agent that was restarted meanwhile does not know where its WAL ends, and starts and promotes nothing until it
    // has read that again. Reading empties the settings, so it comes before they are put in force.
    let unread = local.wal_end.is_none().then(|| read_end(agreed, local, reign.epoch));
    if let (false, Some(plan)) = (runs_as_primary(local), came_back_old(reign, local)) {
        return Some(plan);
    }
    let LocalPostgres::Running(running) = &local.postgres else {
        return match &local.postgres {
            LocalPostgres::Stopped { .. } if unread.is_some() => unread,
            LocalPostgres::Stopped { .. } => {
                Some(Plan::act(Action::StartStandby { epoch: reign.epoch, following: None }))
            }
            _ => None,
        };
    };
    if !running.in_recovery {
        return None;
    }
    if unread.is_some() {
        return unread;
    }
    if let Some(plan) = moved_on(reign, local).filter(|_| local.promise.reigned < reign.epoch) {
        return Some(plan);
    }
    let closed =
        InForce { epoch: reign.epoch, version: Some(reign.version), door_open: false, upstream: None, named: 0 };
    if local.in_force.as_ref() != Some(&closed) {
        return Some(configure(reign, false));
    }
    Some(Plan::act(Action::Promote { epoch: reign.epoch, timeline: reign.timeline }))
}

/// Under a new epoch the names change; the rule of the new reign is in force before it counts as begun.
fn carry_on(reign: &Reign, local: &Local) -> Plan {
    let in_force = local.in_force.as_ref();
    if in_force.is_none_or(|f| f.epoch != reign.epoch || f.version != Some(reign.version)) {
        return configure(reign, in_force.is_some_and(|f| f.door_open) && reign.open);
    }
    Plan::act(Action::CarryOn { epoch: reign.epoch })
}

fn configure(reign: &Reign, door_open: bool) -> Plan {
    Plan::act(Action::Configure {
        epoch: reign.epoch,
        setting: reign.setting.clone(),
        version: reign.version,
        door_open,
    })
}

/// Whether clients may be served as far as the rule goes; `Ok(Some)`: until then, unless it is shown in force by then.
/// A rule of k = 0 promises nothing that could be missed. Keeps S1.
fn may_serve(agreed: &ClusterState, local: &Local, now: Time) -> Result<Option<Time>, ()> {
    let promises = agreed.rules.iter().all(|rule| rule.setting.k > 0);
    match local.rule_astray_since {
        Some(since) if promises && !agreed.settings.serve_without_rule => {
            let until = since.plus(agreed.settings.lease_ms);
            if now < until { Ok(Some(until)) } else { Err(()) }
        }
        _ => Ok(None),
    }
}

/// A primary that was not seen under its rule for as long as a lease ends its clients' sessions and lets nobody in, also
/// while it stands for an election.
pub(super) fn keep_out(agreed: &ClusterState, reign: &Reign, local: &Local, now: Time) -> Option<Plan> {
    let mine = reign.primary.member == local.me && local.reigns_in(reign.epoch);
    let open = local.in_force.as_ref().is_some_and(|f| f.door_open);
    (mine && open && may_serve(agreed, local, now).is_err()).then(|| configure(reign, false))
}

/// Keeps setting and door as agreed, and proves what is to be proven.
fn keep(agreed: &ClusterState, reign: &Reign, local: &Local, now: Time) -> Plan {
    if !matches!(local.postgres, LocalPostgres::Running(_)) {
        return Plan::wait("starting", "PostgreSQL is starting");
    }
    let (polite, _) = stop_margins(agreed.settings.lease_ms);
    let has_right = agreed.paused.is_some() || local.right.left(&agreed.settings, now) > polite;
    let was_open = local.in_force.as_ref().is_some_and(|f| f.door_open);
    // An open door stays open until the reign ends; a closed one opens only with a right to serve in hand.
    // An adopted primary has served all the time, and no other reign was before it: its clients stay in.
    let open = reign.open || (reign.start == Start::Adopt && was_open);
    // One that stood when it was re-appointed is open as agreed; but if it died before it could carry on, its restart
    // shows rows that nobody acknowledged: closed until k of S have them.
    let recovered = reign.start == Start::Continue && !reign.complete;
    let served = may_serve(agreed, local, now);
    let door_open = open && served.is_ok() && (was_open || (has_right && !recovered));
    let wanted = InForce { epoch: reign.epoch, version: Some(reign.version), door_open, upstream: None, named: 0 };
    if local.in_force.as_ref() != Some(&wanted) {
        let plan = configure(reign, door_open);
        // The door closes at that moment, whatever is tried meanwhile.
        return match served {
            Ok(Some(until)) if door_open => plan.until(until),
            _ => plan,
        };
    }
    let unproven = !reign.complete || agreed.change.is_some();
    if unproven && reign.promotion.is_some() && local.proven != Some(reign.version) {
        return Plan::act(Action::Prove { epoch: reign.epoch, setting: reign.setting.clone(), version: reign.version });
    }
    if local.rule_doubt.is_open() {
        return Plan::act(Action::Checkpoint { epoch: reign.epoch });
    }
    if reign.open && !door_open {
        return Plan::wait("no-right", "the door opens as soon as the lease is renewed");
    }
    let asked = agreed.request.as_ref().is_some_and(|request| matches!(request.kind, ElectionKind::Switchover { .. }));
    if asked && local.checkpointed_at.is_none_or(|at| now.since(at) >= CHECKPOINT_FRESH_MS / 2) {
        return Plan::act(Action::Checkpoint { epoch: reign.epoch });
    }
    Plan::default()
}

#[cfg(test)]
#[path = "primary_test.rs"]
mod tests;

#[cfg(test)]
#[path = "must_stop_test.rs"]
mod must_stop_tests;
