//! Faults, workloads and checkers on real PostgreSQL clusters that pgvigil runs.
//!
//! `libpq` is the client, `ledger` the workload with its books, `cluster` three nodes on loopback, `processes` the
//! faults, `floor` what PostgreSQL alone needs, `bench` the figures, `storm` random blows at any moment.

pub mod account;
pub mod bare;
pub mod bench;
pub mod cluster;
pub mod floor;
pub mod interrupt;
pub mod ledger;
pub mod libpq;
pub mod processes;
pub mod status;
pub mod storm;
