//! Story 7: bad input. Each is answered with what is wrong, where, what is allowed and what to do; the exit code says
//! which kind it is; and nothing has changed.

use nix::unistd::geteuid;
use pgvigil_chaos::{
    account::Account,
    bare::{BareServer, free_ports},
    cluster::{Cluster, ClusterOptions, Existing},
    processes,
};
use pgvigil_tests::{
    assert_says, node, serial, sql, wait,
    world::{World, nothing_lost},
};
use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

/// A folder for one story, and a prepared cluster in it of which nothing is started.
fn prepared(options: ClusterOptions) -> Cluster {
    Cluster::prepare(options).unwrap_or_else(|error| panic!("preparing: {error}"))
}

/// Rewrites a node's configuration file.
fn edit(cluster: &Cluster, id: u64, from: &str, to: &str) {
    let config = &cluster.node(id).expect("a node").config;
    let text = std::fs::read_to_string(config).expect("it is there");
    assert!(text.contains(from), "{from:?} is not in {text}");
    cluster.account.write_file(config, &text.replace(from, to)).expect("it can be written");
}

/// A `pgvigil run` of a node's configuration, in a folder of its own so that only it is ended with the test.
fn run(cluster: &Cluster, id: u64) -> node::Run {
    let dir = cluster.dir.join(format!("attempt-{:08x}", id));
    cluster.account.make_dir(&dir).expect("a folder");
    node::run(&cluster.account, cluster.program(), &dir, &cluster.node(id).expect("a node").config)
}

#[test]
fn a_wrong_configuration_is_refused_with_file_and_line() {
    let _turn = serial::turn();
    let cluster = prepared(ClusterOptions { nodes: Some(1), ..ClusterOptions::default() });
    let config = cluster.node(1).expect("a node").config.clone();
    let good = std::fs::read_to_string(&config).expect("it is there");
    let line_of = |text: &str, word: &str| {
        let index = text.lines().position(|line| line.starts_with(word)).expect("the line is there");
        format!("{}:{}", config.display(), index + 1)
    };
    let cases: [(&str, &str, &str, &[&str]); 6] = [
        (
            "[bootstrap.settings]\n",
            "[bootstrap.settings]\nlease_ms = 10\n",
            "lease_ms",
            &["lease_ms", "1000", "because"],
        ),
        ("[node]\n", "[node]\nlisten_on = 3\n", "listen_on", &["listen_on", "expected", "listen"]),
        ("[member]\n", "[member]\ntier = \"best\"\n", "tier", &["best", "primary", "replica", "emergency", "backup"]),
        ("name = \"pg1\"", "name = \"PG 1\"", "name", &["member.name", "a-z, 0-9"]),
        ("shared_buffers = \"32MB\"", "fsync = false", "fsync", &["fsync", "manages"]),
        ("hba = [", "hba = [\"anybody\", ", "hba", &["hba", "anybody"]),
    ];
    for (from, to, key, words) in cases {
        let text = good.replace(from, to);
        cluster.account.write_file(&config, &text).expect("written");
        let place = line_of(&text, key);
        let mut all = vec![place.as_str()];
        all.extend_from_slice(words);
        run(&cluster, 1).ends(2, &all);
    }
    cluster.account.write_file(&config, &good).expect("written");
    let state = cluster.node(1).expect("a node").dir.join("state");
    assert!(!state.exists(), "nothing was touched");
    if geteuid().is_root() {
        let ended = Command::new(cluster.program()).args(["run", "--config"]).arg(&config).output().expect("runs");
        assert_eq!(ended.status.code(), Some(2));
        assert_says(&String::from_utf8_lossy(&ended.stderr), &["root", "postgres"]);
        assert!(!state.exists(), "nothing was touched");
    }
}

