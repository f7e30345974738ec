//! The right to serve as its holder keeps it: the deadline goes to the guard, and only once the guard has confirmed it
//! is the right longer. After `agent/right.rs` of the program.

use super::shared::Ctx;
use crate::{
    guard::{Duty, Message, tell as tell_guard},
    planted::Planted,
    world::World,
};
use pgvigil_core::{
    guard::{self, Order},
    id::Epoch,
    lease::Right,
    local::LocalPostgres,
    time::Time,
};

/// Something that makes the right longer, for the reign of one epoch only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The leader renewed the lease in answer to a heartbeat of that epoch's primary, sent then.
    Lease(Epoch, Time),
    /// A canary that began then was acknowledged under that epoch's rule.
    Canary(Epoch, Time),
    /// PostgreSQL was fenced.
    Revoked,
}

const KEEP_MS: u64 = 1_000;

impl Ctx {
    /// Hands a renewal to the task that keeps the right.
    pub fn renew(&self, renewal: Renewal) {
        self.a.inner.borrow_mut().renewals.push_back(renewal);
        self.a.renewed.notify(&self.w.exec);
    }
}

/// The task.
pub async fn run(c: Ctx) {
    // What was granted and is not worth telling the guard yet: no right before it is told.
    let mut pending = Right::default();
    let mut was_starting = false;
    loop {
        let mut due = false;
        if c.a.inner.borrow().renewals.is_empty() {
            let at = c.now().plus(KEEP_MS);
            due = c.w.until_or_told(c.h, at, &c.a.renewed).await;
        }
        let news: Vec<Renewal> = c.a.inner.borrow_mut().renewals.drain(..).collect();
        let Some(agreed) = c.agreed() else { continue };
        let (mut right, reigned) = {
            let inner = c.a.inner.borrow();
            let mut right = later(inner.local.right, pending);
            for renewal in news {
                match renewal {
                    Renewal::Lease(epoch, at) if inner.local.reigns_in(epoch) => {
                        right.renewed_sent_at = right.renewed_sent_at.max(Some(at));
                    }
                    Renewal::Canary(epoch, at) if inner.local.reigns_in(epoch) => {
                        right.canary_began_at = right.canary_began_at.max(Some(at));
                    }
                    // Granted for a reign that is over here.
                    Renewal::Lease(..) | Renewal::Canary(..) => {}
                    Renewal::Revoked => right = Right::default(),
                }
            }
            (right, inner.local.promise.reigned)
        };
        let mut until = right.until(&agreed.settings);
        if !due && agreed.paused.is_none() && little_longer(&c, agreed.settings.heartbeat_ms, until) {
            pending = right;
            continue;
        }
        pending = Right::default();
        let over = agreed.paused.is_none() && until.is_some_and(|until| until <= c.now());
        if over && !guard::may_serve(&c.a.inner.borrow().local) && c.w.planted != Some(Planted::RightOutlivesItsServer)
        {
            // PostgreSQL ended by itself, and no fence revoked the right: the guard has seen to its end.
            right = Right::default();
            until = None;
        } else if over {
            // Too late to be guarded: this process was paused. The worker fences, the guard has done so already.
            c.a.inner.borrow_mut().local.right = right;
            c.wake_work();
            continue;
        }
        let held = agreed.paused.is_some();
        let order = guard::order(&c.a.inner.borrow().local, held, until);
        let starting =
            matches!(order, Order::Keep { .. }) && c.a.inner.borrow().local.postgres == LocalPostgres::Starting;
        let order = if starting && !std::mem::replace(&mut was_starting, starting) { Order::KEEP } else { order };
        was_starting = starting;
        if let Some((told, held)) = tell(&c, order).await {
            let mut inner = c.a.inner.borrow_mut();
            // Fenced while the guard was being told: the fence's own word is on its way here and disarms it.
            if until.is_none() || inner.local.reigns_in(reigned) {
                inner.local.right = right;
            }
            inner.guarded_until = told;
            inner.guard_armed = true;
            inner.guard_held = held;
            drop(inner);
            c.wake_work();
        } else {
            c.a.inner.borrow_mut().guard_armed = false;
        }
    }
}

/// The later of both in each respect.
fn later(one: Right, other: Right) -> Right {
    Right {
        renewed_sent_at: one.renewed_sent_at.max(other.renewed_sent_at),
        canary_began_at: one.canary_began_at.max(other.canary_began_at),
    }
}

/// Whether `until` makes an armed guard's deadline later by less than half a heartbeat.
fn little_longer(c: &Ctx, heartbeat_ms: u64, until: Option<Time>) -> bool {
    let inner = c.a.inner.borrow();
    match (inner.guarded_until, until) {
        (Some(guarded), Some(until)) => {
            inner.would_be_killed_in_time() && until >= guarded && until.since(guarded) < heartbeat_ms / 2
        }
        _ => false,
    }
}

/// What the guard has in force after it was told: a deadline, and whether it holds still.
async fn tell(c: &Ctx, order: Order) -> Option<(Option<Time>, bool)> {
    for _ in 0..3 {
        let done = match order {
            Order::Hold => tell_guard(&c.w, c.h, Message::Hold).await.map(|_| (None, true)),
            Order::Arm(until) => tell_guard(&c.w, c.h, Message::Arm(until)).await.map(|_| (Some(until), false)),
            Order::Keep { or_stop } => match tell_guard(&c.w, c.h, Message::Status).await {
                Ok(Duty::Armed(until)) => Ok((Some(until), false)),
                Ok(Duty::Held) => Ok((None, true)),
                Ok(_) => {
                    if or_stop {
                        c.a.inner.borrow_mut().local.right.renewed_sent_at = Some(Time(0));
                        c.wake_work();
                    }
                    return None;
                }
                Err(error) => Err(error),
            },
            Order::Disarm => tell_guard(&c.w, c.h, Message::Disarm).await.map(|_| (None, false)),
        };
        match done {
            Ok(told) => return Some(told),
            Err("late") => {}
            Err(_) => {
                c.w.cover.hit("guard", "not-confirmed");
                spawn_guard(c).await;
            }
        }
    }
    None
}

async fn spawn_guard(c: &Ctx) {
    c.w.pause(2_000, 30_000).await;
    // A frozen one keeps its lock: no second one begins beside it.
    if !c.w.exec.is_frozen(World::guard_process(c.h)) {
        c.w.start_guard(c.h);
    }
}
