//! Faults: what can go wrong. How it begins, how it ends, and when it is not allowed because the argument for S3 does not
//! hold for it (agent and guard of one host both gone or stuck while its PostgreSQL runs), is in the modules.

pub mod begin;
pub mod operator;
pub mod over;
mod reach;

use crate::world::{Event, W};
use serde::Serialize;

pub use begin::begin;
pub use over::{heal, over};

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Target {
    /// The primary of that moment.
    Primary,
    /// A host by number.
    Host(usize),
}

/// What may be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Strike {
    /// pgvigil's process.
    Agent,
    /// PostgreSQL.
    Postgres,
    /// The host, as by loss of power.
    Host,
}

/// A strike that waits for somebody to reach a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ambush {
    /// The step.
    pub step: &'static str,
    /// What happens there.
    pub strike: Strike,
}

/// A fault. Times in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Fault {
    /// SIGKILL, or a crash of its own.
    KillPostgres(Target),
    /// SIGSTOP for a while.
    FreezePostgres(Target, u64),
    /// pgvigil dies and is started again.
    KillAgent(Target, u64),
    /// SIGSTOP for a while.
    FreezeAgent(Target, u64),
    /// The guard dies.
    KillGuard(Target),
    /// SIGSTOP for a while.
    FreezeGuard(Target, u64),
    /// Loss of power, and it comes back.
    PowerOff(Target, u64),
    /// Everything on the host stands still; its clock goes on.
    FreezeHost(Target, u64),
    /// Nothing passes between two hosts.
    Cut(Target, usize, u64),
    /// Nothing passes from one to the other.
    CutOneWay(Target, usize, u64),
    /// Nobody reaches it, it reaches nobody.
    Isolate(Target, u64),
    /// It hears nobody.
    Deaf(Target, u64),
    /// Nobody hears it.
    Mute(Target, u64),
    /// Isolated and back, again and again.
    Flap(Target, u64),
    /// Packets are late by up to so many microseconds.
    Slow(Target, u64, u64),
    /// Reports and answers are lost, in percent.
    Lossy(Target, u64, u64),
    /// fsync hangs.
    StallDisk(Target, u64),
    /// Every commit's wait is cancelled.
    CancelWaits(Target),
    /// `pg_wal_replay_pause`.
    PauseReplay(Target, u64),
    /// Replay conflicts.
    SlowReplay(Target, u64),
    /// Somebody else starts PostgreSQL on what lies there.
    StrangerStarts(Target),
    /// `synchronous_standby_names` changed by hand.
    ChangeByHand(Target),
    /// `synchronous_standby_names` emptied by hand: commits wait for nobody. Only in [`crate::plan::hands`].
    Weaken(Target),
    /// The data directory is emptied.
    Wipe(Target),
    /// Somebody asks a standby's PostgreSQL for a promotion.
    PromoteByHand(Target),
    /// The data directory is copied now; after a while the copy is put back.
    PutBack(Target, u64),
    /// An operator wants a switchover, to that host or to anyone.
    Switchover(Option<usize>),
    /// An operator forces a failover, giving up nobody.
    Force(Option<usize>),
    /// An operator powers off the primary and another host, and forces a failover without them.
    GiveUp(usize),
    /// An operator pauses the cluster for a while.
    Pause(u64),
    /// An operator changes settings: the number of the variant.
    ChangeSettings(u64),
    /// An operator wants a fresh data directory.
    Reinit(Target),
    /// An operator wants a restart.
    Restart(Target),
    /// An operator wants a member to leave; its agent brings it back later.
    Leave(usize),
    /// The Raft leader hands over.
    MoveLeader(usize),
    /// Most looks at PostgreSQL take long for a while. Only in [`crate::plan::plan_for`].
    LateAnswers(Target, u64),
    /// As soon as no rule is being changed the primary loses power, and another host stands still, for so long. Only in
    /// [`crate::plan::plan_for`].
    DieTogether(usize, u64),
    /// Walsenders take up a reload late for a while. Only in [`crate::plan::plan_for`].
    StickSenders(Target, u64),
    /// Somebody will be struck at a step.
    Lie(Ambush),
}

