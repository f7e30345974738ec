//! The subcommand `pgvigil guard`: started by the agent, not by people.

use clap::Args;
use pgvigil_postgres::{
    Layout,
    guard::{GuardConfig, GuardError, run_guard},
};
use std::path::PathBuf;

/// Where things are.
#[derive(Args, Clone, Debug)]
pub struct GuardArgs {
    /// The data directory to guard.
    #[arg(long)]
    pub data_dir: PathBuf,
    /// The agent's directory.
    #[arg(long)]
    pub agent_dir: PathBuf,
    /// Where to listen for the agent.
    #[arg(long)]
    pub socket: PathBuf,
    /// A watchdog device to arm, so that the machine is reset if the guard itself fails.
    #[arg(long)]
    pub watchdog: Option<PathBuf>,
    /// A cgroup that holds nothing but PostgreSQL.
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
}

/// Runs until told to quit. Needs no async runtime.
pub fn main(args: GuardArgs) -> Result<(), GuardError> {
    run_guard(GuardConfig {
        layout: Layout::new(args.data_dir, args.agent_dir),
        cgroup: args.cgroup,
        socket: args.socket,
        watchdog: args.watchdog,
    })
}
