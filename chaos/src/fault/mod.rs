//! The faults: each has a kind, a target, a beginning and, most of them, an end.

mod process;
mod strike;
mod words;

use std::time::Duration;

use crate::host::{End, Service, Weather};

pub use process::{Part, pids};
pub use strike::{FaultError, Undo, strike};

/// Something that goes wrong, or that an operator does, while clients work.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// kill -9 of a part of a host. A pgvigil that dies is started again at once, as systemd would.
    Kill(Part, u64),
    /// kill -9 of pgvigil alone, and nobody starts it again until the end.
    AgentGone(u64),
    /// SIGSTOP of a part of a host, SIGCONT at the end.
    Freeze(Part, u64),
    /// The power of these hosts fails: off the network at once, everything on them dead. On again at the end.
    PowerOff(Vec<u64>),
    /// The same, and what was not yet on the disk is gone.
    PowerLoss(Vec<u64>),
    /// Nothing gets from any of the first to any of the second, nor back.
    Partition(Vec<End>, Vec<End>),
    /// Nothing gets from any of the first to any of the second; the other way is open.
    OneWay(Vec<End>, Vec<End>),
    /// The same for one kind of server only.
    ServiceCut(Service, Vec<End>, Vec<End>),
    /// A partition that comes and goes, with this period.
    Flapping(Vec<End>, Vec<End>, Duration),
    /// So many of a hundred frames between any two ends are lost.
    Loss(u8),
    /// All frames of that host go through this weather.
    Weather(u64, Weather),
    /// Not a page is left on that host's disk.
    DiskFull(u64),
    /// Not a file can be made on it.
    NoInodes(u64),
    /// fsync fails with EIO for files whose path holds this.
    SyncError(u64, &'static str),
    /// Every write to that host's disk waits.
    DiskStall(u64),
    /// That host's wall clock jumps ahead (or back) by so many milliseconds.
    WallClock(u64, i64),
    /// That host's wall clock jumps to and fro by so many milliseconds.
    Strobe(u64, i64),
    /// Every commit that waits for a standby on that member is cancelled.
    CancelWaits(u64),
    /// Replay is paused on that member.
    ReplayPaused(u64),
    /// A session on that member locks every table that pgvigil ever kept in a database.
    Locked(u64),
    /// Somebody promotes that member by hand.
    PromotedByHand(u64),
    /// The Raft leader moves to that node.
    Lead(u64),
    /// A planned change of primary.
    Switchover(Option<String>),
    /// pgvigil is ended in an orderly way and started again.
    RestartAgent(u64),
    /// Other work keeps both cores busy.
    BusyCores(usize),
}
