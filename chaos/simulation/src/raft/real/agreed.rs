//! What the group has agreed, as the checkers know it: the first node to apply an entry has it computed, and every other one
//! must apply the same entry at the same index. A state machine that is a pure function then has the same state.

use super::{
    super::Applied,
    Real,
    types::{Command, LogId},
};
use crate::world::World;
use openraft::{BasicNode, entry::EntryPayload};
use pgvigil_core::{Outcome, Proposal, State, apply, trace::Line};
use std::{rc::Rc, sync::Arc};

#[derive(Debug)]
pub(super) struct Agreed {
    id: LogId,
    /// The very one: two proposals of the same text are two entries.
    proposal: Option<Arc<Proposal>>,
    outcome: Option<Outcome>,
    /// `None` once every node is beyond it.
    state: Option<Rc<Applied>>,
}

type Payload = EntryPayload<Command, u64, BasicNode>;

impl Real {
    /// `host` applies an entry: what comes of it.
    pub(super) fn agree(&self, w: &World, host: usize, id: LogId, payload: &Payload) -> (Option<Outcome>, Rc<Applied>) {
        let proposal = match payload {
            EntryPayload::Normal(command) => Some(Arc::clone(&command.0)),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        };
        let place = usize::try_from(id.index()).unwrap_or(usize::MAX);
        let mut agreed = self.agreed.borrow_mut();
        if let Some(known) = agreed.get(place) {
            let same = match (&known.proposal, &proposal) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                (None, None) => true,
                _ => false,
            };
            // Each node writes the first membership for itself.
            if !same || (known.id != id && place > 0) {
                w.check.borrow_mut().agreed_otherwise(w, host, &id.to_string(), &known.id.to_string());
            }
            if let Some(state) = known.state.clone() {
                return (known.outcome.clone(), state);
            }
        }
        if place != agreed.len() {
            w.check.borrow_mut().agreed_otherwise(w, host, &id.to_string(), "nothing");
        }
        let last = agreed.last().and_then(|last| last.state.clone());
        let last = last.unwrap_or_else(|| Applied::of(State::default()));
        let (outcome, state) = match &proposal {
            None => (None, last),
            Some(proposal) => {
                let mut state = last.state.clone();
                let outcome = apply(&mut state, proposal);
                let next = Applied::of(state);
                let (before, after) = (last.cluster.as_deref(), next.cluster.as_deref());
                w.check.borrow_mut().entry(w, proposal, &outcome, before, after);
                (Some(outcome), next)
            }
        };
        if place > 0 {
            let proposal = || proposal.as_ref().map(|proposal| Box::new((**proposal).clone()));
            w.record(|| Line::Entry { index: id.index(), term: id.leader_id.term, proposal: proposal() });
        }
        agreed.push(Agreed { id, proposal, outcome: outcome.clone(), state: Some(Rc::clone(&state)) });
        drop(agreed);
        self.forget(w);
        (outcome, state)
    }

    /// States that no node can come back to.
    fn forget(&self, w: &World) {
        let applied = |host: &usize| {
            let disk = self.disk(*host).borrow();
            let last = disk.flushed.applied.last.min(disk.written.applied.last);
            last.map_or(0, |id| id.index())
        };
        let oldest = w.raft.voters.iter().map(applied).min().unwrap_or(0);
        let oldest = usize::try_from(oldest).unwrap_or(0);
        let mut agreed = self.agreed.borrow_mut();
        let newest = agreed.len().saturating_sub(1);
        for place in agreed.iter_mut().take(oldest.min(newest)).rev() {
            if place.state.take().is_none() {
                break;
            }
        }
    }

    /// The newest agreed state.
    pub(crate) fn newest(&self) -> Option<Rc<Applied>> {
        self.agreed.borrow().last().and_then(|last| last.state.clone())
    }
}
