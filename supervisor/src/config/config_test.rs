//! Each bad input has its error with file, line and what is allowed.

use super::*;

pub(super) const GOOD: &str = r#"cluster = "demo"
[node]
id = 1
listen = "127.0.0.1:7401"
state_dir = "/var/lib/pgvigil/n1"
http = "127.0.0.1:8401"
voters = { 1 = "127.0.0.1:7401", 2 = "127.0.0.1:7402", 3 = "127.0.0.1:7403" }
[member]
name = "pg1"
tier = "replica"
host = "127.0.0.1"
port = 5441
data_dir = "/var/lib/pgvigil/pgdata"
replication_password_file = "/var/lib/pgvigil/replication.password"
hba = ["host all all 127.0.0.1/32 trust"]
[member.parameters]
shared_buffers = "32MB"
max_connections = 50
jit = false
[bootstrap]
expect = ["pg1", "pg2", "pg3"]
[bootstrap.settings]
lease_ms = 2000
[fence]
command = ["/usr/local/sbin/power-off", "--now"]
timeout = "30s"
"#;

fn error(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    parse(Path::new("n1.toml"), &GOOD.replacen(from, to, 1)).unwrap_err().to_string()
}

#[test]
fn a_good_file_is_read_whole() {
    let config = parse(Path::new("n1.toml"), GOOD).unwrap();
    let member = config.member.unwrap();
    assert_eq!(config.node.advertise, "127.0.0.1:7401");
    assert_eq!((member.tier, member.priority), (Tier::Replica, 100));
    assert_eq!(member.parameters["max_connections"], "50");
    assert_eq!(member.parameters["jit"], "off");
    let bootstrap = config.bootstrap.unwrap();
    assert_eq!((bootstrap.expect.len(), bootstrap.settings.lease_ms), (3, 2000));
    assert_eq!(bootstrap.settings.heartbeat_ms, Settings::default().heartbeat_ms);
    let fence = config.fence.unwrap();
    assert_eq!((fence.command.len(), fence.timeout), (2, Duration::from_secs(30)));
}

#[test]
fn a_voter_without_postgresql_needs_no_member() {
    let text = GOOD.split("[member]").next().unwrap();
    let config = parse(Path::new("n1.toml"), text).unwrap();
    assert!(config.member.is_none() && config.bootstrap.is_none());
}