impl Fault {
    /// Its kind, for coverage.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::KillPostgres(_) => "kill-postgres",
            Self::FreezePostgres(..) => "freeze-postgres",
            Self::KillAgent(..) => "kill-agent",
            Self::FreezeAgent(..) => "freeze-agent",
            Self::KillGuard(_) => "kill-guard",
            Self::FreezeGuard(..) => "freeze-guard",
            Self::PowerOff(..) => "power-off",
            Self::FreezeHost(..) => "freeze-host",
            Self::Cut(..) => "cut",
            Self::CutOneWay(..) => "cut-one-way",
            Self::Isolate(..) => "isolate",
            Self::Deaf(..) => "deaf",
            Self::Mute(..) => "mute",
            Self::Flap(..) => "flap",
            Self::Slow(..) => "slow",
            Self::Lossy(..) => "lossy",
            Self::StallDisk(..) => "stall-disk",
            Self::CancelWaits(_) => "cancel-waits",
            Self::PauseReplay(..) => "pause-replay",
            Self::SlowReplay(..) => "slow-replay",
            Self::StrangerStarts(_) => "stranger-starts",
            Self::ChangeByHand(_) => "change-by-hand",
            Self::Weaken(_) => "weaken",
            Self::Wipe(_) => "wipe",
            Self::PromoteByHand(_) => "promote-by-hand",
            Self::PutBack(..) => "put-back",
            Self::Switchover(_) => "switchover",
            Self::Force(_) => "force",
            Self::GiveUp(_) => "give-up",
            Self::Pause(_) => "pause",
            Self::ChangeSettings(_) => "change-settings",
            Self::Reinit(_) => "reinit",
            Self::Restart(_) => "restart",
            Self::Leave(_) => "leave",
            Self::MoveLeader(_) => "move-leader",
            Self::LateAnswers(..) => "late-answers",
            Self::DieTogether(..) => "die-together",
            Self::StickSenders(..) => "stick-senders",
            Self::Lie(_) => "ambush",
        }
    }
}

/// Every kind of fault.
pub const NAMES: &[&str] = &[
    "kill-postgres",
    "freeze-postgres",
    "kill-agent",
    "freeze-agent",
    "kill-guard",
    "freeze-guard",
    "power-off",
    "freeze-host",
    "cut",
    "cut-one-way",
    "isolate",
    "deaf",
    "mute",
    "flap",
    "slow",
    "lossy",
    "stall-disk",
    "cancel-waits",
    "pause-replay",
    "slow-replay",
    "stranger-starts",
    "change-by-hand",
    "wipe",
    "promote-by-hand",
    "put-back",
    "switchover",
    "force",
    "give-up",
    "pause",
    "change-settings",
    "reinit",
    "restart",
    "leave",
    "move-leader",
    "ambush",
];

/// Every step at which somebody may be struck.
pub const STEPS: &[&str] = &[
    "promise:written",
    "fence:begin",
    "fence:killed",
    "fence:done",
    "seal:begin",
    "seal:promised",
    "seal:on-disk",
    "seal:receivers-gone",
    "seal:read",
    "catch-up:begun",
    "configure:settings",
    "configure:written",
    "configure:shown",
    "start-primary:promised",
    "start-primary:unfenced",
    "start-primary:ready",
    "promote:begin",
    "promote:reserved",
    "promote:asked",
    "promote:promoted",
    "promote:promised",
    "carry-on:promised",
    "checkpoint:written",
    "launch:sealed",
    "point-at:password",
    "follow:begin",
    "follow:pointed",
    "prove:shown",
    "prove:marker",
    "prove:proven",
    "rewind:begin",
    "rewind:copied",
    "rewind:done",
    "clone:begin",
    "clone:copied",
    "clone:done",
    "adopt:promised",
];

impl Strike {
    /// It happens.
    pub fn happen(self, w: &W, host: usize) {
        match self {
            Self::Agent => {
                crate::agent::kill(w, host);
                let after = w.rng.range(50_000, 3_000_000);
                w.exec.at(w.exec.now() + after, None, Event::Over(Fault::KillAgent(Target::Host(host), 0)));
            }
            Self::Postgres => w.kill_server(host),
            Self::Host => {
                w.power_off(host);
                let after = w.rng.range(500_000, 8_000_000);
                w.exec.at(w.exec.now() + after, None, Event::Over(Fault::PowerOff(Target::Host(host), 0)));
            }
        }
    }
}
