//! Each kind of disorder once, and what one PostgreSQL does every day.

use super::super::testing::op;
use super::super::{Counts, Kind, Tables, Verdict};
use super::*;

fn append(key: u64, value: u64) -> Step {
    Step::Append { key, value }
}

fn list(key: u64, seen: &[u64]) -> Step {
    Step::ReadList { key, seen: Some(seen.to_vec()) }
}

fn write(key: u64, value: u64, version: u64) -> Step {
    Step::Write { key, value, version: Some(version) }
}

fn register(key: u64, value: u64, version: u64) -> Step {
    Step::ReadRegister { key, seen: Some((value, version)) }
}

fn txn(began: u64, ended: u64, level: Level, steps: &[Step]) -> Operation {
    op(began, ended, Outcome::Ok, Work::Transaction { level, steps: steps.to_vec() })
}

fn unknown(mut operation: Operation) -> Operation {
    operation.outcome = Outcome::Unknown;
    operation
}

fn refused(mut operation: Operation) -> Operation {
    operation.outcome = Outcome::Fail;
    operation
}

/// What is found, with lists 1 and 2 and register 1 as given at the end.
fn judged(operations: Vec<Operation>, one: &[u64], two: &[u64], register: (u64, u64)) -> Verdict {
    let end = Tables {
        lists: [(1, one.to_vec()), (2, two.to_vec())].into(),
        registers: [(1, register)].into(),
        ..Tables::default()
    };
    let mut findings = Findings::default();
    check(&History { operations }, &end, &mut findings);
    findings.into_verdict(Counts::default())
}

const RC: Level = Level::ReadCommitted;
const RR: Level = Level::RepeatableRead;
const SER: Level = Level::Serializable;

#[test]
fn an_ordinary_history_is_clean() {
    let operations = vec![
        txn(1, 2, RC, &[append(1, 11), list(1, &[11]), append(2, 21)]),
        txn(3, 6, RR, &[list(1, &[11]), append(2, 22), write(1, 101, 1)]),
        txn(4, 7, SER, &[list(1, &[11]), append(1, 12)]),
        txn(8, 9, SER, &[list(1, &[11, 12]), list(2, &[21, 22]), register(1, 101, 1)]),
        unknown(txn(10, 11, SER, &[append(1, 13), append(1, 14)])),
        unknown(txn(10, 11, SER, &[append(1, 15)])),
        refused(txn(12, 13, SER, &[append(2, 23)])),
    ];
    let verdict = judged(operations, &[11, 12, 13, 14], &[21, 22], (101, 1));
    assert!(verdict.is_clean(), "{:?}", verdict.violations);
    assert!(verdict.notes.is_empty());
}

#[test]
fn a_lost_append_and_a_lost_write_are_found() {
    let operations = vec![txn(1, 2, RC, &[append(1, 11), append(1, 12)])];
    assert_eq!(judged(operations, &[], &[], (0, 0)).count(Kind::Lost), 1);
    let operations = vec![txn(1, 2, RC, &[write(1, 101, 1)])];
    assert_eq!(judged(operations, &[], &[], (0, 0)).count(Kind::Lost), 1);
}

#[test]
fn what_was_refused_or_never_sent_and_is_there_is_found() {
    let operations = vec![refused(txn(1, 2, RC, &[append(1, 11)]))];
    assert_eq!(judged(operations, &[11], &[], (0, 0)).count(Kind::Resurrected), 1);
    assert_eq!(judged(vec![], &[11], &[], (0, 0)).count(Kind::Resurrected), 1);
    assert_eq!(judged(vec![], &[], &[], (5, 1)).count(Kind::Resurrected), 1);
}

#[test]
fn a_read_of_what_is_gone_is_found_unless_its_wait_was_canceled() {
    let gone = unknown(txn(1, 2, RC, &[append(1, 11)]));
    let reader = txn(3, 4, RC, &[list(1, &[11])]);
    let verdict = judged(vec![gone.clone(), reader.clone()], &[], &[], (0, 0));
    assert_eq!(verdict.count(Kind::Vanished), 1);
    let canceled = Operation { why: Some("canceling wait for synchronous replication".to_owned()), ..gone };
    let verdict = judged(vec![canceled, reader], &[], &[], (0, 0));
    assert!(verdict.is_clean());
    assert_eq!(verdict.notes.len(), 1);
}

