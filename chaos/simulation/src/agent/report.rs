//! What the agent tells: the shipped report of what it knows.

use super::shared::Ctx;
use crate::world::World;
use pgvigil_agent::report;
use pgvigil_core::report::Report;

/// The report of this moment; `None` until PostgreSQL was looked at once.
#[must_use]
pub fn make(c: &Ctx, seq: u64) -> Option<Report> {
    let (agreed, now) = (c.agreed(), c.now());
    let mut known = c.a.inner.borrow_mut();
    report::make(&mut known, &World::cluster(), &c.w.hosts[c.h].spec, agreed.as_deref(), seq, now)
}
