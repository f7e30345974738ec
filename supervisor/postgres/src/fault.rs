//! Fault points: named moments at which a node can be made to stop, crash or dawdle, and bugs put back on purpose.
//!
//! For the chaos suite alone. Without the cargo feature `fault-points`, which `cargo build -p pgvigil` does not turn on,
//! every function here is empty and every branch on it is compiled away. With the feature, nothing happens unless
//! the environment variable [`VARIABLE`] arms something when the process starts; the process then says so, loudly.
//!
//! The variable holds words separated by blanks: `POINT=ACT`, with `@N` behind it to mean the Nth time that the point is
//! reached (else the first time, or, for a delay, every time), and `bug:NAME`. The acts are `stop` (SIGSTOP), `crash`
//! (abort), `crash-host` (PostgreSQL is killed first), `delay:MS`, and `power-loss:MS`: that much later the host is
//! killed, and files of ours that were written since this process began and not fsynced are what they were before. The
//! guard inherits the variable from its agent. `@FILE` instead of words: they are in that file, which is looked at anew
//! each time, so that a running cluster can be armed and disarmed; a file that is not there arms nothing.

#[cfg(feature = "fault-points")]
mod armed;

use std::path::Path;

/// The environment variable that arms points and bugs.
pub const VARIABLE: &str = "PGVIGIL_FAULT_POINTS";

/// Whether this build has fault points.
pub const COMPILED_IN: bool = cfg!(feature = "fault-points");

/// Every point, in the order of a change of primary.
pub const POINTS: &[&str] = &[
    // The leader: around each decision.
    "begin-election:before-propose",
    "begin-election:after-agreed",
    "appoint:before-propose",
    "appoint:after-agreed",
    "record-promotion:before-propose",
    "record-promotion:after-agreed",
    "open:before-propose",
    "open:after-agreed",
    "complete-rule:before-propose",
    "complete-rule:after-agreed",
    "begin-change:before-propose",
    "begin-change:after-agreed",
    "finish-change:before-propose",
    "finish-change:after-agreed",
    // A member that seals.
    "seal:begin",
    // Only with a seal's bug planted: its position is claimed, and reception goes on.
    "seal:claimed",
    "seal:on-disk",
    "seal:receivers-gone",
    "seal:promised",
    "catch-up:begun",
    // The appointee.
    "promote:begin",
    "promote:reserved",
    "promote:asked",
    "promote:history-file",
    "promote:promoted",
    "promote:promised",
    "configure:settings",
    "configure:written",
    "configure:shown",
    "start-primary:promised",
    "start-primary:ready",
    "checkpoint:written",
    "carry-on:promised",
    "adopt:promised",
    // The primary that proves a rule.
    "prove:shown",
    "prove:marker",
    "prove:proven",
    // The former primary, and members that join the new one.
    "fence:begin",
    "fence:done",
    "launch:sealed",
    "follow:begin",
    "follow:pointed",
    "rewind:begin",
    "rewind:done",
    "clone:begin",
    "clone:done",
];

/// A bug that can be put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bug {
    /// A seal promises and reports a position, and stops nothing.
    SealSkipped,
    /// The position is read first, and reception is stopped after that.
    SealNotAwaited,
    /// Every seal claims more WAL than there is: the wrong candidate is chosen.
    PositionInvented,
    /// A rule is narrowed before PostgreSQL has the narrower setting in force.
    RuleNotInForce,
    /// The leader opens at once, as if every former primary were fenced.
    LeaseIgnored,
    /// A server is started and promoted with its door open.
    DoorOpenAtStart,
    /// The guard does not kill when the deadline comes.
    GuardDoesNotKill,
    /// Killing ends the postmaster and spares what is left of its children.
    FenceMissesBackends,
    /// What is promised and sealed reaches the disk only when the operating system feels like it.
    FsyncSkipped,
}

impl Bug {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::SealSkipped,
        Self::SealNotAwaited,
        Self::PositionInvented,
        Self::RuleNotInForce,
        Self::LeaseIgnored,
        Self::DoorOpenAtStart,
        Self::GuardDoesNotKill,
        Self::FenceMissesBackends,
        Self::FsyncSkipped,
    ];

    /// Its name in [`VARIABLE`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SealSkipped => "seal-skipped",
            Self::SealNotAwaited => "seal-not-awaited",
            Self::PositionInvented => "position-invented",
            Self::RuleNotInForce => "rule-not-in-force",
            Self::LeaseIgnored => "lease-ignored",
            Self::DoorOpenAtStart => "door-open-at-start",
            Self::GuardDoesNotKill => "guard-does-not-kill",
            Self::FenceMissesBackends => "fence-misses-backends",
            Self::FsyncSkipped => "fsync-skipped",
        }
    }
}

/// Reads [`VARIABLE`]; what is armed, in words. An unknown word is an error: a fault that never fires proves nothing.
/// Without the feature a variable that is set is an error too.
pub fn arm() -> Result<Option<String>, String> {
    match std::env::var(VARIABLE) {
        Err(_) => Ok(None),
        #[cfg(feature = "fault-points")]
        Ok(text) => armed::arm(&text).map(|()| Some(text)),
        #[cfg(not(feature = "fault-points"))]
        Ok(_) => Err(format!("{VARIABLE} is set, and this build has no fault points: unset it")),
    }
}

/// Whether that bug is put back.
#[inline]
#[must_use]
pub fn planted(bug: Bug) -> bool {
    #[cfg(feature = "fault-points")]
    return armed::planted(bug);
    #[cfg(not(feature = "fault-points"))]
    {
        let _ = bug;
        false
    }
}

/// A point is reached. `data_dir`: the host's PostgreSQL, for `crash-host`.
#[inline]
pub async fn reach(point: &str, data_dir: Option<&Path>) {
    #[cfg(feature = "fault-points")]
    if let Some(delay) = armed::reach(point, data_dir) {
        tokio::time::sleep(delay).await;
    }
    #[cfg(not(feature = "fault-points"))]
    let _ = (point, data_dir);
}

/// The same where nothing can be awaited.
#[inline]
pub fn reach_blocking(point: &str, data_dir: Option<&Path>) {
    #[cfg(feature = "fault-points")]
    if let Some(delay) = armed::reach(point, data_dir) {
        std::thread::sleep(delay);
    }
    #[cfg(not(feature = "fault-points"))]
    let _ = (point, data_dir);
}

/// A file of ours is about to be replaced; `synced`: what is written is flushed. Kept in mind only if a loss of power
/// is to come.
#[inline]
pub fn replaces(path: &Path, synced: bool) {
    #[cfg(feature = "fault-points")]
    armed::replaces(path, synced && !planted(Bug::FsyncSkipped));
    #[cfg(not(feature = "fault-points"))]
    let _ = (path, synced);
}

/// Whether something is armed at a point, so that it is worth watching for it.
#[inline]
#[must_use]
pub fn waits_at(point: &str) -> bool {
    #[cfg(feature = "fault-points")]
    return armed::waits_at(point);
    #[cfg(not(feature = "fault-points"))]
    {
        let _ = point;
        false
    }
}
