//! Simulated PostgreSQL: WAL on branching timelines, a server, and its synchronous replication with its traps.

pub mod data;
pub mod life;
pub mod look;
pub mod promotion;
pub mod receiver;
pub mod sender;
pub mod server;
mod target;
pub mod wal;
