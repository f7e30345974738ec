//! A world of hosts on one machine: each with its own network, its own disk, its own faults.
//!
//! The whole run lives in namespaces of its own (`enter`): processes, mounts and network. The run's first network is
//! the switch; every host is a further one, plugged into its bridge (`network`), with a small ext4 on a loop device as
//! its disk (`disk`) and a preloaded library that can make fsync fail and the wall clock jump (`shim`). Nothing of it
//! has a name on the machine itself, so the kernel takes it all back when the run ends, however it ends; the folder and
//! a disk that was frozen at that moment are what `janitor` takes back.
//!
//! Where namespaces are not permitted, hosts are folders on loopback, and every server has a front (`front`), so that
//! links can be cut there too.

mod disk;
mod enter;
mod front;
mod janitor;
mod links;
mod netns;
mod network;
mod relay;
mod rundir;
pub mod shim;
mod shutdown;
mod tool;
mod world;

use std::path::PathBuf;

use thiserror::Error;

pub use disk::Disk;
pub use enter::{Entered, Ground, Missing, enter, missing};
pub use front::Fronts;
pub use janitor::{Left, sweep};
pub use links::{CutId, End, Link, Service, Trouble};
pub use netns::Netns;
pub use network::Network;
pub use relay::Weather;
pub use rundir::RunDir;
pub use shim::{Control, Shim};
pub use tool::tool;
pub use world::{World, WorldError};

/// Why a piece of the world could not be made, changed or removed.
#[derive(Debug, Error)]
pub enum HostError {
    /// A program of the system's refused.
    #[error("{command}: {output}")]
    Tool {
        /// What was run.
        command: String,
        /// What it said.
        output: String,
    },
    /// A file or folder could not be used.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The kernel refused.
    #[error("{what}: {source}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: nix::errno::Errno,
    },
}

impl HostError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> HostError {
        let what = what.into();
        move |source| HostError::Io { what, source }
    }

    pub(crate) fn kernel(what: &'static str) -> impl FnOnce(nix::errno::Errno) -> HostError {
        move |source| HostError::Kernel { what, source }
    }
}

/// Where a node lives: its address, and, in a world of hosts, its network and its environment.
#[derive(Debug, Clone)]
pub struct Place {
    /// The address that others reach its servers by.
    pub address: String,
    /// The address that its servers listen on, behind that one; `None`: on that one itself.
    pub behind: Option<String>,
    /// The addresses that clients come from, for `pg_hba.conf`.
    pub clients: String,
    /// Its network; `None`: the one of the calling thread.
    pub netns: Option<Netns>,
    /// Environment variables of its processes.
    pub environment: Vec<(String, String)>,
    /// Where pgvigil's messages go; `None`: into the node's folder. (On a disk that stalls, a log would stall its writer.)
    pub log: Option<PathBuf>,
}

impl Place {
    /// A node on this machine's loopback.
    pub fn loopback() -> Place {
        Place {
            address: "127.0.0.1".to_owned(),
            behind: None,
            clients: "127.0.0.1/32".to_owned(),
            netns: None,
            environment: Vec::new(),
            log: None,
        }
    }

    /// Runs `act` in this place's network.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        match &self.netns {
            Some(netns) => netns.inside(act),
            None => act(),
        }
    }
}
