//! The failover protocol under stateright's model checker, on the code that ships.
//!
//! What is agreed changes through `pgvigil_core::apply` alone, and what an agent does next is what
//! `pgvigil_core::reconcile` says. Drawn here are PostgreSQL (WAL, walsenders, reloads), the agents' acts, hosts that
//! crash and come back, and a leader that may propose at any moment whatever `apply` lets through: more than the
//! shipped `decide` ever does, so what holds here holds for it. `README.md` says what is left out.

pub mod actions;
pub mod agreed;
pub mod clocked;
pub mod counting;
pub mod durability;
pub mod heal;
mod heal_report;
pub mod local;
pub mod next;
pub mod planted;
pub mod postgres;
pub mod properties;
pub mod report;
pub mod run;
pub mod service;
pub mod sizes;
pub mod state;
pub mod trace;
