//! What operators do, wisely or not.

use crate::world::{Call, Event, W, World};
use pgvigil_core::{
    command::{Actor, Command},
    id::MemberId,
    reign::ElectionKind,
    settings::{CrashPolicy, Settings},
};
use std::{collections::BTreeSet, rc::Rc};

use super::Fault;

/// The settings of a variant: all of them allowed; `more_than_one`: as if `sync_standbys` above 1 were, too.
#[must_use]
pub fn variant(base: &Settings, number: u64, more_than_one: bool) -> Settings {
    let mut settings = base.clone();
    match number % 6 {
        0 => settings.crash_policy = CrashPolicy::Restart,
        1 => settings.lease_ms += 400,
        2 => settings.hang_timeout_ms = settings.lease_ms.max(1_500),
        3 if more_than_one => settings.sync_standbys = 3 - settings.sync_standbys.min(2),
        3 => settings.switchover_drain_ms *= 2,
        4 => settings.automatic_failover = !settings.automatic_failover,
        _ => settings.sync_lag_max_bytes = 8 << 20,
    }
    settings
}

/// Has an operator's wish agreed, if a leader is to be found.
pub fn ask(w: &W, command: Command) {
    let Some(leader) = w.raft.leader().filter(|leader| w.hears(*leader)) else { return };
    let world = Rc::clone(w);
    w.exec.spawn(World::agent_process(leader), async move {
        let proposal = pgvigil_core::Proposal {
            cluster: World::cluster(),
            based_on: None,
            at: world.wall(),
            by: Actor::Operator("op".to_owned()),
            reason: "an operator asks".to_owned(),
            evidence: Vec::new(),
            command,
        };
        world.propose(leader, proposal, 3_000).await.ok();
    });
}

/// The primary's host and `other` are off, and stay off until a failover without them is done.
pub(super) fn give_up(w: &W, other: usize) -> bool {
    // While anybody else is missing, too, nobody might be left to be promoted.
    let whole = w.ailing(0).is_none();
    let Some(primary) = w.primary().filter(|primary| *primary != other && whole) else { return false };
    for host in [primary, other] {
        w.power_off(host);
        w.hosts[host].held_off.set(true);
        w.exec.at(w.exec.now() + 15_000_000, None, Event::Over(Fault::GiveUp(host)));
    }
    let give_up: BTreeSet<MemberId> = [primary, other].map(|host| w.member(host).clone()).into();
    let kind = ElectionKind::Forced { to: None, old_primary_is_off: true, give_up };
    let world = Rc::clone(w);
    // The operator waits a little before the word is given.
    for after in [3_000_000, 6_000_000] {
        let world = Rc::clone(&world);
        let kind = kind.clone();
        let call = Call(Box::new(move |w: &W| {
            let still = w.primary() == Some(primary) && !world.hosts[primary].powered.get();
            if still {
                ask(w, Command::RequestElection { kind });
            }
        }));
        w.exec.at(w.exec.now() + after, None, Event::Call(call));
    }
    true
}
