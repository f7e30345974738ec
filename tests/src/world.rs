//! A cluster in a story: its health, its processes, its commands; its logs are kept when the story fails.

use crate::{LIMIT, assert_says, serial, wait};
use nix::sys::signal::Signal;
use pgvigil_chaos::{
    cluster::{self, Cluster, ClusterOptions},
    ledger::{Workload, WorkloadOptions},
    libpq::{Address, Dsn},
    processes,
    status::Status,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};

/// A cluster, and the turn to run one.
#[derive(Debug)]
pub struct World {
    /// The nodes.
    pub cluster: Cluster,
    name: String,
    began: Instant,
    _turn: serial::Turn,
}

impl World {
    /// Starts a cluster and waits until it is in full health.
    #[track_caller]
    pub fn healthy(name: &str, options: ClusterOptions) -> World {
        let mut world = World::start(name, options);
        world.heal();
        world
    }

    /// Starts a cluster.
    #[track_caller]
    pub fn start(name: &str, options: ClusterOptions) -> World {
        let turn = serial::turn();
        let cluster = Cluster::start(options).unwrap_or_else(|error| panic!("starting the cluster: {error}"));
        World::over(name, cluster, turn)
    }

    /// Around a cluster that is prepared or started already.
    #[must_use]
    pub fn over(name: &str, cluster: Cluster, turn: serial::Turn) -> World {
        World { cluster, name: name.to_owned(), began: Instant::now(), _turn: turn }
    }

    /// A line with the time, shown by `--nocapture` and for failed tests.
    pub fn say(&self, text: &str) {
        println!("[{:6.1} s] {}: {text}", self.began.elapsed().as_secs_f64(), self.name);
    }

    /// Waits for full health; pgvigil processes that have died are started again meanwhile.
    #[track_caller]
    pub fn heal(&mut self) -> Status {
        let status = self.cluster.wait_healthy(LIMIT).unwrap_or_else(|error| panic!("{error}"));
        assert!(status.rpo.zero);
        self.say(&format!("in full health, epoch {}, primary {}", status.epoch, status.primary));
        status
    }

    /// Waits until the leader's status satisfies `good`, which says what is missing; restarts what has died meanwhile.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut good: impl FnMut(&Status) -> Result<(), String>) -> Status {
        let cluster = &mut self.cluster;
        let found = wait(what, || {
            cluster.tend().map_err(|e| e.to_string())?;
            let status = cluster.status().map_err(|e| e.to_string())?;
            good(&status).map(|()| status)
        });
        self.say(what);
        found
    }

    /// The present status.
    #[track_caller]
    pub fn status(&self) -> Status {
        wait("the status", || self.cluster.status().map_err(|e| e.to_string()))
    }

    /// The id of the node of a member.
    #[track_caller]
    pub fn id_of(&self, member: &str) -> u64 {
        self.cluster.node_of(member).unwrap_or_else(|error| panic!("{error}")).id
    }

    /// The folder of a member's host.
    #[track_caller]
    pub fn host(&self, member: &str) -> PathBuf {
        self.cluster.node_of(member).unwrap_or_else(|error| panic!("{error}")).dir.clone()
    }

    /// The PostgreSQL port of a member.
    #[track_caller]
    pub fn port(&self, member: &str) -> u16 {
        self.cluster.node_of(member).unwrap_or_else(|error| panic!("{error}")).port
    }

    /// A connection string to one member, whatever it is.
    #[track_caller]
    pub fn dsn_of(&self, member: &str) -> Dsn {
        self.cluster.dsn().pinned(Address { host: "127.0.0.1".to_owned(), port: self.port(member) })
    }

    /// The postmaster of a member, from what runs on its host.
    #[track_caller]
    pub fn postmaster(&self, member: &str) -> i32 {
        let host = self.host(member);
        cluster::postmaster(&host).unwrap_or_else(|| panic!("no postmaster runs in {}", host.display()))
    }

    /// The postmasters of all members: what must not change when only pgvigil is touched.
    #[track_caller]
    pub fn postmasters(&self) -> BTreeMap<String, i32> {
        self.cluster.nodes.iter().map(|node| (node.member.clone(), self.postmaster(&node.member))).collect()
    }

    /// The guard of a member.
    #[must_use]
    pub fn guard(&self, member: &str) -> Option<i32> {
        let is_guard = |command: &str| {
            let mut words = command.split(' ');
            words.next().is_some_and(|program| program.ends_with("pgvigil")) && words.next() == Some("guard")
        };
        processes::of_host(&self.host(member)).into_iter().find(|p| is_guard(&p.command)).map(|p| p.pid)
    }

    /// Sends a signal to one process.
    #[track_caller]
    pub fn send(&self, pid: i32, signal: Signal) {
        processes::send(pid, signal).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Starts the write load over a connection string that names every member.
    #[track_caller]
    pub fn load(&self) -> Workload {
        let workload = Workload::start(WorkloadOptions::new(self.cluster.dsn()));
        let workload = workload.unwrap_or_else(|error| panic!("starting the write load: {error}"));
        moves(&workload, 50);
        workload
    }

    /// A command that must succeed; what it printed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let began = Instant::now();
        let printed = self.cluster.command(arguments).unwrap_or_else(|error| panic!("{error}"));
        self.say(&format!("pgvigil {} ({:.1} s)", arguments.join(" "), began.elapsed().as_secs_f64()));
        printed
    }

    /// A command that must end with that exit code and say all these words; what it said.
    #[track_caller]
    pub fn refused(&self, arguments: &[&str], code: i32, words: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.cluster.run(arguments).unwrap_or_else(|error| panic!("{error}"));
        let said = format!("{}{}", String::from_utf8_lossy(&stderr), String::from_utf8_lossy(&stdout));
        assert_eq!(status.code(), Some(code), "pgvigil {}: {said}", arguments.join(" "));
        assert_says(&said, words);
        self.say(&format!("pgvigil {}: refused as expected: {}", arguments.join(" "), said.trim()));
        said
    }

    /// SIGTERM to a node's pgvigil, and its start; returns when it has adopted the PostgreSQL that runs beside it.
    #[track_caller]
    pub fn restart_pgvigil(&mut self, id: u64) {
        let ended = self.cluster.stop_node(id, LIMIT).unwrap_or_else(|error| panic!("{error}"));
        assert!(ended.success(), "pgvigil of node {id} ended with {ended}");
        self.start_pgvigil(id);
    }

    /// kill -9 of a node's pgvigil; returns when it is gone. It stays dead until it is started.
    #[track_caller]
    pub fn kill_pgvigil(&mut self, id: u64) {
        self.cluster.leave_dead(id);
        self.send(self.cluster.pgvigil_pid(id).expect("it runs"), Signal::SIGKILL);
        let cluster = &mut self.cluster;
        wait("the killed pgvigil to be gone", || {
            cluster.tend().map_err(|e| e.to_string())?;
            cluster.pgvigil_pid(id).map_or(Ok(()), |pid| Err(format!("process {pid}")))
        });
    }

    /// Starts a node's pgvigil beside a PostgreSQL that runs; returns when it has adopted it.
    #[track_caller]
    pub fn start_pgvigil(&mut self, id: u64) {
        let adoptions = |world: &World| world.log(id).matches("found PostgreSQL running").count();
        let before = adoptions(self);
        self.cluster.start_node(id).unwrap_or_else(|error| panic!("{error}"));
        wait("the adoption of the PostgreSQL that runs", || {
            if adoptions(self) > before { Ok(()) } else { Err(self.log(id)) }
        });
    }

    /// What a node's pgvigil has written to its log so far.
    #[track_caller]
    pub fn log(&self, id: u64) -> String {
        let node = self.cluster.node(id).unwrap_or_else(|error| panic!("{error}"));
        std::fs::read_to_string(node.dir.join("pgvigil.log")).unwrap_or_default()
    }
}

