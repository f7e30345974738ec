//! The worker: asks `reconcile`, does what it says, asks again. Longer acts run beside it, so that a fence never waits.

use super::{execute, shared::Shared};
use crate::clock;
use pgvigil_core::{
    reconcile::{self, Action},
    time::Time,
    trace::{Acted, Line},
};
use std::{sync::Arc, time::Duration};
use tokio::task::{AbortHandle, JoinHandle};

/// The longest the worker sleeps.
const TICK_MS: u64 = 100;
/// The same beside a standby: nothing there ends by itself, and everything that changes wakes the worker.
const STANDBY_TICK_MS: u64 = 500;
/// After an act that failed, the same act is not tried again for this long.
const RETRY_MS: u64 = 300;

/// Starts the worker.
pub fn start(shared: Arc<Shared>) {
    tokio::spawn(run(shared));
}

async fn run(shared: Arc<Shared>) {
    let mut act: Option<(AbortHandle, JoinHandle<()>)> = None;
    let mut failed: Option<(Action, Time)> = None;
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
        if failed.as_ref().is_some_and(|(what, until)| *what == action && now < *until) {
            continue;
        }
        acted();
        tracing::info!(member = %shared.me(), ?action, "doing");
        if let Action::Fence { polite_ms, why, .. } = &action {
            if let Some((running, _)) = act.take() {
                running.abort();
            }
            execute::fence::now(&shared, *polite_ms, why).await;
            wake_at = clock::now();
            continue;
        }
        let doing = Arc::clone(&shared);
        let what = action.clone();
        shared.lock().local.busy = true;
        let mut task = tokio::spawn(async move {
            let done = execute::act(&doing, what.clone()).await;
            if let Err(error) = &done {
                doing.problem("act", Some(format!("{}: {error:#}", execute::name(&what))));
            } else {
                doing.problem("act", None);
            }
            doing.lock().activity = None;
            doing.look.notify_one();
            doing.work.notify_one();
            doing.report.notify_one();
            done.is_ok()
        });
        // Most acts take milliseconds: wait for those, so that the next one follows at once.
        match tokio::time::timeout(Duration::from_millis(1), &mut task).await {
            Ok(done) => {
                failed = note(done.unwrap_or(false), action);
                wake_at = clock::now();
            }
            Err(_) => {
                let waker = Arc::clone(&shared);
                let running = task.abort_handle();
                let ended = tokio::spawn(async move {
                    task.await.ok();
                    waker.work.notify_one();
                });
                act = Some((running, ended));
                failed = Some((action, clock::now().plus(RETRY_MS)));
            }
        }
    }
}

async fn act_aside(shared: Arc<Shared>, action: Action) {
    let name = execute::name(&action);
    if let Err(error) = execute::act(&shared, action).await {
        tracing::info!(member = %shared.me(), "{name}: not yet: {error:#}");
    }
    shared.work.notify_one();
    shared.report.notify_one();
}

fn note(done: bool, action: Action) -> Option<(Action, Time)> {
    (!done).then(|| (action, clock::now().plus(RETRY_MS)))
}
