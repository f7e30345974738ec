//! Disks that stall, fail and fill up; clocks that jump.

use std::time::Duration;

use super::{Stage, Told};
use crate::fault::Fault;

/// Every write to the primary's disk waits. The canary sees it; the host, when its disk goes on, must do no harm.
pub(super) fn stall(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let stalled = stage.begin(Fault::DiskStall(primary))?;
    stage.writes_resume()?;
    let elsewhere = stage.now();
    stage.pause(Duration::from_secs(4))?;
    stage.end(stalled)?;
    stage.pause(Duration::from_secs(3))?;
    let until = stage.now();
    let late = stage.acknowledged_by(primary, elsewhere, until)?;
    stage.demand(late == 0, format!("the stalled primary acknowledged {late} writes after another had served"))?;
    stage.heal()?;
    stage.demand_epochs(epoch, 1..=1)
}

/// fsync fails on the primary's WAL, then on a Raft log.
pub(super) fn sync_error(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let failing = stage.begin(Fault::SyncError(primary, "/pg_wal/"))?;
    stage.writes_resume()?;
    let failed = stage.world.control(primary, "a failing fsync")?.failed_syncs()?;
    stage.demand(failed > 0, "no fsync failed: nothing was tried")?;
    stage.end(failing)?;
    stage.heal()?;
    stage.demand_epochs(epoch, 1..=1)?;

    let leader = stage.leader()?;
    let before = stage.world.control(leader, "a failing fsync")?.failed_syncs()?;
    let failing = stage.begin(Fault::SyncError(leader, "/raft/"))?;
    // Something that must be agreed, and therefore flushed.
    stage.until("a setting to be agreed without that disk", super::stage::LIMIT, |stage| {
        let changed = stage.world.cluster.run(&["settings", "set", "suspect_ms=1100"])?;
        Ok(changed.status.success().then_some(()))
    })?;
    let failed = stage.world.control(leader, "a failing fsync")?.failed_syncs()?;
    stage.demand(failed > before, "no fsync of the Raft log failed: nothing was tried")?;
    stage.writes_go_on(50)?;
    stage.end(failing)?;
    stage.pgvigil(&["settings", "set", "suspect_ms=1000"])?;
    stage.heal().map(drop)
}

/// The primary's disk is full; then nobody can make a file on it.
pub(super) fn full(stage: &mut Stage) -> Told {
    for inodes in [false, true] {
        let (primary, epoch) = (stage.primary()?, stage.epoch()?);
        let fault = if inodes { Fault::NoInodes(primary) } else { Fault::DiskFull(primary) };
        let full = stage.begin(fault)?;
        // Enough to need more WAL than there are segments.
        stage.pause(Duration::from_secs(15))?;
        stage.end(full)?;
        stage.heal()?;
        stage.writes_go_on(50)?;
        stage.demand_epochs(epoch, 0..=1)?;
    }
    Ok(())
}

/// Wall clocks jump by an hour, and to and fro: nothing may follow from it, not even that a failover is slower.
pub(super) fn clock(stage: &mut Stage) -> Told {
    const HOUR: i64 = 3_600_000;
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let others = stage.others(primary);
    let jumps = [Fault::WallClock(primary, HOUR), Fault::WallClock(others[0], -HOUR), Fault::Strobe(others[1], HOUR)];
    for jump in jumps {
        stage.begin(jump)?;
        stage.pause(Duration::from_secs(3))?;
        stage.writes_go_on(20)?;
    }
    stage.end_all()?;
    stage.pause(Duration::from_secs(2))?;
    stage.begin(Fault::Strobe(primary, 5_000))?;
    stage.pause(Duration::from_secs(4))?;
    stage.demand_epochs(epoch, 0..=0)?;
    stage.begin(Fault::WallClock(others[0], HOUR))?;
    stage.begin(Fault::PowerOff(vec![primary]))?;
    stage.writes_resume()?;
    stage.heal()?;
    stage.demand_epochs(epoch, 1..=1)
}

/// All cores have other work: slow is not dead.
pub(super) fn busy(stage: &mut Stage) -> Told {
    let epoch = stage.epoch()?;
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let length = stage.length(Duration::from_secs(30));
    stage.begin(Fault::BusyCores(cores))?;
    stage.pause(length)?;
    stage.writes_go_on(20)?;
    stage.heal()?;
    stage.demand_epochs(epoch, 0..=0)
}
