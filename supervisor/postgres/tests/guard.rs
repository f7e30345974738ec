//! The guard as a process of its own, over a real server.

mod common;

use common::{LIMIT, Node, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use pgvigil_core::{
    guard::{Duty, Message},
    time::Time,
};
use pgvigil_postgres::{GuardClient, GuardConfig, Layout, boottime_ms, kill::processes, procfs, run_guard};
use std::{
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

const DATA: &str = "PGVIGIL_TEST_GUARD_DATA";
const AGENT: &str = "PGVIGIL_TEST_GUARD_AGENT";

/// Not a test: the guard's process, when the environment says so.
#[test]
fn guard_process() {
    let (Some(data), Some(agent)) = (std::env::var_os(DATA), std::env::var_os(AGENT)) else { return };
    let layout = Layout::new(data, agent);
    let socket = socket(&layout);
    let watchdog = Some(layout.agent_dir.join("watchdog")).filter(|path| path.exists());
    run_guard(GuardConfig { layout, cgroup: None, socket, watchdog }).unwrap();
}

fn socket(layout: &Layout) -> PathBuf {
    layout.agent_dir.join("guard.sock")
}

/// Ends the guard with its test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn guard(layout: &Layout) -> Guard {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "guard_process", "--nocapture"]).env(DATA, &layout.data_dir).env(AGENT, &layout.agent_dir);
    let guard = Guard(command.spawn().unwrap());
    until("the guard", async || client(layout).tell(Message::Status).await.is_ok()).await;
    guard
}

fn client(layout: &Layout) -> GuardClient {
    GuardClient::new(socket(layout), Duration::from_secs(5))
}

async fn has_fired(layout: &Layout) -> bool {
    matches!(client(layout).tell(Message::Status).await, Ok(Duty::Fired(_)))
}

/// `ms` from now.
fn until_in(ms: u64) -> Message {
    Message::Arm(Time(boottime_ms() + ms))
}

fn alive(data_dir: &Path) -> bool {
    !processes(data_dir, None).unwrap().is_empty()
}

pg_test!(
    /// The deadline passes and nobody extends it: PostgreSQL is gone in time, although the client is gone too and the
    /// server is frozen.
    the_guard_kills_at_the_deadline,
    async {
        let root = tempfile::tempdir().unwrap();
        let node = Node::primary(root.path(), "a").await;
        let layout = node.instance.layout.clone();
        let _guard = guard(&layout).await;
        assert_eq!(client(&layout).tell(Message::Status).await.unwrap(), Duty::Disarmed);
        std::fs::remove_file(layout.standby_signal()).unwrap();
        let deadline = boottime_ms() + 1500;
        client(&layout).tell(Message::Arm(Time(deadline))).await.unwrap();
        // The client above is dropped: its agent is dead. PostgreSQL is stopped, so it cannot even exit by itself.
        for pid in processes(&layout.data_dir, None).unwrap() {
            kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        }
        assert!(alive(&layout.data_dir) && boottime_ms() < deadline - 100);
        until("the end", async || !alive(&layout.data_dir)).await;
        let late = boottime_ms().saturating_sub(deadline);
        assert!(late == 0, "{late} ms late");
        assert!(boottime_ms() + 200 >= deadline, "too early");
        assert!(layout.standby_signal().exists());
        until("its report", async || has_fired(&layout).await).await;
    }
);

pg_test!(
    /// Extended deadlines, disarming, holding; a new agent takes over; one guard per directory; a watchdog is fed.
    the_guard_obeys_its_agents,
    async {
        let root = tempfile::tempdir().unwrap();
        let mut node = Node::primary(root.path(), "a").await;
        let layout = node.instance.layout.clone();
        let watchdog = layout.agent_dir.join("watchdog");
        std::fs::write(&watchdog, "").unwrap();
        let mut running = guard(&layout).await;
        let mut first = client(&layout);
        assert_eq!(first.watchdog().await.unwrap(), Some(false), "nothing to guard yet");
        for _ in 0..10 {
            first.tell(until_in(400)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(alive(&layout.data_dir));
        assert_eq!(first.watchdog().await.unwrap(), Some(true));
        // A second agent beside the first one; the last word counts.
        let mut second = client(&layout);
        second.tell(until_in(60_000)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(alive(&layout.data_dir) && second.quit().await.is_err());
        drop(first);
        second.tell(Message::Hold).await.unwrap();
        second.tell(until_in(300)).await.unwrap();
        second.tell(Message::Hold).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(alive(&layout.data_dir));
        let fed = std::fs::read(&watchdog).unwrap();
        assert!(fed.len() > 5 && fed.last() == Some(&b'V'), "{fed:?}");
        // Another guard for the same directory finds the lock taken.
        let config = GuardConfig {
            layout: layout.clone(),
            cgroup: None,
            socket: layout.agent_dir.join("other.sock"),
            watchdog: None,
        };
        assert!(run_guard(config).is_err());
        let status = std::fs::read_to_string(format!("/proc/{}/status", running.0.id())).unwrap();
        eprintln!("{}", status.lines().find(|line| line.starts_with("VmRSS")).unwrap());
        // A deadline that is over already is told, and obeyed.
        let error = second.tell(until_in(0)).await.unwrap_err().to_string();
        assert!(error.contains("late"), "{error}");
        until("the end", async || !alive(&layout.data_dir)).await;
        until("its report", async || has_fired(&layout).await).await;
        // The server's end is seen by its handle, and it can be started again.
        tokio::time::timeout(LIMIT, node.postmaster.take().unwrap().exited()).await.unwrap().unwrap();
        node.start(pgvigil_postgres::StartAs::Primary).await;
        second.tell(Message::Disarm).await.unwrap();
        second.quit().await.unwrap();
        let mut ended = None;
        until("the guard's end", async || {
            ended = running.0.try_wait().unwrap();
            ended.is_some()
        })
        .await;
        assert!(ended.unwrap().success());
    }
);

pg_test!(
    /// What the watchdog device is for: a guard that is frozen, or gone, beside a dead agent neither feeds nor stops it.
    a_guard_that_fails_feeds_its_watchdog_no_more,
    async {
        let root = tempfile::tempdir().unwrap();
        let layout = Node::new(root.path(), "a").instance.layout.clone();
        std::fs::create_dir_all(&layout.data_dir).unwrap();
        let watchdog = layout.agent_dir.join("watchdog");
        std::fs::write(&watchdog, "").unwrap();
        let mut running = guard(&layout).await;
        client(&layout).tell(until_in(3_600_000)).await.unwrap();
        let fed = || std::fs::read(&watchdog).unwrap();
        let first = fed().len();
        until("it is fed", async || fed().len() > first).await;
        let pid = i32::try_from(running.0.id()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        until("it is frozen", async || procfs::stat(pid).unwrap().is_some_and(|stat| stat.state == 'T')).await;
        let frozen = fed();
        running.0.kill().unwrap();
        running.0.wait().unwrap();
        assert_eq!(fed(), frozen);
        assert!(frozen.iter().all(|byte| *byte == 0), "never told to stop counting");
    }
);
