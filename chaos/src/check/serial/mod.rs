//! Whether a serial order explains what transactions on lists and registers saw (the argument of Elle, arXiv
//! 2003.10554: since every value is written once, what was read tells the order in which it was written).
//!
//! Three steps: `versions` recovers the order of each object's versions and finds what no order can explain; `edges`
//! draws who must have come before whom; `cycles` looks for a transaction that must have come before itself.
//!
//! The yardstick is one plain PostgreSQL, where clients may mix isolation levels. What it never shows:
//!
//! - *At any level*, a cycle of write-write, write-read and real-time edges. Each of them says that the first committed
//!   before the second did.
//! - An anti-dependency (T1 read a version before the one that T2 wrote) adds "T1's snapshot is older than T2's commit".
//!   Behind a real-time edge into T1 that makes one more edge of the same kind, for every snapshot was taken after its
//!   statement began. Under REPEATABLE READ and SERIALIZABLE, where there is one snapshot and the first updater wins, it
//!   does so behind *any* edge into T1. So stale reads, lost updates and G-single are found.
//! - A cycle with two anti-dependencies in a row (write skew, G2-item) is allowed below SERIALIZABLE. Among SERIALIZABLE
//!   transactions alone it should not be, but healthy single servers have shown it (PostgreSQL 12.3), so it is noted and
//!   not held against anybody.

mod cycles;
mod edges;
#[cfg(test)]
mod serial_test;
mod versions;

use super::{Findings, Kind, Tables, verdict::told};
use crate::history::{History, Level, Operation, Outcome, Step, Work};
use edges::Edges;
use versions::Versions;

/// A transaction, as far as the order is concerned.
#[derive(Debug, Clone)]
struct Txn {
    /// Where it is in the history; `None`: the reading of all tables at the end.
    place: Option<usize>,
    /// Just before it began.
    began: u64,
    /// When its end was known; `None`: it never was, so nothing is known to have come after it.
    ended: Option<u64>,
    level: Level,
    outcome: Outcome,
    steps: Vec<Step>,
}

/// Returns how many transactions of unknown end took effect.
pub(super) fn check(history: &History, end: &Tables, findings: &mut Findings) -> usize {
    let txns = transactions(history, end);
    let name = |txn: usize| match txns[txn].place {
        Some(place) => format!("{} {}", describe(&txns[txn].steps), told(&history.operations[place])),
        None => "the reading of all tables at the end".to_owned(),
    };
    let versions = Versions::recover(
        &txns,
        &|txn| canceled(txns[txn].place.map(|place| &history.operations[place])),
        &name,
        findings,
    );
    let edges = Edges::draw(&txns, &versions);
    cycles::search(&txns, &edges, &name, findings);
    let unknown = |txn: &usize| txns[*txn].outcome == Outcome::Unknown && versions.took_effect(*txn);
    (0..txns.len()).filter(unknown).count()
}

/// The history's transactions on lists and registers, and one more at the end that reads everything.
fn transactions(history: &History, end: &Tables) -> Vec<Txn> {
    let mut txns: Vec<Txn> = Vec::new();
    for (place, operation) in history.operations.iter().enumerate() {
        let Work::Transaction { level, steps } = &operation.work else { continue };
        let ended = (operation.outcome == Outcome::Ok).then_some(operation.ended);
        let steps = steps.clone();
        txns.push(Txn {
            place: Some(place),
            began: operation.began,
            ended,
            level: *level,
            outcome: operation.outcome,
            steps,
        });
    }
    let lists = end.lists.iter().map(|(key, list)| Step::ReadList { key: *key, seen: Some(list.clone()) });
    let registers = end.registers.iter().map(|(key, seen)| Step::ReadRegister { key: *key, seen: Some(*seen) });
    txns.push(Txn {
        place: None,
        began: u64::MAX,
        ended: None,
        level: Level::RepeatableRead,
        outcome: Outcome::Ok,
        steps: lists.chain(registers).collect(),
    });
    txns
}

/// Whether the wait for synchronous replication of this commit was cut short: then it was visible to others although
/// it was on one server only, which is how PostgreSQL is and no fault of whoever replaces that server.
fn canceled(operation: Option<&Operation>) -> bool {
    let why = operation.and_then(|operation| operation.why.as_deref()).unwrap_or_default();
    ["canceling wait", "terminating connection", "01000", "57P01"].iter().any(|words| why.contains(words))
}

fn describe(steps: &[Step]) -> String {
    let one = |step: &Step| match step {
        Step::Append { key, value } => format!("append {value} to list {key}"),
        Step::ReadList { key, seen: Some(seen) } => match seen.as_slice() {
            [.., last] => format!("list {key} is {} long and ends with {last}", seen.len()),
            [] => format!("list {key} is empty"),
        },
        Step::ReadList { key, seen: None } => format!("list {key} was not read"),
        Step::Write { key, value, version } => {
            let version = version.map_or_else(|| "?".to_owned(), |version| version.to_string());
            format!("write {value} to register {key} (version {version})")
        }
        Step::ReadRegister { key, seen: Some((value, version)) } => {
            format!("register {key} is {value} (version {version})")
        }
        Step::ReadRegister { key, seen: None } => format!("register {key} was not read"),
    };
    format!("[{}]", steps.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// A violation of the order.
fn disorder(findings: &mut Findings, text: String) {
    findings.add(Kind::NotSerial, text);
}
