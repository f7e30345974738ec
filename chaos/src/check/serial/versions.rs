//! The order of each object's versions, recovered from what was read; and what no order can explain.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::{Findings, Kind};
use super::{Step, Txn, disorder};
use crate::history::Outcome;

/// A list or a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Object {
    List(u64),
    Register(u64),
}

/// Versions of all objects, numbered from 1; 0 is what was there at first.
#[derive(Debug, Default)]
pub(super) struct Versions {
    /// Who made each version of an object.
    pub makers: BTreeMap<Object, BTreeMap<u64, usize>>,
    /// Who read which version of an object, own writes left out.
    pub reads: Vec<(usize, Object, u64)>,
    /// Transactions of which at least one write was seen.
    seen: HashSet<usize>,
}

/// Who wrote each value.
type Writers = HashMap<(Object, u64), usize>;

impl Versions {
    /// `canceled`: whether a transaction may have been visible without being replicated. `name`: a transaction in words.
    pub fn recover(
        txns: &[Txn],
        canceled: &dyn Fn(usize) -> bool,
        name: &dyn Fn(usize) -> String,
        findings: &mut Findings,
    ) -> Versions {
        let mut writers = Writers::new();
        for (txn, steps) in txns.iter().enumerate().map(|(txn, t)| (txn, &t.steps)) {
            for step in steps {
                match step {
                    Step::Append { key, value } => writers.insert((Object::List(*key), *value), txn),
                    Step::Write { key, value, .. } => writers.insert((Object::Register(*key), *value), txn),
                    _ => None,
                };
            }
        }
        let mut versions = Versions::default();
        let mut context = Context { txns, writers: &writers, canceled, name, findings };
        lists(&mut versions, &mut context);
        registers(&mut versions, &mut context);
        versions.whole(&mut context);
        versions
    }

    /// Whether anybody saw a write of this transaction.
    pub fn took_effect(&self, txn: usize) -> bool {
        self.seen.contains(&txn)
    }

    fn made(&mut self, object: Object, version: u64, txn: usize) {
        self.makers.entry(object).or_default().insert(version, txn);
        self.seen.insert(txn);
    }

    /// Every write of an acknowledged transaction is there at the end; of any other one, all or none.
    fn whole(&self, context: &mut Context<'_>) {
        let there: HashSet<(Object, u64)> = last_read(context.txns);
        for (txn, t) in context.txns.iter().enumerate() {
            let lists = t.steps.iter().filter_map(|step| match step {
                Step::Append { key, value } => Some((Object::List(*key), *value)),
                _ => None,
            });
            let (kept, gone): (Vec<_>, Vec<_>) = lists.partition(|write| there.contains(write));
            match t.outcome {
                Outcome::Ok if !gone.is_empty() => {
                    let text = format!("acknowledged and absent at the end: {gone:?} of {}", (context.name)(txn));
                    context.findings.add(Kind::Lost, text);
                }
                Outcome::Unknown if !gone.is_empty() && !kept.is_empty() => {
                    disorder(context.findings, format!("half of a transaction: {kept:?} of {}", (context.name)(txn)));
                }
                _ => {}
            }
        }
    }
}

struct Context<'a> {
    txns: &'a [Txn],
    writers: &'a Writers,
    canceled: &'a dyn Fn(usize) -> bool,
    name: &'a dyn Fn(usize) -> String,
    findings: &'a mut Findings,
}

/// What the reading at the end saw in lists: the last transaction.
fn last_read(txns: &[Txn]) -> HashSet<(Object, u64)> {
    let steps = txns.last().map_or(&[][..], |txn| &txn.steps);
    let lists = steps.iter().filter_map(|step| match step {
        Step::ReadList { key, seen: Some(seen) } => Some(seen.iter().map(|value| (Object::List(*key), *value))),
        _ => None,
    });
    lists.flatten().collect()
}

