//! The right to serve as its holder keeps it: the deadline goes to the guard, and only once the guard has confirmed it
//! is the right longer. Keeps S3.

use super::shared::Shared;
use crate::clock;
use pgvigil_agent::known::Known;
use pgvigil_core::{
    guard::Order,
    keeper::{CONFIRM_MS, KEEP_MS, Keeper, Next, Renewal, Step},
};
use pgvigil_postgres::GuardClient;
use std::{ffi::OsStr, process::Stdio, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// Starts the task; renewals go to what it returns.
pub fn start(shared: Arc<Shared>) -> mpsc::UnboundedSender<Renewal> {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(run(shared, receiver));
    sender
}

async fn run(shared: Arc<Shared>, mut renewals: mpsc::UnboundedReceiver<Renewal>) {
    let mut client = GuardClient::new(shared.guard_socket.clone(), Duration::from_millis(CONFIRM_MS));
    let mut keeper = Keeper::default();
    // The device behind the guard was asked for.
    let mut watched = false;
    loop {
        let renewal = tokio::time::timeout(Duration::from_millis(KEEP_MS), renewals.recv()).await;
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
        let step = {
            let mut inner = shared.lock();
            let Known { local, guarded, .. } = &mut *inner;
            keeper.hear(news, due, &agreed, local, guarded, clock::now())
        };
        match step {
            Step::Wait => {}
            Step::Fence => shared.work.notify_one(),
            Step::Tell(order) => {
                let confirmed = tell(&shared, &mut client, &mut keeper, order).await;
                let armed = confirmed && shared.lock().guarded.until.is_some();
                watched |= armed && !watched && behind(&shared, &mut client).await;
            }
        }
    }
}

/// Tells the guard what it needs to know; starts one if there is none. `true`: it has confirmed.
async fn tell(shared: &Arc<Shared>, guard: &mut GuardClient, keeper: &mut Keeper, order: Order) -> bool {
    loop {
        let answer = guard.tell(order.message()).await;
        let next = {
            let mut inner = shared.lock();
            let Known { local, guarded, .. } = &mut *inner;
            keeper.told(answer.as_ref().ok().copied(), local, guarded)
        };
        if let (Next::Again | Next::GivenUp, Err(error)) = (next, answer) {
            shared.problem("guard", Some(format!("the guard does not confirm: {error}")));
        }
        match next {
            Next::Start => spawn_guard(shared).await,
            Next::Again => {}
            Next::GivenUp | Next::Unwatched { stop: false } => return false,
            Next::Unwatched { stop: true } => {
                shared.work.notify_one();
                return false;
            }
            Next::Watched => {
                shared.problem("guard", None);
                shared.work.notify_one();
                return true;
            }
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
