//! The model of service (S3): lease, canary, samples, guard and the opening of the successor's door.
//!
//! Time is an abstract clock that every host shares: one tick at a time, with any number of steps in between, and each
//! message, flush, sample and acknowledgement as late as it likes. It runs for ever and still has few states: only what
//! lies less than a lease back can matter, so the present is always tick [`NOW`] and a tick of time pushes everything
//! else one back, to 0 at most, which stands for a lease ago or longer. The arithmetic is the shipped
//! `pgvigil_core::lease`: [`Right::until`](pgvigil_core::lease::Right::until) for the holder,
//! [`may_renew`](pgvigil_core::lease::may_renew) for the granter and [`fenced`](pgvigil_core::lease::fenced) for the
//! opening, on a state that the shipped `apply` made. Clocks of different rates are what `lease_margin_ms` is for, so
//! here it is nothing and the arithmetic must be exact.

mod next;
mod view;

pub use view::tell;

use crate::{agreed::Book, state::AgreedId};
use serde::Serialize;
use stateright::{Model, Property};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// The lease, in ticks.
pub const LEASE: u8 = 3;
/// The present.
pub const NOW: u8 = LEASE;
/// Standbys: b alone confirms. That every k confirming members share one with the sealed ones is the other model's part.
pub const STANDBYS: usize = 1;

/// Which protection of S3 is taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum Unguarded {
    /// None.
    #[default]
    Nothing,
    /// The successor opens without waiting.
    NoWait,
    /// The right counts from the moment the renewal arrived, not from when the heartbeat was sent.
    CountedFromArrival,
    /// The right counts from the canary's acknowledgement, not from its beginning.
    CanaryFromAcknowledgement,
    /// Opening waits for the last renewal only; canaries are forgotten.
    CanaryForgotten,
    /// A new leader takes over without a wait of its own.
    NewLeaderTrusted,
    /// A leader renews without asking a quorum whether it still leads.
    UnconfirmedRenewal,
    /// A seal is quiet since the beginning of the sample that showed its end, not since that sample's answer.
    QuietFromBeginning,
    /// The agent is stuck when its right runs out, and nobody else ends PostgreSQL.
    NoGuard,
    /// The old primary is reported fenced before its last process is gone.
    FencedTooEarly,
}

impl Unguarded {
    /// What is taken out, in a sentence.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Nothing => "Nothing is taken out.",
            Self::NoWait => "The successor opens without waiting.",
            Self::CountedFromArrival => {
                "The right counts from the moment the renewal arrived, not from when the heartbeat was sent."
            }
            Self::CanaryFromAcknowledgement => {
                "The right counts from the canary's acknowledgement, not from its beginning."
            }
            Self::CanaryForgotten => "Opening waits for the last renewal only; canaries are forgotten.",
            Self::NewLeaderTrusted => "A new leader takes over without a wait of its own.",
            Self::UnconfirmedRenewal => "A leader renews without asking a quorum whether it still leads.",
            Self::QuietFromBeginning => {
                "A seal is quiet since the beginning of the sample that showed its end, not since that sample's answer."
            }
            Self::NoGuard => "The agent is stuck when its right runs out, and nobody else ends PostgreSQL.",
            Self::FencedTooEarly => "The old primary is reported fenced before its last process is gone.",
        }
    }
}

/// Every one of them, with its name.
pub const PLANTED: &[(&str, Unguarded)] = &[
    ("no-wait", Unguarded::NoWait),
    ("counted-from-arrival", Unguarded::CountedFromArrival),
    ("canary-from-acknowledgement", Unguarded::CanaryFromAcknowledgement),
    ("canary-forgotten", Unguarded::CanaryForgotten),
    ("new-leader-trusted", Unguarded::NewLeaderTrusted),
    ("unconfirmed-renewal", Unguarded::UnconfirmedRenewal),
    ("quiet-from-beginning", Unguarded::QuietFromBeginning),
    ("no-guard", Unguarded::NoGuard),
    ("fenced-too-early", Unguarded::FencedTooEarly),
];

/// How far the change of primary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Phase {
    /// a reigns.
    Reigns,
    /// An election has begun: the lease is renewed no more.
    Election,
    /// b is appointed and promoted behind a closed door.
    Appointed,
    /// b is open to clients.
    Opened,
}

/// The Raft leader of the moment, and what it has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Leader {
    /// When it became leader.
    pub since: u8,
    /// The newest renewal it granted, by receipt.
    pub renewal: Option<u8>,
    /// Since when the seals of the appointment are quiet: kept by the leader that appointed.
    pub quiet: Option<u8>,
    /// When it first saw the appointment.
    pub appointed: Option<u8>,
}

/// A heartbeat on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Heartbeat {
    /// To the leader.
    Sent {
        /// When.
        at: u8,
    },
    /// With the leader, which has yet to ask a quorum.
    Received {
        /// When it was sent.
        sent: u8,
        /// When it came in.
        at: u8,
        /// The leader that has it was deposed since.
        deposed: bool,
    },
    /// Renewed, on its way back.
    Renewed {
        /// When the heartbeat was sent.
        sent: u8,
    },
}

