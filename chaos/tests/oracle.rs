//! The checker checked: planted faults on servers without pgvigil must be found, and nothing else.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgvigil_chaos::account::Account;
use pgvigil_chaos::bare::{BareServer, free_ports};
use pgvigil_chaos::ledger::{Workload, WorkloadOptions};
use pgvigil_chaos::libpq::Connection;
use pgvigil_chaos::processes;

const LIMIT: Duration = Duration::from_secs(60);

/// A folder that the servers' user may write to.
fn folder(account: &Account) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    account.make_dir(dir.path()).expect("it can be handed over");
    dir
}

fn sql(connection: &mut Connection, statement: &str) -> Vec<Vec<Option<String>>> {
    let answer = connection.exec(statement, Instant::now() + LIMIT);
    answer.unwrap_or_else(|e| panic!("{statement}: {e}")).rows
}

fn value(connection: &mut Connection, statement: &str) -> String {
    sql(connection, statement)[0][0].clone().expect("not NULL")
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < LIMIT, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn reload(server: &BareServer) {
    processes::send(server.postmaster().expect("it runs"), Signal::SIGHUP).expect("it is there");
}

#[test]
fn planted_losses_and_resurrections_are_found() {
    let account = Account::unprivileged().expect("an account");
    let dir = folder(&account);
    let port = free_ports(1).expect("a port")[0];
    let mut server = BareServer::create(&account, dir.path().join("a"), port).expect("initdb");
    server.start().expect("starts");
    let mut workload = Workload::start(WorkloadOptions::new(server.dsn())).expect("begins");
    let mut admin = server.connect().expect("connects");
    let table = value(&mut admin, "SELECT relname FROM pg_class WHERE relname LIKE 'pgvigil_ledger_%'");
    eventually("a hundred writes", || workload.check().expect("reads").acknowledged > 100);
    // From here on every second row is refused by the server.
    sql(&mut admin, &format!("ALTER TABLE {table} ADD CHECK (seq % 2 = 0) NOT VALID"));
    let from: u64 = value(&mut admin, &format!("SELECT max(seq) FROM {table}")).parse().expect("a number");
    eventually("a hundred more", || workload.check().expect("reads").acknowledged > 200);
    workload.stop();
    let verdict = workload.check().expect("reads");
    assert!(verdict.is_clean(), "{verdict:?}");
    assert_eq!(verdict.unknown, 0);

    sql(&mut admin, &format!("ALTER TABLE {table} DROP CONSTRAINT {table}_seq_check"));
    // A refused row that is there all the same, a row that nobody sent, and a row that is there twice.
    let refused = (from + 9) | 1;
    sql(&mut admin, &format!("INSERT INTO {table} VALUES ({refused}, 0), (9000000, 0), (10, 0)"));
    sql(&mut admin, &format!("DELETE FROM {table} WHERE seq = 20"));
    let verdict = workload.check().expect("reads");
    assert_eq!(verdict.lost, [20]);
    let mut resurrected = verdict.resurrected.clone();
    resurrected.sort_unstable();
    assert_eq!(resurrected, [10, refused, 9_000_000]);
}

#[test]
fn a_cancelled_wait_for_a_standby_comes_with_a_warning() {
    let account = Account::unprivileged().expect("an account");
    let dir = folder(&account);
    let port = free_ports(1).expect("a port")[0];
    let mut server = BareServer::create(&account, dir.path().join("a"), port).expect("initdb");
    server.start().expect("starts");
    let mut admin = server.connect().expect("connects");
    sql(&mut admin, "CREATE TABLE t (i integer)");
    server.configure(&[("synchronous_standby_names", "ANY 1 (nobody)")]).expect("writes");
    reload(&server);
    let mut other = server.connect().expect("connects");
    eventually("the rule to be in force", || value(&mut other, "SHOW synchronous_standby_names").contains("nobody"));

    other.send("INSERT INTO t VALUES (1)").expect("is sent");
    eventually("the commit to wait", || {
        value(&mut admin, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == "1"
    });
    sql(&mut admin, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
    let answer = other.receive(Instant::now() + LIMIT).expect("COMMIT is reported");
    assert_eq!(answer.warnings.len(), 1);
    assert_eq!(answer.warnings[0].sqlstate, "01000");
}
