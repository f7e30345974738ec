//! Ctrl-C and SIGTERM end a run in an orderly way: every wait looks here, and what was started is ended on the way out.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use thiserror::Error;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Why a wait did not see what it waited for.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum WaitError {
    /// Ctrl-C or SIGTERM.
    #[error("interrupted")]
    Interrupted,
    /// The limit passed.
    #[error("waited {0:?} in vain for {1}")]
    TooLong(Duration, String),
}

extern "C" fn note(_: nix::libc::c_int) {
    INTERRUPTED.store(true, Ordering::Release);
}

/// From now on Ctrl-C and SIGTERM are only noted.
pub fn install() -> nix::Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// An error once the run was interrupted.
pub fn check() -> Result<(), WaitError> {
    if INTERRUPTED.load(Ordering::Acquire) { Err(WaitError::Interrupted) } else { Ok(()) }
}

/// Asks `question` every `pace` until it has an answer; its own errors end the wait at once.
pub fn wait_for<T, E: From<WaitError>>(
    what: &str,
    limit: Duration,
    pace: Duration,
    mut question: impl FnMut() -> Result<Option<T>, E>,
) -> Result<T, E> {
    let began = Instant::now();
    loop {
        check()?;
        if let Some(answer) = question()? {
            return Ok(answer);
        }
        if began.elapsed() > limit {
            return Err(WaitError::TooLong(limit, what.to_owned()).into());
        }
        std::thread::sleep(pace);
    }
}

/// Waits for nothing but time, or the interrupt.
pub fn pause(length: Duration) -> Result<(), WaitError> {
    let until = Instant::now() + length;
    while Instant::now() < until {
        check()?;
        std::thread::sleep(until.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)));
    }
    check()
}
