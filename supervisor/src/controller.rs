//! The Raft leader's part: listen to agents, decide, have it agreed, answer. It touches no PostgreSQL.

pub mod fence;
pub mod inbox;
pub mod service;
pub mod task;
