//! An active probe of the primary's port, made by a standby when the WAL stops coming: a postmaster that lives answers
//! a request for encryption with one byte, before any login; a frozen one accepts the connection and says nothing.

use super::{Event, Tasks};
use crate::ports::Wake;
use pgvigil_core::{local::LocalPostgres, member::MemberSpec, pace, report::Probe};

/// Between two looks while nothing agreed is known, in milliseconds.
const FIRST_MS: u64 = 250;
/// So much later than two canaries WAL has to be for a probe, in milliseconds.
const LATE_MS: u64 = 50;

/// The way to other members' ports.
#[expect(async_fn_in_trait, reason = "as for the ports of acts")]
pub trait Prober {
    /// Probes the postmaster of a member: whether it answered, and in words.
    async fn probe(&self, of: &MemberSpec) -> (bool, String);
}

/// The task.
pub async fn run<M: Tasks>(m: &M, prober: impl Prober) {
    loop {
        let pause = m.agreed().map_or(FIRST_MS, |agreed| agreed.settings.heartbeat_ms);
        m.until(m.after(pause)).await;
        let Some(spec) = target(m) else {
            m.known().probe = None;
            continue;
        };
        let (answered, detail) = prober.probe(&spec).await;
        let ended = m.now();
        m.happens(Event::Probed(answered));
        m.known().probe = Some((Probe { member: spec.member, answered, age_ms: 0, detail }, ended));
        if !answered {
            m.wake(Wake::Report);
        }
    }
}

/// Whom to probe: the primary, when its WAL has not come for two canaries and a bit.
fn target<M: Tasks>(m: &M) -> Option<MemberSpec> {
    let agreed = m.agreed()?;
    let reign = agreed.reign()?;
    if reign.primary.member == *m.me() {
        return None;
    }
    let now = m.now();
    let quiet = {
        let known = m.known();
        let LocalPostgres::Running(running) = &known.local.postgres else { return None };
        let quiet_ms = now.since(running.wal_moved_at);
        // Where the canary rests, no WAL comes for hours: then it is worth a look only once the leader misses the agent.
        let resting = quiet_ms > pace::ALONE_MS && known.leader.primary_late.is_some_and(|(late, _)| !late);
        !running.streaming || (quiet_ms > 2 * agreed.settings.canary_ms + LATE_MS && !resting)
    };
    let member = agreed.members.get(&reign.primary.member)?;
    quiet.then(|| member.spec.clone())
}
