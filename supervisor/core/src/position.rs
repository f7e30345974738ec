//! How far a member's WAL goes, in an order that holds across timelines.

use crate::{id::Epoch, lsn::Lsn};
use serde::{Deserialize, Serialize};
use std::fmt;

/// (epoch in which the timeline that owns the last valid WAL byte began, end of that byte), compared in that order.
///
/// The epoch comes first: a longer but older history is a dead branch. It is never taken from the walreceiver, from
/// `pg_control` or from the newest history file, because reception on a new timeline restarts at the segment's
/// beginning (history A3). Keeps S1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The epoch in which the owning timeline began.
    pub epoch: Epoch,
    /// The end of the last valid record.
    pub lsn: Lsn,
}

impl Position {
    /// The position `lsn` on the timeline begun in `epoch`.
    #[must_use]
    pub const fn new(epoch: Epoch, lsn: Lsn) -> Self {
        Self { epoch, lsn }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.lsn)
    }
}
