//! What the values of a configuration file must satisfy.

use super::{
    Bootstrap, Config, FenceCommand, Fixture, MemberConfig, NodeConfig, Raw, RawBootstrap, RawFence, RawMember, RawNode,
};
use crate::api::settings_catalogue::countable;
use pgvigil_core::id::{ClusterId, MemberId, NodeId};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// A value that is refused.
pub(super) struct Bad {
    pub(super) key: Vec<String>,
    pub(super) problem: String,
}

type Checked<T> = Result<T, Bad>;

fn bad<T>(key: &[&str], problem: impl Into<String>) -> Checked<T> {
    Err(Bad { key: key.iter().map(|&part| part.to_owned()).collect(), problem: problem.into() })
}

fn ensure(holds: bool, key: &[&str], problem: impl FnOnce() -> String) -> Checked<()> {
    if holds { Ok(()) } else { bad(key, problem()) }
}

pub(super) fn checked(raw: Raw) -> Checked<Config> {
    name(&["cluster"], &raw.cluster)?;
    let node = node(raw.node)?;
    let member = raw.member.map(|raw| member(raw, &node)).transpose()?;
    let bootstrap = raw.bootstrap.map(bootstrap).transpose()?;
    let fence = raw.fence.map(fence).transpose()?;
    Ok(Config { cluster: ClusterId(raw.cluster), node, member, bootstrap, fence })
}

fn name(key: &[&str], text: &str) -> Checked<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure((1..=32).contains(&text.len()) && text.chars().all(plain), key, || {
        format!("{text:?} is no name: 1 to 32 of a-z, 0-9 and - are allowed")
    })
}

fn listening(key: &[&str], text: &str) -> Checked<SocketAddr> {
    let Ok(address) = text.parse::<SocketAddr>() else {
        return bad(key, format!("{text:?} is not IP:PORT (such as \"127.0.0.1:7400\" or \"[::1]:7400\")"));
    };
    ensure(address.port() != 0, key, || "port 0 would be another one after each start; 1 to 65535 are allowed".into())?;
    Ok(address)
}

fn host_port(key: &[&str], text: &str) -> Checked<()> {
    let fits = text.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let bracketed = bare.len() != host.len();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c) || (bracketed && c == ':');
        !bare.is_empty() && bare.chars().all(plain) && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    ensure(fits, key, || format!("{text:?} is not HOST:PORT (such as \"db1.example:7400\"; a port is 1 to 65535)"))
}

fn absolute(key: &[&str], path: &Path) -> Checked<()> {
    ensure(path.is_absolute(), key, || format!("{} is not an absolute path", path.display()))
}

fn node(raw: RawNode) -> Checked<NodeConfig> {
    ensure(raw.id >= 1, &["node", "id"], || "node ids count from 1".into())?;
    let listen = listening(&["node", "listen"], &raw.listen)?;
    let advertise = match raw.advertise {
        Some(address) => {
            host_port(&["node", "advertise"], &address)?;
            address
        }
        None => {
            ensure(!listen.ip().is_unspecified(), &["node", "listen"], || {
                format!(
                    "peers cannot connect to {listen}; set node.advertise to the HOST:PORT under which they reach this node"
                )
            })?;
            raw.listen
        }
    };
    let http = raw.http.map(|text| listening(&["node", "http"], &text)).transpose()?;
    ensure(http != Some(listen), &["node", "http"], || "it must differ from node.listen: gRPC has that port".into())?;
    absolute(&["node", "state_dir"], &raw.state_dir)?;
    if let Some(journal) = &raw.journal {
        absolute(&["node", "journal"], journal)?;
    }
    let id = NodeId(raw.id);
    let voters = voters(&raw.voters)?;
    let initial_voter = raw.initial_voter.unwrap_or(true);
    let key = ["node", "voters"];
    match (voters.get(&id), initial_voter) {
        (Some(own), true) => ensure(*own == advertise, &key, || {
            format!(
                "it says {own} for this node ({id}), but peers are to use {advertise} (node.advertise or node.listen)"
            )
        })?,
        (None, true) => {
            return bad(
                &key,
                format!(
                    "this node ({id}) is not among the voters ({}); add it on every node, or set node.initial_voter = false \
                     for an agent without a vote",
                    voters.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                ),
            );
        }
        (Some(_), false) => {
            return bad(
                &["node", "initial_voter"],
                format!("node {id} is listed in node.voters; false contradicts that"),
            );
        }
        (None, false) => {}
    }
    let (state_dir, journal) = (raw.state_dir, raw.journal);
    Ok(NodeConfig { id, listen, advertise, state_dir, http, voters, initial_voter, journal })
}

