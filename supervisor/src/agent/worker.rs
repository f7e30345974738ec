//! The worker: asks `reconcile`, does what it says, asks again. Longer acts run beside it, so that a fence never waits.

use super::{execute, scene::Scene, shared::Shared};
use crate::clock;
use pgvigil_core::{
    brake::{self, Pace},
    reconcile::{self, Action},
    time::Time,
    trace::{Acted, Line},
};
use std::{sync::Arc, time::Duration};
use tokio::task::{AbortHandle, JoinError, JoinHandle};

/// The longest the worker sleeps.
const TICK_MS: u64 = 100;
/// The same beside a standby: nothing there ends by itself, and everything that changes wakes the worker.
const STANDBY_TICK_MS: u64 = 500;
/// An act that took a while is not done again sooner than this after it began.
const RETRY_MS: u64 = 300;

/// How an act that fails is tried again. What writes stand still for is never held back for long; what costs other
/// members something (a clone, a rewind) is.
const fn pace(action: &Action) -> Pace {
    let longest_ms = match action {
        Action::Clone { .. } | Action::Rewind { .. } => 30_000,
        Action::StartPrimary { .. } | Action::StartStandby { .. } | Action::Restart { .. } | Action::Initdb { .. } => {
            10_000
        }
        _ => 1_000,
    };
    Pace { first_ms: RETRY_MS, quick: 3, longest_ms }
}

/// Starts the worker.
pub fn start(shared: Arc<Shared>) {
    tokio::spawn(run(shared));
}

async fn run(shared: Arc<Shared>) {
    let mut act: Option<(AbortHandle, JoinHandle<()>)> = None;
    let mut recent: Option<(Action, Time)> = None;
    let mut aside: Option<JoinHandle<()>> = None;
    let mut aside_after = Time(0);
    let mut wake_at = clock::now();
    loop {
        let tick = if shared.runs_as_primary() { TICK_MS } else { STANDBY_TICK_MS };
        let (planned, at) = clock::wake_up(wake_at, tick);
        let sleep = tokio::time::sleep_until(at);
        let by_timer = tokio::select! {
            () = sleep => true,
            () = shared.work.notified() => false,
        };
        let now = clock::now();
        if by_timer {
            let late = now.since(planned);
            let mut inner = shared.lock();
            inner.starved_ms = inner.starved_ms.max(late);
        }
        wake_at = clock::NEVER;
        let busy = act.as_ref().is_some_and(|(_, act)| !act.is_finished());
        let Some(agreed) = shared.agreed() else { continue };
        let (plan, local) = {
            let mut inner = shared.lock();
            inner.local.busy = busy;
            if let Some(since) = inner.canary_waiting_since {
                inner.local.canary_waiting_ms = now.since(since);
            }
            inner.brake.forget(now);
            let plan = reconcile::reconcile(&agreed, &inner.local, now);
            let wish_changed = inner.needs_new_incarnation != plan.needs_new_incarnation;
            inner.needs_new_incarnation.clone_from(&plan.needs_new_incarnation);
            if wish_changed {
                shared.report.notify_one();
            }
            // Kept for the journal, where something is to be done.
            let local = plan.action.as_ref().map(|_| inner.local.clone());
            (plan, local)
        };
        // What is left alone on purpose waits for a person, who has to hear of it.
        let alone = plan.findings.iter().find(|f| matches!(f.code.as_str(), "other-system" | "second-primary"));
        shared.problem("left-alone", alone.map(|finding| finding.text.clone()));
        if let Some(at) = plan.wake_at {
            wake_at = wake_at.min(at);
        }
        let (Some(action), Some(local)) = (plan.action, local) else { continue };
        let acted = || {
            shared.journal.write(|| {
                Line::Acted(Box::new(Acted {
                    cluster: agreed.id.clone(),
                    member: shared.me().clone(),
                    revision: agreed.revision,
                    local: local.clone(),
                    now,
                    action: action.clone(),
                }))
            });
        };
        if let Action::Prove { .. } | Action::Checkpoint { .. } = &action {
            // A proof waits for standbys, a checkpoint for the disk: nothing else, least of all the door, waits for them.
            if aside.as_ref().is_none_or(JoinHandle::is_finished) && now >= aside_after {
                aside_after = now.plus(RETRY_MS / 6);
                acted();
                aside = Some(tokio::spawn(act_aside(Arc::clone(&shared), action)));
            }
            continue;
        }
        if let Action::Fence { polite_ms, why, .. } = &action {
            acted();
            tracing::info!(member = %shared.me(), ?action, "doing");
            if let Some((running, _)) = act.take() {
                running.abort();
            }
            execute::fence::now(&shared, *polite_ms, why).await;
            wake_at = clock::now();
            continue;
        }
        if let Some((_, until)) = recent.as_ref().filter(|(what, until)| *what == action && now < *until) {
            wake_at = wake_at.min(*until);
            continue;
        }
        let (may, again, began) = {
            let mut inner = shared.lock();
            let may = inner.brake.may_try(&action, now);
            let again = inner.brake.failing().any(|held| held.what == action);
            inner.local.busy = may.is_ok();
            (may, again, inner.brake.scene())
        };
        if let Err(next_at) = may {
            wake_at = wake_at.min(next_at);
            continue;
        }
        acted();
        if again {
            tracing::debug!(member = %shared.me(), ?action, "doing again");
        } else {
            tracing::info!(member = %shared.me(), ?action, "doing");
        }
        let doing = Arc::clone(&shared);
        let (what, to_do) = (action.clone(), action.clone());
        let mut task = tokio::spawn(async move {
            let done = execute::act(&doing, to_do.clone()).await;
            note(&doing, &to_do, began, done);
            doing.lock().activity = None;
            doing.look.notify_one();
            doing.work.notify_one();
            doing.report.notify_one();
        });
        // Most acts take milliseconds: wait for those, so that the next one follows at once.
        match tokio::time::timeout(Duration::from_millis(1), &mut task).await {
            Ok(ended) => {
                bug(&shared, &what, ended);
                recent = None;
                wake_at = clock::now();
            }
            Err(_) => {
                let waker = Arc::clone(&shared);
                let running = task.abort_handle();
                let ended = tokio::spawn(async move {
                    bug(&waker, &what, task.await);
                    waker.work.notify_one();
                });
                act = Some((running, ended));
                recent = Some((action, clock::now().plus(RETRY_MS)));
            }
        }
    }
}

