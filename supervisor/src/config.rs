//! The configuration file of one node: read once at the start, every value checked before anything is touched.
//!
//! An error names the file, the line and what is allowed. Settings that all nodes must share are not here: they are
//! agreed (see `pgvigil settings`); `[bootstrap.settings]` only gives a new cluster its first ones.

mod check;
mod place;

use pgvigil_core::{
    id::{ClusterId, MemberId, NodeId},
    member::{MemberSpec, Tier},
    settings::Settings,
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// The configuration of one pgvigil process.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The cluster to which the member belongs.
    pub cluster: ClusterId,
    /// This process.
    pub node: NodeConfig,
    /// The PostgreSQL beside it; `None` for a voter without PostgreSQL.
    pub member: Option<MemberConfig>,
    /// What a new cluster begins with; `None` when this node never creates one.
    pub bootstrap: Option<Bootstrap>,
    /// How a silent host is stopped from outside; `None`: not at all.
    pub fence: Option<FenceCommand>,
}

/// A command that stops a host from outside: power switch, hypervisor, cloud API. Exit code 0 is taken as proof that the
/// member serves nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceCommand {
    /// Program and arguments, run without a shell. `PGVIGIL_CLUSTER`, `PGVIGIL_MEMBER`, `PGVIGIL_HOST`, `PGVIGIL_PORT` and
    /// `PGVIGIL_EPOCH` in its environment say whom it is to stop.
    pub command: Vec<String>,
    /// After this it is killed and counts as failed.
    pub timeout: Duration,
}

/// One process of the Raft group.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    /// Raft's node id, from 1.
    pub id: NodeId,
    /// Where gRPC (Raft, agents, API) listens.
    pub listen: SocketAddr,
    /// host:port that peers and clients use.
    pub advertise: String,
    /// raft/, agent/ and the guard's socket.
    pub state_dir: PathBuf,
    /// Where the HTTP face listens.
    pub http: Option<SocketAddr>,
    /// The initial voters by node id, host:port. The same on every node.
    pub voters: BTreeMap<NodeId, String>,
    /// Whether this node is one of them. `false`: an agent only, until `pgvigil voters add`.
    pub initial_voter: bool,
    /// Where every decision and act is written with what it was made from; `None`: nowhere. For checks, not for service.
    pub journal: Option<PathBuf>,
}

/// One PostgreSQL data directory.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberConfig {
    /// Unique within the cluster.
    pub name: MemberId,
    /// What it is for.
    pub tier: Tier,
    /// Higher is preferred among members of one tier.
    pub priority: u32,
    /// Where clients and standbys reach its PostgreSQL.
    pub host: String,
    /// PostgreSQL's port.
    pub port: u16,
    /// On which addresses PostgreSQL listens, as PostgreSQL writes them; `None`: on `host` where that is a loopback address,
    /// else on all.
    pub listen_addresses: Option<String>,
    /// The data directory.
    pub data_dir: PathBuf,
    /// PostgreSQL's programs; `None`: they are looked for.
    pub bin_dir: Option<PathBuf>,
    /// One line: the password of the replication role, the same on every member.
    pub replication_password_file: PathBuf,
    /// PostgreSQL's superuser; `None`: named like the OS user.
    pub superuser: Option<String>,
    /// From where other members may come to replicate, beside the addresses of their hosts, as pg_hba.conf writes
    /// addresses: for members that connect from other addresses than those under which they are reached.
    pub replication_from: Vec<String>,
    /// Variables of pgvigil's environment that PostgreSQL gets too, for archive commands. It gets few others.
    pub environment: Vec<String>,
    /// Client lines of pg_hba.conf, in force while the door is open.
    pub hba: Vec<String>,
    /// More parameters of postgresql.conf, none of which pgvigil manages.
    pub parameters: BTreeMap<String, String>,
    /// The watchdog device that resets this host when the guard itself fails.
    pub watchdog: Fixture,
    /// The cgroup in which PostgreSQL runs, and nothing else.
    pub cgroup: Fixture,
}

