//! The Raft leader's part as the program has it: `pgvigil-controller` on Tokio, gRPC and openraft.

pub mod fence;
pub mod inbox;
pub mod node;
pub mod service;
