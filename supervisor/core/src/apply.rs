//! `apply`: the replicated state machine. Total and deterministic: it refuses, it never panics.
//!
//! It is also the last guard: whatever a leader believed, an entry that would break S1, S2 or S4 is refused here, on
//! every member alike, by the state as agreed up to that entry.

mod election;
mod evidence;
mod members;
mod requests;
mod rules;
mod seen;

pub use seen::NUMBERS_MAX;

use crate::{
    cluster::{ClusterState, FORMAT, REIGNS_MAX, State},
    command::{Command, Outcome, Proposal, Refusal, RefusalCode},
    id::{NodeId, Revision},
    incident::INCIDENTS_MAX,
};

pub(crate) type Applied = Result<(), Refusal>;

pub(crate) fn refuse<T>(code: RefusalCode, text: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, text: text.into() })
}

/// Applies one committed proposal to the agreed state.
///
/// A refused proposal changes nothing; an agreed one raises the cluster's revision by one. Keeps S4.
pub fn apply(state: &mut State, proposal: &Proposal) -> Outcome {
    match try_apply(state, proposal) {
        Ok(revision) => Outcome::Agreed { revision },
        Err(refusal) => Outcome::Refused(refusal),
    }
}

fn try_apply(state: &mut State, proposal: &Proposal) -> Result<Revision, Refusal> {
    if state.format > FORMAT {
        return refuse(
            RefusalCode::NewerFormat,
            format!("the agreed state has format {}, this build understands up to {FORMAT}", state.format),
        );
    }
    if let Command::CreateCluster { settings, expect } = &proposal.command {
        if state.clusters.contains_key(&proposal.cluster) {
            return refuse(RefusalCode::Exists, format!("cluster {} exists already", proposal.cluster));
        }
        validate_settings(settings)?;
        let cluster = ClusterState::new(proposal.cluster.clone(), settings.clone(), expect.clone());
        state.clusters.insert(proposal.cluster.clone(), cluster);
        return Ok(Revision(0));
    }
    if let Command::RememberStore { node, store } = proposal.command {
        return remember(state, node, store);
    }
    let Some(cluster) = state.clusters.get_mut(&proposal.cluster) else {
        return refuse(RefusalCode::UnknownCluster, format!("no cluster is named {}", proposal.cluster));
    };
    if proposal.based_on.is_some_and(|revision| revision != cluster.revision) {
        return refuse(
            RefusalCode::Stale,
            format!("decided from revision {:?}, but the state is at {}", proposal.based_on, cluster.revision),
        );
    }
    let mut next = cluster.clone();
    apply_to(&mut next, proposal)?;
    next.revision = cluster.revision.next();
    next.mark_used();
    evidence::settle(&mut next, &proposal.command);
    trim(&mut next);
    let revision = next.revision;
    *cluster = next;
    Ok(revision)
}

fn remember(state: &mut State, node: NodeId, store: u64) -> Result<Revision, Refusal> {
    match state.stores.get(&node) {
        Some(known) if *known == store => refuse(RefusalCode::Exists, format!("the store of node {node} is known")),
        Some(known) => refuse(
            RefusalCode::NameTaken,
            format!(
                "node {node} was used with Raft store {known:016x}, and {store:016x} is another one: what the first one \
                 promised still counts. Give the node an id that was never used"
            ),
        ),
        None => {
            state.stores.insert(node, store);
            Ok(Revision(0))
        }
    }
}

fn apply_to(cluster: &mut ClusterState, proposal: &Proposal) -> Applied {
    match &proposal.command {
        Command::CreateCluster { .. } => refuse(RefusalCode::Exists, "the cluster exists already"),
        Command::RememberStore { .. } => refuse(RefusalCode::BadValue, "a store is of the group, not of a cluster"),
        Command::RegisterMember { spec } => members::register(cluster, spec),
        Command::NewIncarnation { member, replaces } => members::new_incarnation(cluster, member, *replaces),
        Command::RequestReinit { member } => members::request_reinit(cluster, member),
        Command::RequestRestart { member } => members::request_restart(cluster, member),
        Command::RequestLeave { member } => members::request_leave(cluster, member),
        Command::Forget { member } => members::forget(cluster, member),
        Command::Found { primary, start, timeline, system_identifier, setting } => {
            election::found(cluster, proposal, primary, *start, *timeline, *system_identifier, setting)
        }
        Command::BeginElection { epoch, kind, noticed_at } => {
            election::begin(cluster, proposal, *epoch, kind, *noticed_at)
        }
        Command::Appoint { epoch, primary, start, timeline, setting, seals } => {
            let wanted =
                election::Appointment { epoch: *epoch, primary, start: *start, timeline: *timeline, setting, seals };
            election::appoint(cluster, proposal, &wanted)
        }
        Command::RecordPromotion { epoch, timeline, promotion, system_identifier } => {
            election::record_promotion(cluster, proposal, *epoch, *timeline, *promotion, *system_identifier)
        }
        Command::Open { epoch } => election::open(cluster, proposal, *epoch),
        Command::CompleteRule { epoch, proof } => rules::complete(cluster, proposal, *epoch, proof),
        Command::BeginChange { epoch, to } => rules::begin_change(cluster, *epoch, to, &proposal.reason),
        Command::FinishChange { epoch, proof } => rules::finish_change(cluster, proposal, *epoch, proof),
        Command::Rename { epoch, members } => rules::rename(cluster, *epoch, members, &proposal.reason),
        Command::ChangeSettings { settings } => {
            validate_settings(settings)?;
            requests::settings(cluster, settings);
            Ok(())
        }
        Command::Pause => requests::pause(cluster, proposal),
        Command::Resume => requests::resume(cluster),
        Command::RequestElection { kind } => requests::election(cluster, proposal, kind),
        Command::DropRequest => requests::drop_request(cluster, proposal),
        Command::ConfirmGuard { epoch } => requests::confirm_guard(cluster, *epoch),
        Command::CatchUp { epoch, order } => election::catch_up(cluster, *epoch, order),
        Command::NoteUnproven { epoch, found, shown } => evidence::note(cluster, *epoch, found, *shown),
        Command::Note { incident, text } => requests::note(cluster, *incident, text),
        Command::NoteTimeline { timeline } => seen::timeline(cluster, *timeline),
        Command::NotePromotedByHand { key, found, kept_in } => {
            seen::promoted_by_hand(cluster, key, found, kept_in.as_ref())
        }
        Command::NoteFlushed { flushed } => seen::flushed(cluster, flushed),
    }
}

fn validate_settings(settings: &crate::settings::Settings) -> Applied {
    settings.validate().or_else(|refused| refuse(RefusalCode::BadValue, refused.to_string()))
}

fn trim(cluster: &mut ClusterState) {
    if cluster.incidents.len() > INCIDENTS_MAX {
        cluster.incidents.drain(..cluster.incidents.len() - INCIDENTS_MAX);
    }
    let oldest_open = cluster.rules.first().map(|rule| rule.epoch);
    while cluster.reigns.len() > REIGNS_MAX {
        // The first reign carries the cluster's first timeline, below which everything is epoch 0; the second goes.
        if oldest_open.is_some_and(|open| cluster.reigns[1].epoch >= open) {
            break;
        }
        cluster.reigns.remove(1);
    }
}

#[cfg(test)]
#[path = "apply_test.rs"]
mod tests;
