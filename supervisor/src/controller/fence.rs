//! The fence command: stops a silent former primary from outside, and takes its exit code 0 as proof. When one should run
//! is decided by the core (`lease::to_fence`); here it is only run.

use super::inbox::Inbox;
use crate::{clock, config::FenceCommand};
use pgvigil_core::{
    cluster::ClusterState,
    id::{ClusterId, Epoch, MemberId},
    reign::FenceDebt,
    time::Time,
};
use std::{
    collections::BTreeMap,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

/// How long after a failure the command is tried again, in milliseconds.
const RETRY_MS: u64 = 5_000;
/// How much of what a failed command said goes into the log, in bytes.
const SAID: usize = 500;

type Of = (ClusterId, MemberId, Epoch);

/// The fence commands of this node.
#[derive(Debug)]
pub struct Fences {
    command: Option<FenceCommand>,
    /// Not to be run again before; `None`: it runs, or has succeeded.
    attempts: Arc<Mutex<BTreeMap<Of, Option<Time>>>>,
}

impl Fences {
    /// With what the configuration says.
    #[must_use]
    pub fn new(command: Option<FenceCommand>) -> Self {
        Self { command, attempts: Arc::default() }
    }

    /// Another leader's successes are not known to this one: a new leadership tries anew.
    pub fn forget(&self) {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Runs the command for each debt for which it is not running and did not just fail. Returns at once.
    pub fn run(&self, cluster: &ClusterState, debts: &[FenceDebt], inbox: &Arc<Inbox>) {
        let (Some(command), Some(since)) = (&self.command, inbox.since()) else { return };
        for debt in debts {
            let of = (cluster.id.clone(), debt.primary.member.clone(), debt.epoch);
            {
                let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
                match attempts.get(&of) {
                    Some(None) => continue,
                    Some(Some(after)) if clock::now() < *after => continue,
                    _ => attempts.insert(of.clone(), None),
                };
            }
            let Some(member) = cluster.members.get(&debt.primary.member) else { continue };
            let mut program = tokio::process::Command::new(&command.command[0]);
            program
                .args(&command.command[1..])
                .env("PGVIGIL_CLUSTER", cluster.id.as_str())
                .env("PGVIGIL_MEMBER", debt.primary.member.as_str())
                .env("PGVIGIL_HOST", &member.spec.host)
                .env("PGVIGIL_PORT", member.spec.port.to_string())
                .env("PGVIGIL_EPOCH", debt.epoch.to_string())
                .stdin(Stdio::null())
                .kill_on_drop(true);
            tracing::warn!(member = %of.1, epoch = %of.2, "its agent is silent: running the fence command");
            let (limit, inbox, attempts) = (command.timeout, Arc::clone(inbox), Arc::clone(&self.attempts));
            tokio::spawn(async move {
                let failed = match tokio::time::timeout(limit, program.output()).await {
                    Ok(Ok(output)) if output.status.success() => None,
                    Ok(Ok(output)) => {
                        let said = String::from_utf8_lossy(&output.stderr).chars().take(SAID).collect::<String>();
                        Some(format!("{}: {}", output.status, said.trim()))
                    }
                    Ok(Err(error)) => Some(format!("it cannot be run: {error}")),
                    Err(_) => Some(format!("it did not end within {}", humantime::format_duration(limit))),
                };
                match failed {
                    None => {
                        tracing::warn!(member = %of.1, epoch = %of.2, "the fence command succeeded: it serves nobody");
                        inbox.fence_command_done(&of.0, &of.1, of.2, since);
                    }
                    Some(why) => {
                        tracing::error!(member = %of.1, epoch = %of.2, "the fence command failed: {why}");
                        let after = clock::now().plus(RETRY_MS);
                        attempts.lock().unwrap_or_else(PoisonError::into_inner).insert(of, Some(after));
                    }
                }
            });
        }
    }
}
