//! What has happened at least once: the proof that a run reached what it was meant to reach.

use std::{cell::RefCell, collections::BTreeMap};

/// Counts by group and name.
pub type Counts = BTreeMap<&'static str, BTreeMap<String, u64>>;

/// Counters that anybody may raise.
#[derive(Debug, Default)]
pub struct Coverage {
    counts: RefCell<Counts>,
}

impl Coverage {
    /// `name` of `group` has happened.
    pub fn hit(&self, group: &'static str, name: &str) {
        let mut counts = self.counts.borrow_mut();
        let group = counts.entry(group).or_default();
        match group.get_mut(name) {
            Some(count) => *count += 1,
            None => {
                group.insert(name.to_owned(), 1);
            }
        }
    }

    /// Everything that was counted.
    #[must_use]
    pub fn take(&self) -> Counts {
        std::mem::take(&mut self.counts.borrow_mut())
    }
}

/// Adds `more` to `counts`.
pub fn add(counts: &mut Counts, more: &Counts) {
    for (group, names) in more {
        let into = counts.entry(group).or_default();
        for (name, count) in names {
            *into.entry(name.clone()).or_default() += count;
        }
    }
}

/// How often `name` of `group` happened.
#[must_use]
pub fn count(counts: &Counts, group: &str, name: &str) -> u64 {
    counts.get(group).and_then(|names| names.get(name)).copied().unwrap_or(0)
}