async fn act_aside(shared: Arc<Shared>, action: Action) {
    let name = execute::name(&action);
    let waits_for = execute::act(&shared, action).await.err().map(|error| format!("{name}: not yet: {error:#}"));
    let said = std::mem::replace(&mut shared.lock().aside_waits_for, waits_for.as_deref().map(brake::bare));
    if let Some(text) = waits_for
        && said != Some(brake::bare(&text))
    {
        tracing::info!(member = %shared.me(), "{text}");
    }
    shared.work.notify_one();
    shared.report.notify_one();
}

/// An act that panicked is tried again like one that failed.
fn bug(shared: &Shared, action: &Action, ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        note(shared, action, None, Err(anyhow::anyhow!("{error}")));
    }
}

/// Remembers how an act ended. People hear of each reason once, however often it is tried.
fn note(shared: &Shared, action: &Action, began: Option<Scene>, done: anyhow::Result<()>) {
    let (me, name, now) = (shared.me(), execute::name(action), clock::now());
    let mut inner = shared.lock();
    match done {
        Ok(()) => {
            let lasts = matches!(action, Action::StartPrimary { .. } | Action::StartStandby { .. });
            let tries = inner.brake.done(action, pace(action), lasts, now);
            drop(inner);
            if tries > 0 {
                tracing::info!(member = %me, "{name}: done, after {tries} failures");
            }
        }
        Err(error) => {
            let why = format!("{error:#}");
            let new = inner.brake.failed(action, pace(action), &why, began, now);
            drop(inner);
            if new {
                tracing::warn!(member = %me, "{name}: {why}");
            } else {
                tracing::debug!(member = %me, "{name}: again: {why}");
            }
        }
    }
}
