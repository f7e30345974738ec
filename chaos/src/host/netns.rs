//! A network of its own for a host, without a name: it is gone with the last process and handle.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns, unshare};

use super::HostError;

/// A handle on a network namespace.
#[derive(Debug, Clone)]
pub struct Netns {
    file: Arc<File>,
}

impl Netns {
    /// A new one, with nothing in it but a loopback that is down.
    pub fn new() -> Result<Netns, HostError> {
        let made = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(HostError::kernel("making a network namespace"))?;
            let own = "/proc/thread-self/ns/net";
            File::open(own).map_err(HostError::io(format!("opening {own}")))
        });
        Ok(Netns { file: Arc::new(made?) })
    }

    /// Runs `act` on a thread of its own in this network. What it starts (processes, threads) and the sockets it opens
    /// stay there.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        on_thread(|| {
            setns(&*self.file, CloneFlags::CLONE_NEWNET)
                .expect("whoever could make the namespace can enter it, and the handle keeps it alive");
            act()
        })
    }

    /// A path under which programs find it, while this process lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}

fn on_thread<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(act).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
