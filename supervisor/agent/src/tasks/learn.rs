//! Takes in agreed state, from whoever has it. Keeps S5.

use super::Tasks;
use crate::ports::Wake;
use pgvigil_core::cluster::ClusterState;
use std::sync::Arc;

/// What this process has applied itself, where it is a voter.
#[expect(async_fn_in_trait, reason = "as for the ports of acts")]
pub trait Applied {
    /// Waits for the next agreed state of this cluster; `None`: the node ends.
    async fn next(&mut self) -> Option<Arc<ClusterState>>;
}

/// The shorter way for a voter: its own applied state is agreed too.
pub async fn run<M: Tasks>(m: &M, mut applied: impl Applied) {
    while let Some(state) = applied.next().await {
        learn(m, &state);
    }
}

/// Takes in `state`, unless it is older than what is held.
pub fn learn<M: Tasks>(m: &M, state: &Arc<ClusterState>) {
    let Ok(before) = m.hold(state) else { return };
    let spec = m.spec();
    let named = state.members.get(&spec.member).is_some_and(|member| member.spec.node == spec.node);
    let now = m.now();
    let (election, forgotten) = {
        let mut known = m.known();
        known.was_member |= named;
        (known.note_election(before.as_deref(), state, now), known.unproven.forget_agreed(state))
    };
    if forgotten {
        m.evidence_forgotten();
    }
    if election {
        m.wake(Wake::Look);
    }
    m.wake(Wake::Worker);
}
