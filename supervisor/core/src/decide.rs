//! `decide`: what should be agreed next. Run by the Raft leader only, on what is agreed and what it has seen.
//!
//! At most one command a time: the next one is decided from the state after this one was committed. Doing nothing has
//! reasons too; they are the findings.

mod bootstrap;
mod braked;
mod candidate;
mod election;
mod evidence;
mod health;
mod housekeeping;
mod reign;
mod requests;
mod rules;
mod seen;
mod twin;

pub use braked::fruitless;
pub use candidate::{Ineligible, may_take_over};
pub use health::{Verdict, primary_health};
pub use seen::describe as describe_hand_promotion;

use crate::{cluster::ClusterState, command::Command, observation::Observations, time::Time};
use serde::{Deserialize, Serialize};

/// A reason: why something was, or was not, decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// A stable code for programs and alerts.
    pub code: String,
    /// A sentence for people.
    pub text: String,
}

/// A command that should be agreed, with its reason and evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The change.
    pub command: Command,
    /// One sentence.
    pub reason: String,
    /// What was seen.
    pub evidence: Vec<String>,
}

/// The answer of [`decide`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Decision {
    /// What should be agreed now.
    pub command: Option<Wanted>,
    /// Why nothing else was.
    pub findings: Vec<Finding>,
    /// When to ask again even if nothing new is seen.
    pub wake_at: Option<Time>,
    /// An election is due and held back: nothing that presumes a primary is decided meanwhile.
    waits: bool,
}

impl Decision {
    fn find(&mut self, code: &str, text: impl Into<String>) {
        self.findings.push(Finding { code: code.to_owned(), text: text.into() });
    }

    fn want(&mut self, command: Command, reason: impl Into<String>, evidence: Vec<String>) {
        self.command = Some(Wanted { command, reason: reason.into(), evidence });
    }

    fn wake(&mut self, at: Time) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    const fn is_made(&self) -> bool {
        self.command.is_some()
    }
}

/// Decides what should be agreed next for one cluster.
///
/// `agreed` must be the leader's newest applied state, and the caller must propose the command with that state's
/// revision. Keeps S5: silence before `seen.since` is no evidence.
pub fn decide(agreed: &ClusterState, seen: &Observations, now: Time) -> Decision {
    let mut decision = look(agreed, seen, now);
    // The same evidence at the same moment says the same: a moment that has passed wakes nobody.
    decision.wake_at = decision.wake_at.filter(|at| *at > now);
    decision
}

fn look(agreed: &ClusterState, seen: &Observations, now: Time) -> Decision {
    let mut decision = Decision::default();
    let Some(reign) = agreed.reign() else {
        bootstrap::decide(agreed, seen, now, &mut decision);
        return decision;
    };
    seen::timelines(agreed, seen, &mut decision);
    if decision.is_made() {
        return decision;
    }
    if agreed.election.is_some() {
        // A promotion that ended just as the election began is a fact on which its seal, or its standing, may depend.
        reign::record_finished(reign, seen, &mut decision);
        if !decision.is_made() {
            // Before the appointment: with it the verdict follows.
            evidence::note(agreed, reign, seen, now, &mut decision);
        }
        if !decision.is_made() {
            seen::flushed(agreed, seen, now, &mut decision);
        }
        if !decision.is_made() {
            election::decide(agreed, seen, now, &mut decision);
        }
        return decision;
    }
    type Step = fn(&ClusterState, &crate::reign::Reign, &Observations, Time, &mut Decision);
    let steps: [Step; 9] = [
        reign::record_promotion,
        evidence::note,
        requests::begin,
        health::begin,
        reign::open,
        reign::complete,
        twin::rename,
        rules::maintain,
        housekeeping::decide,
    ];
    for step in steps {
        step(agreed, reign, seen, now, &mut decision);
        if decision.is_made() || decision.waits {
            break;
        }
    }
    decision
}
