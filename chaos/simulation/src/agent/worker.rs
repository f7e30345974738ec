//! The worker: asks the shipped `reconcile`, does what it says, asks again. After `agent/worker.rs` of the program.

use super::{act, shared::Ctx};
use crate::{exec::TaskId, planted::Planted, world::World};
use pgvigil_core::{
    cluster::ClusterState,
    local::{Local, LocalPostgres},
    lsn::Lsn,
    position::Position,
    reconcile::{self, Action},
    time::Time,
    trace::{Acted, Line},
};
use std::{cell::RefCell, rc::Rc};

const TICK_MS: u64 = 100;
/// The same beside a standby.
const STANDBY_TICK_MS: u64 = 500;
const RETRY_MS: u64 = 300;

/// The task.
pub async fn run(c: Ctx) {
    let mut running: Option<TaskId> = None;
    let failed: Rc<RefCell<Option<(Action, Time)>>> = Rc::default();
    let mut aside: Option<TaskId> = None;
    let mut aside_after = Time(0);
    let mut wake_at = c.now();
    loop {
        let tick = if runs_as_primary(&c) { TICK_MS } else { STANDBY_TICK_MS };
        let planned = wake_at.min(c.now().plus(tick));
        let by_timer = c.w.until_or_told(c.h, planned, &c.a.work).await;
        let now = c.now();
        if by_timer {
            let mut inner = c.a.inner.borrow_mut();
            inner.starved_ms = inner.starved_ms.max(now.since(planned));
        }
        wake_at = now.plus(tick);
        let Some(agreed) = c.agreed() else { continue };
        let plan = {
            let mut inner = c.a.inner.borrow_mut();
            inner.local.busy = running.is_some_and(|task| c.w.exec.is_alive(task));
            if let Some(since) = inner.canary_waiting_since {
                inner.local.canary_waiting_ms = now.since(since);
            }
            if c.w.planted == Some(Planted::FollowUnverified) {
                believe_wal(&agreed, &mut inner.local);
            }
            let plan = reconcile::reconcile(&agreed, &inner.local, now);
            let wish_changed = inner.needs_new_incarnation != plan.needs_new_incarnation;
            inner.needs_new_incarnation.clone_from(&plan.needs_new_incarnation);
            drop(inner);
            if wish_changed {
                c.wake_report();
            }
            plan
        };
        for finding in &plan.findings {
            c.w.cover.hit("agent-finding", &finding.code);
        }
        if let Some(at) = plan.wake_at {
            wake_at = wake_at.min(at);
        }
        let Some(action) = plan.action else { continue };
        let acted = |action: &Action| {
            c.w.record(|| {
                Line::Acted(Box::new(Acted {
                    cluster: agreed.id.clone(),
                    member: c.w.member(c.h).clone(),
                    revision: agreed.revision,
                    local: c.a.inner.borrow().local.clone(),
                    now,
                    action: action.clone(),
                }))
            });
        };
        if let Action::Prove { .. } | Action::Checkpoint { .. } = &action {
            // They wait for standbys and for the disk: nothing else waits for them.
            if aside.is_none_or(|task| !c.w.exec.is_alive(task)) && now >= aside_after {
                aside_after = now.plus(RETRY_MS / 6);
                acted(&action);
                c.w.cover.hit("action", act::name(&action));
                let doing = c.clone();
                aside = Some(c.w.exec.spawn(World::agent_process(c.h), async move {
                    if let Err(why) = act::act(&doing, action).await {
                        doing.w.log_host(doing.h, || format!("not yet: {why}"));
                    }
                    doing.wake_work();
                    doing.wake_report();
                }));
            }
            continue;
        }
        if failed.borrow().as_ref().is_some_and(|(what, until)| *what == action && now < *until) {
            continue;
        }
        acted(&action);
        c.w.cover.hit("action", act::name(&action));
        c.w.log_host(c.h, || format!("does {action:?}"));
        if let Action::Fence { polite_ms, why, .. } = &action {
            if let Some(task) = running.take() {
                c.w.exec.abort(task);
            }
            act::fence::now(&c, *polite_ms, why).await;
            wake_at = c.now();
            continue;
        }
        c.a.inner.borrow_mut().local.busy = true;
        *failed.borrow_mut() = Some((action.clone(), now.plus(RETRY_MS)));
        let doing = c.clone();
        let outcome = Rc::clone(&failed);
        running = Some(c.w.exec.spawn(World::agent_process(c.h), async move {
            let done = act::act(&doing, action.clone()).await;
            match &done {
                Err(why) => doing.w.log_host(doing.h, || format!("{} failed: {why}", act::name(&action))),
                Ok(()) => doing.w.log_host(doing.h, || format!("{} done", act::name(&action))),
            }
            *outcome.borrow_mut() = done.is_err().then(|| (action, doing.now().plus(RETRY_MS)));
            // What ends here is over before the worker looks again.
            doing.a.inner.borrow_mut().local.busy = false;
            doing.wake_look();
            doing.wake_work();
            doing.wake_report();
        }));
    }
}

fn runs_as_primary(c: &Ctx) -> bool {
    match &c.a.inner.borrow().local.postgres {
        LocalPostgres::Running(running) => !running.in_recovery,
        LocalPostgres::Starting => true,
        _ => false,
    }
}

/// The planted bug: its WAL is taken to belong to the reign's history, unread.
fn believe_wal(agreed: &ClusterState, local: &mut Local) {
    if let Some(reign) = agreed.reign().filter(|reign| reign.primary.member != local.me)
        && agreed.election.is_none()
    {
        local.wal_end = Some((Position::new(reign.epoch, Lsn::ZERO), reign.timeline));
    }
}