/// The examples of `deploy/` are tried as they are written, except that the password file is one that is here.
#[test]
fn the_examples_can_be_started() {
    let _turn = serial::turn();
    let cluster = prepared(ClusterOptions { nodes: Some(1), ..ClusterOptions::default() });
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let password = cluster.dir.join("replication.password");
    let mut tried = 0;
    for example in std::fs::read_dir(examples).expect("the folder is there").flatten() {
        let text = std::fs::read_to_string(example.path()).expect("readable");
        let here = cluster.dir.join(example.file_name());
        cluster.account.write_file(&here, &text).expect("written");
        let check = || {
            let mut command = cluster.account.command(cluster.program(), &cluster.dir);
            command.args(["run", "--check", "--config"]).arg(&here).output().expect("runs")
        };
        let missing = check();
        if !Path::new("/etc/pgvigil/replication.password").exists() {
            assert_eq!(missing.status.code(), Some(2));
            assert_says(&String::from_utf8_lossy(&missing.stderr), &["/etc/pgvigil/replication.password"]);
        }
        let text = text.replace("/etc/pgvigil/replication.password", &password.to_string_lossy());
        cluster.account.write_file(&here, &text).expect("written");
        let checked = check();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        assert_says(&String::from_utf8_lossy(&checked.stdout), &["cluster main", "can be started"]);
        tried += 1;
    }
    assert_eq!(tried, 3);
}

#[test]
fn what_is_taken_or_missing_is_named() {
    let _turn = serial::turn();
    let cluster = prepared(ClusterOptions::default());
    let first = cluster.node(1).expect("a node");
    let taken = TcpListener::bind(&first.listen).expect("it is free");
    run(&cluster, 1).ends(1, &["cannot listen on", &first.listen, "node.listen"]);
    drop(taken);
    // Alone, it names those that do not answer, and goes on waiting.
    let mut alone = run(&cluster, 1);
    for id in [2, 3] {
        let peer = &cluster.node(id).expect("a node").listen;
        alone.says(&[&format!("voter {id} at {peer} does not answer"), "start pgvigil there", "nothing was changed"]);
    }
    drop(alone);
    assert!(!first.data_dir.join("PG_VERSION").exists(), "no data directory was made");

    // One node for itself, whose PostgreSQL finds its port taken: it says so, and goes on when the port is free.
    let turn_again = prepared(ClusterOptions { nodes: Some(1), ..ClusterOptions::default() });
    let single = turn_again.node(1).expect("a node");
    let taken = TcpListener::bind(("127.0.0.1", single.port)).expect("it is free");
    let mut held = run(&turn_again, 1);
    held.says(&["could not bind", &single.port.to_string()]);
    drop(taken);
    wait("PostgreSQL to start once its port is free", || {
        let runs = processes::postmaster_pid(&single.data_dir).is_some_and(processes::is_alive);
        if runs { Ok(()) } else { Err(held.said()) }
    });
}

