//! Where the Raft leader should sit: off the primary's host, so that losing that host costs no election.

use crate::{
    cluster::State,
    id::{ClusterId, NodeId},
    observation::Observations,
    report::PostgresReport,
    time::Time,
};
use std::collections::{BTreeMap, BTreeSet};

/// The voter to which the leader `me` should hand over, if any. Only in quiet times: while anything is under way the
/// leader that knows it stays. Losing or moving the Raft leader never moves the primary.
#[must_use]
pub fn better_leader(
    state: &State,
    seen: &BTreeMap<ClusterId, Observations>,
    me: NodeId,
    caught_up: &BTreeSet<NodeId>,
    now: Time,
) -> Option<NodeId> {
    let mut crowded = BTreeMap::<NodeId, usize>::new();
    let mut wish = false;
    for (id, cluster) in &state.clusters {
        let reign = cluster.reign_in_force()?;
        if !reign.open || !reign.complete || cluster.request.is_some() || cluster.change.is_some() {
            return None;
        }
        let primary = cluster.members.get(&reign.primary.member)?.spec.node;
        *crowded.entry(primary).or_default() += 1;
        wish |= cluster.settings.leader_away_from_primary && primary == me;
        let observations = seen.get(id)?;
        let report = observations.fresh(&reign.primary.member, now, cluster.settings.suspect_ms)?;
        if !matches!(report.postgres, PostgresReport::Primary(_)) {
            return None;
        }
    }
    if !wish {
        return None;
    }
    caught_up
        .iter()
        .copied()
        .filter(|node| *node != me && !crowded.contains_key(node))
        .find(|node| lives(state, seen, *node, now))
}

/// Its own agent, where it has one, was heard lately.
fn lives(state: &State, seen: &BTreeMap<ClusterId, Observations>, node: NodeId, now: Time) -> bool {
    state.clusters.iter().all(|(id, cluster)| {
        cluster.members.values().filter(|member| member.spec.node == node).all(|member| {
            seen.get(id).is_some_and(|o| o.fresh(&member.spec.member, now, cluster.settings.suspect_ms).is_some())
        })
    })
}
