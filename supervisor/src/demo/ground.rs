//! Where the demo happens: an unprivileged user, a directory of its own, free ports, three configurations.

use super::story::Story;
use crate::cli::{DsnWanted, Failure, dsn_uri};
use nix::unistd::{Gid, Uid, User, chown, geteuid};
use pgvigil_postgres::Binaries;
use rand::Rng;
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs, io,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
};

/// How many nodes the demo has.
pub(super) const NODES: u64 = 3;

/// One node's place.
#[derive(Clone, Debug)]
pub(super) struct NodePlace {
    pub(super) id: u64,
    pub(super) member: String,
    pub(super) dir: PathBuf,
    pub(super) config: PathBuf,
    pub(super) data_dir: PathBuf,
    pub(super) log: PathBuf,
    pub(super) listen: String,
    pub(super) http: String,
    pub(super) port: u16,
}

/// As whom everything runs.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) name: String,
    /// Set when we are root and become somebody else.
    pub(super) become_ids: Option<(Uid, Gid)>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) dir: PathBuf,
    pub(super) account: Account,
    /// The program: ours, or a copy that the account can run.
    pub(super) program: PathBuf,
    pub(super) nodes: Vec<NodePlace>,
    pub(super) dsn: String,
    /// The pids of the pgvigil processes by node, for demo.json.
    pids: Mutex<BTreeMap<u64, u32>>,
}

fn io_failure(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::Failed(format!("{what}: {error}"))
}

impl Account {
    fn find(story: &Story) -> Result<Self, Failure> {
        let named = |name: &str| User::from_name(name).ok().flatten();
        if geteuid().is_root() {
            let user = named("postgres").or_else(|| named("nobody"));
            let user = user.ok_or_else(|| {
                Failure::Failed("started as root, but there is neither a user 'postgres' nor 'nobody' to run as".into())
            })?;
            story.say(&format!("started as root: everything runs as the user '{}'", user.name));
            return Ok(Self { name: user.name, become_ids: Some((user.uid, user.gid)) });
        }
        let user = User::from_uid(geteuid()).ok().flatten();
        let name = user
            .map(|user| user.name)
            .ok_or_else(|| Failure::Failed(format!("the user id {} has no name; PostgreSQL needs one", geteuid())))?;
        Ok(Self { name, become_ids: None })
    }

    /// Makes a command run as this account.
    pub(super) fn apply(&self, command: &mut Command) {
        if let Some((uid, gid)) = self.become_ids {
            // As root this also drops the supplementary groups.
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        command.env("USER", &self.name).env("LOGNAME", &self.name);
    }

    fn own(&self, path: &Path) -> Result<(), Failure> {
        if let Some((uid, gid)) = self.become_ids {
            chown(path, Some(uid), Some(gid)).map_err(|error| io_failure(path.display())(error.into()))?;
        }
        Ok(())
    }
}

impl Ground {
    /// Finds an account, a directory, PostgreSQL and ports, and writes the configurations.
    pub(super) fn prepare(wanted: Option<&Path>, story: &Story) -> Result<Self, Failure> {
        let binaries = Binaries::find(None).map_err(|error| {
            Failure::Failed(format!("{error}. Install PostgreSQL first (Debian: apt-get install postgresql)"))
        })?;
        let account = Account::find(story)?;
        let dir = make_dir(wanted, &account)?;
        Self::furnish(&dir, account, &binaries, story).inspect_err(|_| {
            if wanted.is_none() {
                // The failure itself is what is reported.
                let _left = fs::remove_dir_all(&dir);
            }
        })
    }

    fn furnish(dir: &Path, account: Account, binaries: &Binaries, story: &Story) -> Result<Self, Failure> {
        let dir = dir.to_owned();
        story.say(&format!(
            "PostgreSQL {} from {}; everything is in {}",
            binaries.version(),
            binaries.bin_dir().display(),
            dir.display()
        ));
        let program = runnable_program(&dir, &account, story)?;
        let password = dir.join("replication.password");
        write_owned(&account, &password, &format!("{:032x}\n", rand::rng().random::<u128>()), 0o600)?;
        let ports = free_ports(3 * NODES as usize)?;
        let mut nodes = Vec::new();
        for (id, ports) in (1..=NODES).zip(ports.chunks(3)) {
            let home = dir.join(format!("n{id}"));
            fs::create_dir(&home).map_err(io_failure(home.display()))?;
            account.own(&home)?;
            nodes.push(NodePlace {
                id,
                member: format!("pg{id}"),
                config: home.join("pgvigil.toml"),
                data_dir: home.join("pgdata"),
                log: home.join("pgvigil.log"),
                listen: format!("127.0.0.1:{}", ports[0]),
                http: format!("127.0.0.1:{}", ports[1]),
                port: ports[2],
                dir: home,
            });
        }
        for node in &nodes {
            let text = configuration(node, &nodes, &password, binaries.bin_dir());
            write_owned(&account, &node.config, &text, 0o644)?;
        }
        let hosts: Vec<(String, u16)> = nodes.iter().map(|node| ("127.0.0.1".to_owned(), node.port)).collect();
        let wanted = DsnWanted { read_only: false, user: Some(&account.name), dbname: "postgres" };
        let dsn = dsn_uri(&hosts, &wanted);
        Ok(Self { dir, account, program, nodes, dsn, pids: Mutex::default() })
    }

