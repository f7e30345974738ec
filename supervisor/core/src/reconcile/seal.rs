//! The agent during an election: seal, or stand as the primary that still runs, or fetch what the election orders.

use super::{Action, Plan, Upstream, is_counted_directory, runs_as_primary};
use crate::{
    cluster::ClusterState,
    lineage::astray,
    local::{Local, LocalPostgres},
    member::Member,
    reign::{Election, ElectionKind},
    time::Time,
};

/// How long an election waits for a server that is starting, in milliseconds: most come up at once, and one that runs is of
/// more use than one that was ended to be sealed.
const STARTING_MS: u64 = 1_000;

pub(super) fn for_election(
    agreed: &ClusterState,
    election: &Election,
    member: &Member,
    local: &Local,
    now: Time,
) -> Plan {
    if runs_as_primary(local) {
        // What ends a reign was handled before; here the primary stands, and its report says how far it has flushed.
        return Plan::wait("standing", format!("the election for epoch {} finds this primary running", election.epoch));
    }
    if !is_counted_directory(agreed, local) {
        return Plan::wait("nothing-to-seal", "this data directory does not count");
    }
    if let Some(why) = &local.directory.half_made {
        return Plan::wait("nothing-to-seal", why.clone());
    }
    match local.postgres {
        LocalPostgres::NoData | LocalPostgres::Adoptable(_) => {
            return Plan::wait("cannot-seal-yet", "there is no data of this cluster's");
        }
        // What lacks WAL of the primary that is gone never comes up, and its seal may be the one that is needed: the seal
        // ends it then.
        LocalPostgres::Starting => {
            let until = local.election_since.unwrap_or(now).plus(STARTING_MS);
            if now < until {
                return Plan::wait("cannot-seal-yet", "PostgreSQL is starting").until(until);
            }
        }
        _ => {}
    }
    let last_mine = agreed.reign().is_some_and(|reign| reign.primary.member == local.me);
    if last_mine && matches!(local.postgres, LocalPostgres::Stopped { .. }) && !local.fence_on_disk {
        let epoch = local.promise.reigned;
        return Plan::act(Action::Fence { epoch, polite_ms: 0, why: "it died".to_owned() });
    }
    if let Some(plan) = drain(agreed, election, local, now) {
        return plan;
    }
    let Some(sealed) = local.sealed.as_ref().filter(|sealed| sealed.epoch == election.epoch) else {
        // Up to where it left the agreed history, a member that was promoted by hand testifies like any other.
        return match astray(agreed, local).filter(|astray| astray.agreed_to.is_none()) {
            Some(astray) => Plan::wait("diverged", astray.why),
            None => Plan::act(Action::Seal { epoch: election.epoch }),
        };
    };
    // A seal may have stopped PostgreSQL; whoever is to send or to fetch WAL runs, following nobody.
    let ordered =
        election.catch_up.as_ref().is_some_and(|o| o.member.member == local.me || o.source.member == local.me);
    if ordered && matches!(local.postgres, LocalPostgres::Stopped { .. }) && local.wal_end.is_some() {
        return Plan::act(Action::StartStandby { epoch: election.epoch, following: None });
    }
    if let Some(order) = election.catch_up.as_ref().filter(|order| order.member.member == local.me)
        && sealed.position < order.target
        && let Some(source) = agreed.members.get(&order.source.member)
    {
        let source = Upstream {
            key: order.source.clone(),
            host: source.spec.host.clone(),
            port: source.spec.port,
            named: member.named,
        };
        return Plan::act(Action::CatchUp { epoch: election.epoch, source });
    }
    Plan::wait("sealed", format!("sealed for epoch {} at {}", election.epoch, sealed.position))
}

/// In a planned change the standbys first take what the old primary still sends while it is drained; the
/// stream ends with it. Bounded by the standby's own clock.
fn drain(agreed: &ClusterState, election: &Election, local: &Local, now: Time) -> Option<Plan> {
    let ElectionKind::Switchover { .. } = election.kind else { return None };
    let LocalPostgres::Running(running) = &local.postgres else { return None };
    if !running.streaming || local.sealed.as_ref().is_some_and(|sealed| sealed.epoch == election.epoch) {
        return None;
    }
    let end = local.election_since.unwrap_or(now).plus(agreed.settings.switchover_drain_ms);
    (now < end).then(|| Plan::wait("draining", "taking the last WAL of the old primary").until(end))
}

#[cfg(test)]
#[path = "seal_test.rs"]
mod tests;