/// A read of a list by a transaction that committed, its own appends (which can only be at the end) left out.
struct ListRead {
    txn: usize,
    seen: Vec<u64>,
}

fn lists(versions: &mut Versions, context: &mut Context<'_>) {
    let mut reads: BTreeMap<u64, Vec<ListRead>> = BTreeMap::new();
    for (txn, t) in context.txns.iter().enumerate().filter(|(_, t)| t.outcome == Outcome::Ok) {
        let mut own: HashMap<u64, Vec<u64>> = HashMap::new();
        for step in &t.steps {
            match step {
                Step::Append { key, value } => own.entry(*key).or_default().push(*value),
                Step::ReadList { key, seen: Some(seen) } => {
                    let mine = own.get(key).map_or(&[][..], Vec::as_slice);
                    match seen.strip_suffix(mine) {
                        Some(others) => {
                            reads.entry(*key).or_default().push(ListRead { txn, seen: others.to_vec() });
                        }
                        None => disorder(context.findings, format!("own appends not seen: {}", (context.name)(txn))),
                    }
                }
                _ => {}
            }
        }
    }
    for (key, reads) in reads {
        let object = Object::List(key);
        // The reading at the end is the last one; whatever is longer has seen what is gone.
        let Some(end) = reads.last().filter(|read| read.txn + 1 == context.txns.len()) else {
            disorder(context.findings, format!("list {key} is not there at the end"));
            continue;
        };
        let order = end.seen.clone();
        let mut unique = HashSet::new();
        for (value, version) in order.iter().zip(1..) {
            if !unique.insert(*value) {
                disorder(context.findings, format!("list {key} holds {value} twice"));
            }
            match context.writers.get(&(object, *value)) {
                None => {
                    let text = format!("list {key} holds {value}, which no client is known to have sent");
                    context.findings.add(Kind::Resurrected, text);
                }
                Some(writer) => {
                    if context.txns[*writer].outcome == Outcome::Fail {
                        let text =
                            format!("list {key} holds {value} of {}, which was refused", (context.name)(*writer));
                        context.findings.add(Kind::Resurrected, text);
                    }
                    versions.made(object, version, *writer);
                }
            }
        }
        for read in &reads {
            if order.starts_with(&read.seen) {
                versions.reads.push((read.txn, object, read.seen.len() as u64));
                intermediate(&order, read, object, context);
            } else {
                diverged(&unique, read, object, context);
            }
        }
    }
}

/// A transaction's later append to the same list comes right after its earlier one: nobody else sees one without the
/// other.
fn intermediate(order: &[u64], read: &ListRead, object: Object, context: &mut Context<'_>) {
    let at = read.seen.len();
    let writer = |place: Option<usize>| context.writers.get(&(object, *order.get(place?)?));
    if let (Some(last), Some(next)) = (writer(at.checked_sub(1)), writer(Some(at)))
        && last == next
        && *last != read.txn
    {
        let text = format!("{} saw half of {}", (context.name)(read.txn), (context.name)(*last));
        disorder(context.findings, text);
    }
}

/// A committed read that is no beginning of what the list is at the end.
fn diverged(kept: &HashSet<u64>, read: &ListRead, object: Object, context: &mut Context<'_>) {
    let gone: Vec<u64> = read.seen.iter().filter(|value| !kept.contains(value)).copied().collect();
    let who = (context.name)(read.txn);
    if gone.is_empty() {
        disorder(context.findings, format!("{who} saw {object:?} in another order than it has at the end"));
        return;
    }
    let writer = |value: &u64| context.writers.get(&(object, *value)).copied();
    let refused = |value: &&u64| writer(value).is_some_and(|txn| context.txns[txn].outcome == Outcome::Fail);
    if let Some(value) = gone.iter().find(refused) {
        context.findings.add(Kind::Resurrected, format!("{who} saw {value}, which was refused"));
    } else if gone.iter().all(|value| writer(value).is_some_and(context.canceled)) {
        context.findings.note(format!(
            "{who} saw {gone:?} of {object:?}, which is gone: its wait for a standby was cut short, so its client knows that it may be"
        ));
    } else {
        context.findings.add(Kind::Vanished, format!("{who} saw {gone:?} of {object:?}, which is gone at the end"));
    }
}

