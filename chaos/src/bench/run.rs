//! One run of one fault: from full health through the fault back to full health.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{BenchError, Fault, HEAL_LIMIT, Run};
use crate::cluster::{Cluster, ClusterError, postmaster};
use crate::interrupt::{self, WaitError, wait_for};
use crate::ledger::{Gap, Workload};
use crate::libpq::Address;
use crate::processes;

/// How long writes may be stopped before a run is given up.
const RESUME_LIMIT: Duration = Duration::from_secs(60);
/// How long a frozen host stays frozen after writes have resumed elsewhere.
const FROZEN: Duration = Duration::from_secs(2);

/// Runs it. On an error the cluster is left as it is then, except that nothing stays frozen.
pub(super) fn one(cluster: &mut Cluster, workload: &Workload, fault: Fault) -> Result<Run, BenchError> {
    let status = cluster.wait_healthy(HEAL_LIMIT)?;
    let old = status.primary.clone();
    let (node, port) = {
        let node = cluster.node_of(&old)?;
        (node.id, node.port)
    };
    place_leader(cluster, fault, node, status.leader)?;
    // Everything periodic is to be hit at any phase of it.
    interrupt::pause(Duration::from_millis(500 + u64::from(rand::random::<u16>()) % 1000))?;

    let dir = cluster.node(node)?.dir.clone();
    let pinned = matches!(fault, Fault::Freeze | Fault::FreezeLeader)
        .then(|| workload.pin(Address { host: "127.0.0.1".to_owned(), port }, Duration::from_secs(5)));
    let at = workload.now();
    match fault {
        Fault::Crash => {
            let pid = postmaster(&dir).ok_or(BenchError::NoPostmaster(node))?;
            processes::send(pid, Signal::SIGKILL)?;
        }
        Fault::HostLoss | Fault::HostLossLeader => {
            cluster.leave_dead(node);
            processes::kill_host(&dir)?;
        }
        Fault::Freeze | Fault::FreezeLeader => processes::stop_host(&dir)?,
        Fault::Switchover => {
            cluster.command(&["switchover", "--timeout", "60"])?;
        }
    }
    // A host that is dead or frozen must acknowledge nothing that is sent to it from here on.
    let struck = workload.now();
    let moved_from = (fault == Fault::Switchover).then_some(port);
    let resumed = wait_for("writes to resume", RESUME_LIMIT, Duration::from_millis(20), || {
        Ok::<_, WaitError>(workload.gap(at, moved_from))
    });
    let resumed_at = Instant::now();
    let woken = match fault {
        Fault::HostLoss | Fault::HostLossLeader => cluster.start_node(node).map_err(BenchError::from),
        Fault::Freeze | Fault::FreezeLeader => {
            let slept = if resumed.is_ok() { interrupt::pause(FROZEN) } else { Ok(()) };
            processes::continue_host(&dir)?;
            slept.map_err(BenchError::from)
        }
        Fault::Crash | Fault::Switchover => Ok(()),
    };
    if let Err(WaitError::TooLong(limit, _)) = resumed {
        return Err(BenchError::NotResumed(limit, describe(cluster)));
    }
    let gap: Gap = resumed?;
    woken?;
    cluster.wait_healthy(HEAL_LIMIT)?;
    let healed = resumed_at.elapsed();
    drop(pinned);
    // Once more: what happened until full health counts too.
    let gap = workload.gap(at, moved_from).unwrap_or(gap);
    let stale = match fault {
        _ if gap.resumed_on == port => 0,
        // The backends of a killed postmaster, and a primary that is to hand over, may finish what they were sent.
        Fault::Crash | Fault::Switchover => workload.acknowledged_by(port, gap.first_after),
        _ => workload.acknowledged_by(port, struck),
    };
    let stopped_ms = gap.length().as_secs_f64() * 1e3;
    Ok(Run { gap, stopped_ms, healed_ms: healed.as_secs_f64() * 1e3, stale })
}

/// Puts the Raft leader where the fault wants it.
fn place_leader(cluster: &Cluster, fault: Fault, primary: u64, leader: u64) -> Result<(), ClusterError> {
    let wanted = match fault {
        Fault::HostLossLeader | Fault::FreezeLeader => primary,
        Fault::HostLoss | Fault::Freeze if leader == primary => {
            cluster.nodes.iter().map(|node| node.id).find(|id| *id != primary).expect("there are three nodes")
        }
        _ => return Ok(()),
    };
    cluster.move_leader(wanted, Duration::from_secs(30))
}

/// The status in a line, for an error message.
fn describe(cluster: &Cluster) -> String {
    match cluster.status() {
        Ok(status) => format!("{}; {}", status.ailments(crate::cluster::NODES).join("; "), status.findings.join("; ")),
        Err(error) => error.to_string(),
    }
}