    /// Notes the pid of a node's process in demo.json.
    pub(super) fn note_pid(&self, node: u64, pid: u32) -> Result<(), Failure> {
        let mut pids = self.pids.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        pids.insert(node, pid);
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|node| {
                json!({
                    "id": node.id, "config": node.config, "listen": node.listen, "http": node.http,
                    "member": node.member, "host": "127.0.0.1", "port": node.port, "pid": pids.get(&node.id),
                })
            })
            .collect();
        let text = format!("{:#}\n", json!({"dsn": self.dsn, "nodes": nodes}));
        let (path, new) = (self.dir.join("demo.json"), self.dir.join("demo.json.new"));
        write_owned(&self.account, &new, &text, 0o644)?;
        fs::rename(&new, &path).map_err(io_failure(path.display()))
    }

    /// Removes the temporary directory.
    pub(super) fn remove(&self, story: &Story) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            story.say(&format!("cannot remove {}: {error}", self.dir.display()));
        }
    }
}

fn make_dir(wanted: Option<&Path>, account: &Account) -> Result<PathBuf, Failure> {
    let dir = match wanted {
        Some(dir) => {
            fs::create_dir_all(dir).map_err(io_failure(dir.display()))?;
            let dir = fs::canonicalize(dir).map_err(io_failure(dir.display()))?;
            if fs::read_dir(&dir).map_err(io_failure(dir.display()))?.next().is_some() {
                return Err(Failure::Usage(format!("--dir {}: it must be empty or not exist", dir.display())));
            }
            dir
        }
        None => {
            let dir = std::env::temp_dir().join(format!("pgvigil-demo-{:08x}", rand::rng().random::<u32>()));
            fs::create_dir(&dir).map_err(io_failure(dir.display()))?;
            dir
        }
    };
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).map_err(io_failure(dir.display()))?;
    account.own(&dir)?;
    Ok(dir)
}

/// Our own program if the account can run it from its directory, else a copy beside the nodes: root's home, where a
/// checkout often lies, is closed to others.
fn runnable_program(dir: &Path, account: &Account, story: &Story) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().map_err(io_failure("our own program"))?;
    if runs(&own, dir, account).is_ok() {
        return Ok(own);
    }
    let copy = dir.join("pgvigil");
    fs::copy(&own, &copy).map_err(io_failure(copy.display()))?;
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).map_err(io_failure(copy.display()))?;
    story.say(&format!("'{}' may not run {}: it runs a copy", account.name, own.display()));
    match runs(&copy, dir, account) {
        Ok(()) => Ok(copy),
        Err(error) => Err(Failure::Failed(format!(
            "the user '{}' cannot run programs in {}: {error}; name another directory with --dir",
            account.name,
            dir.display()
        ))),
    }
}

fn runs(program: &Path, dir: &Path, account: &Account) -> io::Result<()> {
    let mut command = Command::new(program);
    command.arg("--version").current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    account.apply(&mut command);
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("it ended with {status}"))) }
}

fn write_owned(account: &Account, path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    fs::write(path, text).map_err(io_failure(path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io_failure(path.display()))?;
    account.own(path)
}

/// Free TCP ports on loopback, below those that the system gives to outgoing connections: one of these could take a
/// server's port while the server is down for a moment.
fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    let outgoing = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
    let lowest = outgoing.and_then(|text| text.split_whitespace().next().and_then(|low| low.parse::<u16>().ok()));
    let end = lowest.unwrap_or(32_768);
    let begin = end.saturating_sub(12_000).max(1_024);
    let mut held = Vec::new();
    let mut random = rand::rng();
    for _ in 0..2_000 {
        let port = if begin < end { random.random_range(begin..end) } else { 0 };
        // Held until all are found, so that no port comes twice.
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            held.push(listener);
        }
        if held.len() == count {
            let ports: io::Result<Vec<u16>> =
                held.iter().map(|l| l.local_addr().map(|address| address.port())).collect();
            return ports.map_err(io_failure("free ports"));
        }
    }
    Err(Failure::Failed("not enough free TCP ports on 127.0.0.1".to_owned()))
}

fn configuration(node: &NodePlace, nodes: &[NodePlace], password: &Path, bin_dir: &Path) -> String {
    let voters: Vec<String> = nodes.iter().map(|node| format!("{} = {:?}", node.id, node.listen)).collect();
    let expect: Vec<String> = nodes.iter().map(|node| format!("{:?}", node.member)).collect();
    let NodePlace { id, member, dir, data_dir, listen, http, port, .. } = node;
    let state_dir = dir.join("state");
    format!(
        r#"# Node {id} of the demo.
cluster = "demo"

[node]
id = {id}
listen = "{listen}"
http = "{http}"
state_dir = {state_dir:?}
voters = {{ {voters} }}

[member]
name = "{member}"
host = "127.0.0.1"
port = {port}
data_dir = {data_dir:?}
bin_dir = {bin_dir:?}
replication_password_file = {password:?}
hba = ["host all all 127.0.0.1/32 trust"]

[member.parameters]
shared_buffers = "32MB"
max_connections = 50

[bootstrap]
expect = [{expect}]
"#,
        voters = voters.join(", "),
        expect = expect.join(", "),
    )
}
