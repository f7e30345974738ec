//! How a load behaves.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::libpq::Dsn;

/// How often each kind of work is done, relative to the others; 0: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mix {
    /// Single inserts into the ledger.
    pub insert: u32,
    /// Looks for rows of the ledger that were acknowledged before.
    pub lookup: u32,
    /// Transactions on lists.
    pub append: u32,
    /// Transactions on registers.
    pub register: u32,
    /// Transfers between accounts, and reading their total.
    pub bank: u32,
}

impl Default for Mix {
    fn default() -> Mix {
        Mix { insert: 4, lookup: 2, append: 3, register: 2, bank: 2 }
    }
}

/// How a load behaves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoadOptions {
    /// Every server of the cluster, for clients as users have them.
    pub dsn: Dsn,
    /// Clients that name every host.
    pub clients: u32,
    /// What they do.
    pub mix: Mix,
    /// Whether there are also a writer and a reader for each server that talk to it alone, primary or not.
    pub direct: bool,
    /// Whether there is also, for each server, a reader that never lets its backend rest: it runs one endless statement,
    /// which ends only when its backend does. It takes a processor.
    pub stubborn: bool,
    /// From one operation of a client to its next.
    pub interval: Duration,
    /// After this a statement without an answer counts as unknown and its connection is closed.
    pub statement_deadline: Duration,
    /// After this an attempt to connect is given up, and the next one asks the silent server last.
    pub connect_deadline: Duration,
    /// The seed of the choices.
    pub seed: u64,
}

impl LoadOptions {
    /// Four clients that do everything, each an operation every 20 ms, and a direct writer and reader for each server.
    pub fn new(dsn: Dsn) -> LoadOptions {
        LoadOptions {
            dsn,
            clients: 4,
            mix: Mix::default(),
            direct: true,
            stubborn: false,
            interval: Duration::from_millis(20),
            statement_deadline: Duration::from_millis(500),
            connect_deadline: Duration::from_millis(300),
            seed: 1,
        }
    }
}
