//! What the guard is told: the small process that ends a primary's service when its right has run out. Pure. Keeps S3.

mod duty;

pub use duty::{Answer, Duty, KILL_MARGIN_MS, Message, Watch};

use crate::{
    local::{Local, LocalPostgres},
    time::Time,
};

/// What its agent has to tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The cluster is paused: no deadline counts.
    Hold,
    /// PostgreSQL must be gone then.
    Arm(Time),
    /// Nothing: PostgreSQL may serve, and this agent, which was restarted beside it, has no right in hand. A guard that lived
    /// on holds the deadline. `or_stop`: one that holds none watches nothing, and PostgreSQL is stopped.
    Keep {
        /// PostgreSQL is known to be this member's primary, or may be starting as one.
        or_stop: bool,
    },
    /// Nothing serves here.
    Disarm,
}

impl Order {
    /// A guard that lived on keeps what it has, and nothing else is done yet.
    pub const KEEP: Self = Self::Keep { or_stop: false };

    /// How the guard is told.
    #[must_use]
    pub const fn message(self) -> Message {
        match self {
            Self::Hold => Message::Hold,
            Self::Arm(until) => Message::Arm(until),
            Self::Keep { .. } => Message::Status,
            Self::Disarm => Message::Disarm,
        }
    }
}

/// Whether PostgreSQL may serve here as a primary: everything may that is not known to be stopped, a standby, or closed to
/// clients by this agent.
#[must_use]
pub fn may_serve(local: &Local) -> bool {
    let closed = local.in_force.as_ref().is_some_and(|in_force| !in_force.door_open);
    match &local.postgres {
        LocalPostgres::NoData | LocalPostgres::Stopped { .. } => false,
        LocalPostgres::Running(running) => !running.in_recovery && !closed,
        // The fence on disk makes whatever starts a standby.
        LocalPostgres::Starting => !local.fence_on_disk && !closed,
        LocalPostgres::Adoptable(found) => !found.in_recovery,
        // Not looked at yet, or what was seen made no sense: a server may be there.
        LocalPostgres::Unknown | LocalPostgres::Unusable { .. } => true,
    }
}

/// What the guard is to be told now. `until` is the end of the right to serve, if there is one.
#[must_use]
pub fn order(local: &Local, paused: bool, until: Option<Time>) -> Order {
    match until {
        _ if paused => Order::Hold,
        // A door that is about to open needs its deadline in force before, so whenever there is a right.
        Some(until) => Order::Arm(until),
        None if !may_serve(local) => Order::Disarm,
        None => {
            let here = matches!(local.postgres, LocalPostgres::Running(_) | LocalPostgres::Starting);
            Order::Keep { or_stop: here && local.marker.is_some() }
        }
    }
}

#[cfg(test)]
#[path = "guard_test.rs"]
mod tests;
