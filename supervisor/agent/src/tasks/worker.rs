//! The worker: asks `reconcile`, does what it says, asks again. Longer acts run beside it, so that a fence never waits.

use super::{Event, Tasks};
use crate::{acts, bug::Bug, known::Known, ports::Wake, scene::Scene};
use pgvigil_core::{
    brake,
    cluster::ClusterState,
    local::Local,
    lsn::Lsn,
    position::Position,
    reconcile::Action,
    time::Time,
    worker::{self, AT_ONCE_MS, Do},
};

/// Acts as tasks of their own.
pub trait Acting: Tasks {
    /// An act under way.
    type Act: UnderWay;

    /// Begins [`carry_out`] as a task of its own.
    fn begin(&self, action: Action, scene: Option<Scene>) -> Self::Act;
    /// Begins [`carry_out_aside`] as a task of its own.
    fn begin_aside(&self, action: Action) -> Self::Act;
}

/// An act under way.
#[expect(async_fn_in_trait, reason = "as for the ports of acts")]
pub trait UnderWay {
    /// Whether it has ended.
    fn is_over(&self) -> bool;
    /// Waits for its end, for at most so many milliseconds. `true`: it has ended.
    async fn ends_within(&mut self, ms: u64) -> bool;
    /// Cuts it off where it stands.
    fn cut_off(self);
}

/// The task.
pub async fn run<M: Acting>(m: &M) {
    let mut act: Option<M::Act> = None;
    let mut aside: Option<M::Act> = None;
    let mut wake_at = m.now();
    loop {
        let tick = worker::tick_ms(&m.known().local);
        let planned = m.wait(Wake::Worker, wake_at, tick).await;
        let now = m.now();
        if let Some(planned) = planned {
            let mut known = m.known();
            known.starved_ms = known.starved_ms.max(now.since(planned));
        }
        wake_at = Time::NEVER;
        let busy = act.as_ref().is_some_and(|act| !act.is_over());
        let Some(agreed) = m.agreed() else { continue };
        let (plan, local) = plan(m, &agreed, busy, now);
        for finding in &plan.findings {
            m.happens(Event::Finds(finding));
        }
        // What is left alone on purpose waits for a person, who has to hear of it.
        let alone = plan.findings.iter().find(|f| matches!(f.code.as_str(), "other-system" | "second-primary"));
        m.problem("left-alone", alone.map(|finding| finding.text.clone()));
        if let Some(at) = plan.wake_at {
            wake_at = wake_at.min(at);
        }
        let (Some(action), Some(local)) = (plan.action, local) else { continue };
        let aside_runs = aside.as_ref().is_some_and(|aside| !aside.is_over());
        let (turn, again_at) = {
            let mut known = m.known();
            let (turn, again_at) = known.worker.next(&action, aside_runs, now);
            known.local.busy |= matches!(turn, Do::Act { .. });
            (turn, again_at)
        };
        if let Some(at) = again_at {
            m.happens(Event::HeldBack);
            wake_at = wake_at.min(at);
        }
        if turn == Do::Nothing {
            continue;
        }
        m.happens(Event::Begins { agreed: &agreed, local: &local, now, action: &action });
        match turn {
            Do::Nothing => {}
            Do::Aside => aside = Some(m.begin_aside(action)),
            Do::Fence => {
                tracing::info!(member = %m.me(), ?action, "doing");
                if let Some(running) = act.take() {
                    running.cut_off();
                }
                if let Action::Fence { polite_ms, why, .. } = &action {
                    acts::fence::now(m, *polite_ms, why).await;
                }
                wake_at = m.now();
            }
            Do::Act { again, scene } => {
                if again {
                    tracing::debug!(member = %m.me(), ?action, "doing again");
                } else {
                    tracing::info!(member = %m.me(), ?action, "doing");
                }
                let mut begun = m.begin(action.clone(), scene);
                let at_once = begun.ends_within(AT_ONCE_MS).await;
                let now = m.now();
                m.known().worker.begun(&action, at_once, now);
                if at_once {
                    wake_at = now;
                } else {
                    act = Some(begun);
                }
            }
        }
    }
}

/// What is to be done, and what was known then where something is.
fn plan<M: Tasks>(
    m: &M,
    agreed: &ClusterState,
    busy: bool,
    now: Time,
) -> (pgvigil_core::reconcile::Plan, Option<Local>) {
    let mut known = m.known();
    let Known { local, worker, canary_waiting_since, .. } = &mut *known;
    if m.planted(Bug::FollowUnverified) {
        believe_wal(agreed, local);
    }
    let plan = worker.plan(agreed, local, busy, *canary_waiting_since, now);
    let wish_changed = known.needs_new_incarnation != plan.needs_new_incarnation;
    known.needs_new_incarnation.clone_from(&plan.needs_new_incarnation);
    let local = plan.action.as_ref().map(|_| known.local.clone());
    drop(known);
    if wish_changed {
        m.wake(Wake::Report);
    }
    (plan, local)
}

/// Does `action`, remembers how that ended, and has everybody look.
pub async fn carry_out<M: Tasks>(m: M, action: Action, scene: Option<Scene>) {
    let done = acts::act(&m, action.clone()).await;
    note(&m, &action, scene, done);
    m.known().activity = None;
    for whom in [Wake::Look, Wake::Worker, Wake::Report] {
        m.wake(whom);
    }
}

/// Does `action` beside whatever else is done. People hear of each reason why it has to wait once.
pub async fn carry_out_aside<M: Tasks>(m: M, action: Action) {
    let name = action.name();
    let done = acts::act(&m, action.clone()).await;
    let waits_for = done.err().map(|error| format!("{name}: not yet: {error:#}"));
    m.happens(Event::Ended(&action, waits_for.as_deref()));
    let said = std::mem::replace(&mut m.known().aside_waits_for, waits_for.as_deref().map(brake::bare));
    if let Some(text) = waits_for
        && said != Some(brake::bare(&text))
    {
        tracing::info!(member = %m.me(), "{text}");
    }
    m.wake(Wake::Worker);
    m.wake(Wake::Report);
}

/// Remembers how an act ended. People hear of each reason once, however often it is tried.
pub fn note<M: Tasks>(m: &M, action: &Action, scene: Option<Scene>, done: anyhow::Result<()>) {
    let (name, now) = (action.name(), m.now());
    match done {
        Ok(()) => {
            let tries = m.known().worker.done(action, now);
            m.happens(Event::Ended(action, None));
            if tries > 0 {
                tracing::info!(member = %m.me(), "{name}: done, after {tries} failures");
            }
        }
        Err(error) => {
            let why = format!("{error:#}");
            let new = m.known().worker.failed(action, &why, scene, now);
            m.happens(Event::Ended(action, Some(&why)));
            if new {
                tracing::warn!(member = %m.me(), "{name}: {why}");
            } else {
                tracing::debug!(member = %m.me(), "{name}: again: {why}");
            }
        }
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
