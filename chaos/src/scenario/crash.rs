//! Processes that die.

use std::time::Duration;

use super::{Stage, Told};
use crate::fault::{Fault, Part, pids};
use crate::processes;
use nix::sys::signal::Signal;

/// The primary's postmaster is killed; a standby takes over, once.
pub(super) fn postmaster(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    stage.begin(Fault::Kill(Part::Postmaster, primary))?;
    stage.writes_resume()?;
    stage.heal()?;
    stage.demand_epochs(epoch, 1..=1)
}

/// A backend dies of a segmentation fault, under either policy. PostgreSQL must not recover by itself and let clients in.
pub(super) fn backend(stage: &mut Stage) -> Told {
    for policy in ["failover", "restart"] {
        stage.pgvigil(&["settings", "set", &format!("crash_policy={policy}")])?;
        let (primary, epoch) = (stage.primary()?, stage.epoch()?);
        let dir = stage.world.cluster.node(primary)?.dir.clone();
        let old = pids(&dir, Part::Postmaster);
        let victim = stage.until("a backend", super::stage::LIMIT, |_| Ok(pids(&dir, Part::Backend).pop()))?;
        processes::send(victim, Signal::SIGSEGV).map_err(crate::fault::FaultError::from)?;
        stage.note("SIGSEGV of a backend", &format!("host {primary}, policy {policy}"), true);
        stage.writes_resume()?;
        stage.heal()?;
        let hidden = old.iter().any(|pid| pids(&dir, Part::Postmaster).contains(pid));
        stage.demand(!hidden, "the same postmaster recovered by itself and serves again")?;
        stage.demand_epochs(epoch, if policy == "failover" { 1..=1 } else { 0..=1 })?;
    }
    stage.pgvigil(&["settings", "set", "crash_policy=failover"]).map(drop)
}

/// pgvigil alone dies on the primary: first it is started again at once and adopts what runs; then it stays dead, and
/// the guard must end PostgreSQL before another serves.
pub(super) fn agent(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let dir = stage.world.cluster.node(primary)?.dir.clone();
    let running = pids(&dir, Part::Postmaster);
    stage.begin(Fault::Kill(Part::Agent, primary))?;
    stage.writes_go_on(100)?;
    stage.pause(Duration::from_secs(4))?;
    stage.heal()?;
    stage.demand(pids(&dir, Part::Postmaster) == running, "PostgreSQL was restarted with pgvigil")?;
    stage.demand_epochs(epoch, 0..=0)?;

    stage.begin(Fault::AgentGone(primary))?;
    stage.writes_resume()?;
    stage.until("the guard to end PostgreSQL", super::stage::LIMIT, |_| {
        Ok(pids(&dir, Part::Postgres).is_empty().then_some(()))
    })?;
    stage.heal()?;
    stage.demand_epochs(epoch, 1..=1)
}

/// pgvigil and the postmaster die together; no backend of the old one may be left.
pub(super) fn agent_and_postmaster(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let dir = stage.world.cluster.node(primary)?.dir.clone();
    let old = pids(&dir, Part::Postgres);
    stage.begin(Fault::Kill(Part::AgentAndPostmaster, primary))?;
    stage.writes_resume()?;
    stage.heal()?;
    let left: Vec<i32> = pids(&dir, Part::Postgres).into_iter().filter(|pid| old.contains(pid)).collect();
    stage.demand(left.is_empty(), format!("processes of the dead server are still there: {left:?}"))?;
    stage.demand_epochs(epoch, 1..=1)
}
