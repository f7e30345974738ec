//! Trace validation: what real nodes tell of their past (`pgvigil log`, and the journal of `node.journal`) is held against
//! the shipped core. Every step that the cluster took must be one that the core allows, and the one that it would take.
//!
//! ```text
//!   log of each node ──► one agreed log ──► apply, invariants ──► the state after every entry
//!                        (nodes agree on it)                            │
//!   journal of each node ──► decide and reconcile, asked again from those states, want the same
//! ```
//!
//! What is found is text for people; no finding means that everything told was checked and held.

mod check;
mod history;
mod past;

pub use check::{Verdict, check};
pub use past::{Past, Unreadable, read};