#[test]
fn each_bad_value_is_named_with_its_line_and_what_is_allowed() {
    let cases = [
        ("cluster = \"demo\"", "cluster = \"De mo\"", ":1: cluster: ", "a-z, 0-9 and -"),
        ("id = 1", "id = 0", ":3: node.id: ", "from 1"),
        ("id = 1", "id = 4", ":7: node.voters: ", "not among the voters (1, 2, 3)"),
        ("listen = \"127.0.0.1:7401\"", "listen = \"localhost\"", ":4: node.listen: ", "IP:PORT"),
        ("listen = \"127.0.0.1:7401\"", "listen = \"127.0.0.1:0\"", ":4: node.listen: ", "1 to 65535"),
        ("listen = \"127.0.0.1:7401\"", "listen = \"0.0.0.0:7401\"", ":4: node.listen: ", "node.advertise"),
        ("listen = \"127.0.0.1:7401\"", "listen = \"127.0.0.1:7409\"", ":7: node.voters: ", "127.0.0.1:7409"),
        ("http = \"127.0.0.1:8401\"", "http = \"127.0.0.1:7401\"", ":6: node.http: ", "differ"),
        ("/var/lib/pgvigil/n1\"", "n1\"", ":5: node.state_dir: ", "absolute"),
        ("3 = \"127.0.0.1:7403\"", "3 = \"127.0.0.1:7402\"", ":7: node.voters.3: ", "same address"),
        ("3 = \"127.0.0.1:7403\"", "three = \"127.0.0.1:7403\"", ":7: node.voters.three: ", "number from 1"),
        ("3 = \"127.0.0.1:7403\"", "3 = \"127.0.0.1\"", ":7: node.voters.3: ", "HOST:PORT"),
        ("name = \"pg1\"", "name = \"pg_1\"", ":9: member.name: ", "a-z, 0-9 and -"),
        ("port = 5441", "port = 0", ":12: member.port: ", "1 to 65535"),
        ("port = 5441", "port = 7401", ":12: member.port: ", "own port"),
        ("host = \"127.0.0.1\"\nport", "host = \"\"\nport", ":11: member.host: ", "IP address"),
        (
            "port = 5441",
            "port = 5441\nlisten_addresses = \"10.0.0.1 10.0.0.2\"",
            ":13: member.listen_addresses: ",
            "commas",
        ),
        ("port = 5441", "port = 5441\nlisten_addresses = \"\"", ":13: member.listen_addresses: ", "\"*\" for all"),
        ("/var/lib/pgvigil/pgdata", "/var/lib/pgvigil/n1/pgdata", ":13: member.data_dir: ", "apart"),
        ("host all all 127.0.0.1/32 trust", "all trust", ":15: member.hba: ", "hostssl"),
        ("host all all 127.0.0.1/32 trust", "host all trust", ":15: member.hba: ", "too short"),
        ("jit = false", "fsync = false", ":19: member.parameters.fsync: ", "manages"),
        ("\"pg3\"", "\"pg2\"", ":21: bootstrap.expect: ", "twice"),
        ("[\"/usr/local/sbin/power-off\", \"--now\"]", "[]", ":25: fence.command: ", "name a program"),
        ("\"/usr/local/sbin/power-off\"", "\"power-off\"", ":25: fence.command: ", "absolute"),
        ("\"30s\"", "\"soon\"", ":26: fence.timeout: ", "such as"),
        ("\"30s\"", "\"1ms\"", ":26: fence.timeout: ", "at least 1s"),
        ("lease_ms = 2000", "sync_standbys = 2", ":23: bootstrap.settings.sync_standbys: ", "must be 1"),
        ("lease_ms = 2000", "lease_ms = 999", ":23: bootstrap.settings.lease_ms: ", "at least 1000, because"),
    ];
    for (from, to, place, allowed) in cases {
        let error = error(from, to);
        assert!(error.starts_with(&format!("n1.toml{place}")) && error.contains(allowed), "{to}: {error}");
    }
}

#[test]
fn unknown_keys_and_wrong_types_are_named_with_their_line() {
    let cases = [
        ("tier = \"replica\"", "tier = \"master\"", ":10: ", "`primary`, `replica`, `emergency`, `backup`"),
        ("port = 5441", "prot = 5441", ":12: ", "unknown field `prot`, expected one of"),
        ("port = 5441", "port = 70000", ":12: ", "70000"),
        ("id = 1", "id = \"one\"", ":3: ", "expected u64"),
        ("lease_ms = 2000", "lease = 2", ":23: ", "unknown field `lease`, expected one of"),
        ("jit = false", "jit = [1]", ":19: ", "a string, a number, true or false"),
        ("[bootstrap]", "[boot", ":20: ", ""),
        ("jit = false", "jit = false\njit = true", ":20: ", "duplicate key"),
    ];
    for (from, to, place, allowed) in cases {
        let error = error(from, to);
        assert!(error.starts_with(&format!("n1.toml{place}")) && error.contains(allowed), "{to}: {error}");
    }
    let error = error("name = \"pg1\"\n", "");
    assert!(error.contains("missing field `name`"), "{error}");
}

#[test]
fn an_agent_without_a_vote_says_so() {
    let text =
        GOOD.replacen("id = 1", "id = 4\ninitial_voter = false", 1).replacen("7401\"\nstate", "7404\"\nstate", 1);
    assert!(!parse(Path::new("n4.toml"), &text).unwrap().node.initial_voter);
    assert!(error("id = 1", "id = 1\ninitial_voter = false").contains("contradicts"));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = load(Path::new("/nowhere/n1.toml")).unwrap_err().to_string();
    assert!(error.contains("/nowhere/n1.toml"), "{error}");
}
