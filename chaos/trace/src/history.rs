//! The one agreed log that all nodes must share, and the state after each of its entries, made by the shipped `apply`.

use crate::past::{Entry, Past};
use pgvigil_core::{
    Outcome, State, apply,
    cluster::ClusterState,
    id::{ClusterId, Revision},
    invariant,
};
use std::{collections::BTreeMap, sync::Arc};

/// What came of replaying the log.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The log, with where each entry was read first.
    pub(crate) entries: BTreeMap<u64, (Entry, String)>,
    /// Every agreed state of every cluster.
    pub(crate) states: BTreeMap<(ClusterId, Revision), Arc<ClusterState>>,
    /// The whole state after the last entry, and after those that a node ends or begins at.
    pub(crate) after: BTreeMap<u64, State>,
    /// Entries that changed something.
    pub(crate) agreed: u64,
    /// Entries that the rules refused.
    pub(crate) refused: u64,
}

/// Merges the applied parts of all logs; entries beyond what a node has applied may still be overwritten.
pub(crate) fn merge(pasts: &[Past], findings: &mut Vec<String>) -> History {
    let mut history = History::default();
    for past in pasts {
        let upto = past.applied.as_ref().map_or(0, |(index, _)| *index);
        let from = past.base.as_ref().map_or(0, |(index, _)| *index);
        let (mut expected, mut term) = (None, 0);
        for (index, entry) in &past.entries {
            if expected.is_some_and(|expected| expected != *index) {
                findings.push(format!("{}: entry {index} where {expected:?} is expected", past.name));
            }
            if entry.term < term {
                findings.push(format!("{}: entry {index} is of term {}, after term {term}", past.name, entry.term));
            }
            (expected, term) = (Some(index + 1), entry.term);
            if *index > upto {
                continue;
            }
            match history.entries.get(index) {
                Some((known, by)) if known != entry => findings.push(format!(
                    "{} and {by} hold different entries {index}: {} and {}",
                    past.name,
                    words(entry),
                    words(known)
                )),
                Some(_) => {}
                None => {
                    history.entries.insert(*index, (entry.clone(), past.name.clone()));
                }
            }
        }
        let complete = expected.is_none_or(|next| next > upto)
            && past.entries.keys().next().is_none_or(|first| *first <= from + 1);
        if upto > from && (past.entries.is_empty() || !complete) {
            findings.push(format!("{}: it has applied entries {from} to {upto}, but tells fewer", past.name));
        }
    }
    history
}

/// Replays the log from the oldest base, checking the rules of the core after every entry (S2, S4).
pub(crate) fn replay(pasts: &[Past], history: &mut History, findings: &mut Vec<String>) {
    let bases = pasts.iter().filter(|past| past.applied.is_some());
    let begin = bases.map(|past| past.base.clone().unwrap_or_default()).min_by_key(|(index, _)| *index);
    let Some((mut at, mut state)) = begin else { return };
    let wanted = |index: u64| {
        pasts.iter().any(|past| {
            let of = |known: &Option<(u64, State)>| known.as_ref().is_some_and(|(known, _)| *known == index);
            of(&past.base) || of(&past.applied)
        })
    };
    keep(history, &state);
    history.after.insert(at, state.clone());
    let entries: Vec<(u64, Entry)> = history.entries.range(at..).map(|(i, (e, _))| (*i, e.clone())).collect();
    for (index, entry) in entries {
        // The first entry of a group, number 0, is its membership.
        if index > at + 1 {
            findings.push(format!("the log has a gap between entries {at} and {index}"));
            return;
        }
        if index <= at && at > 0 {
            continue;
        }
        at = index;
        if let Some(proposal) = &entry.proposal {
            let before = state.clone();
            let outcome = apply(&mut state, proposal);
            step(history, findings, index, &proposal.cluster, &before, &state, &outcome);
        }
        if wanted(index) {
            history.after.insert(index, state.clone());
        }
    }
    history.after.insert(at, state);
}

/// One entry was applied.
fn step(
    history: &mut History,
    findings: &mut Vec<String>,
    index: u64,
    cluster: &ClusterId,
    before: &State,
    after: &State,
    outcome: &Outcome,
) {
    match outcome {
        Outcome::Agreed { revision } => {
            history.agreed += 1;
            let old = before.clusters.get(cluster).map(|c| c.revision);
            // A store is remembered for the group, not for a cluster.
            let of_group = before.stores != after.stores && before.clusters == after.clusters;
            if !of_group && old.is_some_and(|old| old.next() != *revision) {
                findings.push(format!("entry {index} leads from revision {old:?} to {revision} (S4)"));
            }
            keep(history, after);
        }
        Outcome::Refused(_) => {
            history.refused += 1;
            if before != after {
                findings.push(format!("entry {index} was refused and changed the state (S4)"));
            }
        }
        Outcome::Nothing => {}
    }
    if let Some(Err(broken)) = after.clusters.get(cluster).map(invariant::check) {
        findings.push(format!("after entry {index}: {broken}"));
    }
}

fn keep(history: &mut History, state: &State) {
    for (id, cluster) in &state.clusters {
        let key = (id.clone(), cluster.revision);
        history.states.entry(key).or_insert_with(|| Arc::new(cluster.clone()));
    }
}

fn words(entry: &Entry) -> String {
    let what = entry.proposal.as_ref().map_or_else(|| "Raft's own".to_owned(), |proposal| proposal.to_string());
    format!("{what} (term {})", entry.term)
}
