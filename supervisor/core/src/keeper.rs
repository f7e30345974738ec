//! The right to serve as its holder keeps it: what makes it longer is gathered, its end goes to the guard, and only once
//! the guard has confirmed that is the right longer. Pure: the caller waits, reads the clock and talks to the guard.
//! Keeps S3.

use crate::{
    cluster::ClusterState,
    guard::{self, Duty, Order},
    id::Epoch,
    lease::Right,
    local::{Local, LocalPostgres},
    time::Time,
};

/// How long the guard may take to confirm, in milliseconds. It is local and does nothing else.
pub const CONFIRM_MS: u64 = 500;
/// How often the guard is told again when nothing new is to be told, in milliseconds: that it lives.
pub const KEEP_MS: u64 = 1_000;
/// How often it is told the same before that is given up until the next time.
const TRIES: u32 = 3;

/// Something that makes the right longer, for the reign of one epoch only; or ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The leader renewed the lease in answer to a heartbeat.
    Lease {
        /// Of which epoch the heartbeat spoke.
        epoch: Epoch,
        /// When it was sent, or earlier; never when the answer came.
        sent_at: Time,
    },
    /// A canary under a rule of k ≥ 1 was acknowledged.
    Canary {
        /// Under which epoch's rule it began.
        epoch: Epoch,
        /// When it began.
        began_at: Time,
    },
    /// PostgreSQL was fenced: there is no right any more, and nothing to guard.
    Revoked,
}

/// What the guard has in force, as far as it has confirmed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guarded {
    /// The deadline. `None`: none is in force.
    pub until: Option<Time>,
    /// It confirmed what it was told last. If not, the rest may be no longer so.
    pub confirmed: bool,
    /// It was told to hold still, as in a pause: it would kill nobody.
    pub held: bool,
}

impl Guarded {
    /// The guard has confirmed the newest deadline and kills when it comes.
    #[must_use]
    pub const fn would_kill_in_time(&self) -> bool {
        self.confirmed && !self.held
    }
}

/// What is to be done after something was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Nothing: it is not worth telling the guard yet.
    Wait,
    /// The right is over, too late to be guarded: the worker, which fences, is to look at once.
    Fence,
    /// The guard is to be told this ([`Order::message`]), and [`Keeper::told`] what it answers.
    Tell(Order),
}

/// What is to be done after the guard has answered, or has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// A guard is to be started, and told the same.
    Start,
    /// It is to be told the same again. That it does not confirm is a problem by now.
    Again,
    /// It does not confirm, and what follows from that stands; it is told again when something new is heard.
    GivenUp,
    /// It has no deadline in force, although it should. `stop`: PostgreSQL has to stop, the worker is to look at once.
    Unwatched {
        /// See above.
        stop: bool,
    },
    /// It has confirmed. The worker is to look at what that allows.
    Watched,
}

/// What the guard is being told.
#[derive(Clone, Copy, Debug)]
struct Telling {
    order: Order,
    /// The right once it has confirmed.
    right: Right,
    /// The end of that.
    until: Option<Time>,
    /// For whose reign it was granted.
    reigned: Epoch,
    failures: u32,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Keeper {
    /// What was granted and is not worth telling the guard yet: no right before it is told.
    pending: Right,
    was_starting: bool,
    telling: Option<Telling>,
}

impl Keeper {
    /// Takes in what came since the last time; `due`: nothing did for [`KEEP_MS`]. Changes nothing of `local` but its right,
    /// and that only where it ends.
    pub fn hear(
        &mut self,
        news: impl IntoIterator<Item = Renewal>,
        due: bool,
        agreed: &ClusterState,
        local: &mut Local,
        guarded: &Guarded,
        now: Time,
    ) -> Step {
        let paused = agreed.paused.is_some();
        let mut right = later(local.right, std::mem::take(&mut self.pending));
        for renewal in news {
            match renewal {
                Renewal::Lease { epoch, sent_at } if local.reigns_in(epoch) => {
                    right.renewed_sent_at = right.renewed_sent_at.max(Some(sent_at));
                }
                Renewal::Canary { epoch, began_at } if local.reigns_in(epoch) => {
                    right.canary_began_at = right.canary_began_at.max(Some(began_at));
                }
                // Granted for a reign that is over here.
                Renewal::Lease { .. } | Renewal::Canary { .. } => {}
                Renewal::Revoked => right = Right::default(),
            }
        }
        let mut until = right.until(&agreed.settings);
        if !due && !paused && little_longer(guarded, until, agreed.settings.heartbeat_ms) {
            self.pending = right;
            return Step::Wait;
        }
        if !paused && until.is_some_and(|until| until <= now) {
            if guard::may_serve(local) {
                // This process was paused. The worker fences, the guard has done so already.
                local.right = right;
                return Step::Fence;
            }
            // PostgreSQL ended by itself while this agent was busy, and the reign ended meanwhile: no fence revoked the
            // right. The guard has seen to its end; told of it for ever, it would never be disarmed, and nothing started
            // here again (found by the simulation).
            right = Right::default();
            until = None;
        }
        let order = self.with_grace(guard::order(local, paused, until), local);
        self.telling = Some(Telling { order, right, until, reigned: local.promise.reigned, failures: 0 });
        Step::Tell(order)
    }