fn registers(versions: &mut Versions, context: &mut Context<'_>) {
    // What is known of each version of each register: its value, by whom, and who says so.
    let mut values: BTreeMap<(u64, u64), (u64, usize)> = BTreeMap::new();
    let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
    let mut reads: Vec<(usize, u64, u64, u64)> = Vec::new();
    for (txn, t) in context.txns.iter().enumerate().filter(|(_, t)| t.outcome == Outcome::Ok) {
        let mut own: HashSet<u64> = HashSet::new();
        for step in &t.steps {
            match step {
                Step::Write { key, value, version: Some(version) } => {
                    own.insert(*key);
                    claim(&mut values, (*key, *version), *value, txn, context);
                }
                Step::ReadRegister { key, seen: Some((value, version)) } => {
                    if *version > 0 {
                        claim(&mut values, (*key, *version), *value, txn, context);
                    }
                    if !own.contains(key) {
                        reads.push((txn, *key, *value, *version));
                    }
                    ends.insert(*key, *version);
                }
                _ => {}
            }
        }
    }
    for ((key, version), (value, said)) in &values {
        let Some(writer) = context.writers.get(&(Object::Register(*key), *value)) else {
            let text = format!("register {key} held {value}, which no client is known to have sent");
            context.findings.add(Kind::Resurrected, text);
            continue;
        };
        // The reading at the end is the last transaction, so what `ends` holds is what it saw.
        if *version > ends.get(key).copied().unwrap_or(0) {
            let (kind, what) = match context.txns[*writer].outcome {
                Outcome::Ok => (Kind::Lost, "acknowledged"),
                Outcome::Fail => (Kind::Resurrected, "refused"),
                Outcome::Unknown if (context.canceled)(*writer) => {
                    context.findings.note(format!("version {version} of register {key} was seen and is gone"));
                    continue;
                }
                Outcome::Unknown => (Kind::Vanished, "of unknown end"),
            };
            let text = format!("version {version} of register {key}, {what}, is gone: {}", (context.name)(*writer));
            context.findings.add(kind, format!("{text}; seen by {}", (context.name)(*said)));
            continue;
        }
        if context.txns[*writer].outcome == Outcome::Fail {
            let text = format!("register {key} held {value} of {}, which was refused", (context.name)(*writer));
            context.findings.add(Kind::Resurrected, text);
        }
        versions.made(Object::Register(*key), *version, *writer);
    }
    for (txn, key, _, version) in reads {
        if version <= ends.get(&key).copied().unwrap_or(0) {
            versions.reads.push((txn, Object::Register(key), version));
        }
    }
}

/// A version has one value, whoever says so: two mean that two servers counted from the same version.
fn claim(
    values: &mut BTreeMap<(u64, u64), (u64, usize)>,
    (key, version): (u64, u64),
    value: u64,
    txn: usize,
    context: &mut Context<'_>,
) {
    let (known, by) = *values.entry((key, version)).or_insert((value, txn));
    if known == value {
        return;
    }
    // One of the two is gone: who saw it saw what vanished, who wrote it was promised that it would not.
    let writer = |value| context.writers.get(&(Object::Register(key), value)).copied();
    let excused = [known, value].iter().any(|value| writer(*value).is_some_and(context.canceled));
    let text = format!(
        "version {version} of register {key} was {known} for {} and {value} for {}",
        (context.name)(by),
        (context.name)(txn)
    );
    if excused {
        context.findings.note(format!("{text}; the wait of one of them for a standby was cut short"));
    } else {
        context.findings.add(Kind::Vanished, text);
    }
}
