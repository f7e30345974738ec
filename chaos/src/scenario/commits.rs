//! Commits that nobody has confirmed, and standbys that are not where the primary is.

use std::time::Duration;

use super::{Stage, Told};
use crate::fault::{Fault, Part, pids};
use crate::history::Outcome;
use crate::host::{End, Service};

fn ends(nodes: &[u64]) -> Vec<End> {
    nodes.iter().map(|id| End::Host(*id)).collect()
}

/// Clients cancel commits that wait while no standby can be reached; then the primary dies. Such commits are locally
/// there and may be lost: no client may have been told that they are safe.
pub(super) fn cancelled(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let standbys = stage.others(primary);
    let cut = stage.begin(Fault::ServiceCut(Service::Postgres, ends(&[primary]), ends(&standbys)))?;
    stage.pause(Duration::from_secs(1))?;
    let since = stage.now();
    stage.begin(Fault::CancelWaits(primary))?;
    stage.pause(Duration::from_secs(4))?;
    let warned = stage.count(|op| op.outcome == Outcome::Unknown && op.ended >= since);
    stage.demand(warned > 0, "no commit was cancelled while it waited: nothing was tried")?;
    stage.begin(Fault::PowerOff(vec![primary]))?;
    stage.end(cut)?;
    stage.writes_resume()?;
    stage.heal()?;
    stage.demand_epochs(epoch, 1..=2)
}

/// The primary crashes and is restarted in place with commits that no standby has: clients stay out until a standby
/// has them, or another takes over.
pub(super) fn restart_in_place(stage: &mut Stage) -> Told {
    stage.pgvigil(&["settings", "set", "crash_policy=restart"])?;
    let primary = stage.primary()?;
    let standbys = stage.others(primary);
    let cut = stage.begin(Fault::ServiceCut(Service::Postgres, ends(&[primary]), ends(&standbys)))?;
    // What clients send now is written and waits.
    stage.pause(Duration::from_secs(1))?;
    stage.begin(Fault::Kill(Part::Postmaster, primary))?;
    let since = stage.now();
    stage.pause(Duration::from_secs(6))?;
    let until = stage.now();
    let alone = stage.acknowledged_by(primary, since, until)?;
    stage.demand(alone == 0, format!("the restarted primary acknowledged {alone} writes that no standby can have"))?;
    stage.end(cut)?;
    // Over whatever connections: another may have taken over already.
    stage.writes_go_on(20)?;
    stage.heal()?;
    stage.pgvigil(&["settings", "set", "crash_policy=failover"]).map(drop)
}

/// One standby has fallen behind when the primary dies: the other must take over.
pub(super) fn lagging(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let standbys = stage.others(primary);
    stage.begin(Fault::ServiceCut(Service::Postgres, ends(&[primary]), ends(&standbys[..1])))?;
    stage.pause(Duration::from_secs(8))?;
    stage.writes_go_on(200)?;
    stage.begin(Fault::PowerOff(vec![primary]))?;
    stage.writes_resume()?;
    let heir = stage.primary()?;
    stage.demand(heir == standbys[1], format!("host {heir} took over, which had fallen behind"))?;
    stage.heal()?;
    stage.demand_epochs(epoch, 1..=1)
}

/// Replay is paused on both standbys when the primary dies: promotion must not wait for anybody to resume it.
pub(super) fn replay_paused(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    for standby in stage.others(primary) {
        stage.begin(Fault::ReplayPaused(standby))?;
    }
    stage.writes_go_on(200)?;
    stage.begin(Fault::Kill(Part::Postmaster, primary))?;
    stage.writes_resume()?;
    stage.heal()?;
    stage.demand_epochs(epoch, 1..=1)
}

/// The one that is to take over dies as well, at ever later moments of taking over.
pub(super) fn candidate(stage: &mut Stage) -> Told {
    for after in [20, 60, 100, 150, 220, 320] {
        let primary = stage.primary()?;
        stage.begin(Fault::Kill(Part::Postmaster, primary))?;
        stage.pause(Duration::from_millis(after))?;
        // Whoever is appointed by now, or else the first that could be.
        let heir = stage.status().ok().map(|status| status.primary).unwrap_or_default();
        let heir = stage.world.cluster.node_of(&heir).map_or(primary, |node| node.id);
        let heir = if heir == primary { stage.others(primary)[0] } else { heir };
        let dir = stage.world.cluster.node(heir)?.dir.clone();
        if !pids(&dir, Part::Postmaster).is_empty() {
            stage.begin(Fault::Kill(Part::Postmaster, heir))?;
        }
        stage.writes_resume()?;
        stage.heal()?;
    }
    Ok(())
}