/// Waits until `more` further writes are acknowledged.
#[track_caller]
pub fn moves(workload: &Workload, more: usize) {
    let from = workload.now();
    let began = Instant::now();
    while workload.acknowledged_since(from) < more {
        pgvigil_chaos::interrupt::check().expect("not interrupted");
        assert!(began.elapsed() < LIMIT, "writes do not go on: {} since", workload.acknowledged_since(from));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Nothing acknowledged is gone, nothing refused is there; and something was acknowledged at all. Writes go on again.
#[track_caller]
pub fn nothing_lost(workload: &Workload) -> usize {
    moves(workload, 20);
    let verdict = workload.check().unwrap_or_else(|error| panic!("{error}"));
    assert!(verdict.acknowledged > 0, "{verdict:?}");
    assert!(verdict.is_clean(), "lost {:?}, resurrected {:?}", verdict.lost, verdict.resurrected);
    println!("            {} commits acknowledged, none lost", verdict.acknowledged);
    verdict.acknowledged
}

/// Where the logs of a failed story go: beside the test program.
fn logs_of(name: &str) -> Option<PathBuf> {
    let dir = std::env::current_exe().ok()?.parent()?.join("failed").join(name);
    std::fs::create_dir_all(&dir).ok()?;
    Some(dir)
}

/// Copies every log below `from`; what cannot be copied is left out, for a failed story must show its own error.
pub(crate) fn keep_logs(from: &Path, name: &str) {
    let Some(to) = logs_of(name) else { return };
    let nodes = std::fs::read_dir(from).into_iter().flatten().flatten();
    for node in nodes.filter(|entry| entry.path().is_dir()) {
        let label = node.file_name().to_string_lossy().into_owned();
        for log in ["pgvigil.log", "state/agent/log/postgresql.log", "pgdata.log"] {
            let leaf = log.rsplit('/').next().unwrap_or(log);
            let _left_out = std::fs::copy(node.path().join(log), to.join(format!("{label}-{leaf}")));
        }
    }
    eprintln!("the logs of the failed story are in {}", to.display());
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let status = match self.cluster.status() {
                Ok(status) => {
                    format!("{}; {}", status.ailments(self.cluster.nodes.len()).join("; "), status.findings.join("; "))
                }
                Err(error) => error.to_string(),
            };
            eprintln!("failed after {:.1} s; status: {status}", self.began.elapsed().as_secs_f64());
            keep_logs(&self.cluster.dir, &self.name);
        } else {
            self.say("done");
        }
    }
}
