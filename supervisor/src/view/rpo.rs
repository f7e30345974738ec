//! Whether an acknowledged commit could be lost at this moment, and whether commits go through.

use super::{RpoDocument, member::newest_primary};
use pgvigil_core::{cluster::ClusterState, observation::Observations, rpo::doubts_now, time::Time};

pub(super) fn rpo_document(state: &ClusterState, seen: &Observations, now: Time, from_leader: bool) -> RpoDocument {
    let why_not = doubts_now(state, seen, now, from_leader);
    let not_writable = why_not_writable(state, seen, now, from_leader);
    RpoDocument { zero: why_not.is_empty(), why_not, writable: not_writable.is_empty(), not_writable }
}

fn why_not_writable(state: &ClusterState, seen: &Observations, now: Time, from_leader: bool) -> Vec<String> {
    let Some(reign) = state.reign() else { return vec!["there is no primary yet".to_owned()] };
    if state.election.is_some() {
        return vec!["a change of primary is under way".to_owned()];
    }
    if !reign.open {
        return vec![format!("{} is not open to clients yet", reign.primary.member)];
    }
    if !from_leader {
        return vec!["this node is not the leader and cannot say".to_owned()];
    }
    let member = &reign.primary.member;
    let Some(primary) = newest_primary(state, seen) else {
        return vec![format!("{member} does not run as the primary")];
    };
    let mut why = Vec::new();
    if seen.fresh(member, now, state.settings.suspect_ms).is_none() {
        why.push(format!("{member} has been silent for {} ms", seen.silence(member, now)));
    }
    if !primary.door_open {
        why.push(format!("{member}'s door is closed to clients"));
    }
    if primary.right_ms == 0 {
        why.push(format!("{member} has no right to serve"));
    }
    if let Some(rule) = state.newest_rule().filter(|rule| rule.setting.cohort.len() < rule.setting.k as usize) {
        let have = rule.setting.cohort.len();
        why.push(format!("commits wait: {} standbys must confirm, {have} can", rule.setting.k));
    }
    let canary = &primary.canary;
    if canary.waiting_ms > state.settings.lease_ms.max(2 * state.settings.canary_ms) {
        why.push(format!("the canary's commit has been waiting for {} ms", canary.waiting_ms));
    }
    why
}
