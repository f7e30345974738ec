//! The agent of a primary: when it must stop, and how it becomes and remains one.

use super::{Action, Plan, ends_the_reign, is_counted_directory, runs_as_primary, stop_margins};
use crate::{
    cluster::ClusterState,
    local::{InForce, Local, LocalPostgres},
    member::Member,
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
    if accused_ms >= agreed.settings.hang_timeout_ms {
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
    let promoting = matches!(&local.postgres, LocalPostgres::Running(r) if r.in_recovery) && reign.promotion.is_none();
    if local.promise.reigned == epoch && !runs_as_primary(local) && !promoting {
        // It was begun and is no longer there: this reign is over; the leader decides what comes next.
        return gone(local, epoch);
    }
    match reign.start {
        Start::Initdb => match &local.postgres {
            LocalPostgres::NoData => return Plan::act(Action::Initdb { epoch, incarnation: member.incarnation }),
            LocalPostgres::Stopped { .. } if local.marker.is_some() => return start(reign),
            _ => {}
        },
        Start::Adopt => {
            if let LocalPostgres::Adoptable(_) = &local.postgres {
                return Plan::act(Action::AdoptPrimary { epoch, incarnation: member.incarnation });
            }
        }
        Start::Promote => {
            if let Some(plan) = promote(reign, local) {
                return plan;
            }
        }
        Start::Continue => match &local.postgres {
            LocalPostgres::Stopped { .. } => return start(reign),
            LocalPostgres::Running(running) if running.in_recovery => {
                return Plan::act(Action::Fence { epoch, polite_ms: 0, why: "to be restarted as primary".to_owned() });
            }
            LocalPostgres::Running(_) if local.promise.reigned < epoch => return carry_on(reign, local),
            _ => {}
        },
    }
    if !runs_as_primary(local) || local.promise.reigned < epoch {
        return Plan::wait("becoming-primary", format!("on the way to be primary of epoch {epoch}"));
    }
    keep(agreed, reign, local, now)
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

/// The new setting is in force, and the door closed, before it promotes (model: promoting first loses a commit).
fn promote(reign: &Reign, local: &Local) -> Option<Plan> {
    let LocalPostgres::Running(running) = &local.postgres else {
        return match &local.postgres {
            LocalPostgres::Stopped { .. } => {
                Some(Plan::act(Action::StartStandby { epoch: reign.epoch, following: None }))
            }
            _ => None,
        };
    };
    if !running.in_recovery {
        return None;
    }
    let closed = InForce { epoch: reign.epoch, version: Some(reign.version), door_open: false, upstream: None };
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

/// Keeps setting and door as agreed, and proves what is to be proven.
fn keep(agreed: &ClusterState, reign: &Reign, local: &Local, now: Time) -> Plan {
    if !matches!(local.postgres, LocalPostgres::Running(_)) {
        return Plan::wait("starting", "PostgreSQL is starting");
    }
    let (polite, _) = stop_margins(agreed.settings.lease_ms);
    let has_right = agreed.paused.is_some() || local.right.left(&agreed.settings, now) > polite;
    let was_open = local.in_force.as_ref().is_some_and(|f| f.door_open);
    // An open door stays open until the reign ends; a closed one opens only with a right to serve in hand.
    let door_open = reign.open && (was_open || has_right);
    let wanted = InForce { epoch: reign.epoch, version: Some(reign.version), door_open, upstream: None };
    if local.in_force.as_ref() != Some(&wanted) {
        return configure(reign, door_open);
    }
    let unproven = !reign.complete || agreed.change.is_some();
    if unproven && reign.promotion.is_some() && local.proven != Some(reign.version) {
        return Plan::act(Action::Prove { epoch: reign.epoch, setting: reign.setting.clone(), version: reign.version });
    }
    if reign.open && !door_open {
        return Plan::wait("no-right", "the door opens as soon as the lease is renewed");
    }
    Plan::default()
}
