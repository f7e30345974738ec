//! The worker: asks the shipped policy ([`pgvigil_core::worker`]) and `reconcile`, does what they say, asks again.

use super::shared::Ctx;
use crate::{
    exec::{Done, TaskId},
    planted::Planted,
    world::World,
};
use pgvigil_agent::{acts, known::Known, scene::Scene};
use pgvigil_core::{
    cluster::ClusterState,
    local::Local,
    lsn::Lsn,
    position::Position,
    reconcile::Action,
    time::Time,
    trace::{Acted, Line},
    worker::{AT_ONCE_MS, Do, Orders, tick_ms},
};
use std::rc::Rc;

/// Between two looks at what operators ask for, while something is held back.
const LOOK_MS: u64 = 500;

/// The task.
pub async fn run(c: Ctx) {
    let mut running: Option<TaskId> = None;
    let mut aside: Option<TaskId> = None;
    let mut wake_at = c.now();
    loop {
        let tick = tick_ms(&c.a.inner.borrow().local);
        let planned = wake_at.min(c.now().plus(tick));
        let by_timer = c.w.until_or_told(c.h, planned, &c.a.work).await;
        let now = c.now();
        if by_timer {
            let mut inner = c.a.inner.borrow_mut();
            inner.starved_ms = inner.starved_ms.max(now.since(planned));
        }
        wake_at = Time::NEVER;
        let Some(agreed) = c.agreed() else { continue };
        let busy = running.is_some_and(|task| c.w.exec.is_alive(task));
        let plan = {
            let mut inner = c.a.inner.borrow_mut();
            let Known { local, worker, canary_waiting_since, .. } = &mut *inner;
            if c.w.planted == Some(Planted::FollowUnverified) {
                believe_wal(&agreed, local);
            }
            let plan = worker.plan(&agreed, local, busy, *canary_waiting_since, now);
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
        let aside_runs = aside.is_some_and(|task| c.w.exec.is_alive(task));
        let (turn, again_at) = {
            let mut inner = c.a.inner.borrow_mut();
            look(&c, &mut inner, &agreed, now);
            inner.worker.next(&action, aside_runs, now)
        };
        if let Some(at) = again_at {
            c.w.cover.hit("worker", "held-back");
            wake_at = wake_at.min(at);
        }
        if turn == Do::Nothing {
            continue;
        }
        acted(&c, &agreed, &action, now);
        match turn {
            Do::Nothing => {}
            Do::Aside => {
                let doing = c.clone();
                aside = Some(c.w.exec.spawn(World::agent_process(c.h), async move {
                    if let Err(why) = acts::act(&doing, action).await {
                        doing.w.log_host(doing.h, || format!("not yet: {why:#}"));
                    }
                    doing.wake_work();
                    doing.wake_report();
                }));
            }
            Do::Fence => {
                if let Some(task) = running.take() {
                    c.w.exec.abort(task);
                }
                if let Action::Fence { polite_ms, why, .. } = &action {
                    acts::fence::now(&c, *polite_ms, why).await;
                }
                wake_at = c.now();
            }
            Do::Act { scene, .. } => {
                c.a.inner.borrow_mut().local.busy = true;
                let (doing, what, ended) = (c.clone(), action.clone(), Rc::new(Done::default()));
                let end = Rc::clone(&ended);
                running = Some(c.w.exec.spawn(World::agent_process(c.h), async move {
                    let done = acts::act(&doing, action.clone()).await;
                    note(&doing, &action, scene, done);
                    doing.wake_look();
                    doing.wake_work();
                    doing.wake_report();
                    end.end(&doing.w.exec);
                }));
                let at_once = c.w.within(c.h, AT_ONCE_MS, c.w.ended(&ended)).await.is_some();
                c.a.inner.borrow_mut().worker.begun(&what, at_once, c.now());
                if at_once {
                    wake_at = c.now();
                }
            }
        }
    }
}

fn acted(c: &Ctx, agreed: &ClusterState, action: &Action, now: Time) {
    c.w.cover.hit("action", action.name());
    c.w.log_host(c.h, || format!("does {action:?}"));
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
}

/// Remembers how an act ended.
fn note(c: &Ctx, action: &Action, scene: Option<Scene>, done: anyhow::Result<()>) {
    let mut inner = c.a.inner.borrow_mut();
    match &done {
        Ok(()) => drop(inner.worker.done(action, c.now())),
        Err(why) => drop(inner.worker.failed(action, &format!("{why:#}"), scene, c.now())),
    }
    drop(inner);
    c.w.log_host(c.h, || match done {
        Ok(()) => format!("{} done", action.name()),
        Err(why) => format!("{} failed: {why:#}", action.name()),
    });
}

/// What the program looks at in a task of its own: here only what operators ask for, and no files.
fn look(c: &Ctx, inner: &mut Known, agreed: &ClusterState, now: Time) {
    if inner.worker.brake.is_holding() && now.since(c.a.looked_at.get()) >= LOOK_MS {
        c.a.looked_at.set(now);
        let orders = Some(Orders::of(agreed, c.w.member(c.h)));
        inner.worker.brake.look(Scene { orders, ..Scene::default() }, now);
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
