//! Who must have come before whom.

use super::{Outcome, Txn, versions::Versions};

/// Why one transaction comes before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// It made the version that the other one replaced.
    WriteWrite,
    /// It made the version that the other one read.
    WriteRead,
    /// It read the version that the other one replaced.
    ReadWrite,
    /// It had ended before the other one began.
    RealTime,
}

/// The edges that leave each transaction.
#[derive(Debug)]
pub(super) struct Edges {
    /// By transaction: to whom, and why.
    pub from: Vec<Vec<(usize, Why)>>,
}

impl Edges {
    pub fn draw(txns: &[Txn], versions: &Versions) -> Edges {
        let mut edges = Edges { from: vec![Vec::new(); txns.len()] };
        for makers in versions.makers.values() {
            for (version, maker) in makers {
                if let Some(next) = makers.get(&(version + 1)) {
                    edges.add(*maker, *next, Why::WriteWrite);
                }
            }
        }
        for (reader, object, version) in &versions.reads {
            let makers = versions.makers.get(object);
            let maker = |version: u64| makers.and_then(|makers| makers.get(&version)).copied();
            if let Some(maker) = maker(*version) {
                edges.add(maker, *reader, Why::WriteRead);
            }
            if let Some(next) = maker(version + 1) {
                edges.add(*reader, next, Why::ReadWrite);
            }
        }
        edges.real_time(txns, versions);
        for list in &mut edges.from {
            list.sort_unstable();
            list.dedup();
        }
        edges
    }

    fn add(&mut self, from: usize, to: usize, why: Why) {
        if from != to {
            self.from[from].push((to, why));
        }
    }

    /// Of all that ended before a transaction began, only those are linked to it that no other one of them followed: the
    /// rest is implied.
    fn real_time(&mut self, txns: &[Txn], versions: &Versions) {
        let counts = |txn: usize| match txns[txn].outcome {
            Outcome::Ok => true,
            Outcome::Unknown => versions.took_effect(txn),
            Outcome::Fail => false,
        };
        // At the same moment the beginning comes first: nothing is claimed then.
        let mut events: Vec<(u64, bool, usize)> = Vec::new();
        for (txn, t) in txns.iter().enumerate().filter(|(txn, _)| counts(*txn)) {
            events.push((t.began, false, txn));
            if let Some(ended) = t.ended {
                events.push((ended, true, txn));
            }
        }
        events.sort_unstable();
        let mut before: Vec<Vec<usize>> = vec![Vec::new(); txns.len()];
        let mut newest: Vec<usize> = Vec::new();
        for (_, ends, txn) in events {
            if ends {
                newest.retain(|other| !before[txn].contains(other));
                newest.push(txn);
            } else {
                for other in &newest {
                    self.add(*other, txn, Why::RealTime);
                }
                before[txn].clone_from(&newest);
            }
        }
    }
}
