//! The fence command: stops a silent former primary from outside, and takes its exit code 0 as proof. When one should run
//! is decided by the core (`lease::to_fence`); here it is only run, and only once a quorum has confirmed that this node still
//! leads and the debt is still agreed: a leader that was cut off hears nobody, and the other side may have re-appointed whom
//! it would shoot. Keeps S5.

use super::inbox::SharedInbox;
use crate::{clock, config::FenceCommand};
use pgvigil_consensus::Consensus;
use pgvigil_core::{
    cluster::ClusterState,
    id::{ClusterId, Epoch, MemberId},
    member::{Member, MemberSpec},
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
/// How long after a confirmation that did not come it is asked for again, in milliseconds.
const UNCONFIRMED_MS: u64 = 500;
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

    /// Runs the command for each debt for which it is not running and did not just fail, once `view` confirms the debt.
    /// Returns at once.
    pub fn run(&self, cluster: &ClusterState, debts: &[FenceDebt], inbox: &Arc<SharedInbox>, view: &impl View) {
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
            let (command, view) = (command.clone(), view.clone());
            let (inbox, attempts) = (Arc::clone(inbox), Arc::clone(&self.attempts));
            tokio::spawn(async move {
                let again = |after_ms| {
                    let after = Some(clock::now().plus(after_ms));
                    attempts.lock().unwrap_or_else(PoisonError::into_inner).insert(of.clone(), after);
                };
                let agreed = view.confirmed(&of.0).await;
                let Some(member) = agreed.as_ref().and_then(|agreed| owing(agreed, &of)) else {
                    tracing::info!(member = %of.1, epoch = %of.2, "no fence command: no quorum confirms that it is owed");
                    return again(UNCONFIRMED_MS);
                };
                let mut program = program(&command, &of, &member.spec);
                tracing::warn!(member = %of.1, epoch = %of.2, "its agent is silent: running the fence command");
                let limit = command.timeout;
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
                        if inbox.with(|inbox| inbox.fence_command_done(&of.0, &of.1, of.2, since)) {
                            inbox.poke.notify_one();
                        }
                    }
                    Some(why) => {
                        tracing::error!(member = %of.1, epoch = %of.2, "the fence command failed: {why}");
                        again(RETRY_MS);
                    }
                }
            });
        }
    }
}

/// The former primary, if the confirmed state still has the debt and a reign that waits for it.
fn owing<'a>(agreed: &'a ClusterState, (_, member, epoch): &Of) -> Option<&'a Member> {
    let waits = agreed.reign_in_force().is_some_and(|reign| !reign.open && reign.primary.member != *member);
    let owes = agreed.fence_debts.iter().any(|debt| debt.primary.member == *member && debt.epoch == *epoch);
    agreed.members.get(member).filter(|_| waits && owes)
}

fn program(command: &FenceCommand, of: &Of, spec: &MemberSpec) -> tokio::process::Command {
    let mut program = tokio::process::Command::new(&command.command[0]);
    program
        .args(&command.command[1..])
        .env("PGVIGIL_CLUSTER", of.0.as_str())
        .env("PGVIGIL_MEMBER", of.1.as_str())
        .env("PGVIGIL_HOST", &spec.host)
        .env("PGVIGIL_PORT", spec.port.to_string())
        .env("PGVIGIL_EPOCH", of.2.to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    program
}

/// Where the agreed state comes from before somebody is shot.
pub trait View: Clone + Send + 'static {
    /// The agreed state of a cluster, after a quorum has confirmed that this node leads; `None` if it does not, or there is
    /// no such cluster.
    fn confirmed(&self, cluster: &ClusterId) -> impl Future<Output = Option<ClusterState>> + Send;
}

/// This node's own, while it leads in one term.
#[derive(Clone, Debug)]
pub struct ConfirmedView {
    /// The Raft group.
    pub consensus: Consensus,
    /// The term in which the debt was seen.
    pub term: u64,
}

impl View for ConfirmedView {
    async fn confirmed(&self, cluster: &ClusterId) -> Option<ClusterState> {
        let confirmed = self.consensus.confirm_leadership().await.ok()?;
        let state = self.consensus.states().borrow().state.clusters.get(cluster).cloned();
        state.filter(|_| confirmed.term == self.term)
    }
}

#[cfg(test)]
#[path = "fence_test.rs"]
mod tests;
