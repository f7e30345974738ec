//! The tasks of an agent: loops that wait for something, look, and hand on what they saw. Each has a port of its own for the
//! wire it holds; what they share is [`Known`](crate::known::Known) and the [`Tasks`] port. Heartbeats never wait for acts.
//!
//! ```text
//!   sampler, canary, prober ──► Known ──► worker ──► acts
//!                                │ ▲
//!                      uplink ◄──┘ └── learn, right
//! ```

pub mod canary;
mod find;
pub mod learn;
pub mod prober;
pub mod right;
pub mod sampler;
pub mod scene;
mod settle;
pub mod uplink;
pub mod worker;

use crate::{
    bug::Bug,
    known::ServerId,
    ports::{Member, Wake},
};
use pgvigil_core::{
    cluster::ClusterState, decide::Finding, local::Local, member::MemberSpec, reconcile::Action, report::Report,
    time::Time,
};
use std::sync::Arc;

/// Something that happens in a task: for journals and other onlookers. Nothing depends on it.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// The worker was told.
    Finds(&'a Finding),
    /// An act is to be done and waits for its time.
    HeldBack,
    /// An act begins, which was decided by this.
    Begins {
        /// The agreed state.
        agreed: &'a ClusterState,
        /// What was known then.
        local: &'a Local,
        /// When.
        now: Time,
        /// The act.
        action: &'a Action,
    },
    /// An act has ended: why it failed, if it did.
    Ended(&'a Action, Option<&'a str>),
    /// A canary was acknowledged, or failed.
    Canary(bool),
    /// The primary's port was probed: whether it answered.
    Probed(bool),
    /// A heartbeat has made the right longer.
    Renewed,
    /// The guard has not confirmed and is started.
    GuardStarts,
    /// A server was found running.
    Found(ServerId),
    /// A server was seen to have ended.
    ServerEnded {
        /// Nobody here has stopped it.
        crashed: bool,
    },
}

/// What an agent's tasks need of its process, beside what its acts need.
#[expect(async_fn_in_trait, reason = "as for the ports of acts")]
pub trait Tasks: Member {
    /// A moment, as exact as timers are.
    type Moment;

    /// What this member says of itself.
    fn spec(&self) -> &MemberSpec;
    /// In so many milliseconds, or a little before or after it, with other tasks.
    fn about(&self, ms: u64) -> Self::Moment;
    /// In so many milliseconds, or a little after it, with other tasks.
    fn after(&self, ms: u64) -> Self::Moment;
    /// Waits until `moment`.
    async fn until(&self, moment: Self::Moment);
    /// Waits until `moment`, or until `whom` is woken.
    async fn until_or_woken(&self, moment: Self::Moment, whom: Wake);
    /// Waits until `due`, for `longest_ms` milliseconds or a little more at the longest, or until `whom` is woken. `Some`:
    /// it was not woken, and this is the moment for which it meant to wake up by itself.
    async fn wait(&self, whom: Wake, due: Time, longest_ms: u64) -> Option<Time>;
    /// Holds `state` from now on if it is newer than what is held. `Err`: it is not; else what was held before. Keeps S5.
    fn hold(&self, state: &Arc<ClusterState>) -> Result<Option<Arc<ClusterState>>, NotNewer>;
    /// That server was seen to end: forgets what was true of it. `Some`: it was the one that is known, and whether it crashed.
    fn has_ended(&self, server: ServerId) -> Option<bool>;
    /// What is known against the rule has become less: it is written down.
    fn evidence_forgotten(&self);
    /// For those who look on.
    fn happens(&self, event: Event<'_>) {
        let _ = event;
    }
}

/// Agreed state that is no newer than what is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotNewer;

/// The report of this moment; see [`crate::report::make`].
pub fn report<M: Tasks>(m: &M, seq: u64) -> Option<Report> {
    let (agreed, now) = (m.agreed(), m.now());
    crate::report::make(&mut m.known(), &m.cluster(), m.spec(), agreed.as_deref(), seq, now)
}

/// A server was seen to end.
pub fn server_ended<M: Tasks>(m: &M, server: ServerId) {
    let Some(crashed) = m.has_ended(server) else { return };
    if crashed {
        tracing::warn!(member = %m.me(), server, "PostgreSQL has ended");
    }
    m.happens(Event::ServerEnded { crashed });
    m.wake(Wake::Worker);
    m.wake(Wake::Report);
}

/// From when something counts that began at `began` and was known to have succeeded only now.
fn counts_from<M: Tasks>(m: &M, began: Time) -> Time {
    if m.planted(Bug::RightFromReceipt) { m.now() } else { began }
}