/// A standby.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Standby {
    /// It has flushed the canary under way.
    pub flushed: bool,
    /// A sample is under way since then.
    pub sampling: Option<u8>,
    /// Since when samples have shown what it has flushed; `None` if none has yet.
    pub seen: Option<u8>,
    /// Sealed, and quiet since then.
    pub sealed: Option<u8>,
}

/// The state of the service model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Clocked {
    /// How far the change of primary is.
    pub phase: Phase,
    /// What is agreed.
    pub agreed: AgreedId,
    /// The leader.
    pub leader: Leader,
    /// How many more leaders there may be.
    pub leaders_left: u8,
    /// PostgreSQL of a runs with its door open.
    pub running: bool,
    /// a was reported fenced.
    pub fenced: bool,
    /// From when its right counts: the later of lease and canary.
    pub right: u8,
    /// The heartbeat under way.
    pub heartbeat: Option<Heartbeat>,
    /// The canary under way: when it began.
    pub canary: Option<u8>,
    /// The standbys.
    pub standbys: [Standby; STANDBYS],
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Tick {
    /// Time passes.
    Time,
    /// a's agent sends a heartbeat.
    Heartbeat,
    /// The leader receives it.
    Receive,
    /// A quorum confirms the leader, which answers.
    Confirm,
    /// The answer arrives, and the guard has the deadline.
    Renewed,
    /// a's agent begins a canary.
    Canary,
    /// It is acknowledged, and the guard has the deadline.
    CanaryDone,
    /// A standby flushes what a has written.
    Flush(u8),
    /// A standby's agent begins a sample.
    SampleBegins(u8),
    /// The sample is answered.
    SampleEnds(u8),
    /// A standby seals.
    Seal(u8),
    /// Another leader is elected by Raft.
    NewLeader,
    /// An election for a's succession begins.
    Begin,
    /// b is appointed on its own seal, and promoted.
    Appoint,
    /// a is fenced by its agent, which reports it.
    Fence,
    /// b opens.
    Open,
}

/// The model of service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Which protection is taken out.
    pub planted: Unguarded,
    /// The agreed states.
    pub book: Arc<Book>,
    discovered: Arc<AtomicU32>,
}

/// S3 in one sentence.
pub const STALE: &str = "S3: no stale primary serves";

impl Service {
    /// The model without the protection `planted`.
    #[must_use]
    pub fn new(planted: Unguarded) -> Self {
        Self { planted, book: Arc::default(), discovered: Arc::default() }
    }

    fn first(&self, bit: u32, holds: bool) -> bool {
        holds && self.discovered.fetch_or(1 << bit, Ordering::Relaxed) & (1 << bit) == 0
    }
}

impl Model for Service {
    type State = Clocked;
    type Action = Tick;

    fn init_states(&self) -> Vec<Clocked> {
        vec![Clocked {
            phase: Phase::Reigns,
            agreed: self.book.founded(2, 0, 1),
            leader: Leader { since: NOW, ..Leader::default() },
            leaders_left: 2,
            running: true,
            fenced: false,
            right: NOW,
            heartbeat: None,
            canary: None,
            standbys: [Standby::default(); STANDBYS],
        }]
    }

    fn actions(&self, state: &Clocked, actions: &mut Vec<Tick>) {
        next::steps(state, actions);
    }

    fn next_state(&self, state: &Clocked, tick: Tick) -> Option<Clocked> {
        next::next(self, state, tick)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![Property::<Self>::always(STALE, |m, s| {
            let stale = s.phase == Phase::Opened && next::serves(m, s);
            !m.first(0, stale)
        })];
        if self.planted == Unguarded::Nothing {
            all.extend([
                Property::<Self>::sometimes("the successor opens after the right has run out", |m, s| {
                    m.first(1, s.phase == Phase::Opened && !s.fenced)
                }),
                Property::<Self>::sometimes("the successor opens at once after a fence", |m, s| {
                    m.first(2, s.phase == Phase::Opened && s.fenced && s.right == NOW)
                }),
                Property::<Self>::sometimes("a primary serves on by its canaries alone", |m, s| {
                    let leased = s.leader.since.max(s.leader.renewal.unwrap_or(0)) > 0 || s.heartbeat.is_some();
                    m.first(3, !leased && next::serves(m, s))
                }),
                Property::<Self>::sometimes("a new leader opens what another one appointed", |m, s| {
                    m.first(5, s.phase == Phase::Opened && s.leader.quiet.is_none() && !s.fenced)
                }),
                Property::<Self>::sometimes("a canary is acknowledged after its member was sealed", |m, s| {
                    m.first(6, s.phase == Phase::Appointed && s.canary.is_none() && s.standbys[0].flushed)
                }),
            ]);
        }
        all
    }
}