    /// A server that was adopted, or is starting, gets its right within a moment: the first time, a guard that watches
    /// nothing is no reason to stop it.
    fn with_grace(&mut self, order: Order, local: &Local) -> Order {
        let starting = matches!(order, Order::Keep { .. }) && local.postgres == LocalPostgres::Starting;
        let first = starting && !std::mem::replace(&mut self.was_starting, starting);
        self.was_starting = starting;
        if first { Order::KEEP } else { order }
    }

    /// The guard has answered so to what it was told; `None`: it did not in time, refused, or there is none.
    pub fn told(&mut self, answer: Option<Duty>, local: &mut Local, guarded: &mut Guarded) -> Next {
        let Some(mut telling) = self.telling.take() else { return Next::GivenUp };
        let in_force = match (telling.order, answer) {
            (Order::Arm(until), Some(Duty::Armed(at))) if at == until => (Some(until), false),
            (Order::Keep { .. }, Some(Duty::Armed(until))) => (Some(until), false),
            (Order::Hold | Order::Keep { .. }, Some(Duty::Held)) => (None, true),
            (Order::Disarm, Some(Duty::Disarmed)) => (None, false),
            (Order::Keep { or_stop }, Some(Duty::Disarmed | Duty::Fired(_))) => {
                guarded.confirmed = false;
                if or_stop {
                    // The right, if there was one, may have run out already.
                    local.right.renewed_sent_at = Some(Time(0));
                }
                return Next::Unwatched { stop: or_stop };
            }
            _ => {
                telling.failures += 1;
                if telling.failures == TRIES {
                    guarded.confirmed = false;
                    return Next::GivenUp;
                }
                self.telling = Some(telling);
                return if telling.failures == 1 { Next::Start } else { Next::Again };
            }
        };
        // Fenced while the guard was being told: the fence's own word is on its way here and disarms it.
        if telling.until.is_none() || local.reigns_in(telling.reigned) {
            local.right = telling.right;
        }
        let (until, held) = in_force;
        *guarded = Guarded { until, confirmed: true, held };
        Next::Watched
    }
}

/// The later of both in each respect.
fn later(one: Right, other: Right) -> Right {
    Right {
        renewed_sent_at: one.renewed_sent_at.max(other.renewed_sent_at),
        canary_began_at: one.canary_began_at.max(other.canary_began_at),
    }
}

/// Whether `until` makes an armed guard's deadline later by less than half a heartbeat; one that holds still after a
/// pause is armed at once. Renewal and canary come by turns, each in time by itself: telling the guard of every one of
/// them would wake two processes twice as often for nothing.
fn little_longer(guarded: &Guarded, until: Option<Time>, heartbeat_ms: u64) -> bool {
    match (guarded.until, until) {
        (Some(guarded_until), Some(until)) => {
            guarded.would_kill_in_time() && until >= guarded_until && until.since(guarded_until) < heartbeat_ms / 2
        }
        _ => false,
    }
}

#[cfg(test)]
#[path = "keeper_test.rs"]
mod tests;