#[test]
fn half_a_transaction_is_found() {
    let operations = vec![unknown(txn(1, 2, RC, &[append(1, 11), append(2, 21)]))];
    assert_eq!(judged(operations, &[11], &[], (0, 0)).count(Kind::NotSerial), 1);
    let operations = vec![txn(1, 3, RC, &[append(1, 11), append(1, 12)]), txn(2, 4, RC, &[list(1, &[11])])];
    assert_eq!(judged(operations, &[11, 12], &[], (0, 0)).count(Kind::NotSerial), 1, "seen in between");
}

#[test]
fn two_servers_counting_from_one_version_are_found() {
    let operations = vec![txn(1, 2, RC, &[write(1, 101, 1)]), txn(1, 2, RC, &[write(1, 102, 1)])];
    // Once for the two writers, once for who reads all tables at the end.
    assert_eq!(judged(operations, &[], &[], (102, 1)).count(Kind::Vanished), 2);
}

#[test]
fn another_order_is_found() {
    let operations =
        vec![txn(1, 9, RC, &[append(1, 11)]), txn(1, 9, RC, &[append(1, 12)]), txn(2, 8, RC, &[list(1, &[12])])];
    assert_eq!(judged(operations, &[11, 12], &[], (0, 0)).count(Kind::NotSerial), 1);
}

#[test]
fn a_stale_read_is_found_at_every_level() {
    for level in [RC, RR, SER] {
        let operations = vec![txn(1, 2, RC, &[append(1, 11)]), txn(3, 4, level, &[list(1, &[])])];
        assert_eq!(judged(operations, &[11], &[], (0, 0)).count(Kind::NotSerial), 1, "{level:?}");
    }
    let operations = vec![txn(1, 2, RC, &[write(1, 101, 1)]), txn(3, 4, RC, &[register(1, 0, 0)])];
    assert_eq!(judged(operations, &[], &[], (101, 1)).count(Kind::NotSerial), 1, "a register");
}

#[test]
fn a_circle_of_information_is_found() {
    // Each of two concurrent transactions read what the other one wrote (G1c).
    let operations =
        vec![txn(1, 5, RC, &[append(1, 11), list(2, &[21])]), txn(2, 6, RC, &[append(2, 21), list(1, &[11])])];
    assert_eq!(judged(operations, &[11], &[21], (0, 0)).count(Kind::NotSerial), 1);
}

#[test]
fn half_a_snapshot_is_found_where_there_is_one() {
    // The reader saw 21 of a transaction but not its 11 (G-single): READ COMMITTED allows it, a snapshot does not.
    let operations =
        |level| vec![txn(1, 5, RC, &[append(1, 11), append(2, 21)]), txn(2, 6, level, &[list(1, &[]), list(2, &[21])])];
    assert!(judged(operations(RC), &[11], &[21], (0, 0)).is_clean());
    assert_eq!(judged(operations(RR), &[11], &[21], (0, 0)).count(Kind::NotSerial), 1);
    assert_eq!(judged(operations(SER), &[11], &[21], (0, 0)).count(Kind::NotSerial), 1);
}

#[test]
fn write_skew_is_noted_among_serializable_transactions_only() {
    let operations = |level| {
        vec![txn(1, 5, level, &[list(2, &[]), append(1, 11)]), txn(2, 6, level, &[list(1, &[]), append(2, 21)])]
    };
    for (level, notes) in [(RC, 0), (RR, 0), (SER, 1)] {
        let verdict = judged(operations(level), &[11], &[21], (0, 0));
        assert!(verdict.is_clean(), "{level:?}");
        assert_eq!(verdict.notes.len(), notes, "{level:?}");
    }
}

#[test]
fn own_appends_are_seen_by_their_transaction() {
    let operations = vec![txn(1, 2, RC, &[append(1, 11), list(1, &[])])];
    assert_eq!(judged(operations, &[11], &[], (0, 0)).count(Kind::NotSerial), 1);
}
