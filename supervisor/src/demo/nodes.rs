//! The three pgvigil processes, started again when they die, as systemd would.

use super::{
    ground::{Ground, NodePlace},
    story::Story,
};
use crate::cli::Failure;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::OpenOptions,
    os::unix::process::CommandExt,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// As systemd's `RestartSec=100ms`.
const RESTART_AFTER: Duration = Duration::from_millis(100);
/// A process that ends this soon after its start, this many times in a row, is not worth starting again.
const SOON: Duration = Duration::from_secs(2);
const SOON_MAX: u32 = 5;
/// How long a told process may take to end.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// The processes.
pub(super) struct Nodes {
    stop: watch::Sender<bool>,
    keepers: JoinSet<()>,
}

impl Nodes {
    /// Starts all of them.
    pub(super) fn start(ground: &Arc<Ground>, story: &Arc<Story>) -> Result<Self, Failure> {
        let (stop, stopping) = watch::channel(false);
        let mut keepers = JoinSet::new();
        for node in &ground.nodes {
            let child = spawn(ground, node)?;
            keepers.spawn(keep(Arc::clone(ground), node.clone(), child, Arc::clone(story), stopping.clone()));
        }
        Ok(Self { stop, keepers })
    }

    /// Ends all of them. Their PostgreSQL servers run on.
    pub(super) async fn stop(mut self) {
        self.stop.send_replace(true);
        while self.keepers.join_next().await.is_some() {}
    }
}

fn spawn(ground: &Ground, node: &NodePlace) -> Result<Child, Failure> {
    let failed = |error: std::io::Error| Failure::Failed(format!("cannot start node {}: {error}", node.id));
    let log = OpenOptions::new().create(true).append(true).open(&node.log).map_err(failed)?;
    let mut command = std::process::Command::new(&ground.program);
    command.arg("run").arg("--config").arg(&node.config);
    command.current_dir(&node.dir).env("HOME", &node.dir);
    command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log);
    // A group of its own: Ctrl-C is for us, we stop the nodes in order.
    command.process_group(0);
    ground.account.apply(&mut command);
    let child = Command::from(command).spawn().map_err(failed)?;
    if let Some(pid) = child.id() {
        ground.note_pid(node.id, pid)?;
    }
    Ok(child)
}

/// Watches over one process until told to stop.
async fn keep(
    ground: Arc<Ground>,
    node: NodePlace,
    child: Child,
    story: Arc<Story>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut child = child;
    let mut soon = 0;
    loop {
        let begun = Instant::now();
        let ended = tokio::select! {
            ended = child.wait() => ended,
            () = told(&mut stopping) => return end(&mut child).await,
        };
        soon = if begun.elapsed() < SOON { soon + 1 } else { 0 };
        let how = ended.as_ref().map_or_else(ToString::to_string, describe);
        if soon >= SOON_MAX {
            let log = node.log.display();
            story.say(&format!("pgvigil of node {} ended {soon} times in a row ({how}): see {log}", node.id));
            return;
        }
        story.say(&format!("pgvigil of node {} ended ({how}); it is started again", node.id));
        tokio::select! {
            () = sleep(RESTART_AFTER) => {}
            () = told(&mut stopping) => return,
        }
        child = match spawn(&ground, &node) {
            Ok(child) => child,
            Err(failure) => return story.say(&failure.to_string()),
        };
    }
}

/// Returns when told to stop.
async fn told(stopping: &mut watch::Receiver<bool>) {
    // The sender is gone only when nobody looks after the nodes any more.
    let _gone = stopping.wait_for(|stop| *stop).await.map(drop);
}

fn describe(status: &ExitStatus) -> String {
    status.to_string()
}

/// Asks politely, then insists.
async fn end(child: &mut Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    if let Some(pid) = pid {
        // Gone already is as good.
        let _gone = kill(pid, Signal::SIGTERM);
    }
    if timeout(STOP_WITHIN, child.wait()).await.is_err() {
        // A stopped process hears nothing but this.
        let _gone = child.kill().await;
    }
}
