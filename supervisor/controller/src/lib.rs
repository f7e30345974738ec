//! The Raft leader's part: listen to agents, decide, have it agreed, answer. It touches no PostgreSQL.
//!
//! What is decided is decided by `pgvigil-core`; what is done goes through the [`ports`]. The program gives them Tokio, gRPC
//! and openraft, the simulation its own world: between the two there is only this code.

pub mod attend;
pub mod leader;
pub mod ports;
