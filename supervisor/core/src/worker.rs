//! The policy of the worker, which asks [`reconcile`](crate::reconcile) and does what it says: which act may begin now,
//! beside what, and when it is tried again. Pure: the caller waits, reads the clock and runs acts.
//!
//! A fence never waits: it cuts off whatever is under way. A proof and a checkpoint wait for others and run beside the
//! rest. Every other act runs alone, not twice within [`RETRY_MS`] if it takes a while, and ever more rarely if it keeps
//! failing (see [`crate::brake`]).

use crate::{
    brake::{Brake, Pace},
    cluster::ClusterState,
    id::MemberId,
    local::{Local, LocalPostgres},
    reconcile::{Action, Plan, reconcile},
    settings::Settings,
    time::Time,
};

/// The longest the worker sleeps, in milliseconds.
const TICK_MS: u64 = 100;
/// The same beside a standby: nothing there ends by itself, and everything that changes wakes the worker.
const STANDBY_TICK_MS: u64 = 500;
/// An act that took a while is not done again sooner than this after it was seen to take one, in milliseconds.
pub const RETRY_MS: u64 = 300;
/// An act that runs beside the others is not begun again sooner than this after it began, in milliseconds.
const ASIDE_MS: u64 = RETRY_MS / 6;
/// So long the worker waits for the end of an act that it began, in milliseconds: most acts take no longer, and the next
/// one follows at once.
pub const AT_ONCE_MS: u64 = 1;

/// The longest the worker sleeps now, in milliseconds.
#[must_use]
pub const fn tick_ms(local: &Local) -> u64 {
    let primary = match &local.postgres {
        LocalPostgres::Running(running) => !running.in_recovery,
        LocalPostgres::Starting => true,
        _ => false,
    };
    if primary { TICK_MS } else { STANDBY_TICK_MS }
}

/// How an act that fails is tried again. What writes stand still for is never held back for long; what costs other
/// members something (a clone, a rewind) is.
#[must_use]
pub const fn pace(action: &Action) -> Pace {
    let longest_ms = match action {
        Action::Clone { .. } | Action::Rewind { .. } => 30_000,
        Action::StartPrimary { .. } | Action::StartStandby { .. } | Action::Restart { .. } | Action::Initdb { .. } => {
            10_000
        }
        _ => 1_000,
    };
    Pace { first_ms: RETRY_MS, quick: 3, longest_ms }
}

/// What operators asked for and set: what failed before may go well after another word of theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orders {
    restart: u64,
    reinit: bool,
    leaving: bool,
    paused: Option<String>,
    settings: Settings,
}

impl Orders {
    /// Those that concern `me`.
    #[must_use]
    pub fn of(agreed: &ClusterState, me: &MemberId) -> Self {
        let member = agreed.members.get(me);
        Self {
            restart: member.map_or(0, |member| member.restart_request),
            reinit: member.is_some_and(|member| member.reinit_requested),
            leaving: member.is_some_and(|member| member.leaving),
            paused: agreed.paused.clone(),
            settings: agreed.settings.clone(),
        }
    }
}

/// What is to be done with the planned act.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Do<S> {
    /// Nothing now.
    Nothing,
    /// It is begun beside whatever runs.
    Aside,
    /// Whatever runs is cut off, and it is done before anything else is looked at.
    Fence,
    /// It is begun. [`Worker::begun`] follows after [`AT_ONCE_MS`], [`Worker::done`] or [`Worker::failed`] at its end.
    Act {
        /// It failed before: people have heard of it.
        again: bool,
        /// The scene in which it begins, for [`Worker::failed`].
        scene: Option<S>,
    },
}

/// See the module. `S` is what must change for an act that failed to be promising again.
#[derive(Clone, Debug)]
pub struct Worker<S> {
    /// Acts that failed, and when each may be tried again.
    pub brake: Brake<Action, S>,
    /// The act that was begun last and took a while, and when it may be done again.
    recent: Option<(Action, Time)>,
    aside_after: Time,
}

impl<S> Default for Worker<S> {
    fn default() -> Self {
        Self { brake: Brake::default(), recent: None, aside_after: Time(0) }
    }
}

impl<S: Clone + PartialEq> Worker<S> {
    /// What is to be done, as far as `reconcile` goes. `busy`: an act is under way, those beside left out; `canary_since`:
    /// the canary under way began then.
    pub fn plan(
        &mut self,
        agreed: &ClusterState,
        local: &mut Local,
        busy: bool,
        canary_since: Option<Time>,
        now: Time,
    ) -> Plan {
        local.busy = busy;
        if let Some(since) = canary_since {
            local.canary_waiting_ms = now.since(since);
        }
        self.brake.forget(now);
        reconcile(agreed, local, now)
    }

    /// Whether `action`, which is planned, is begun now; and when to plan again if nothing else happens. `aside_runs`: one
    /// beside is under way.
    pub fn next(&mut self, action: &Action, aside_runs: bool, now: Time) -> (Do<S>, Option<Time>) {
        match action {
            Action::Prove { .. } | Action::Checkpoint { .. } if aside_runs || now < self.aside_after => {
                (Do::Nothing, None)
            }
            Action::Prove { .. } | Action::Checkpoint { .. } => {
                self.aside_after = now.plus(ASIDE_MS);
                (Do::Aside, None)
            }
            Action::Fence { .. } => (Do::Fence, None),
            action => self.begins(action, now),
        }
    }

    fn begins(&mut self, action: &Action, now: Time) -> (Do<S>, Option<Time>) {
        if let Some((_, until)) = self.recent.as_ref().filter(|(what, until)| what == action && now < *until) {
            return (Do::Nothing, Some(*until));
        }
        if let Err(next_at) = self.brake.may_try(action, now) {
            return (Do::Nothing, Some(next_at));
        }
        let again = self.brake.failing().any(|held| held.what == *action);
        (Do::Act { again, scene: self.brake.scene() }, None)
    }

    /// `action` was begun; `ended`: it ended at once. If so, plan again at once.
    pub fn begun(&mut self, action: &Action, ended: bool, now: Time) {
        self.recent = if ended { None } else { Some((action.clone(), now.plus(RETRY_MS))) };
    }

    /// `action` has ended well. Gives the number of failures that went before.
    pub fn done(&mut self, action: &Action, now: Time) -> u32 {
        let lasts = matches!(action, Action::StartPrimary { .. } | Action::StartStandby { .. });
        self.brake.done(action, pace(action), lasts, now)
    }

    /// `action`, begun in `scene`, has failed. `true`: for a reason of which people have not heard.
    pub fn failed(&mut self, action: &Action, why: &str, scene: Option<S>, now: Time) -> bool {
        self.brake.failed(action, pace(action), why, scene, now)
    }
}

#[cfg(test)]
#[path = "worker_test.rs"]
mod tests;
