//! Hosts that are gone at once: off the network, everything on them dead.

use std::time::Duration;

use super::stage::LIMIT;
use super::{Stage, Told};
use crate::cluster::ClusterError;
use crate::fault::Fault;
use crate::host::HostError;

/// The primary's host loses power; the Raft leader is elsewhere.
pub(super) fn primary(stage: &mut Stage) -> Told {
    lost(stage, false)
}

/// The same, with the Raft leader on it.
pub(super) fn primary_and_leader(stage: &mut Stage) -> Told {
    lost(stage, true)
}

fn lost(stage: &mut Stage, leader_too: bool) -> Told {
    stage.pgvigil(&["settings", "set", &format!("leader_away_from_primary={}", !leader_too)])?;
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let wanted = if leader_too { primary } else { stage.others(primary)[0] };
    stage.world.cluster.move_leader(wanted, super::stage::LIMIT)?;
    stage.begin(Fault::PowerOff(vec![primary]))?;
    stage.writes_resume()?;
    stage.pause(Duration::from_secs(2))?;
    stage.heal()?;
    stage.pgvigil(&["settings", "set", "leader_away_from_primary=true"])?;
    stage.demand_epochs(epoch, 1..=1)
}

/// Two hosts at once, the primary's among them: nobody may take over; both come back.
pub(super) fn two(stage: &mut Stage) -> Told {
    let primary = stage.primary()?;
    let other = stage.others(primary)[0];
    let off = stage.begin(Fault::PowerOff(vec![primary, other]))?;
    stage.pause(Duration::from_secs(6))?;
    let since = stage.now();
    stage.pause(Duration::from_secs(3))?;
    let served = stage.acknowledged_since(since);
    stage.demand(served == 0, format!("one host of three acknowledged {served} writes"))?;
    stage.end(off)?;
    stage.heal()?;
    stage.writes_go_on(50)
}

/// Power fails with writes not yet on the disk: on the primary, then everywhere at once.
pub(super) fn unsynced(stage: &mut Stage) -> Told {
    let primary = stage.primary()?;
    stage.begin(Fault::PowerLoss(vec![primary]))?;
    stage.writes_resume()?;
    stage.heal()?;
    let all = stage.world.cluster.nodes.iter().map(|node| node.id).collect();
    let off = stage.begin(Fault::PowerLoss(all))?;
    stage.pause(Duration::from_secs(1))?;
    stage.end(off)?;
    stage.heal()?;
    stage.writes_go_on(50)
}

/// A standby's disks are lost altogether. Its node comes back with nothing but its configuration: its member is cloned
/// anew, but its vote must not count, for nobody knows what it had promised; a new node takes its place.
pub(super) fn disk_lost(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let victim = stage.others(primary)[0];
    let config = stage.world.cluster.node(victim)?.config.clone();
    let text = std::fs::read_to_string(&config).map_err(HostError::io("reading a configuration"))?;
    let off = stage.begin(Fault::PowerOff(vec![victim]))?;
    stage.world.disk(victim, "a new disk")?.replace()?;
    stage.note("disk replaced by an empty one", &format!("host {victim}"), false);
    let cluster = &stage.world.cluster;
    let account = cluster.account.clone();
    account.make_dir(&cluster.node(victim)?.dir.clone()).map_err(ClusterError::from)?;
    account.write_file(&config, &text).map_err(ClusterError::from)?;
    stage.world.disk(victim, "a new disk")?.sync()?;
    stage.pause(Duration::from_secs(2))?;
    stage.end(off)?;
    let log = stage.world.cluster.node(victim)?.log();
    stage.until("a word about the lost votes", LIMIT, |_| {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        Ok(said.contains("lost its raft store").then_some(()))
    })?;
    stage.replace(victim)?;
    stage.heal()?;
    stage.demand_epochs(epoch, 0..=0)?;
    // The group of three is whole again: it stands the loss of another.
    stage.begin(Fault::PowerOff(vec![primary]))?;
    stage.writes_resume()?;
    stage.heal()?;
    stage.demand_epochs(epoch, 1..=1)
}
