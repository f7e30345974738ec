//! Story 9: the checker itself. PostgreSQL's own asynchronous replication does lose acknowledged commits, and the books
//! show it: what "lost 0" in the other stories means.

use nix::sys::signal::Signal;
use pgvigil_chaos::{
    account::Account,
    bare::{BareServer, free_ports},
    ledger::{Workload, WorkloadOptions},
    processes,
};
use pgvigil_tests::{LIMIT, serial, sql, wait, world::moves};

#[test]
fn asynchronous_standbys_lose_what_they_had_not_received() {
    let _turn = serial::turn();
    let account = Account::unprivileged().expect("an account");
    let folder = tempfile::Builder::new().prefix("pgvigil-async-").tempdir().expect("a folder");
    account.make_dir(folder.path()).expect("a folder");
    let ports = free_ports(2).expect("free ports");
    let mut primary = BareServer::create(&account, folder.path().join("a"), ports[0]).expect("initdb");
    primary.start().expect("starts");
    let mut standby = primary.clone_to(folder.path().join("b"), ports[1], "b").expect("is cloned");
    standby.start().expect("starts");
    let mut dsn = primary.dsn();
    dsn.addresses.extend(standby.dsn().addresses);
    dsn.read_write = true;
    let mut load = Workload::start(WorkloadOptions::new(dsn)).expect("begins");
    moves(&load, 100);

    // The standby is down while the primary goes on acknowledging; then the primary is gone for good.
    standby.crash().expect("it can be killed");
    let down = load.now();
    moves(&load, 100);
    primary.crash().expect("it can be killed");
    standby.start().expect("starts");
    let acknowledged = load.acknowledged_since(down);
    assert!(acknowledged >= 100);
    let postmaster = standby.postmaster().expect("it runs");
    standby.touch("promote").expect("it can be asked");
    processes::send(postmaster, Signal::SIGUSR1).expect("it is there");
    wait("the standby to be promoted", || match sql::try_value(&standby.dsn(), "SELECT pg_is_in_recovery()") {
        Ok(recovering) if recovering == "f" => Ok(()),
        other => Err(format!("{other:?} within {LIMIT:?}")),
    });
    load.stop();
    let verdict = load.check().expect("the promoted standby can be read");
    println!("{acknowledged} acknowledged while the standby was down; lost: {}", verdict.lost.len());
    assert!(!verdict.is_clean() && verdict.lost.len() >= acknowledged, "{verdict:?}");
    assert!(verdict.resurrected.is_empty(), "{verdict:?}");
}
