//! Story 6: PostgreSQL servers that already run, a primary with two streaming standbys, come under pgvigil without a
//! restart, and the next crash of the primary loses nothing. As `deploy/adopt.md` says, step by step.

use nix::sys::signal::Signal;
use pgvigil_chaos::{
    account::Account,
    bare::{BareServer, free_ports},
    cluster::{Cluster, ClusterOptions, Existing},
    ledger::{Workload, WorkloadOptions},
    libpq::Dsn,
};
use pgvigil_tests::{
    LIMIT, assert_says, serial, sql, wait,
    world::{World, moves, nothing_lost},
};
use std::{path::Path, time::Duration};

/// A primary and two standbys that follow it, set up as people do, each in the folder of its later node.
fn plain_servers(account: &Account, dir: &Path) -> Vec<BareServer> {
    let ports = free_ports(3).expect("free ports");
    let host = |id: usize| {
        let host = dir.join(format!("n{id}"));
        account.make_dir(&host).expect("a folder");
        host
    };
    let socket = |host: &Path| host.to_string_lossy().into_owned();
    let first = host(1);
    let mut primary = BareServer::create(account, first.join("pgdata"), ports[0]).expect("initdb");
    primary.configure(&[("unix_socket_directories", &socket(&first))]).expect("is configured");
    primary.start().expect("starts");
    let mut servers = Vec::new();
    for id in [2, 3] {
        let host = host(id);
        let mut standby =
            primary.clone_to(host.join("pgdata"), ports[id - 1], &format!("standby{id}")).expect("is cloned");
        let more = [("unix_socket_directories", socket(&host))];
        let more: Vec<(&str, &str)> = more.iter().map(|(name, value)| (*name, value.as_str())).collect();
        standby.follow(ports[0], &format!("standby{id}"), &more).expect("is configured");
        standby.start().expect("starts");
        servers.push(standby);
    }
    servers.insert(0, primary);
    servers
}

#[test]
fn running_servers_are_adopted_without_a_restart() {
    let turn = serial::turn();
    let account = Account::unprivileged().expect("an account");
    let folder = tempfile::Builder::new().prefix("pgvigil-adopt-").tempdir().expect("a folder");
    account.make_dir(folder.path()).expect("a folder");
    let dir = folder.path().canonicalize().expect("it is there");
    let servers = plain_servers(&account, &dir);
    let mut dsn: Dsn = servers[0].dsn();
    dsn.addresses = servers.iter().flat_map(|server| server.dsn().addresses).collect();
    dsn.read_write = true;
    sql::value(&dsn, "CREATE TABLE before_pgvigil AS SELECT 42 AS answer");
    let load = Workload::start(WorkloadOptions::new(dsn)).expect("begins");
    moves(&load, 50);
    let (first, port) = (servers[0].dsn(), servers[0].port);
    wait("both standbys to stream", || match sql::try_value(&first, "SELECT count(*) FROM pg_stat_replication") {
        Ok(count) if count == "2" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let existing = |server: &BareServer| Existing { data_dir: server.data_dir.clone(), port: server.port };
    let existing = servers.iter().enumerate().map(|(index, server)| (index as u64 + 1, existing(server))).collect();
    let before: Vec<i32> = servers.iter().map(|server| server.postmaster().expect("it runs")).collect();
    let cluster = Cluster::prepare(ClusterOptions { dir: Some(dir), existing, ..ClusterOptions::default() });
    let cluster = cluster.expect("is prepared");
    // From here on their ends belong to the cluster, whose drop ends whatever works in the nodes' folders.
    servers.into_iter().for_each(BareServer::release);
    let mut world = World::over("adoption", cluster, turn);
    for id in 1..=3 {
        world.cluster.start_node(id).expect("it starts");
    }
    let adopted = world.heal();
    assert_eq!((adopted.primary.as_str(), adopted.epoch), ("pg1", 1));
    assert_eq!(world.postmasters().into_values().collect::<Vec<_>>(), before, "adopted, not restarted");
    assert_eq!(sql::value(&world.dsn_of("pg1"), "SELECT answer FROM before_pgvigil"), "42");
    let names = sql::value(&world.dsn_of("pg1"), "SHOW synchronous_standby_names");
    assert_says(&names, &["ANY 1", "pg2", "pg3"]);
    nothing_lost(&load);

    // What a boot starts there by itself must not come up as a second primary (found by the simulation).
    let fence = world.cluster.node_of("pg1").expect("it exists").data_dir.join("standby.signal");
    assert!(fence.exists(), "the adopted primary has no {}", fence.display());
    world.say("a restart of every pgvigil adopts once more");
    for id in 1..=3 {
        world.restart_pgvigil(id);
    }
    world.heal();
    assert_eq!(world.postmasters().into_values().collect::<Vec<_>>(), before);

    world.say("the adopted primary crashes");
    let crash = load.now();
    world.send(world.postmaster("pg1"), Signal::SIGKILL);
    let moved = world.until("another member is the primary", |now| {
        if now.primary != "pg1" && now.rpo.writable { Ok(()) } else { Err(format!("{} {}", now.primary, now.state)) }
    });
    assert!(moved.epoch > adopted.epoch);
    world.heal();
    assert_eq!(sql::value(&world.dsn_of("pg1"), "SELECT answer FROM before_pgvigil"), "42");
    assert!(load.gap(crash, Some(port)).is_some(), "writes went on elsewhere");
    world
        .say("pg1 runs with pgvigil's settings now, larger than those of the others: as its standbys they follow suit");
    world.ok(&["switchover", "--to", "pg1"]);
    world.heal();
    let larger = sql::value(&world.dsn_of("pg1"), "SHOW max_wal_senders");
    for member in ["pg2", "pg3"] {
        let dsn = world.dsn_of(member);
        wait("the standby to run with the primary's settings", || match sql::try_value(&dsn, "SHOW max_wal_senders") {
            Ok(value) if value == larger => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    world.heal();
    nothing_lost(&load);

    world.say("going back: paused, without any pgvigil, PostgreSQL serves on beyond every lease");
    world.ok(&["pause", "--reason", "going back"]);
    let postmasters = world.postmasters();
    for id in 1..=3 {
        world.cluster.stop_node(id, LIMIT).expect("it ends");
    }
    let stopped = load.now();
    while load.now() - stopped < Duration::from_secs(4) {
        moves(&load, 50);
    }
    assert_eq!(world.postmasters(), postmasters);
    let verdict = load.check().expect("the primary can be read");
    assert!(verdict.is_clean(), "{verdict:?}");
}