fn voters(raw: &BTreeMap<String, String>) -> Checked<BTreeMap<NodeId, String>> {
    let key = ["node", "voters"];
    ensure(!raw.is_empty(), &key, || "at least one voter is needed; three survive the loss of one".into())?;
    let mut voters = BTreeMap::new();
    let mut places = BTreeMap::new();
    for (id, address) in raw {
        let Some(number) = id.parse::<u64>().ok().filter(|number| *number >= 1 && number.to_string() == *id) else {
            return bad(&["node", "voters", id], format!("{id:?} is no node id: a number from 1 is expected"));
        };
        host_port(&["node", "voters", id], address)?;
        if let Some(other) = places.insert(address, id) {
            return bad(&["node", "voters", id], format!("voters {other} and {id} have the same address {address}"));
        }
        voters.insert(NodeId(number), address.clone());
    }
    Ok(voters)
}

/// Whether it may be a host's name or an IP address.
fn is_host(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._:".contains(c))
}

fn member(raw: RawMember, node: &NodeConfig) -> Checked<MemberConfig> {
    name(&["member", "name"], &raw.name)?;
    ensure(is_host(&raw.host), &["member", "host"], || {
        format!("{:?} is no host: a name or an IP address under which clients and standbys reach PostgreSQL", raw.host)
    })?;
    let everywhere = ["0.0.0.0", "::"].contains(&raw.host.as_str());
    ensure(!everywhere, &["member", "host"], || format!("nobody can connect to {}; name this host", raw.host))?;
    ensure(raw.port != 0, &["member", "port"], || "1 to 65535 are allowed".into())?;
    let own_ports = [Some(node.listen.port()), node.http.map(|http| http.port())];
    ensure(!own_ports.contains(&Some(raw.port)), &["member", "port"], || {
        format!("{} is pgvigil's own port (node.listen or node.http)", raw.port)
    })?;
    for address in raw.listen_addresses.iter().flat_map(|list| list.split(',')).map(str::trim) {
        ensure(address == "*" || is_host(address), &["member", "listen_addresses"], || {
            format!(
                "{address:?} is no address to listen on: \"*\" for all, or IP addresses and names, separated by commas"
            )
        })?;
    }
    absolute(&["member", "data_dir"], &raw.data_dir)?;
    let (data, state) = (&raw.data_dir, &node.state_dir);
    ensure(!state.starts_with(data) && !data.starts_with(state), &["member", "data_dir"], || {
        format!(
            "{} and node.state_dir {} must lie apart: a clone empties the data directory",
            data.display(),
            state.display()
        )
    })?;
    if let Some(bin_dir) = &raw.bin_dir {
        absolute(&["member", "bin_dir"], bin_dir)?;
    }
    absolute(&["member", "replication_password_file"], &raw.replication_password_file)?;
    let superuser_fits = raw.superuser.as_ref().is_none_or(|user| !user.is_empty() && !user.contains(['\n', '\0']));
    ensure(superuser_fits, &["member", "superuser"], || "it must not be empty".into())?;
    for address in &raw.replication_from {
        let (host, bits) = address.split_once('/').unwrap_or((address, "0"));
        let fits = is_host(host) && bits.parse::<u8>().is_ok_and(|bits| bits <= 128);
        ensure(
            fits && (address.contains('/') || host.parse::<IpAddr>().is_err()),
            &["member", "replication_from"],
            || {
                format!(
                    "{address:?} is no ADDRESS/BITS (such as \"10.0.0.0/24\") and no host name as pg_hba.conf reads one"
                )
            },
        )?;
    }
    for name in &raw.environment {
        ensure(pgvigil_postgres::libpq::may_pass(name), &["member", "environment"], || {
            format!(
                "{name:?} is not passed on: it is no name of a variable, or connections that PostgreSQL opens depend on it"
            )
        })?;
    }
    for line in &raw.hba {
        hba(line)?;
    }
    let watchdog = fixture(&["member", "watchdog"], raw.watchdog)?;
    let cgroup = fixture(&["member", "cgroup"], raw.cgroup)?;
    let parameters = raw.parameters.into_iter().map(|(key, value)| (key, value.into_text())).collect();
    check_parameters(&parameters)?;
    Ok(MemberConfig {
        name: MemberId(raw.name),
        tier: raw.tier,
        priority: raw.priority,
        host: raw.host,
        port: raw.port,
        listen_addresses: raw.listen_addresses,
        data_dir: raw.data_dir,
        bin_dir: raw.bin_dir,
        replication_password_file: raw.replication_password_file,
        superuser: raw.superuser,
        replication_from: raw.replication_from,
        environment: raw.environment,
        hba: raw.hba,
        parameters,
        watchdog,
        cgroup,
    })
}

