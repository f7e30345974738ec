//! The fence: on disk, and every process seen gone, then reported. Keeps S3.

use crate::{agent::shared::Ctx, postgres::data::Conf, wait::both};
use pgvigil_core::{keeper::Renewal, lease::Right, local::LocalPostgres, rule::Rule};

/// Fences this member's PostgreSQL. `polite_ms`: it is drained first, for at most that long.
pub async fn now(c: &Ctx, polite_ms: u64, why: &str) {
    let was_dead = matches!(c.a.inner.borrow().local.postgres, LocalPostgres::Stopped { crashed: true });
    c.w.log_host(c.h, || format!("fences ({polite_ms} ms): {why}"));
    c.a.inner.borrow_mut().stopping = true;
    c.step("fence.begun").await;
    // What runs is ended while the disk writes: both are seen done before the fence counts.
    let written = async {
        super::seal_on_disk(c, Conf::sealed()).await;
        c.step("fence.written").await;
    };
    let ended = async {
        let clean = polite_ms > 0 && drain(c, polite_ms).await;
        super::kill(c).await;
        c.step("fence.killed").await;
        clean
    };
    let ((), clean) = both(written, ended).await;
    c.forget_running(was_dead || !clean);
    let mut inner = c.a.inner.borrow_mut();
    inner.local.fence_on_disk = true;
    inner.forget_end();
    inner.local.right = Right::default();
    drop(inner);
    c.renew(Renewal::Revoked);
    c.wake_report();
}

/// Ends the clients and waits until the standbys of the rule have flushed what this server has; `false` when the time
/// is over first.
async fn drain(c: &Ctx, limit_ms: u64) -> bool {
    let deadline = c.now().plus(limit_ms);
    let rule = c.agreed().and_then(|agreed| agreed.newest_rule().cloned());
    let of = |rule: Rule| rule.setting.cohort.iter().map(|key| c.name(key, rule.epoch).as_ref().to_owned()).collect();
    let names: Vec<String> = rule.map(of).unwrap_or_default();
    c.w.pause(1_000, 8_000).await;
    c.w.reload(c.h);
    loop {
        c.w.shut_out(c.h);
        if c.w.is_drained(c.h, &names) {
            return true;
        }
        if c.now() >= deadline {
            return false;
        }
        c.w.pause(1_000, 3_000).await;
    }
}
