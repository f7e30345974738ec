//! The yardstick: the whole load on one plain PostgreSQL that nothing happens to is clean, also where it is struck by
//! what no promise covers; and what is broken by hand in its tables is found.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgvigil_chaos::account::Account;
use pgvigil_chaos::bare::{BareServer, free_ports};
use pgvigil_chaos::check::{Final, Kind, check};
use pgvigil_chaos::history::{History, Level, Outcome, Step, Work, clock};
use pgvigil_chaos::libpq::Connection;
use pgvigil_chaos::processes;
use pgvigil_chaos::workload::{Load, LoadOptions, plain};

const LIMIT: Duration = Duration::from_secs(90);

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < LIMIT, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn sql(connection: &mut Connection, statement: &str) -> Vec<Vec<Option<String>>> {
    let answer = connection.exec(statement, Instant::now() + LIMIT);
    answer.unwrap_or_else(|e| panic!("{statement}: {e}")).rows
}

/// How many transactions of that level and kind were acknowledged.
fn transactions(history: &History, level: Level, kind: impl Fn(&Step) -> bool) -> usize {
    let of =
        |work: &Work| matches!(work, Work::Transaction { level: l, steps } if *l == level && steps.iter().any(&kind));
    history.acknowledged().filter(|operation| of(&operation.work)).count()
}

#[test]
fn one_plain_server_is_clean_and_what_is_broken_by_hand_is_found() {
    let account = Account::unprivileged().expect("an account");
    let dir = tempfile::tempdir().expect("a folder");
    account.make_dir(dir.path()).expect("it can be handed over");
    let port = free_ports(1).expect("a port")[0];
    let mut server = BareServer::create(&account, dir.path().join("a"), port).expect("initdb");
    server.start().expect("starts");

    let mut options = LoadOptions::new(server.dsn());
    options.interval = Duration::from_millis(5);
    options.statement_deadline = Duration::from_secs(5);
    let history = dir.path().join("history.jsonl");
    let mut load = Load::start(&options, clock::now_us(), &history, plain).expect("begins");
    eventually("two thousand writes", || load.progress().acknowledged > 2_000);
    // A backend is killed: PostgreSQL ends all others and recovers, as one plain server does.
    let mut admin = server.connect().expect("connects");
    let pid = &sql(
        &mut admin,
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgvigil-chaos' AND pid <> pg_backend_pid()",
    )[0][0];
    processes::send(pid.as_deref().expect("a client").parse().expect("a number"), Signal::SIGKILL)
        .expect("it is there");
    let struck = load.now_us();
    eventually("five hundred writes after the crash", || load.acknowledged_since(struck) > 500);
    let history = load.stop().expect("stops");
    let tables = load.tables().expect("the tables can be read");

    for level in [Level::ReadCommitted, Level::RepeatableRead, Level::Serializable] {
        assert!(transactions(&history, level, |step| matches!(step, Step::Append { .. })) > 10, "appends at {level:?}");
        assert!(transactions(&history, level, |step| matches!(step, Step::Write { .. })) > 10, "writes at {level:?}");
    }
    let seen = |work: &Work| matches!(work, Work::Lookup { found: Some(true), .. });
    assert!(
        history.acknowledged().filter(|o| !o.direct && seen(&o.work)).count() > 50,
        "looks by clients as users have them"
    );
    assert!(history.acknowledged().filter(|o| o.direct && seen(&o.work)).count() > 10, "looks by direct clients");
    // What fails here fails because transactions meet, not because a statement is wrong.
    let reasons = history.operations.iter().filter(|o| o.outcome == Outcome::Fail).filter_map(|o| o.why.as_deref());
    let odd: Vec<&str> = reasons
        .filter(|why| !["40001", "40P01", "connection lost", "FATAL", "WARNING"].iter().any(|w| why.contains(w)))
        .collect();
    assert_eq!(odd, Vec::<&str>::new());
    let end = Final { tables, ..Final::default() };
    let verdict = check(&history, &end);
    assert!(verdict.is_clean(), "{:#?}", verdict.violations);
    assert!(verdict.counts.acknowledged > 2_500 && verdict.counts.reads > 200, "{:?}", verdict.counts);

    // Each table once, as a lost or doubled write would leave it.
    let found = |change: &dyn Fn(&mut Final)| {
        let mut end = end.clone();
        change(&mut end);
        check(&history, &end)
    };
    let acknowledged = history.acknowledged().find_map(|o| match o.work {
        Work::Insert { seq } => Some(seq),
        _ => None,
    });
    let acknowledged = acknowledged.expect("there are inserts");
    let lost = found(&|end| end.tables.ledger.retain(|seq| *seq != acknowledged));
    assert_eq!(lost.count(Kind::Lost), 1, "{:?}", lost.violations);
    let doubled = found(&|end| end.tables.ledger.push(acknowledged));
    assert_eq!(doubled.count(Kind::Resurrected), 1, "{:?}", doubled.violations);
    let shorter = found(&|end| {
        let list = end.tables.lists.values_mut().find(|list| list.len() > 5).expect("there are lists");
        list.pop();
    });
    assert!(shorter.count(Kind::Lost) + shorter.count(Kind::Vanished) > 0, "{:?}", shorter.violations);
    let swapped = found(&|end| {
        let list = end.tables.lists.values_mut().find(|list| list.len() > 5).expect("there are lists");
        list.swap(1, 2);
    });
    assert!(swapped.count(Kind::NotSerial) > 0, "{:?}", swapped.violations);
    let older = found(&|end| {
        let register =
            end.tables.registers.values_mut().find(|(_, version)| *version > 1).expect("they were written to");
        register.1 -= 1;
    });
    assert!(!older.is_clean());
    let poorer = found(&|end| *end.tables.accounts.values_mut().next().expect("there are accounts") -= 1);
    assert!(poorer.count(Kind::Unbalanced) > 0, "{:?}", poorer.violations);
}
