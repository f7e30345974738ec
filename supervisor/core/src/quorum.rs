//! Whether seals close every open rule: shared by `apply`, which refuses, and `decide`, which says who is missing.

use crate::{
    cluster::ClusterState,
    id::{Epoch, MemberKey},
    position::Position,
    reign::{Seal, SealKind},
    rule::Rule,
};
use std::collections::BTreeSet;

/// Seals that count for one election.
#[derive(Clone, Debug)]
pub struct Evidence<'a> {
    seals: Vec<&'a Seal>,
}

/// A rule that is still open, and how many more of whom it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The rule.
    pub rule: Rule,
    /// How many more of `who` must be sealed.
    pub seals: usize,
    /// The members of its cohort that are not.
    pub who: BTreeSet<MemberKey>,
}

impl<'a> Evidence<'a> {
    /// Takes the seals for `epoch` if each of them counts; the sentence says which does not and why.
    ///
    /// A seal counts for its own election only, in the incarnation that counts, not given up, and not below a flush
    /// that this incarnation was proven to have (a directory that came back old). Keeps S1 (histories A9, A17).
    pub fn check(
        cluster: &ClusterState,
        epoch: Epoch,
        appointee: &MemberKey,
        seals: &'a [Seal],
    ) -> Result<Self, String> {
        let mut seen = BTreeSet::new();
        for seal in seals {
            let key = &seal.key;
            if !seen.insert(key) {
                return Err(format!("{key} is named twice"));
            }
            seal_counts(cluster, epoch, seal)?;
            if seal.kind == SealKind::Standing && key != appointee {
                return Err(format!("{key} still serves; it can only be re-appointed itself"));
            }
        }
        Ok(Self { seals: seals.iter().collect() })
    }

    /// The open rules that the members who are not ahead of `position` do not close.
    #[must_use]
    pub fn missing_at(&self, cluster: &ClusterState, position: Position) -> Vec<Missing> {
        let in_reach: Vec<&Seal> = self.seals.iter().copied().filter(|seal| seal.position <= position).collect();
        let sealed: BTreeSet<MemberKey> =
            in_reach.iter().filter(|seal| seal.kind == SealKind::Sealed).map(|seal| seal.key.clone()).collect();
        // History B3: a primary's own seal has every commit of its reign and, by its appointment, of all before.
        let primary_seal = in_reach.iter().filter_map(|seal| cluster.promoted_epoch_of(&seal.key)).max();
        cluster
            .rules
            .iter()
            .filter(|rule| !closed(cluster, rule, &sealed, primary_seal))
            .map(|rule| Missing {
                rule: rule.clone(),
                seals: rule.seals_missing(&given_up(cluster, rule, &sealed)),
                who: rule.setting.cohort.difference(&sealed).cloned().collect(),
            })
            .collect()
    }
}

/// Why a seal does not count, if it does not.
pub fn seal_counts(cluster: &ClusterState, epoch: Epoch, seal: &Seal) -> Result<(), String> {
    let key = &seal.key;
    if seal.epoch != epoch {
        return Err(format!("the seal of {key} is for epoch {}, not {epoch}", seal.epoch));
    }
    if !cluster.is_counted(key) {
        return Err(format!("{key} is not the incarnation that counts, or was given up"));
    }
    let proven = cluster.members.get(&key.member).and_then(|member| member.proven);
    if proven.is_some_and(|proven| seal.position < proven) {
        return Err(format!(
            "{key} claims {}, but was seen at {}: its data directory came back old",
            seal.position,
            proven.unwrap_or_default()
        ));
    }
    if seal.kind == SealKind::Standing && cluster.promoted_epoch_of(key).is_none() {
        return Err(format!("{key} was never promoted"));
    }
    Ok(())
}

/// Members given up by a forced failover stand for sealed ones: that is what forcing means, and why it is recorded
/// as possible data loss.
fn given_up(cluster: &ClusterState, rule: &Rule, sealed: &BTreeSet<MemberKey>) -> BTreeSet<MemberKey> {
    let void = rule.setting.cohort.intersection(&cluster.void).cloned();
    sealed.iter().cloned().chain(void).collect()
}

fn closed(cluster: &ClusterState, rule: &Rule, sealed: &BTreeSet<MemberKey>, primary_seal: Option<Epoch>) -> bool {
    let void_primary_of_zero = rule.setting.k == 0 && cluster.void.contains(&rule.primary);
    void_primary_of_zero || rule.closed_by(&given_up(cluster, rule, sealed), primary_seal)
}

/// One sentence on who is missing.
#[must_use]
pub fn describe(missing: &[Missing]) -> String {
    let each = missing.iter().map(|m| {
        let who = m.who.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if m.rule.setting.k == 0 {
            return format!("the rule of epoch {} has k = 0: only {} itself can end it", m.rule.epoch, m.rule.primary);
        }
        format!(
            "the rule of epoch {} (any {} of {}) needs {} more of {who}, or its primary {}",
            m.rule.epoch,
            m.rule.setting.k,
            m.rule.setting.cohort.len(),
            m.seals,
            m.rule.primary
        )
    });
    each.collect::<Vec<_>>().join("; ")
}