/// Something of the machine that is used where it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fixture {
    /// The usual one, where this user may use it.
    #[default]
    Auto,
    /// None.
    Off,
    /// This one.
    At(PathBuf),
}

impl MemberConfig {
    /// What the member says of itself when it registers.
    #[must_use]
    pub fn spec(&self, node: NodeId) -> MemberSpec {
        MemberSpec {
            member: self.name.clone(),
            tier: self.tier,
            priority: self.priority,
            host: self.host.clone(),
            port: self.port,
            node,
        }
    }

    /// The password of the replication role. Read at its use, so that an unreadable file is reported then as well.
    pub fn replication_password(&self) -> Result<String, ConfigError> {
        let path = &self.replication_password_file;
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        let password = text.trim_end_matches(['\r', '\n']);
        if password.is_empty() || password.contains(['\n', '\r', '\0']) {
            return Err(ConfigError::Password { path: path.clone() });
        }
        Ok(password.to_owned())
    }
}

/// What a new cluster begins with.
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    /// initdb only when all of these are there, with empty data directories.
    pub expect: BTreeSet<MemberId>,
    /// The initial settings.
    pub settings: Settings,
}

/// A configuration that cannot be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A value is not allowed.
    #[error("{}:{line}: {key}: {problem}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The key with its sections.
        key: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// Not TOML, an unknown key, a missing key or a value of another type.
    #[error("{}:{line}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// The password file is empty or has several lines.
    #[error("{}: expected one line, the password of the replication role", path.display())]
    Password {
        /// The file.
        path: PathBuf,
    },
}

/// Reads and checks a configuration file.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// Checks the text of a configuration file; `path` is for messages only.
pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let raw: Raw = toml::from_str(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: error.span().map_or(1, |span| place::line_at(text, span.start)),
        problem: error.message().replace('\n', " "),
    })?;
    check::checked(raw).map_err(|bad| ConfigError::Value {
        path: path.to_owned(),
        line: place::line_of(text, &bad.key),
        key: bad.key.join("."),
        problem: bad.problem,
    })
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    cluster: String,
    node: RawNode,
    member: Option<RawMember>,
    bootstrap: Option<RawBootstrap>,
    fence: Option<RawFence>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFence {
    command: Vec<String>,
    #[serde(default = "default_fence_timeout")]
    timeout: String,
}

fn default_fence_timeout() -> String {
    "20s".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    id: u64,
    listen: String,
    advertise: Option<String>,
    state_dir: PathBuf,
    http: Option<String>,
    voters: BTreeMap<String, String>,
    initial_voter: Option<bool>,
    journal: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMember {
    name: String,
    #[serde(default)]
    tier: Tier,
    #[serde(default = "default_priority")]
    priority: u32,
    host: String,
    port: u16,
    listen_addresses: Option<String>,
    data_dir: PathBuf,
    bin_dir: Option<PathBuf>,
    replication_password_file: PathBuf,
    superuser: Option<String>,
    #[serde(default)]
    replication_from: Vec<String>,
    #[serde(default)]
    environment: Vec<String>,
    #[serde(default)]
    hba: Vec<String>,
    #[serde(default)]
    parameters: BTreeMap<String, Parameter>,
    watchdog: Option<String>,
    cgroup: Option<String>,
}

const fn default_priority() -> u32 {
    100
}

/// A PostgreSQL parameter may be written as a string, a number or a truth value.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a string, a number, true or false")]
enum Parameter {
    Text(String),
    Integer(i64),
    Number(f64),
    Truth(bool),
}

impl Parameter {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Integer(number) => number.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Truth(truth) => if truth { "on" } else { "off" }.to_owned(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBootstrap {
    expect: Vec<String>,
    #[serde(default)]
    settings: Settings,
}

#[cfg(test)]
#[path = "config/config_test.rs"]
mod tests;

#[cfg(test)]
#[path = "config/fuzz_test.rs"]
mod fuzz;
