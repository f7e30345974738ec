//! The right to serve as its holder keeps it: the deadline goes to the guard, and only once the guard has confirmed it
//! is the right longer. After `agent/right.rs` of the program.

use super::shared::Ctx;
use crate::{
    guard::{Duty, Message, tell as tell_guard},
    world::World,
};
use pgvigil_core::{id::Epoch, lease::Right, local::LocalPostgres, time::Time};

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
    loop {
        if c.a.inner.borrow().renewals.is_empty() {
            let at = c.now().plus(KEEP_MS);
            c.w.until_or_told(c.h, at, &c.a.renewed).await;
        }
        let news: Vec<Renewal> = c.a.inner.borrow_mut().renewals.drain(..).collect();
        let Some(agreed) = c.agreed() else { continue };
        let (right, reigned) = {
            let inner = c.a.inner.borrow();
            let mut right = inner.local.right;
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
        let serves = serves(&c);
        let until = right.until(&agreed.settings);
        if agreed.paused.is_none() && until.is_some_and(|until| until <= c.now()) {
            // Too late to be guarded: this process was paused. The worker fences, the guard has done so already.
            c.a.inner.borrow_mut().local.right = right;
            c.wake_work();
            continue;
        }
        if tell(&c, serves, agreed.paused.is_some(), until).await {
            let mut inner = c.a.inner.borrow_mut();
            // Fenced while the guard was being told: the fence's own word is on its way here and disarms it.
            if until.is_none() || inner.local.reigns_in(reigned) {
                inner.local.right = right;
            }
            inner.guarded_until = until;
            inner.guard_armed = true;
            drop(inner);
            c.wake_work();
        } else {
            c.a.inner.borrow_mut().guard_armed = false;
        }
    }
}

fn serves(c: &Ctx) -> bool {
    let inner = c.a.inner.borrow();
    let primary = matches!(&inner.local.postgres, LocalPostgres::Running(running) if !running.in_recovery);
    primary && inner.local.marker.is_some() && inner.local.in_force.as_ref().is_some_and(|f| f.door_open)
}

async fn tell(c: &Ctx, serves: bool, paused: bool, until: Option<Time>) -> bool {
    for _ in 0..3 {
        let told = match until {
            _ if paused => tell_guard(&c.w, c.h, Message::Hold).await,
            Some(until) => tell_guard(&c.w, c.h, Message::Arm(until)).await,
            // Restarted beside a primary that serves: a guard that lived on holds the deadline, a new one knows none.
            None if serves => match tell_guard(&c.w, c.h, Message::Status).await {
                Ok(duty @ (Duty::Armed(_) | Duty::Held)) => Ok(duty),
                Ok(_) => {
                    c.a.inner.borrow_mut().local.right.renewed_sent_at = Some(Time(0));
                    c.wake_work();
                    return false;
                }
                Err(error) => Err(error),
            },
            None => tell_guard(&c.w, c.h, Message::Disarm).await,
        };
        match told {
            Ok(_) => return true,
            Err("late") => {}
            Err(_) => {
                c.w.cover.hit("guard", "not-confirmed");
                spawn_guard(c).await;
            }
        }
    }
    false
}

async fn spawn_guard(c: &Ctx) {
    c.w.pause(2_000, 30_000).await;
    // A frozen one keeps its lock: no second one begins beside it.
    if !c.w.exec.is_frozen(World::guard_process(c.h)) {
        c.w.start_guard(c.h);
    }
}
