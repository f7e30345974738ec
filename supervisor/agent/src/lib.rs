//! The agent of one member: what it knows, what it tells the leader, and what it does about what is agreed. It decides
//! nothing of the cluster.
//!
//! What it knows is [`known::Known`]; how a look at PostgreSQL changes that is [`sampler`] and [`in_force`]; what it tells is
//! [`report`]; what it does are its [`acts`], through the [`ports`]; its loops are its [`tasks`]. Time is an argument, or a port.
//! The program and the simulation call the same functions.

pub mod acts;
pub mod bug;
pub mod confirmed;
pub mod in_force;
pub mod known;
pub mod ports;
pub mod report;
pub mod sampler;
pub mod scene;
pub mod tasks;
pub mod twin;
pub mod unproven;
