//! An active probe of the primary's port, made by a standby when the WAL stops coming.

use super::shared::Ctx;
use crate::world::World;
use pgvigil_core::{local::LocalPostgres, report::Probe};

const ANSWER_MS: u64 = 400;

/// The task.
pub async fn run(c: Ctx) {
    loop {
        let pause = c.agreed().map_or(250, |agreed| agreed.settings.heartbeat_ms);
        c.w.sleep(c.h, pause).await;
        let Some((member, target)) = target(&c) else {
            c.a.inner.borrow_mut().probe = None;
            continue;
        };
        let answered = probe(&c, target).await;
        let ended = c.now();
        let detail = if answered { "a postmaster answered" } else { "no answer" }.to_owned();
        c.w.cover.hit("probe", if answered { "answered" } else { "unanswered" });
        c.a.inner.borrow_mut().probe = Some((Probe { member, answered, age_ms: 0, detail }, ended));
        if !answered {
            c.wake_report();
        }
    }
}

fn target(c: &Ctx) -> Option<(pgvigil_core::id::MemberId, usize)> {
    let agreed = c.agreed()?;
    let reign = agreed.reign()?;
    let inner = c.a.inner.borrow();
    if reign.primary.member == inner.local.me {
        return None;
    }
    let LocalPostgres::Running(running) = &inner.local.postgres else { return None };
    let quiet = !running.streaming || c.w.now(c.h).since(running.wal_moved_at) > 2 * agreed.settings.canary_ms + 50;
    let target = c.w.host_of(&reign.primary.member)?;
    quiet.then(|| (reign.primary.member.clone(), target))
}

async fn probe(c: &Ctx, target: usize) -> bool {
    if !c.w.reaches_both(c.h, target) {
        // No route is an error or a time-out.
        let wait = c.w.rng.range(1, ANSWER_MS);
        c.w.sleep(c.h, wait).await;
        return false;
    }
    let trip = c.w.latency(c.h, target) + c.w.latency(target, c.h);
    c.w.pause(trip, trip + 500).await;
    if !c.w.server_runs(target) {
        return false;
    }
    if c.w.exec.is_frozen(World::postgres_process(target)) {
        c.w.sleep(c.h, ANSWER_MS).await;
        return false;
    }
    c.w.reaches_both(c.h, target)
}
