//! The agent of one member: what it knows, what it tells the leader, and what it does about what is agreed. It decides
//! nothing of the cluster.
//!
//! What it knows is [`known::Known`]; how a look at PostgreSQL changes that is [`sampler`] and [`in_force`]; what it tells is
//! [`report`]. Time is an argument everywhere here. The program and the simulation call the same functions.

pub mod confirmed;
pub mod in_force;
pub mod known;
pub mod report;
pub mod sampler;
pub mod scene;
pub mod twin;
pub mod unproven;