fn fixture(key: &[&str], text: Option<String>) -> Checked<Fixture> {
    match text.as_deref() {
        None | Some("auto") => Ok(Fixture::Auto),
        Some("off") => Ok(Fixture::Off),
        Some(text) => {
            let path = PathBuf::from(text);
            ensure(path.is_absolute(), key, || format!("{text:?} is neither auto nor off nor an absolute path"))?;
            Ok(Fixture::At(path))
        }
    }
}

fn hba(line: &str) -> Checked<()> {
    const KINDS: [&str; 6] = ["local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"];
    let key = ["member", "hba"];
    ensure(!line.contains(['\n', '\r', '\0']), &key, || format!("{line:?}: one line of pg_hba.conf each"))?;
    let fields: Vec<&str> = line.split_whitespace().collect();
    let kind = fields.first().copied().unwrap_or_default();
    ensure(KINDS.contains(&kind), &key, || format!("{line:?} must begin with one of {}", KINDS.join(", ")))?;
    let least = if kind == "local" { 4 } else { 5 };
    ensure(fields.len() >= least, &key, || {
        format!("{line:?} is too short; such as \"host all all 192.0.2.0/24 scram-sha-256\"")
    })
}

fn check_parameters(parameters: &BTreeMap<String, String>) -> Checked<()> {
    for (name, value) in parameters {
        let key = ["member", "parameters", name.as_str()];
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        ensure(!name.is_empty() && name.chars().all(plain), &key, || format!("{name:?} is no PostgreSQL parameter"))?;
        let lower = name.to_ascii_lowercase();
        ensure(!pgvigil_postgres::settings::MANAGED.contains(&lower.as_str()), &key, || {
            "pgvigil manages this parameter; it cannot be set here".into()
        })?;
        ensure(!value.contains(['\n', '\r', '\0']), &key, || "a value is one line".into())?;
    }
    Ok(())
}

fn fence(raw: RawFence) -> Checked<FenceCommand> {
    let program = raw.command.first().map(Path::new);
    ensure(program.is_some(), &["fence", "command"], || {
        "name a program and its arguments, such as [\"/usr/local/sbin/power-off\"]".into()
    })?;
    absolute(&["fence", "command"], program.unwrap_or(Path::new("")))?;
    let key = ["fence", "timeout"];
    let Ok(timeout) = humantime::parse_duration(&raw.timeout) else {
        return bad(&key, format!("{:?} is no duration (such as \"20s\")", raw.timeout));
    };
    ensure(timeout >= Duration::from_secs(1), &key, || "it must be at least 1s: a power switch needs that".into())?;
    Ok(FenceCommand { command: raw.command, timeout })
}

fn bootstrap(raw: RawBootstrap) -> Checked<Bootstrap> {
    let key = ["bootstrap", "expect"];
    ensure(!raw.expect.is_empty(), &key, || {
        "name the members that must be there before the cluster is created".into()
    })?;
    let mut expect = BTreeSet::new();
    for member in raw.expect {
        name(&key, &member)?;
        let text = member.clone();
        ensure(expect.insert(MemberId(member)), &key, || format!("{text} is named twice"))?;
    }
    if let Err(refused) = raw.settings.validate().and_then(|()| countable(&raw.settings)) {
        return bad(
            &["bootstrap", "settings", &refused.key],
            format!("{} is refused: {}, because {}", refused.value, refused.allowed, refused.reason),
        );
    }
    Ok(Bootstrap { expect, settings: raw.settings })
}