#[test]
fn foreign_data_directories_are_left_alone() {
    let turn = serial::turn();
    let account = Account::unprivileged().expect("an account");
    let folder = tempfile::Builder::new().prefix("pgvigil-foreign-").tempdir().expect("a folder");
    account.make_dir(folder.path()).expect("a folder");
    let dir = folder.path().canonicalize().expect("it is there");
    let ports = free_ports(2).expect("free ports");
    let mut servers: Vec<BareServer> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let host = dir.join(format!("n{}", index + 1));
        account.make_dir(&host).expect("a folder");
        let mut server = BareServer::create(&account, host.join("pgdata"), *port).expect("initdb");
        server.configure(&[("unix_socket_directories", &host.to_string_lossy())]).expect("configured");
        server.start().expect("starts");
        servers.push(server);
    }
    let existing = servers
        .iter()
        .zip(1..)
        .map(|(server, id)| (id, Existing { data_dir: server.data_dir.clone(), port: server.port }));
    let options = ClusterOptions { dir: Some(dir), existing: existing.collect(), ..ClusterOptions::default() };
    let mut world = World::over("foreign", prepared(options), turn);
    let before: Vec<i32> = servers.iter().map(|server| server.postmaster().expect("it runs")).collect();
    for id in 1..=3 {
        world.cluster.start_node(id).expect("it starts");
    }
    let found = |now: &pgvigil_chaos::status::Status, words: &[&str]| {
        let all = format!("{:?} {:?}", now.findings, now.members);
        if words.iter().all(|word| all.contains(word)) { Ok(()) } else { Err(all) }
    };
    world.until("two primaries are named, and nobody is adopted", |now| {
        found(now, &["pg1, pg2 all run as primaries", "stop all but one"])
    });
    for server in &servers {
        assert!(!server.data_dir.join("pgvigil.conf").exists() && !server.data_dir.join("pgvigil.marker").exists());
    }

    world.say("one of them is stopped: the other is adopted, and the stopped one is left alone");
    let second = servers.pop().expect("two were started");
    let second_dir = second.data_dir.clone();
    let mut second = second;
    second.crash().expect("it ends");
    world.until("the stopped one is named", |now| {
        found(now, &["pg2", "without pgvigil's mark", "move its data directory"])
    });
    second.start().expect("it starts again");
    let version = second_dir.join("PG_VERSION");
    assert!(version.exists());
    world.until("two primaries are named again", |now| found(now, &["pg1, pg2 all run as primaries"]));
    assert_eq!(servers[0].postmaster(), Some(before[0]));

    world.say("a data directory of another major version");
    world.cluster.stop_node(2, pgvigil_tests::LIMIT).expect("it ends");
    second.crash().expect("it ends");
    std::fs::write(&version, "12\n").expect("written");
    world.cluster.start_node(2).expect("it starts");
    wait("the other version to be named", || {
        let said = world.log(2);
        let words = ["pgdata is of PostgreSQL 12", "member.bin_dir"];
        if words.iter().all(|word| said.contains(word)) { Ok(()) } else { Err(said) }
    });
    assert_eq!(std::fs::read_to_string(&version).expect("it is there"), "12\n", "nothing was changed");
    servers.into_iter().for_each(BareServer::release);
}

