//! Bugs that are put back on purpose in what an agent does: the proof that the checkers catch them.

/// See the module. Never planted in a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A seal promises and reports a position, and stops nothing.
    SealSkipped,
    /// The position is read first, and reception is stopped after that.
    SealNotAwaited,
    /// Every seal claims more WAL than there is.
    PositionInvented,
    /// A rule is narrowed before PostgreSQL has the narrower setting in force.
    RuleNotInForce,
    /// A server is started and promoted with its door open.
    DoorOpenAtStart,
    /// The proof of a rule is given without waiting for walsenders and standbys.
    ProofInvented,
    /// A proof is complete when k standbys have the marker, whatever walsenders have released beyond it.
    ProofOfMarkerOnly,
    /// WAL is taken for an agreed timeline's by its number.
    TimelineByNumber,
    /// A right counts from when its renewal came back, not from when the heartbeat or the canary was sent.
    RightFromReceipt,
    /// What a standby has counts as quiet from when the look began that showed it, not from when its answer came.
    QuietFromBeginning,
    /// A standby follows without its WAL having been seen to end before the fork.
    FollowUnverified,
    /// The right of a server that ended by itself is never taken back.
    RightOutlivesItsServer,
}
