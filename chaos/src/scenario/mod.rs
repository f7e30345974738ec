//! The scenarios: each a function that reads like the story it tells, run alone by name.
//!
//! Common to all, and therefore not said in any of them: clients of every kind work all the time; when the story is
//! told, every fault is taken back and the cluster must come back to full health unaided; then the history of every
//! client is checked: nothing lost, nothing resurrected, one writer per epoch, a serial order, no unneeded failover.

mod clients;
mod commits;
mod conf;
mod copied;
mod crash;
mod disk;
mod freeze;
mod hands;
mod list;
mod network;
mod planned;
mod power;
mod raft_store;
mod run;
mod soak;
mod stage;
mod watch;

use crate::report::Bar;

pub use list::{find, names, scenarios};
pub use run::{Options, RunError, run, unfit};
pub use soak::{Plan, soak};
pub use stage::{Handle, Stage, StoryError, Told};

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its number in the list of thirty; `None` for the others.
    pub number: Option<u32>,
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens and what must be shown, in a sentence.
    pub story: &'static str,
    /// What it needs.
    pub needs: Needs,
    /// The bar of its write gap, if it has one of its own.
    pub bar: Option<Bar>,
    /// Whether clients only insert rows and look for those that were acknowledged. Where commits are cancelled while they
    /// wait, PostgreSQL shows to others what nobody acknowledged, and no order of transactions explains what they see.
    pub plain: bool,
    /// Whether it is in the set that runs on every change.
    pub ci: bool,
    /// The story.
    pub tell: fn(&mut Stage) -> Told,
}

/// What a scenario needs to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Processes that can be killed and frozen, and links that can be cut.
    Processes,
    /// Hosts with cables, disks and clocks of their own.
    Hosts,
    /// Something that pgvigil does not have yet: why it cannot run anywhere.
    Unbuilt(&'static str),
}
