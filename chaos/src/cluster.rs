//! Three nodes, each a pgvigil with its own PostgreSQL, run by this program: on loopback, or each on a host of its own.
//!
//! What systemd does on a real host (start, restart a pgvigil that died) is done here by `tend`. Dropping a cluster
//! ends every process in its folders and removes them, also after an error, a panic or an interrupt.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use thiserror::Error;

mod node_file;

use crate::account::{Account, AccountError};
use crate::bare::{self, BareError};
use crate::host::Place;
use crate::interrupt::{WaitError, wait_for};
use crate::libpq::{Address, Dsn};
use crate::processes::{self, SignalError};
use crate::status::Status;

/// How many nodes a cluster has.
pub const NODES: usize = 3;
/// The file in a node's folder that arms its fault points.
const FAULTS: &str = "faults";
/// Between two looks at the status.
const PACE: Duration = Duration::from_millis(100);

/// Why the cluster is not as it should be.
#[derive(Debug, Error)]
pub enum ClusterError {
    /// A program could not be run, or a file not be used.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A `pgvigil` command failed or refused.
    #[error("pgvigil {arguments} ended with {status}: {output}")]
    Command {
        /// Its arguments.
        arguments: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// What it said.
        output: String,
    },
    /// The status cannot be read.
    #[error("the answer of 'pgvigil status --json' cannot be read: {0}")]
    Status(#[from] serde_json::Error),
    /// There is no node of that number or member of that name.
    #[error("the cluster has no {0}")]
    NoSuch(String),
    /// See there.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// See there.
    #[error(transparent)]
    Bare(#[from] BareError),
    /// See there.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// See there.
    #[error(transparent)]
    Signal(#[from] SignalError),
}

/// What a cluster is started with.
#[derive(Debug, Clone, Default)]
pub struct ClusterOptions {
    /// The program; `None`: the `pgvigil` beside the calling program.
    pub pgvigil: Option<PathBuf>,
    /// Where the nodes' folders are made; `None`: a new temporary folder, which is removed at the end.
    pub dir: Option<PathBuf>,
    /// First values of the agreed settings, as TOML values.
    pub settings: BTreeMap<String, String>,
    /// How many nodes are made; `None`: `NODES`.
    pub nodes: Option<usize>,
    /// Whether every node writes down what it decides and does (`node.journal`), in `journal` of its folder.
    pub journal: bool,
    /// More lines of `[member]` in a node's file, by node id.
    pub member: BTreeMap<u64, String>,
    /// PostgreSQL servers that are there already, by node id; each in the node's folder, so that its processes belong
    /// to that "host".
    pub existing: BTreeMap<u64, Existing>,
    /// Where the nodes live, by node id; a node that is not named lives on loopback.
    pub places: BTreeMap<u64, Place>,
    /// More parameters of `postgresql.conf`.
    pub parameters: BTreeMap<String, String>,
    /// Whether the nodes look for fault points (see `Cluster::arm`), which their program must have been built with.
    pub fault_points: bool,
}

/// A PostgreSQL server that a node finds when it starts.
#[derive(Debug, Clone)]
pub struct Existing {
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Where it listens.
    pub port: u16,
}

/// One node: a folder, a pgvigil process, a PostgreSQL.
#[derive(Debug)]
pub struct Node {
    /// Raft's id, from 1.
    pub id: u64,
    /// The folder that all its files and processes are in.
    pub dir: PathBuf,
    /// Its member's name.
    pub member: String,
    /// Where its pgvigil is reached.
    pub listen: String,
    /// Its PostgreSQL's port.
    pub port: u16,
    /// Its PostgreSQL's data directory.
    pub data_dir: PathBuf,
    /// Its pgvigil's configuration file.
    pub config: PathBuf,
    /// Where it lives.
    pub place: Place,
    child: Option<Child>,
    /// Whether `tend` restarts its pgvigil.
    kept: bool,
}

/// Three nodes.
#[derive(Debug)]
pub struct Cluster {
    /// By id.
    pub nodes: Vec<Node>,
    /// The folder that the nodes' folders are in.
    pub dir: PathBuf,
    /// As whom they run.
    pub account: Account,
    program: PathBuf,
    password: PathBuf,
    parameters: BTreeMap<String, String>,
    journal: bool,
    fault_points: bool,
    /// Kept for its `Drop`, which removes the folder; a folder named by the user stays.
    _temporary: Option<tempfile::TempDir>,
}

/// The `pgvigil` beside the calling program (or one folder up, where cargo puts it for tests).
pub fn find_pgvigil() -> Result<PathBuf, ClusterError> {
    let own = std::env::current_exe()
        .map_err(|source| ClusterError::Io { what: "finding this program's folder".to_owned(), source })?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("pgvigil"))
        .find(|path| path.is_file())
        .ok_or_else(|| ClusterError::NoSuch(format!("program pgvigil beside {} (build it, or name it)", own.display())))
}

impl Cluster {
    /// Starts three nodes; they form the cluster by themselves (see `wait_healthy`).
    pub fn start(options: ClusterOptions) -> Result<Cluster, ClusterError> {
        let mut cluster = Cluster::prepare(options)?;
        for id in cluster.nodes.iter().map(|node| node.id).collect::<Vec<_>>() {
            cluster.start_node(id)?;
        }
        Ok(cluster)
    }

    /// Makes folders and configuration files; starts nothing yet.
    pub fn prepare(options: ClusterOptions) -> Result<Cluster, ClusterError> {
        let account = Account::unprivileged()?;
        let io = |what: &str| {
            let what = what.to_owned();
            move |source| ClusterError::Io { what, source }
        };
        let (dir, temporary) = match options.dir {
            Some(dir) => (dir, None),
            None => {
                let made =
                    tempfile::Builder::new().prefix("pgvigil-chaos-").tempdir().map_err(io("making a folder"))?;
                (made.path().to_owned(), Some(made))
            }
        };
        account.make_dir(&dir)?;
        let dir = dir.canonicalize().map_err(io("finding the cluster's folder"))?;
        let program = options.pgvigil.map_or_else(find_pgvigil, Ok)?;
        let program = account.runnable(&program, &dir)?;
        let password = dir.join("replication.password");
        account.write_file(&password, &format!("{:016x}{:016x}\n", rand::random::<u64>(), rand::random::<u64>()))?;
        let count = options.nodes.unwrap_or(NODES);
        let ports = bare::free_ports(2 * count)?;
        let parameters = options.parameters;
        let mut cluster = Cluster {
            nodes: Vec::new(),
            dir: dir.clone(),
            account,
            program,
            password,
            parameters,
            journal: options.journal,
            fault_points: options.fault_points,
            _temporary: temporary,
        };
        for index in 0..count {
            let id = index as u64 + 1;
            let node_dir = dir.join(format!("n{id}"));
            cluster.account.make_dir(&node_dir)?;
            let place = options.places.get(&id).cloned().unwrap_or_else(Place::loopback);
            let mut node = node_at(id, node_dir, place, [ports[index], ports[count + index]]);
            if let Some(existing) = options.existing.get(&id) {
                node.port = existing.port;
                node.data_dir.clone_from(&existing.data_dir);
            }
            cluster.nodes.push(node);
        }
        let voters: Vec<(u64, String)> = cluster.nodes.iter().map(|node| (node.id, node.listen.clone())).collect();
        for node in &cluster.nodes {
            let more = options.member.get(&node.id).map_or("", String::as_str);
            let text = node_file::text(&cluster, node, &voters, more, Some(&options.settings))?;
            cluster.account.write_file(&node.config, &text)?;
        }
        Ok(cluster)
    }

    /// Makes and starts one more node: an agent without a vote, whose member joins by itself. Returns its id.
    pub fn add_node(&mut self) -> Result<u64, ClusterError> {
        let id = self.next_id();
        self.add_node_at(Place::loopback())?;
        Ok(id)
    }

    /// The id that the next node added will have.
    pub fn next_id(&self) -> u64 {
        self.nodes.iter().map(|node| node.id).max().unwrap_or(0) + 1
    }

    /// The same, living there.
    pub fn add_node_at(&mut self, place: Place) -> Result<u64, ClusterError> {
        let id = self.prepare_node_at(place)?;
        self.start_node(id)?;
        Ok(id)
    }

    /// The same, but it is not started yet.
    pub fn prepare_node_at(&mut self, place: Place) -> Result<u64, ClusterError> {
        let id = self.next_id();
        let voters: Vec<(u64, String)> =
            self.nodes.iter().take(NODES).map(|node| (node.id, node.listen.clone())).collect();
        let dir = self.dir.join(format!("n{id}"));
        self.account.make_dir(&dir)?;
        let ports = bare::free_ports(2)?;
        let node = node_at(id, dir, place, [ports[0], ports[1]]);
        let text = node_file::text(self, &node, &voters, "", None)?;
        self.account.write_file(&node.config, &text)?;
        self.nodes.push(node);
        Ok(id)
    }

    /// Ends every process of the node, removes its folder and takes it off the list: it is known no more.
    pub fn drop_node(&mut self, id: u64) -> Result<(), ClusterError> {
        let node = self.forget_node(id)?;
        std::fs::remove_dir_all(&node.dir)
            .map_err(|source| ClusterError::Io { what: format!("removing the folder of node {id}"), source })
    }

    /// Ends every process of the node and takes it off the list; its folder stays.
    pub fn forget_node(&mut self, id: u64) -> Result<Node, ClusterError> {
        let index = self.nodes.iter().position(|node| node.id == id);
        let index = index.ok_or_else(|| ClusterError::NoSuch(format!("node {id}")))?;
        let mut node = self.nodes.remove(index);
        end_node(&mut node)?;
        Ok(node)
    }

    /// Sends SIGTERM to the node's pgvigil and waits until it has ended; it stays dead until `start_node`. PostgreSQL
    /// and the guard run on.
    pub fn stop_node(&mut self, id: u64, limit: Duration) -> Result<std::process::ExitStatus, ClusterError> {
        let node = self.nodes.iter_mut().find(|node| node.id == id);
        let node = node.ok_or_else(|| ClusterError::NoSuch(format!("node {id}")))?;
        node.kept = false;
        let mut child =
            node.child.take().ok_or_else(|| ClusterError::NoSuch(format!("running pgvigil of node {id}")))?;
        processes::send(child.id() as i32, nix::sys::signal::Signal::SIGTERM)?;
        wait_for(&format!("pgvigil of node {id} to end"), limit, PACE / 10, || {
            child.try_wait().map_err(|source| ClusterError::Io { what: "waiting".to_owned(), source })
        })
    }

    /// The process id of the node's pgvigil, if it was started and has not been seen to end.
    pub fn pgvigil_pid(&self, id: u64) -> Option<i32> {
        self.nodes.iter().find(|node| node.id == id)?.child.as_ref().map(|child| child.id() as i32)
    }

    /// The program that the nodes run.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The node of that id.
    pub fn node(&self, id: u64) -> Result<&Node, ClusterError> {
        self.nodes.iter().find(|node| node.id == id).ok_or_else(|| ClusterError::NoSuch(format!("node {id}")))
    }

    /// The node of that member.
    pub fn node_of(&self, member: &str) -> Result<&Node, ClusterError> {
        let found = self.nodes.iter().find(|node| node.member == member);
        found.ok_or_else(|| ClusterError::NoSuch(format!("member {member:?}")))
    }

    /// Starts the node's pgvigil, whose messages go to its log, and keeps it from now on.
    pub fn start_node(&mut self, id: u64) -> Result<(), ClusterError> {
        let (account, program) = (self.account.clone(), self.program.clone());
        let node = self.nodes.iter_mut().find(|node| node.id == id);
        let node = node.ok_or_else(|| ClusterError::NoSuch(format!("node {id}")))?;
        let io = |what: &str| {
            let what = format!("{what} of node {id}");
            move |source| ClusterError::Io { what, source }
        };
        let log = OpenOptions::new().create(true).append(true).open(node.log());
        let log = log.map_err(io("opening the log"))?;
        let mut command = account.command(&program, &node.dir);
        if self.fault_points {
            command.env("PGVIGIL_FAULT_POINTS", format!("@{}", node.dir.join(FAULTS).display()));
        }
        command
            .arg("run")
            .arg("--config")
            .arg(&node.config)
            .envs(node.place.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(io("opening the log"))?)
            .stderr(log);
        let child = node.place.inside(|| command.spawn()).map_err(io("starting pgvigil"))?;
        node.child = Some(child);
        node.kept = true;
        Ok(())
    }

    /// Arms fault points and bugs of this node from now on, in words of `PGVIGIL_FAULT_POINTS` (supervisor/postgres,
    /// `fault`); an empty text disarms it.
    pub fn arm(&self, id: u64, words: &str) -> Result<(), ClusterError> {
        // In one step: nobody must read half of it.
        let (file, new) = (self.node(id)?.dir.join(FAULTS), self.node(id)?.dir.join("faults.new"));
        self.account.write_file(&new, words)?;
        std::fs::rename(&new, &file).map_err(|source| ClusterError::Io { what: format!("arming node {id}"), source })
    }

    /// From now on a dead pgvigil of this node stays dead, until `start_node`.
    pub fn leave_dead(&mut self, id: u64) {
        for node in self.nodes.iter_mut().filter(|node| node.id == id) {
            node.kept = false;
        }
    }

    /// Starts the node's pgvigil unless it runs; from now on it is kept.
    pub fn start_if_dead(&mut self, id: u64) -> Result<(), ClusterError> {
        for node in self.nodes.iter_mut().filter(|node| node.id == id) {
            node.kept = true;
        }
        self.tend().map(drop)
    }

    /// Restarts every pgvigil that has ended and is kept, as systemd would. Returns the nodes restarted.
    pub fn tend(&mut self) -> Result<Vec<u64>, ClusterError> {
        let mut ended = Vec::new();
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child {
                let end = child.try_wait().map_err(|source| ClusterError::Io { what: "waiting".to_owned(), source })?;
                if end.is_some() {
                    node.child = None;
                }
            }
            if node.child.is_none() && node.kept {
                ended.push(node.id);
            }
        }
        for id in &ended {
            self.start_node(*id)?;
        }
        Ok(ended)
    }

    /// The addresses of every pgvigil, for `PGVIGIL_CONNECT`.
    pub fn connect(&self) -> String {
        self.nodes.iter().map(|node| node.listen.as_str()).collect::<Vec<_>>().join(",")
    }

    /// Runs a `pgvigil` command against this cluster (as the calling user), however it ends.
    pub fn run(&self, arguments: &[&str]) -> Result<Output, ClusterError> {
        Command::new(&self.program)
            .args(arguments)
            .env("PGVIGIL_CONNECT", self.connect())
            .stdin(Stdio::null())
            .output()
            .map_err(|source| ClusterError::Io { what: format!("running pgvigil {}", arguments.join(" ")), source })
    }

    /// Runs a `pgvigil` command against this cluster and returns what it printed; an error unless it succeeds.
    pub fn command(&self, arguments: &[&str]) -> Result<String, ClusterError> {
        let Output { status, stdout, stderr } = self.run(arguments)?;
        let stdout = String::from_utf8_lossy(&stdout).into_owned();
        if status.success() {
            return Ok(stdout);
        }
        let output = format!("{} {}", String::from_utf8_lossy(&stderr).trim(), stdout.trim());
        Err(ClusterError::Command { arguments: arguments.join(" "), status, output })
    }

    /// The status, from the Raft leader.
    pub fn status(&self) -> Result<Status, ClusterError> {
        Ok(serde_json::from_str(&self.command(&["status", "--json"])?)?)
    }

    /// Waits until the cluster is in full health (see `Status::ailments`), restarting what has died meanwhile.
    pub fn wait_healthy(&mut self, limit: Duration) -> Result<Status, ClusterError> {
        let mut last = Vec::new();
        let waited = wait_for("full health", limit, PACE, || {
            self.tend()?;
            match self.status() {
                Ok(status) => {
                    last = status.ailments(self.nodes.len());
                    Ok::<_, ClusterError>(last.is_empty().then_some(status))
                }
                // No leader just now: that is what is waited for.
                Err(ClusterError::Command { output, .. }) => {
                    last = vec![output];
                    Ok(None)
                }
                Err(e) => Err(e),
            }
        });
        match waited {
            Err(ClusterError::Wait(WaitError::TooLong(limit, what))) => {
                let what = format!("{what}: {}", last.join("; "));
                Err(WaitError::TooLong(limit, what).into())
            }
            other => other,
        }
    }

    /// Makes that node the Raft leader, and waits until it is.
    pub fn move_leader(&self, id: u64, limit: Duration) -> Result<(), ClusterError> {
        wait_for(&format!("node {id} to lead the Raft group"), limit, PACE, || {
            match self.status() {
                Ok(status) if status.leader == id => return Ok::<_, ClusterError>(Some(())),
                // Asked again until it is so: a transfer can fail when the successor's log is a moment behind.
                Ok(_) => match self.command(&["voters", "lead", &id.to_string()]) {
                    Ok(_) | Err(ClusterError::Command { .. }) => {}
                    Err(e) => return Err(e),
                },
                Err(ClusterError::Command { .. }) => {}
                Err(e) => return Err(e),
            }
            Ok(None)
        })
    }

    /// A connection string that names every host.
    pub fn dsn(&self) -> Dsn {
        let addresses = self.nodes.iter().map(Node::address).collect();
        Dsn { addresses, database: "postgres".to_owned(), user: self.account.name.clone(), read_write: true }
    }

    /// Ends every process of every node. Called when dropped; calling it shows the error, if any.
    pub fn stop(&mut self) -> Result<(), ClusterError> {
        let mut result = Ok(());
        for node in &mut self.nodes {
            node.kept = false;
            let ended = end_node(node);
            result = result.and(ended);
        }
        result
    }
}

impl Node {
    /// The file that its pgvigil's messages go to.
    pub fn log(&self) -> PathBuf {
        self.place.log.clone().unwrap_or_else(|| self.dir.join("pgvigil.log"))
    }

