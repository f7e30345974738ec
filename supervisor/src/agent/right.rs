//! The right to serve as its holder keeps it: the deadline goes to the guard, and only once the guard has confirmed it
//! is the right longer. Keeps S3.

use super::shared::Shared;
use crate::clock;
use pgvigil_core::{
    guard::{self, Order},
    id::Epoch,
    lease::Right,
    local::LocalPostgres,
    settings::Settings,
    time::Time,
};
use pgvigil_postgres::GuardClient;
use std::{ffi::OsStr, process::Stdio, sync::Arc, time::Duration};
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
    let mut client = GuardClient::new(shared.guard_socket.clone(), CONFIRM);
    // What was granted and is not worth telling the guard yet: no right before it is told.
    let mut pending = Right::default();
    // One that was adopted, or is starting, gets its right within a moment.
    let mut was_starting = false;
    // The device behind the guard was asked for.
    let mut watched = false;
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
        let mut until = right.until(&agreed.settings);
        if !due && agreed.paused.is_none() && little_longer(&shared, &agreed.settings, until) {
            pending = right;
            continue;
        }
        pending = Right::default();
        let over = agreed.paused.is_none() && until.is_some_and(|until| until <= clock::now());
        if over && !guard::may_serve(&shared.lock().local) {
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
        let order = guard::order(&shared.lock().local, held, until);
        let starting = matches!(order, Order::Keep { .. }) && shared.lock().local.postgres == LocalPostgres::Starting;
        let order = if starting && !std::mem::replace(&mut was_starting, starting) { Order::KEEP } else { order };
        was_starting = starting;
        if let Some(told) = tell(&shared, &mut client, order).await {
            watched |= told.until.is_some() && !watched && behind(&shared, &mut client).await;
            let mut inner = shared.lock();
            // Fenced while the guard was being told: the fence's own word is on its way here and disarms it.
            if until.is_none() || inner.local.reigns_in(reigned) {
                inner.local.right = right;
            }
            inner.guarded_until = told.until;
            inner.guard_armed = true;
            inner.guard_held = told.held;
            drop(inner);
            shared.work.notify_one();
        } else {
            shared.lock().guard_armed = false;
        }
    }
}

/// Whether the watchdog device is behind the guard, as it should be; says so where it is not. `true`: it was told.
async fn behind(shared: &Shared, guard: &mut GuardClient) -> bool {
    let Some(device) = &shared.watchdog else { return true };
    let Ok(counts) = guard.watchdog().await else { return false };
    let text = match counts {
        Some(true) => None,
        Some(false) => Some(format!("the guard cannot open the watchdog device {}", device.display())),
        None => Some(format!("the guard was started before the watchdog device {} was named", device.display())),
    };
    shared.problem(
        "watchdog",
        text.map(|text| format!("{text}: a guard that fails beside a dead pgvigil is not noticed")),
    );
    true
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

/// What the guard has in force after it was told.
struct Told {
    until: Option<Time>,
    held: bool,
}

/// Tells the guard what it needs to know; starts one if there is none. `None`: it does not watch as it should.
async fn tell(shared: &Arc<Shared>, guard: &mut GuardClient, order: Order) -> Option<Told> {
    let told = |until, held| Told { until, held };
    let mut fresh = false;
    for _ in 0..3 {
        let done = match order {
            Order::Hold => guard.hold().await.map(|()| told(None, true)),
            Order::Arm(until) => guard.arm(until.0).await.map(|()| told(Some(until), false)),
            Order::Keep { or_stop } => match guard.status().await {
                Ok(status) if status.duty == "armed" => Ok(told(Some(Time(status.at_ms)), false)),
                Ok(status) if status.duty == "held" => Ok(told(None, true)),
                Ok(_) => {
                    if or_stop {
                        // It knows of no deadline, and the right may have run out already.
                        shared.lock().local.right.renewed_sent_at = Some(Time(0));
                        shared.work.notify_one();
                    }
                    return None;
                }
                Err(error) => Err(error),
            },
            Order::Disarm => guard.disarm().await.map(|()| told(None, false)),
        };
        match done {
            Ok(told) => {
                shared.problem("guard", None);
                return Some(told);
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
    None
}

/// The guard is a process of its own, in a session of its own: it outlives this one. Waits until one listens.
///
/// The socket is left to the guard that holds the lock: one that does not answer because it is killing, or because the
/// disk hangs, lives on, and without its socket nobody could ever disarm it (found by disk-stall).
async fn spawn_guard(shared: &Shared) {
    let Ok(program) = std::env::current_exe() else { return };
    let mut command = tokio::process::Command::new(program);
    command.arg("guard");
    command.args(shared.watchdog.iter().flat_map(|path| [OsStr::new("--watchdog"), path.as_os_str()]));
    command.args(shared.cgroup.iter().flat_map(|path| [OsStr::new("--cgroup"), path.as_os_str()]));
    command
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
