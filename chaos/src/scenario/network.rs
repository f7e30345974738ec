//! Networks that fail in part.

use std::time::Duration;

use super::{Stage, Told};
use crate::fault::Fault;
use crate::host::{End, Service, Weather};

fn ends(nodes: &[u64]) -> Vec<End> {
    nodes.iter().map(|id| End::Host(*id)).collect()
}

/// The primary is cut off together with all clients. The others move on; on the clients' side nothing may be
/// acknowledged once another serves.
pub(super) fn primary_with_clients(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let others = ends(&stage.others(primary));
    let member = stage.world.cluster.node(primary)?.member.clone();
    let cut = stage.begin(Fault::Partition(vec![End::Host(primary), End::Clients], others))?;
    stage.until_status("another primary that is open", |status| {
        status.primary != member && status.member(&status.primary).is_some_and(|m| m.state == "open")
    })?;
    let moved = stage.now();
    stage.say("another primary serves");
    stage.pause(Duration::from_secs(4))?;
    let until = stage.now();
    let late = stage.acknowledged_by(primary, moved, until)?;
    stage.demand(late == 0, format!("the cut-off primary acknowledged {late} writes after another served"))?;
    stage.end(cut)?;
    stage.writes_resume()?;
    stage.heal()?;
    stage.demand_epochs(epoch, 1..=1)
}

/// The primary loses one of its two standbys: nothing but the durability rule changes.
pub(super) fn one_standby(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let standby = stage.others(primary)[0];
    stage.begin(Fault::Partition(ends(&[primary]), ends(&[standby])))?;
    stage.pause(Duration::from_secs(12))?;
    stage.writes_go_on(100)?;
    stage.heal()?;
    stage.demand_epochs(epoch, 0..=0)
}

/// Replication to both standbys is cut while Raft goes on: commits must wait, never go on unconfirmed.
pub(super) fn no_replication(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let others = ends(&stage.others(primary));
    let cut = stage.begin(Fault::ServiceCut(Service::Postgres, ends(&[primary]), others))?;
    stage.pause(Duration::from_secs(5))?;
    let status = stage.until_status("an answer", |_| true)?;
    let said = [status.findings.clone(), status.rpo.not_writable.clone()].concat().join("; ");
    stage.say(format!("the status says: {said}"));
    let since = stage.now();
    stage.pause(Duration::from_secs(5))?;
    let until = stage.now();
    let alone = stage.acknowledged_by(primary, since, until)?;
    stage.demand(alone == 0, format!("{alone} writes were acknowledged that no standby can have confirmed"))?;
    if status.epoch == epoch {
        stage.demand(!said.is_empty(), "commits wait, and the status does not say so")?;
    }
    stage.end(cut)?;
    // Over the connections that there are: nothing has to have broken.
    stage.writes_go_on(20)?;
    stage.heal()?;
    stage.demand_epochs(epoch, 0..=1)
}

/// All links of pgvigil are cut while replication goes on: a healthy primary serves on, by its canaries.
pub(super) fn no_raft(stage: &mut Stage) -> Told {
    let epoch = stage.epoch()?;
    let all: Vec<End> = ends(&stage.world.cluster.nodes.iter().map(|node| node.id).collect::<Vec<_>>());
    let cut = stage.begin(Fault::ServiceCut(Service::Pgvigil, all.clone(), all))?;
    stage.pause(Duration::from_secs(8))?;
    stage.writes_go_on(200)?;
    stage.end(cut)?;
    stage.heal()?;
    stage.demand_epochs(epoch, 0..=0)
}

/// The primary's network fails one way only: first it hears nothing, then nobody hears it.
pub(super) fn one_way(stage: &mut Stage) -> Told {
    for deaf in [true, false] {
        let (primary, epoch) = (stage.primary()?, stage.epoch()?);
        let others: Vec<End> = ends(&stage.others(primary)).into_iter().chain([End::Clients]).collect();
        let mine = ends(&[primary]);
        let fault = if deaf { Fault::OneWay(others, mine) } else { Fault::OneWay(mine, others) };
        let cut = stage.begin(fault)?;
        stage.writes_resume()?;
        stage.pause(Duration::from_secs(3))?;
        stage.end(cut)?;
        stage.heal()?;
        stage.demand_epochs(epoch, 1..=1)?;
    }
    Ok(())
}

/// The link that is down changes again and again: every host always sees one other at least. A standby that is just
/// back is not yet in the rule when the other one goes, so the primary may have to change, but not at every turn.
pub(super) fn ring(stage: &mut Stage) -> Told {
    let epoch = stage.epoch()?;
    let nodes: Vec<u64> = stage.world.cluster.nodes.iter().map(|node| node.id).collect();
    stage.note("majorities ring", "every link by turns", true);
    for turn in 0..6 {
        let (a, b) = (nodes[turn % nodes.len()], nodes[(turn + 1) % nodes.len()]);
        let cut = stage.begin(Fault::Partition(ends(&[a]), ends(&[b])))?;
        stage.pause(Duration::from_secs(4))?;
        stage.writes_go_on(20)?;
        stage.end(cut)?;
    }
    stage.heal()?;
    // A rule that is formed anew raises the epoch as well, with the primary where it was.
    let changes = stage.changes_of_primary();
    stage.demand(changes <= 3, format!("the primary changed {changes} times in six turns"))?;
    stage.demand_epochs(epoch, 0..=6)
}

/// The primary's link to everybody comes and goes.
pub(super) fn flapping(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let others = ends(&stage.others(primary));
    let flap = stage.begin(Fault::Flapping(ends(&[primary]), others, Duration::from_millis(700)))?;
    stage.pause(Duration::from_secs(20))?;
    stage.end(flap)?;
    stage.heal()?;
    stage.writes_go_on(50)?;
    stage.demand_epochs(epoch, 0..=3)
}

/// Frames are late, lost, doubled and out of order on every link: commits take longer, and that is all.
pub(super) fn weather(stage: &mut Stage) -> Told {
    let epoch = stage.epoch()?;
    let ms = Duration::from_millis;
    let nodes: Vec<u64> = stage.world.cluster.nodes.iter().map(|node| node.id).collect();
    let weather = Weather { delay: ms(20), jitter: ms(20), loss: 2, duplicate: 5 };
    for id in &nodes {
        stage.begin(Fault::Weather(*id, weather))?;
    }
    let length = stage.length(Duration::from_secs(30));
    stage.pause(length)?;
    stage.writes_go_on(20)?;
    stage.heal()?;
    stage.demand_epochs(epoch, 0..=0)
}

/// Nearly a third of all frames between any two hosts are lost: more than a lease of seconds can bridge each time, so
/// the primary may change, but nothing may be lost, and it heals.
pub(super) fn loss(stage: &mut Stage) -> Told {
    let epoch = stage.epoch()?;
    let length = stage.length(Duration::from_secs(30));
    stage.begin(Fault::Loss(30))?;
    stage.pause(length)?;
    stage.heal()?;
    stage.writes_go_on(50)?;
    let rose = stage.epoch()? - epoch;
    stage.say(format!("the primary changed {rose} times in {} s", length.as_secs()));
    Ok(())
}