    /// Where its pgvigil listens, if that is behind a front.
    pub fn behind(&self) -> Option<String> {
        let port = self.listen.rsplit(':').next().unwrap_or_default();
        self.place.behind.as_ref().map(|behind| format!("{behind}:{port}"))
    }

    /// Where its PostgreSQL is reached.
    pub fn address(&self) -> Address {
        Address { host: self.place.address.clone(), port: self.port }
    }
}

/// A node in its folder, not started. `ports`: of pgvigil and of PostgreSQL, where it shares its address with others.
fn node_at(id: u64, dir: PathBuf, place: Place, ports: [u16; 2]) -> Node {
    // A host of its own has every port to itself. The database's differ all the same, so that a port names a server.
    let [listen, port] = if place.netns.is_some() { [7400, 5431 + id as u16] } else { ports };
    Node {
        id,
        member: format!("pg{id}"),
        listen: format!("{}:{listen}", place.address),
        port,
        data_dir: dir.join("pgdata"),
        config: dir.join("pgvigil.toml"),
        dir,
        place,
        child: None,
        kept: false,
    }
}

/// Ends every process in the node's folder, and reaps the one that is our child.
fn end_node(node: &mut Node) -> Result<(), ClusterError> {
    if let Some(child) = &mut node.child {
        // In its own folder it is found by `kill_host` too, unless it has not got there yet.
        child.kill().map_err(|source| ClusterError::Io { what: format!("ending node {}", node.id), source })?;
    }
    processes::kill_host(&node.dir)?;
    if let Some(mut child) = node.child.take() {
        child.wait().map_err(|source| ClusterError::Io { what: format!("ending node {}", node.id), source })?;
    }
    Ok(())
}

/// The postmaster among the processes of a host.
pub fn postmaster(host: &Path) -> Option<i32> {
    let own = processes::of_host(host);
    let is_postgres =
        |command: &str| command.split(' ').next().is_some_and(|program| program.rsplit('/').next() == Some("postgres"));
    // The children call themselves "postgres: …"; for an instant after its fork a child still bears the parent's name.
    let candidates: Vec<_> = own.iter().filter(|p| is_postgres(&p.command)).collect();
    let parents: Vec<i32> = candidates.iter().map(|p| p.pid).collect();
    candidates.iter().find(|p| !parents.contains(&p.parent)).map(|p| p.pid)
}

/// Whether the node's own postmaster runs and has said in `postmaster.pid` that it serves: what a status that is a second
/// old cannot tell of one that was killed just now.
pub fn serves(node: &Node) -> bool {
    processes::postmaster_status(&node.data_dir).as_deref() == Some("ready")
        && postmaster(&node.dir).is_some_and(|pid| processes::postmaster_pid(&node.data_dir) == Some(pid))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("not everything that was started could be ended: {error}");
        }
    }
}
