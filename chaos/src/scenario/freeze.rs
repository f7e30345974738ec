//! Processes that stop for a while and go on later, as if nothing had been.

use std::time::Duration;

use super::{Stage, Told};
use crate::fault::{Fault, Part};

/// All of PostgreSQL on the primary is stopped, and wakes when another serves. It must acknowledge nothing then.
pub(super) fn postgres(stage: &mut Stage) -> Told {
    sleep(stage, Part::Postgres, Duration::from_secs(3))
}

/// pgvigil alone is stopped on the primary: the guard must end PostgreSQL.
pub(super) fn agent(stage: &mut Stage) -> Told {
    sleep(stage, Part::Agent, Duration::from_secs(5))
}

/// The whole host is stopped for a long while.
pub(super) fn host(stage: &mut Stage) -> Told {
    sleep(stage, Part::Host, Duration::from_secs(15))
}

fn sleep(stage: &mut Stage, part: Part, long: Duration) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let frozen = stage.begin(Fault::Freeze(part, primary))?;
    stage.writes_resume()?;
    let elsewhere = stage.now();
    stage.pause(long)?;
    stage.end(frozen)?;
    // Long enough for every statement that it still holds to be answered.
    stage.pause(Duration::from_secs(4))?;
    let until = stage.now();
    let late = stage.acknowledged_by(primary, elsewhere, until)?;
    stage.demand(late == 0, format!("the old primary acknowledged {late} writes after another had served"))?;
    stage.heal()?;
    stage.demand_epochs(epoch, 1..=1)
}
