use super::*;
use crate::id::Incarnation;

fn sender(pid: i32, name: &str, flush: Option<u64>, counted: bool) -> ProofSender {
    ProofSender { pid, name: name.to_owned(), flush: flush.map(Lsn), counted }
}

#[test]
fn a_proof_waits_for_those_that_release_commits_and_for_nobody_else() {
    let senders = [
        sender(1, "pgvigil_b_i1_e2", Some(5), true),
        sender(2, "pgvigil_c_i1_e2", Some(50), true),
        sender(3, "pg_basebackup", None, false),
        sender(4, "pg_receivewal", Some(1), false),
        // It has just connected: nothing reported, so PostgreSQL shows no priority yet.
        sender(5, "pgvigil_d_i1_e2", None, false),
        // By a list that somebody wrote by hand.
        sender(6, "other", Some(1), true),
        // Connected since: by the new setting.
        sender(7, "pgvigil_e_i1_e2", None, false),
    ];
    let names = ["b", "c", "d", "e"].map(|m| format!("pgvigil_{m}_i1_e2")).into_iter().collect();
    assert_eq!(behind(&senders, &(1..=6).collect(), &names, Lsn(10)), [1, 5, 6]);
}

#[test]
fn of_two_walsenders_of_one_name_the_one_behind_counts() {
    let key = MemberKey::new("b".into(), Incarnation(2));
    let keys = BTreeMap::from([("b".to_owned(), &key)]);
    let row = |pid, name, flush| sender(pid, name, flush, true);
    let has = |rows: &[_]| !flushed(rows, &keys, Lsn(100)).is_empty();
    assert!(has(&[row(1, "b", Some(100)), row(2, "c", None)]));
    assert!(!has(&[row(1, "b", Some(100)), row(2, "b", Some(99))]));
    assert!(!has(&[row(1, "b", None), row(2, "b", Some(100))]));
    assert!(!has(&[row(1, "c", Some(100))]));
}
