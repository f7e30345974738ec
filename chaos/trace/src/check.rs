//! The checks: the nodes share one log and make the same of it; decisions and acts are the core's.

use crate::{
    history::{self, History},
    past::{Note, Past},
};
use pgvigil_core::{
    cluster::ClusterState,
    command::{Actor, Command},
    decide,
    id::{ClusterId, MemberId, NodeId, Revision},
    reconcile,
    trace::{Acted, Decided},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What was checked, and what did not hold.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Entries of the log that all share.
    pub entries: u64,
    /// Of these, entries that changed something.
    pub agreed: u64,
    /// Of these, entries that the rules refused.
    pub refused: u64,
    /// States of nodes that were compared with the replayed one.
    pub states: u64,
    /// Decisions that the core was asked for again.
    pub decisions: u64,
    /// Acts that the core was asked for again.
    pub acts: u64,
    /// What did not hold.
    pub findings: Vec<String>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entries, agreed, refused, states, decisions, acts, findings } = self;
        write!(
            f,
            "{entries} entries ({agreed} agreed, {refused} refused), {states} states of nodes, {decisions} decisions and {acts} \
             acts checked: "
        )?;
        if findings.is_empty() {
            return f.write_str("every step was allowed");
        }
        write!(f, "{} findings", findings.len())?;
        findings.iter().try_for_each(|finding| write!(f, "\n  {finding}"))
    }
}

/// Checks what nodes of one group tell of their past.
#[must_use]
pub fn check(pasts: &[Past]) -> Verdict {
    let mut findings: Vec<String> =
        pasts.iter().flat_map(|past| past.odd.iter().map(|odd| format!("{}: {odd}", past.name))).collect();
    let mut history = history::merge(pasts, &mut findings);
    history::replay(pasts, &mut history, &mut findings);
    let mut verdict = Verdict {
        entries: history.entries.len() as u64,
        agreed: history.agreed,
        refused: history.refused,
        ..Verdict::default()
    };
    for past in pasts {
        verdict.states += states(past, &history, &mut findings);
    }
    let decided = decisions(pasts, &history, &mut findings);
    verdict.decisions = decided.values().map(|of| of.len() as u64).sum();
    agreed_was_decided(&history, &decided, &mut findings);
    for past in pasts {
        verdict.acts += acts(past, &history, &mut findings);
    }
    verdict.findings = findings;
    verdict
}

/// What a node made of the log is what the shipped `apply` makes of it.
fn states(past: &Past, history: &History, findings: &mut Vec<String>) -> u64 {
    let mut compared = 0;
    for (what, known) in [("begins", &past.base), ("ends", &past.applied)] {
        let Some((index, state)) = known else { continue };
        let Some(replayed) = history.after.get(index) else { continue };
        compared += 1;
        if state != replayed {
            findings.push(format!(
                "{} {what} at entry {index} with another state than the log makes: {}",
                past.name,
                difference(state, replayed)
            ));
        }
    }
    compared
}

/// Where two states first differ, as text.
fn difference(theirs: &pgvigil_core::State, ours: &pgvigil_core::State) -> String {
    let (theirs, ours) = (format!("{theirs:?}"), format!("{ours:?}"));
    let at = theirs.chars().zip(ours.chars()).take_while(|(a, b)| a == b).count();
    let part = |text: &str| text.chars().skip(at.saturating_sub(40)).take(80).collect::<String>();
    format!("…{}… where …{}… is right", part(&theirs), part(&ours))
}

/// What each leader decided: by node, from which state what.
type DecidedBy = BTreeMap<NodeId, Vec<(ClusterId, Revision, Command)>>;

/// Asks the shipped `decide` again.
fn decisions(pasts: &[Past], history: &History, findings: &mut Vec<String>) -> DecidedBy {
    let mut decided = DecidedBy::new();
    for past in pasts {
        for note in &past.notes {
            match note {
                Note::Began(node) => {
                    decided.entry(*node).or_default();
                }
                Note::Decided(of) => {
                    decided.entry(of.node).or_default().push((of.cluster.clone(), of.revision, of.command.clone()));
                    again(&past.name, of, history, findings);
                }
                Note::Acted(_) => {}
            }
        }
    }
    decided
}

