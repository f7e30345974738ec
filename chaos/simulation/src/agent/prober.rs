//! The way to other members' ports.

use super::shared::Ctx;
use crate::world::World;
use pgvigil_agent::tasks::prober::Prober;
use pgvigil_core::member::MemberSpec;

const ANSWER_MS: u64 = 400;

impl Prober for Ctx {
    async fn probe(&self, of: &MemberSpec) -> (bool, String) {
        let answered = match self.w.host_of(&of.member) {
            Some(target) => probe(self, target).await,
            None => false,
        };
        (answered, if answered { "a postmaster answered" } else { "no answer" }.to_owned())
    }
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
