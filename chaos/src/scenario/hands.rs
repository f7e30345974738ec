//! What people do to PostgreSQL itself, past pgvigil.

use std::time::Duration;

use super::stage::LIMIT;
use super::{Stage, Told};
use crate::fault::{Fault, Part};
use crate::host::End;

/// A standby is promoted by hand: it acknowledges nothing, status says so, it comes back as a standby by itself; and when
/// the primary's host dies later, and the next primary after it, its data are as good as anybody's.
pub(super) fn promoted(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let standby = stage.others(primary)[1];
    let member = stage.world.cluster.node(standby)?.member.clone();
    let since = stage.now();
    stage.begin(Fault::PromotedByHand(standby))?;
    let said = stage.until_status("status to tell of the promotion", |status| {
        status.findings.iter().any(|f| f.contains(&member) && f.contains("promoted by hand"))
    })?;
    stage.demand(said.epoch == epoch, "the primary has changed")?;
    stage.heal()?;
    let until = stage.now();
    let alone = stage.acknowledged_by(standby, since, until)?;
    stage.demand(alone == 0, format!("the standby acknowledged {alone} writes after it was promoted by hand"))?;
    stage.demand_epochs(epoch, 0..=0)?;
    stage.begin(Fault::PowerOff(vec![primary]))?;
    stage.writes_resume()?;
    stage.heal()?;
    let next = stage.primary()?;
    stage.begin(Fault::Kill(Part::Postmaster, next))?;
    stage.writes_resume()?;
    stage.heal()?;
    stage.demand_epochs(epoch, 2..=3)
}

/// The same to one that nobody hears of before the primary fails: the next one is allotted the very number that was taken
/// by hand. The two must never be taken for one.
pub(super) fn promoted_unseen(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let others = stage.others(primary);
    let standby = others[1];
    let away =
        stage.begin(Fault::Partition(vec![End::Host(standby)], vec![End::Host(primary), End::Host(others[0])]))?;
    stage.pause(Duration::from_secs(1))?;
    let since = stage.now();
    stage.begin(Fault::PromotedByHand(standby))?;
    stage.pause(Duration::from_millis(500))?;
    stage.begin(Fault::Kill(Part::Postmaster, primary))?;
    stage.writes_resume()?;
    let until = stage.now();
    let alone = stage.acknowledged_by(standby, since, until)?;
    stage.demand(alone == 0, format!("the standby acknowledged {alone} writes after it was promoted by hand"))?;
    stage.end(away)?;
    let member = stage.world.cluster.node(standby)?.member.clone();
    stage.until_status("the member to stream again", |status| {
        status.member(&member).is_some_and(|member| member.state == "streaming")
    })?;
    stage.writes_go_on(100)?;
    let next = stage.primary()?;
    stage.begin(Fault::PowerOff(vec![next]))?;
    stage.until("another primary", LIMIT, |stage| {
        let status = stage.status()?;
        Ok((status.from_leader && status.primary != stage.world.cluster.node(next)?.member).then_some(()))
    })?;
    stage.writes_resume()?;
    stage.heal()?;
    stage.demand_epochs(epoch, 2..=3)
}