fn again(name: &str, of: &Decided, history: &History, findings: &mut Vec<String>) {
    let what = format!("{name}: node {} decided {} from revision {}", of.node, of.command.name(), of.revision);
    let Some(state) = state_at(history, &of.cluster, of.revision, findings, &what) else { return };
    let wanted = decide::decide(state, &of.seen, of.now).command.map(|wanted| wanted.command);
    if wanted.as_ref() != Some(&of.command) {
        findings.push(format!("{what}, but the core decides {wanted:?} and not {:?}", of.command));
    }
}

/// Every entry that a controller proposed was decided, where that node's journal tells.
fn agreed_was_decided(history: &History, decided: &DecidedBy, findings: &mut Vec<String>) {
    for (index, (entry, _)) in &history.entries {
        let Some(proposal) = &entry.proposal else { continue };
        let (Actor::Controller(node), Some(based_on)) = (&proposal.by, proposal.based_on) else { continue };
        let Some(known) = decided.get(node) else { continue };
        let was = known.iter().any(|(cluster, revision, command)| {
            *cluster == proposal.cluster && *revision == based_on && *command == proposal.command
        });
        if !was {
            findings.push(format!(
                "entry {index}: node {node} never decided {} from revision {based_on}",
                proposal.command.name()
            ));
        }
    }
}

/// Asks the shipped `reconcile` again; and no agent goes back to an older state while its process lives (S5).
fn acts(past: &Past, history: &History, findings: &mut Vec<String>) -> u64 {
    let mut acts = 0;
    let mut known: BTreeMap<MemberId, Revision> = BTreeMap::new();
    let mut unknown = BTreeSet::new();
    for note in &past.notes {
        let of = match note {
            // A file tells of one process, or of all of a simulated cluster: what was known before may be forgotten.
            Note::Began(_) => {
                known.clear();
                continue;
            }
            Note::Decided(_) => continue,
            Note::Acted(of) => of,
        };
        acts += 1;
        act_again(&past.name, of, history, &mut unknown, findings);
        let newest = known.entry(of.member.clone()).or_insert(of.revision);
        if of.revision < *newest {
            findings.push(format!(
                "{}: {} acted from revision {}, after it knew {newest} (S5)",
                past.name, of.member, of.revision
            ));
        }
        *newest = (*newest).max(of.revision);
    }
    acts
}

fn act_again(name: &str, of: &Acted, history: &History, unknown: &mut BTreeSet<Revision>, findings: &mut Vec<String>) {
    let what = format!("{name}: {} acted from revision {}", of.member, of.revision);
    if !history.states.contains_key(&(of.cluster.clone(), of.revision)) && !unknown.insert(of.revision) {
        return;
    }
    let Some(state) = state_at(history, &of.cluster, of.revision, findings, &what) else { return };
    let plan = reconcile::reconcile(state, &of.local, of.now);
    if plan.action.as_ref() != Some(&of.action) {
        findings.push(format!("{what}, but the core wants {:?} and not {:?}", plan.action, of.action));
    }
}

/// The agreed state of that revision. One that the log never made was not agreed (S5), unless it is older than the log.
fn state_at<'a>(
    history: &'a History,
    cluster: &ClusterId,
    revision: Revision,
    findings: &mut Vec<String>,
    what: &str,
) -> Option<&'a ClusterState> {
    let known = history.states.get(&(cluster.clone(), revision));
    let oldest = history.states.keys().find(|(id, _)| id == cluster).map(|(_, oldest)| *oldest);
    if known.is_none() && oldest.is_some_and(|oldest| revision >= oldest) {
        findings.push(format!("{what}, which was never agreed (S5)"));
    }
    known.map(AsRef::as_ref)
}
