//! The right to serve as its holder keeps it: the deadline goes to the guard, and only once the guard has confirmed it
//! is the right longer. Keeps S3.

use super::shared::Shared;
use crate::clock;
use pgvigil_core::{id::Epoch, lease::Right, local::LocalPostgres, settings::Settings, time::Time};
use pgvigil_postgres::GuardClient;
use std::{process::Stdio, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// Something that makes the right longer, for the reign of one epoch only.
#[derive(Clone, Copy, Debug)]
pub enum Renewal {
    /// The leader renewed the lease in answer to a heartbeat sent then.
    Lease {
        /// Of which epoch the heartbeat spoke.
        epoch: Epoch,
        /// When.
        sent_at: Time,
    },
    /// A canary under a rule of k ≥ 1 that began then was acknowledged.
    Canary {
        /// Under which epoch's rule it began.
        epoch: Epoch,
        /// When.
        began_at: Time,
    },
    /// PostgreSQL was fenced: there is no right any more, and nothing to guard.
    Revoked,
}

/// How long the guard may take to confirm. It is local and does nothing else.
const CONFIRM: Duration = Duration::from_millis(500);
/// How often the guard is told again when nothing new is to be told: that it lives.
const KEEP: Duration = Duration::from_millis(1_000);

/// Starts the task; renewals go to what it returns.
pub fn start(shared: Arc<Shared>) -> mpsc::UnboundedSender<Renewal> {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(run(shared, receiver));
    sender
}

async fn run(shared: Arc<Shared>, mut renewals: mpsc::UnboundedReceiver<Renewal>) {
    let mut guard = GuardClient::new(shared.guard_socket.clone(), CONFIRM);
    // What was granted and is not worth telling the guard yet: no right before it is told.
    let mut pending = Right::default();
    loop {
        let renewal = tokio::time::timeout(KEEP, renewals.recv()).await;
        let due = renewal.is_err();
        let mut news: Vec<Renewal> = match renewal {
            Ok(Some(first)) => vec![first],
            Ok(None) => return,
            Err(_) => Vec::new(),
        };
        while let Ok(more) = renewals.try_recv() {
            news.push(more);
        }
        let Some(agreed) = shared.agreed() else { continue };
        let (mut right, reigned) = {
            let inner = shared.lock();
            let mut right = later(inner.local.right, pending);
            for renewal in news {
                match renewal {
                    Renewal::Lease { epoch, sent_at } if inner.local.reigns_in(epoch) => {
                        right.renewed_sent_at = right.renewed_sent_at.max(Some(sent_at));
                    }
                    Renewal::Canary { epoch, began_at } if inner.local.reigns_in(epoch) => {
                        right.canary_began_at = right.canary_began_at.max(Some(began_at));
                    }
                    // Granted for a reign that is over here.
                    Renewal::Lease { .. } | Renewal::Canary { .. } => {}
                    Renewal::Revoked => right = Right::default(),
                }
            }
            (right, inner.local.promise.reigned)
        };
        let serves = serves(&shared);
        let mut until = right.until(&agreed.settings);
        if !due && agreed.paused.is_none() && little_longer(&shared, &agreed.settings, until) {
            pending = right;
            continue;
        }
        pending = Right::default();
        let over = agreed.paused.is_none() && until.is_some_and(|until| until <= clock::now());
        if over && !may_serve(&shared) {
            // PostgreSQL ended by itself while this agent was busy, and the reign ended meanwhile: no fence revoked the
            // right. The guard has seen to its end; told of it for ever, it would never be disarmed, and nothing started
            // here again (found by the simulation).
            right = Right::default();
            until = None;
        } else if over {
            // Too late to be guarded: this process was paused. The worker fences, the guard has done so already.
            shared.lock().local.right = right;
            shared.work.notify_one();
            continue;
        }
        let held = agreed.paused.is_some();
        if tell(&shared, &mut guard, serves, held, until).await {
            let mut inner = shared.lock();
            // Fenced while the guard was being told: the fence's own word is on its way here and disarms it.
            if until.is_none() || inner.local.reigns_in(reigned) {
                inner.local.right = right;
            }
            inner.guarded_until = until;
            inner.guard_armed = true;
            inner.guard_held = held;
            drop(inner);
            shared.work.notify_one();
        } else {
            shared.lock().guard_armed = false;
        }
    }
}

/// The later of both in each respect.
fn later(one: Right, other: Right) -> Right {
    Right {
        renewed_sent_at: one.renewed_sent_at.max(other.renewed_sent_at),
        canary_began_at: one.canary_began_at.max(other.canary_began_at),
    }
}

/// Whether `until` makes an armed guard's deadline later by less than half a heartbeat; one that holds still after a
/// pause is armed at once. Renewal and canary come by turns, each in time by itself: telling the guard of every one of
/// them would wake two processes twice as often for nothing.
fn little_longer(shared: &Shared, settings: &Settings, until: Option<Time>) -> bool {
    let inner = shared.lock();
    match (inner.guarded_until, until) {
        (Some(guarded), Some(until)) => {
            inner.would_be_killed_in_time() && until >= guarded && until.since(guarded) < settings.heartbeat_ms / 2
        }
        _ => false,
    }
}

/// Whether PostgreSQL runs here as a primary, or may be starting as one.
fn may_serve(shared: &Shared) -> bool {
    let inner = shared.lock();
    match &inner.local.postgres {
        LocalPostgres::Running(running) => !running.in_recovery,
        LocalPostgres::Starting => !inner.local.fence_on_disk,
        _ => false,
    }
}

/// Whether PostgreSQL runs here as a primary with its door open.
fn serves(shared: &Shared) -> bool {
    let inner = shared.lock();
    let primary = matches!(&inner.local.postgres, LocalPostgres::Running(running) if !running.in_recovery);
    primary && inner.local.marker.is_some() && inner.local.in_force.as_ref().is_some_and(|f| f.door_open)
}

/// Tells the guard what it needs to know; starts one if there is none.
async fn tell(shared: &Arc<Shared>, guard: &mut GuardClient, serves: bool, paused: bool, until: Option<Time>) -> bool {
    let mut fresh = false;
    for _ in 0..3 {
        let told = match until {
            _ if paused => guard.hold().await,
            // A door that is about to open needs its deadline in force before, so whenever there is a right.
            Some(until) => guard.arm(until.0).await,
            // This agent was restarted beside a primary that serves. A guard that lived on holds the deadline; a new
            // one knows of none, and the right may have run out already.
            None if serves => match guard.status().await {
                Ok(status) if status.duty == "armed" || status.duty == "held" => Ok(()),
                Ok(_) => {
                    shared.lock().local.right.renewed_sent_at = Some(Time(0));
                    shared.work.notify_one();
                    return false;
                }
                Err(error) => Err(error),
            },
            None => guard.disarm().await,
        };
        match told {
            Ok(()) => {
                shared.problem("guard", None);
                return true;
            }
            Err(error) if fresh => {
                shared.problem("guard", Some(format!("the guard does not confirm: {error}")));
            }
            Err(_) => {
                spawn_guard(shared).await;
                fresh = true;
            }
        }
    }
    false
}

/// The guard is a process of its own, in a session of its own: it outlives this one. Waits until one listens.
///
/// The socket is left to the guard that holds the lock: one that does not answer because it is killing, or because the
/// disk hangs, lives on, and without its socket nobody could ever disarm it (found by disk-stall).
async fn spawn_guard(shared: &Shared) {
    let Ok(program) = std::env::current_exe() else { return };
    let mut command = tokio::process::Command::new(program);
    command
        .arg("guard")
        .arg("--data-dir")
        .arg(&shared.layout.data_dir)
        .arg("--agent-dir")
        .arg(&shared.layout.agent_dir)
        .arg("--socket")
        .arg(&shared.guard_socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0);
    match command.spawn() {
        Ok(mut child) => {
            tokio::spawn(async move { child.wait().await });
        }
        Err(error) => shared.problem("guard", Some(format!("the guard cannot be started: {error}"))),
    }
    for _ in 0..400 {
        if tokio::net::UnixStream::connect(&shared.guard_socket).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
