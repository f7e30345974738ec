//! Whole pgvigil clusters in one thread under one seed, in virtual time.
//!
//! ```text
//!   plan (seed) ──► faults ──► world ◄── clients
//!                               │ hosts: PostgreSQL, disk, clock, guard, agent, controller; network; Raft
//!   shipped core: apply, decide, reconcile, lease, quorum, observation, placement, keeper, beats, worker, guard duty;
//!   shipped controller and agent
//!                               │
//!                               └──► checkers (S1 - S5, invariants, liveness), coverage, trace hash
//! ```
//!
//! What is real: everything in `pgvigil-core`, `pgvigil-controller` and `pgvigil-agent`, and openraft, if it is asked for. What
//! is a model: `postgres`, `guard`, `network`, disks and clocks, and `raft` otherwise. Same seed, same trace hash.

pub mod agent;
pub mod check;
pub mod client;
pub mod controller;
pub mod coverage;
pub mod exec;
pub mod fault;
pub mod guard;
pub mod network;
pub mod plan;
pub mod planted;
pub mod postgres;
pub mod raft;
pub mod rng;
pub mod run;
pub mod shrink;
pub mod signal;
pub mod trace;
pub mod wait;
pub mod waker;
pub mod world;
