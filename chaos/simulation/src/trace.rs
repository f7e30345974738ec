//! The printed trace: one aligned line per event that a reader of a failing seed wants to see.
//!
//! `  12.345678  b  text`: true seconds, the member (or `raft`, `fault`, `check`), what happened.

use crate::world::World;

/// Prints, or does nothing.
#[derive(Clone, Copy, Debug)]
pub struct Trace {
    print: bool,
}

impl Trace {
    /// A trace that prints if `print`.
    #[must_use]
    pub const fn new(print: bool) -> Self {
        Self { print }
    }
}

impl World {
    /// A line of the trace; `text` is made only if it is printed.
    pub fn log(&self, who: &str, text: impl FnOnce() -> String) {
        if self.trace.print {
            let now = self.exec.now();
            println!("{:>4}.{:06}  {who:<6} {}", now / 1_000_000, now % 1_000_000, text());
        }
    }

    /// A line of the trace about a host.
    pub fn log_host(&self, host: usize, text: impl FnOnce() -> String) {
        if self.trace.print {
            self.log(self.member(host).as_str(), text);
        }
    }
}
