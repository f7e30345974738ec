//! One operation of a client.

use serde::{Deserialize, Serialize};

use crate::libpq::Address;

/// How an operation ended, as far as its client can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Acknowledged without a warning: it must never be lost.
    Ok,
    /// Definitely not done: it must never appear.
    Fail,
    /// May be there or not. A COMMIT reported with the warning that its wait for synchronous replication was cancelled
    /// is one of these.
    Unknown,
}

/// The isolation level of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// READ COMMITTED.
    ReadCommitted,
    /// REPEATABLE READ, which is snapshot isolation in PostgreSQL.
    RepeatableRead,
    /// SERIALIZABLE.
    Serializable,
}

/// The server an operation spoke to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Server {
    /// Where it listens.
    pub address: Address,
    /// The timeline it wrote to at that moment, as it said itself; `None` if it never got to say so, or is in recovery.
    /// Every epoch has one timeline, and no timeline belongs to two members.
    pub timeline: Option<u32>,
    /// Its insert position at that moment: no later than the end of the operation's commit.
    pub lsn: Option<u64>,
}

/// One step of a transaction, with what it saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Adds a value, unique over the whole run, to the end of a list.
    Append {
        /// Which list.
        key: u64,
        /// The value.
        value: u64,
    },
    /// Reads a list.
    ReadList {
        /// Which list.
        key: u64,
        /// What it held; `None` if the answer never came.
        seen: Option<Vec<u64>>,
    },
    /// Writes a value, unique over the whole run, to a register.
    Write {
        /// Which register.
        key: u64,
        /// The value.
        value: u64,
        /// Which version of the register it became, counted by the server; `None` if the answer never came.
        version: Option<u64>,
    },
    /// Reads a register.
    ReadRegister {
        /// Which register.
        key: u64,
        /// Value and version; `None` if the answer never came.
        seen: Option<(u64, u64)>,
    },
}

/// What an operation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// One INSERT into the ledger.
    Insert {
        /// The row's number, unique over the whole run.
        seq: u64,
    },
    /// A look for a row of the ledger that was acknowledged before this began.
    Lookup {
        /// The row's number.
        seq: u64,
        /// Whether it was there; `None` if the answer never came.
        found: Option<bool>,
    },
    /// A transaction on lists and registers.
    Transaction {
        /// Its isolation level.
        level: Level,
        /// What it did and saw, in order.
        steps: Vec<Step>,
    },
    /// Moves money from one account to another.
    Transfer {
        /// Its number, unique over the whole run.
        id: u64,
        /// Debited.
        from: u64,
        /// Credited.
        to: u64,
        /// How much.
        amount: i64,
    },
    /// Adds up all accounts in one statement.
    Total {
        /// The sum; `None` if the answer never came.
        sum: Option<i64>,
    },
}

impl Work {
    /// Whether it changes anything.
    pub fn writes(&self) -> bool {
        match self {
            Work::Insert { .. } | Work::Transfer { .. } => true,
            Work::Lookup { .. } | Work::Total { .. } => false,
            Work::Transaction { steps, .. } => {
                steps.iter().any(|step| matches!(step, Step::Append { .. } | Step::Write { .. }))
            }
        }
    }
}

/// One operation of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// The client, from 0.
    pub client: u32,
    /// Whether that client writes to one server on purpose, whatever it is, and waits for an answer as long as it takes.
    pub direct: bool,
    /// Just before its first statement was handed to libpq.
    pub began: u64,
    /// When its end was known.
    pub ended: u64,
    /// When the connection it went over had been established.
    pub connected: u64,
    /// The server; `None` if no connection came about.
    pub server: Option<Server>,
    /// How it ended.
    pub outcome: Outcome,
    /// The error or warning that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What it did.
    pub work: Work,
}
