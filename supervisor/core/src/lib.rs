//! pgvigil's pure core: what is agreed, what should be agreed next, what each agent must do.
//!
//! ```text
//!   reports ──► decide ──► proposal ──► Raft ──► apply ──► agreed state ──► reconcile ──► actions on PostgreSQL
//!      ▲        (leader)                         (all)                      (each agent)          │
//!      └──────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The three functions are plain functions of plain data; time is an argument. This crate knows no runtime, clock,
//! socket or file, so the same code runs in production, in simulation, under the model checker and in property tests.

pub mod apply;
pub mod beats;
pub mod brake;
pub mod cluster;
pub mod command;
pub mod decide;
pub mod evidence;
pub mod guard;
pub mod id;
pub mod inbox;
pub mod incident;
pub mod invariant;
pub mod keeper;
pub mod lease;
pub mod lineage;
pub mod listening;
pub mod local;
pub mod lsn;
pub mod member;
pub mod observation;
pub mod pace;
pub mod placement;
pub mod position;
pub mod proof;
pub mod quorum;
pub mod reconcile;
pub mod reign;
pub mod report;
pub mod rpo;
pub mod rule;
pub mod sample;
pub mod session;
pub mod settings;
pub mod starvation;
pub mod sync_rule;
#[cfg(test)]
mod testing;
pub mod time;
pub mod timeline;
pub mod trace;
pub mod twin;
pub mod worker;
pub mod written;

pub use apply::apply;
pub use cluster::State;
pub use command::{Outcome, Proposal};
pub use decide::decide;
pub use reconcile::reconcile;
