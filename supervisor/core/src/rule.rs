//! Durability rules: when a commit counts as acknowledged, and what an election must seal to have every such commit.
//!
//! The arithmetic is Raft's quorum intersection carried over to `synchronous_standby_names = 'ANY k (S)'`.
//! Histories behind each line: `A1`, `A2` (mixtures of two settings), `B3` (the primary's own seal), `B6` (k = 0).

use crate::{
    id::{Epoch, MemberKey, RuleVersion},
    lsn::Lsn,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// `ANY k (cohort)`: a set of standbys, without the primary, and how many of them must have flushed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The standbys that may confirm a commit. Never contains the primary.
    pub cohort: BTreeSet<MemberKey>,
    /// How many of them must. May exceed the cohort's size: then every commit waits until more have joined.
    /// 0 only for a cluster that was adopted without synchronous replication, until it is strengthened.
    pub k: u32,
}

impl Setting {
    /// `ANY k (cohort)`.
    pub fn new(k: u32, cohort: impl IntoIterator<Item = MemberKey>) -> Self {
        Self { cohort: cohort.into_iter().collect(), k }
    }

    /// The one rule that every mixture of the two settings implies: (S ∪ S', min(k, k')).
    ///
    /// During a reload each walsender counts with its own `k` over flags that others wrote, so a pair of rules is not
    /// enough (history A1). Keeps S1.
    #[must_use]
    pub fn wide(&self, other: &Self) -> Self {
        Self { cohort: self.cohort.union(&other.cohort).cloned().collect(), k: self.k.min(other.k) }
    }

    /// Whether every set of standbys that satisfies `self` also satisfies `other`: k' ≤ k − |S∖S'|.
    #[must_use]
    pub fn implies(&self, other: &Self) -> bool {
        let outside = self.cohort.difference(&other.cohort).count() as u64;
        u64::from(other.k) + outside <= u64::from(self.k)
    }

    /// How many members of the cohort must be sealed so that fewer than `k` stay unsealed: |S| − k + 1, at least 0.
    /// With k = 0 that is more than there are.
    #[must_use]
    pub fn seals_needed(&self) -> usize {
        (self.cohort.len() + 1).saturating_sub(self.k as usize)
    }

    /// Whether `confirmed` holds k members of the cohort.
    pub fn satisfied_by<'a>(&self, confirmed: impl IntoIterator<Item = &'a MemberKey>) -> bool {
        let distinct: BTreeSet<&MemberKey> = confirmed.into_iter().filter(|key| self.cohort.contains(key)).collect();
        distinct.len() >= self.k as usize
    }

    /// Up to where at least k members of the cohort have WAL, by what each of them has; `None` with k = 0, or while fewer have
    /// any.
    pub fn confirmed(&self, has: impl Fn(&MemberKey) -> Option<Lsn>) -> Option<Lsn> {
        let mut positions: Vec<Lsn> = self.cohort.iter().filter_map(has).collect();
        positions.sort_unstable_by(|a, b| b.cmp(a));
        positions.get((self.k as usize).checked_sub(1)?).copied()
    }
}

/// A setting of one reign, under which commits may have been acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The reign to which it belongs.
    pub epoch: Epoch,
    /// Its number within the reign.
    pub version: RuleVersion,
    /// Who acknowledges under it.
    pub primary: MemberKey,
    /// Who must have flushed.
    pub setting: Setting,
}

impl Rule {
    /// Whether the sealed members make it impossible for anything new to be acknowledged under this rule, and hold
    /// everything that was. `primary_seal` is the epoch up to which a fenced primary's own seal closes rules. Keeps S1.
    #[must_use]
    pub fn closed_by(&self, sealed: &BTreeSet<MemberKey>, primary_seal: Option<Epoch>) -> bool {
        primary_seal.is_some_and(|epoch| epoch >= self.epoch) || self.seals_missing(sealed) == 0
    }

    /// How many more members of the cohort must be sealed.
    #[must_use]
    pub fn seals_missing(&self, sealed: &BTreeSet<MemberKey>) -> usize {
        let have = self.setting.cohort.intersection(sealed).count();
        self.setting.seals_needed().saturating_sub(have)
    }
}

#[cfg(test)]
#[path = "rule_test.rs"]
mod tests;
