//! The worker: asks `reconcile`, does what it says, asks again. Longer acts run beside it, so that a fence never waits.

use super::{here::Here, shared::Shared};
use crate::clock;
use pgvigil_agent::{acts, known::Known, scene::Scene};
use pgvigil_core::{
    brake,
    reconcile::Action,
    time::Time,
    trace::{Acted, Line},
    worker::{self, AT_ONCE_MS, Do},
};
use std::{sync::Arc, time::Duration};
use tokio::task::{AbortHandle, JoinError, JoinHandle};

/// Starts the worker.
pub fn start(shared: Arc<Shared>) {
    tokio::spawn(run(shared));
}

async fn run(shared: Arc<Shared>) {
    let mut act: Option<(AbortHandle, JoinHandle<()>)> = None;
    let mut aside: Option<JoinHandle<()>> = None;
    let mut wake_at = clock::now();
    loop {
        let tick = worker::tick_ms(&shared.lock().local);
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
        wake_at = Time::NEVER;
        let busy = act.as_ref().is_some_and(|(_, act)| !act.is_finished());
        let Some(agreed) = shared.agreed() else { continue };
        let (plan, local) = {
            let mut inner = shared.lock();
            let Known { local, worker, canary_waiting_since, .. } = &mut *inner;
            let plan = worker.plan(&agreed, local, busy, *canary_waiting_since, now);
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
        let aside_runs = aside.as_ref().is_some_and(|aside| !aside.is_finished());
        let (turn, again_at) = {
            let mut inner = shared.lock();
            let (turn, again_at) = inner.worker.next(&action, aside_runs, now);
            inner.local.busy |= matches!(turn, Do::Act { .. });
            (turn, again_at)
        };
        if let Some(at) = again_at {
            wake_at = wake_at.min(at);
        }
        let (again, scene) = match turn {
            Do::Nothing => continue,
            Do::Aside => {
                acted();
                aside = Some(tokio::spawn(act_aside(Arc::clone(&shared), action)));
                continue;
            }
            Do::Fence => {
                acted();
                tracing::info!(member = %shared.me(), ?action, "doing");
                if let Some((running, _)) = act.take() {
                    running.abort();
                }
                if let Action::Fence { polite_ms, why, .. } = &action {
                    acts::fence::now(&Here(Arc::clone(&shared)), *polite_ms, why).await;
                }
                wake_at = clock::now();
                continue;
            }
            Do::Act { again, scene } => (again, scene),
        };
        acted();
        if again {
            tracing::debug!(member = %shared.me(), ?action, "doing again");
        } else {
            tracing::info!(member = %shared.me(), ?action, "doing");
        }
        let doing = Arc::clone(&shared);
        let (what, to_do) = (action.clone(), action);
        let mut task = tokio::spawn(async move {
            let done = acts::act(&Here(Arc::clone(&doing)), to_do.clone()).await;
            note(&doing, &to_do, scene, done);
            doing.lock().activity = None;
            doing.look.notify_one();
            doing.work.notify_one();
            doing.report.notify_one();
        });
        let ended = tokio::time::timeout(Duration::from_millis(AT_ONCE_MS), &mut task).await;
        shared.lock().worker.begun(&what, ended.is_ok(), clock::now());
        match ended {
            Ok(ended) => {
                bug(&shared, &what, ended);
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
            }
        }
    }
}

async fn act_aside(shared: Arc<Shared>, action: Action) {
    let name = action.name();
    let waits_for =
        acts::act(&Here(Arc::clone(&shared)), action).await.err().map(|error| format!("{name}: not yet: {error:#}"));
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
fn note(shared: &Shared, action: &Action, scene: Option<Scene>, done: anyhow::Result<()>) {
    let (me, name, now) = (shared.me(), action.name(), clock::now());
    let mut inner = shared.lock();
    match done {
        Ok(()) => {
            let tries = inner.worker.done(action, now);
            drop(inner);
            if tries > 0 {
                tracing::info!(member = %me, "{name}: done, after {tries} failures");
            }
        }
        Err(error) => {
            let why = format!("{error:#}");
            let new = inner.worker.failed(action, &why, scene, now);
            drop(inner);
            if new {
                tracing::warn!(member = %me, "{name}: {why}");
            } else {
                tracing::debug!(member = %me, "{name}: again: {why}");
            }
        }
    }
}
