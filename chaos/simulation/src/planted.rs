//! Bugs put back on purpose, in the world around the core: the proof that the checkers catch what they are for.

use serde::{Deserialize, Serialize};

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Planted {
    /// A seal is answered before reception has stopped: the position is read while a walreceiver still streams.
    SealBeforeReceptionEnds,
    /// What a seal writes is not fsynced.
    SealNotDurable,
    /// The leader opens at once, as if every former primary were fenced.
    LeaseIgnored,
    /// The guard does not kill when the deadline comes.
    GuardDoesNotKill,
    /// Killing spares the backends.
    FenceMissesBackends,
    /// A server is started and promoted with its door open.
    DoorOpenAtStart,
    /// Every seal claims as much WAL as the best one: the wrong candidate is chosen.
    PositionsInvented,
    /// The proof of a rule is given without waiting for walsenders and standbys.
    ProofInvented,
    /// A proof is complete when k standbys have the marker, whatever walsenders have released beyond it.
    ProofOfMarkerOnly,
    /// What a standby has counts as quiet from when the look began that showed it, not from when its answer came.
    QuietFromBeginning,
    /// A standby follows without its WAL having been seen to end before the fork.
    FollowUnverified,
    /// A wiped member comes back with a fresh, empty history under its old incarnation.
    WipedKeepsIncarnation,
    /// A leader answers agents, and renews leases, without asking a quorum.
    NoConfirmation,
    /// The right is counted from when the renewal came back, not from when the heartbeat was sent.
    RightFromReceipt,
    /// The pass file gives the replication password for every host: a walreceiver that was asked for with an old connection
    /// string is let in by the primary of an older reign.
    PasswordForEveryHost,
    /// `sync_standbys` above 1 is not refused: PostgreSQL counts walsenders, not members, and a standby that reconnects
    /// may have two.
    TwoSyncStandbys,
    /// A seal leaves a server running that may wait for a timeline of which it has no WAL.
    DeadTimelineUnseen,
    /// A promotion leaves the history files of timelines that came to nothing where its standbys fetch them. Breaks
    /// liveness only.
    DeadTimelineKept,
    /// Votes are kept in a file that is never flushed. With `--raft openraft` only.
    VoteNotFlushed,
    /// Entries of Raft's log are acknowledged before they are flushed. With `--raft openraft` only.
    LogNotFlushed,
    /// A Raft leader that restarts goes on leading in its term, as openraft does unless told otherwise: after a loss of power it
    /// may lack entries that a follower has. With `--raft openraft` only.
    LeaderRestored,
    /// The leader never has agreed what agents saw against their rule. Takes people's hands (`--hands`).
    EvidenceNotAgreed,
    /// WAL is taken for an agreed timeline's by its number. With `--standbys` only.
    TimelineByNumber,
    /// What was seen flushed is not remembered: a directory that came back old is believed. With `--standbys` only.
    FlushNotRemembered,
    /// The right of a server that ended by itself is never taken back: its guard is never disarmed. Breaks liveness only.
    RightOutlivesItsServer,
}

impl Planted {
    /// Its harm shows only where a commit may wait for two standbys.
    #[must_use]
    pub const fn needs_two_sync_standbys(self) -> bool {
        matches!(self, Self::TwoSyncStandbys | Self::ProofOfMarkerOnly | Self::ProofInvented)
    }
}

/// The planted bugs that are found soon. [`Planted::ProofOfMarkerOnly`] and [`Planted::QuietFromBeginning`] have tests of
/// their own. [`Planted::ProofInvented`] is not among them: no seed has shown its harm yet; nor is [`Planted::DeadTimelineUnseen`], which one seed in
/// a thousand shows, nor [`Planted::DeadTimelineKept`], which takes a connection that breaks between two files as well and
/// which no seed has shown yet; nor is [`Planted::TwoSyncStandbys`], which takes some
/// 100,000 failovers (`seed 1000758 --storm --planted two-sync-standbys` shows it); nor [`Planted::RightFromReceipt`], which
/// one seed in some thousands shows since standbys count what they have as quiet from the answer that showed it. Nor are two any more that a second
/// line in the core stops: it remembers what was proven of an incarnation, and has one that came back with less made
/// anew ([`Planted::WipedKeepsIncarnation`]); and an appointee compares its own end with its seal before it promotes
/// ([`Planted::PositionsInvented`]; the model takes both lines out, `no-catch-up`).
pub const ALL: &[Planted] = &[
    Planted::SealBeforeReceptionEnds,
    Planted::SealNotDurable,
    Planted::LeaseIgnored,
    Planted::GuardDoesNotKill,
    Planted::FenceMissesBackends,
    Planted::DoorOpenAtStart,
    Planted::FollowUnverified,
    Planted::NoConfirmation,
    Planted::PasswordForEveryHost,
];
