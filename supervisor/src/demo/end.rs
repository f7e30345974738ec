//! After the nodes: their PostgreSQL servers and guards, which outlive them on purpose, by data directory.

use super::{ground::Ground, story::Story};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pgvigil_postgres::{
    datadir::live_postmaster,
    kill::{kill_all_async, processes},
    procfs::is_alive,
};
use std::{fs, path::Path, time::Duration};
use tokio::time::{Instant, sleep};

/// Time for a fast shutdown with its checkpoint; what is left then is killed.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(10);
const KILL_WITHIN: Duration = Duration::from_secs(10);
const PACE: Duration = Duration::from_millis(20);

/// Ends everything that works in the nodes' data directories.
pub(super) async fn stop_everything(ground: &Ground, story: &Story) {
    for node in &ground.nodes {
        if let Ok(Some(postmaster)) = live_postmaster(&node.data_dir) {
            // SIGINT is PostgreSQL's fast shutdown. Gone meanwhile is as good.
            let _gone = kill(Pid::from_raw(postmaster.pid), Signal::SIGINT);
        }
    }
    let limit = Instant::now() + SHUTDOWN_WITHIN;
    for node in &ground.nodes {
        while Instant::now() < limit && processes(&node.data_dir, None).is_ok_and(|pids| !pids.is_empty()) {
            sleep(PACE).await;
        }
        if let Err(error) = kill_all_async(node.data_dir.clone(), None, KILL_WITHIN).await {
            story.say(&format!("{error}"));
        }
        end_guards(&node.data_dir).await;
    }
}

/// A guard lives on without its agent; with PostgreSQL gone it has nothing left to guard.
async fn end_guards(data_dir: &Path) {
    let guards = guards_of(data_dir);
    for guard in &guards {
        let _gone = kill(Pid::from_raw(*guard), Signal::SIGKILL);
    }
    let limit = Instant::now() + KILL_WITHIN;
    for guard in guards {
        while Instant::now() < limit && is_alive(guard).unwrap_or(false) {
            sleep(PACE).await;
        }
    }
}

/// The processes whose arguments are those of a guard of this data directory.
fn guards_of(data_dir: &Path) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // Processes come and go while we look.
        let Ok(arguments) = fs::read(entry.path().join("cmdline")) else { continue };
        let arguments: Vec<&[u8]> = arguments.split(|byte| *byte == 0).collect();
        let ours = arguments.contains(&data_dir.as_os_str().as_encoded_bytes());
        if ours && arguments.get(1) == Some(&b"guard".as_slice()) {
            found.push(pid);
        }
    }
    found
}
