//! `/dev/watchdog`: the kernel resets the machine when it is not fed, whatever has become of the guard.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
};

/// An open, and thereby running, watchdog.
#[derive(Debug)]
pub(crate) struct Watchdog {
    device: File,
}

impl Watchdog {
    /// Opening starts the countdown, with the device's own time-out.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut watchdog = Self { device: OpenOptions::new().write(true).open(path)? };
        watchdog.feed();
        Ok(watchdog)
    }

    /// Starts the countdown anew. A failure is left to the countdown.
    pub(crate) fn feed(&mut self) {
        if let Err(error) = self.device.write_all(b"\0") {
            eprintln!("pgvigil guard: cannot feed the watchdog: {error}");
        }
    }

    /// Stops it: the "magic close". Without the V a close would leave it counting, which is what a crash must do.
    pub(crate) fn close(mut self) {
        if let Err(error) = self.device.write_all(b"V") {
            eprintln!("pgvigil guard: cannot stop the watchdog: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_fed_and_closed_by_the_magic_letter() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut watchdog = Watchdog::open(file.path()).unwrap();
        watchdog.feed();
        watchdog.close();
        assert_eq!(std::fs::read(file.path()).unwrap(), b"\0\0V");
    }
}
