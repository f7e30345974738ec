//! What comes in for the keeper of the right, and the guard, a process of its own.

use super::{here::Here, shared::Shared};
use pgvigil_agent::{ports::Agent as _, tasks::right};
use pgvigil_core::{
    guard::{Duty, Message},
    keeper::{CONFIRM_MS, Renewal},
};
use pgvigil_postgres::GuardClient;
use std::{ffi::OsStr, process::Stdio, time::Duration};
use tokio::sync::mpsc;

/// Starts the task; renewals go to what it returns.
pub fn start(here: Here) -> mpsc::UnboundedSender<Renewal> {
    let (sender, renewals) = mpsc::unbounded_channel();
    let client = GuardClient::new(here.guard_socket.clone(), Duration::from_millis(CONFIRM_MS));
    let guard = Guard { here: here.clone(), renewals, client, watched: false };
    tokio::spawn(async move { right::run(&here, guard).await });
    sender
}

struct Guard {
    here: Here,
    renewals: mpsc::UnboundedReceiver<Renewal>,
    client: GuardClient,
    /// The device behind the guard was asked for.
    watched: bool,
}

impl right::Guard for Guard {
    async fn renewals(&mut self, limit_ms: u64) -> Option<Vec<Renewal>> {
        let mut news = match tokio::time::timeout(Duration::from_millis(limit_ms), self.renewals.recv()).await {
            Ok(first) => vec![first?],
            Err(_) => Vec::new(),
        };
        while let Ok(more) = self.renewals.try_recv() {
            news.push(more);
        }
        Some(news)
    }

    async fn tell(&mut self, message: Message) -> Result<Duty, String> {
        self.client.tell(message).await.map_err(|error| error.to_string())
    }

    async fn start(&mut self) {
        spawn_guard(&self.here).await;
    }

    /// Says where the watchdog device is not behind the guard, as it should be.
    async fn is_armed(&mut self) {
        let Some(device) = self.here.watchdog.as_ref().filter(|_| !self.watched) else { return };
        let Ok(counts) = self.client.watchdog().await else { return };
        self.watched = true;
        let text = match counts {
            Some(true) => None,
            Some(false) => Some(format!("the guard cannot open the watchdog device {}", device.display())),
            None => Some(format!("the guard was started before the watchdog device {} was named", device.display())),
        };
        let text = text.map(|text| format!("{text}: a guard that fails beside a dead pgvigil is not noticed"));
        self.here.problem("watchdog", text);
    }
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
