//! Faults, workloads and checkers on real PostgreSQL clusters that pgvigil runs.
//!
//! `libpq` is the client, `workload` the load, `history` what its clients did and saw, `check` the checkers, `report` the
//! record of a run and its forms; `ledger` is the small workload of the bench, `cluster` three nodes on loopback, `processes` the
//! faults, `floor` what PostgreSQL alone needs, `bench` the figures, `storm` random blows at any moment.

pub mod account;
pub mod bare;
pub mod bench;
pub mod check;
pub mod cluster;
pub mod floor;
pub mod history;
pub mod interrupt;
pub mod ledger;
pub mod libpq;
pub mod planted;
pub mod processes;
pub mod report;
pub mod status;
pub mod storm;
pub mod workload;