#[test]
fn what_was_changed_by_hand_or_damaged() {
    let mut world = World::healthy("byhand", ClusterOptions::default());
    let load = world.load();
    let primary = world.status().primary;
    let standby = if primary == "pg2" { "pg3" } else { "pg2" };

    world.say("ALTER SYSTEM on the primary and on a standby");
    sql::value(&world.dsn_of(&primary), "ALTER SYSTEM SET synchronous_standby_names = ''");
    sql::value(&world.dsn_of(standby), "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=1'");
    for member in [primary.as_str(), standby] {
        sql::value(&world.dsn_of(member), "SELECT pg_reload_conf()");
    }
    for (member, name) in [(primary.as_str(), "synchronous_standby_names"), (standby, "primary_conninfo")] {
        let id = world.id_of(member);
        wait("the change to be named and taken out", || {
            let said = world.log(id);
            let words = ["was not as pgvigil set it and was put back", name];
            if words.iter().all(|word| said.contains(word)) {
                Ok(())
            } else {
                Err(said.lines().last().unwrap_or_default().to_owned())
            }
        });
        let auto =
            std::fs::read_to_string(world.cluster.node(id).expect("a node").data_dir.join("postgresql.auto.conf"));
        assert!(!auto.expect("it is there").contains(name));
    }
    world.heal();
    assert_says(&sql::value(&world.dsn_of(&primary), "SHOW synchronous_standby_names"), &["ANY 1", standby]);
    nothing_lost(&load);

    world.say("two members of one name");
    let id = world.cluster.add_node().expect("it starts");
    world.cluster.stop_node(id, pgvigil_tests::LIMIT).expect("it ends");
    edit(&world.cluster, id, "name = \"pg4\"", "name = \"pg1\"");
    world.cluster.start_node(id).expect("it starts");
    wait("the name to be refused", || {
        let said = world.log(id);
        let words = ["two members are named pg1", "node 1 has it, node 4 wants it", "rename one"];
        if words.iter().all(|word| said.contains(word)) { Ok(()) } else { Err(said) }
    });
    world.cluster.drop_node(id).expect("it ends");
    // It may have registered under its first name before.
    if world.status().member("pg4").is_some() {
        world.ok(&["members", "remove", "pg4", "--timeout", "60"]);
    }
    world.heal();

    world.say("a running server of another system identifier");
    let host = world.cluster.dir.join("n4");
    let account = world.cluster.account.clone();
    account.make_dir(&host).expect("a folder");
    let port = free_ports(1).expect("a free port")[0];
    let mut foreign = BareServer::create(&account, host.join("pgdata"), port).expect("initdb");
    foreign.configure(&[("unix_socket_directories", &host.to_string_lossy())]).expect("configured");
    foreign.start().expect("starts");
    let id = world.cluster.add_node().expect("it starts");
    world.until("it is left alone", |now| {
        let seen =
            now.member("pg4").is_some_and(|m| m.problems.iter().any(|p| p.contains("another system identifier")));
        if seen { Ok(()) } else { Err(format!("{:?}", now.member("pg4"))) }
    });
    assert!(processes::is_alive(foreign.postmaster().expect("it runs")));
    assert!(!foreign.data_dir.join("pgvigil.marker").exists(), "nothing was changed");
    world.ok(&["members", "remove", "pg4", "--timeout", "60"]);
    world.cluster.drop_node(id).expect("it ends");
    world.heal();

    world.say("a damaged promise, one of a newer build, and a Raft log that was cut off");
    let (id, beside) = (world.id_of(standby), world.postmaster(standby));
    world.cluster.stop_node(id, pgvigil_tests::LIMIT).expect("it ends");
    let state = world.host(standby).join("state");
    let promise = state.join("agent").join("promise.json");
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    kept(&state.join("raft"), || {
        tampered(&newest_log(&state.join("raft")), half, || {
            run(&world.cluster, id).ends(1, &["Raft node cannot start", "store"]);
        });
    });
    tampered(&promise, half, || {
        // The agent does nothing; the node votes on.
        let words = ["the agent cannot start", "promise.json", "is damaged", "what this agent promised is not known"];
        run(&world.cluster, id).says(&words);
    });
    let newer = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace("\"format\":1", "\"format\":99").into_bytes();
    tampered(&promise, newer, || {
        run(&world.cluster, id).says(&["the agent cannot start", "promise.json", "format 99", "run the newer pgvigil"]);
    });
    world.start_pgvigil(id);
    world.heal();
    assert_eq!(world.postmaster(standby), beside, "PostgreSQL has run on all the time");
    nothing_lost(&load);
}

/// Replaces a file's content while `look` is called, and puts it back afterwards.
fn tampered(file: &Path, change: impl Fn(&[u8]) -> Vec<u8>, look: impl FnOnce()) {
    let good = std::fs::read(file).expect("it is there");
    let bad = change(&good);
    assert_ne!(good, bad);
    // In place: owner and mode stay.
    std::fs::write(file, bad).expect("written");
    look();
    std::fs::write(file, good).expect("put back");
}

/// Keeps a copy of a folder while `look` is called, and puts it back afterwards.
fn kept(folder: &Path, look: impl FnOnce()) {
    let copy = folder.with_extension("kept");
    let done = Command::new("cp").arg("-a").arg(folder).arg(&copy).status().expect("cp runs");
    assert!(done.success());
    look();
    std::fs::remove_dir_all(folder).expect("removed");
    std::fs::rename(&copy, folder).expect("put back");
}

/// The newest write-ahead log of the database below `dir`.
fn newest_log(dir: &Path) -> PathBuf {
    let mut logs: Vec<PathBuf> = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("readable").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "log") {
                logs.push(path);
            }
        }
    }
    logs.sort();
    logs.pop().expect("there is a write-ahead log")
}
