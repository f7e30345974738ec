//! The safety properties of the agreed state, as named functions. Used by property tests, the simulator and, being
//! cheap, by the running program after every applied entry in debug builds.

use crate::{cluster::ClusterState, reign::Start};
use std::collections::BTreeSet;

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{property}: {detail}")]
pub struct Violation {
    /// The function's name.
    pub property: &'static str,
    /// What was found.
    pub detail: String,
}

type Check = fn(&ClusterState) -> Result<(), String>;

/// Every property.
pub const ALL: &[(&str, Check)] = &[
    ("epochs_rise", epochs_rise),
    ("one_timeline_per_promotion", one_timeline_per_promotion),
    ("newest_rule_belongs_to_the_newest_reign", newest_rule_belongs_to_the_newest_reign),
    ("at_most_one_rule_per_epoch", at_most_one_rule_per_epoch),
    ("rule_holds_what_walsenders_may_hold", rule_holds_what_walsenders_may_hold),
    ("no_rule_counts_its_primary", no_rule_counts_its_primary),
    ("older_rules_only_while_incomplete", older_rules_only_while_incomplete),
    ("open_only_when_promoted_and_no_debts", open_only_when_promoted_and_no_debts),
    ("incarnations_are_distinct", incarnations_are_distinct),
];

/// Checks every property; the first one that does not hold is returned.
pub fn check(cluster: &ClusterState) -> Result<(), Violation> {
    for (property, holds) in ALL {
        holds(cluster).map_err(|detail| Violation { property, detail })?;
    }
    Ok(())
}

fn ensure(holds: bool, detail: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(detail()) }
}

/// S2: one primary per epoch, and epochs rise.
pub fn epochs_rise(cluster: &ClusterState) -> Result<(), String> {
    for pair in cluster.reigns.windows(2) {
        ensure(pair[0].epoch < pair[1].epoch, || format!("{} then {}", pair[0].epoch, pair[1].epoch))?;
    }
    let newest = cluster.reigns.last().map(|r| r.epoch).max(cluster.election.as_ref().map(|e| e.epoch));
    ensure(newest.unwrap_or_default() <= cluster.epoch, || format!("{newest:?} beyond {}", cluster.epoch))?;
    let in_order = match (&cluster.election, cluster.reigns.last()) {
        (Some(election), Some(reign)) => election.epoch > reign.epoch,
        (Some(_), None) => false,
        _ => true,
    };
    ensure(in_order, || "an election that is not newer than the reign".to_owned())
}

/// A7: a timeline belongs to one promotion; only continued reigns share it.
pub fn one_timeline_per_promotion(cluster: &ClusterState) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for reign in &cluster.reigns {
        if reign.start != Start::Continue {
            ensure(seen.insert(reign.timeline), || format!("timeline {} twice", reign.timeline))?;
        }
        ensure(reign.timeline <= cluster.last_timeline, || format!("timeline {} not allotted", reign.timeline))?;
    }
    Ok(())
}

/// The primary's setting is always covered by the newest open rule, and that rule is its own reign's.
pub fn newest_rule_belongs_to_the_newest_reign(cluster: &ClusterState) -> Result<(), String> {
    let reign = cluster.reigns.last().map(|r| (r.epoch, r.primary.clone(), r.version));
    let rule = cluster.rules.last().map(|r| (r.epoch, r.primary.clone(), r.version));
    ensure(reign == rule, || format!("reign {reign:?}, rule {rule:?}"))
}

/// There is one rule for each epoch that has any, in rising order.
pub fn at_most_one_rule_per_epoch(cluster: &ClusterState) -> Result<(), String> {
    for pair in cluster.rules.windows(2) {
        ensure(pair[0].epoch < pair[1].epoch, || format!("{} then {}", pair[0].epoch, pair[1].epoch))?;
    }
    Ok(())
}

/// S1: the agreed S contains every name, and the agreed k is at most every number, of the setting being put in force.
pub fn rule_holds_what_walsenders_may_hold(cluster: &ClusterState) -> Result<(), String> {
    let (Some(reign), Some(rule)) = (cluster.reigns.last(), cluster.rules.last()) else { return Ok(()) };
    let covered = rule.setting.cohort.is_superset(&reign.setting.cohort) && rule.setting.k <= reign.setting.k;
    ensure(covered, || format!("rule {:?} does not cover setting {:?}", rule.setting, reign.setting))
}

/// A primary's own flush is no standby's.
pub fn no_rule_counts_its_primary(cluster: &ClusterState) -> Result<(), String> {
    for rule in &cluster.rules {
        ensure(!rule.setting.cohort.contains(&rule.primary), || format!("rule of epoch {}", rule.epoch))?;
    }
    Ok(())
}

/// Older rules stay open exactly until the newest complete reign.
pub fn older_rules_only_while_incomplete(cluster: &ClusterState) -> Result<(), String> {
    let newest_complete = cluster.reigns.iter().rev().find(|r| r.complete).map(|r| r.epoch);
    let oldest_rule = cluster.rules.first().map(|r| r.epoch);
    ensure(newest_complete.is_none() || oldest_rule >= newest_complete, || {
        format!("rule of {oldest_rule:?} is open although {newest_complete:?} is complete")
    })?;
    for reign in cluster.reigns.iter().filter(|r| newest_complete.is_some_and(|c| r.epoch > c)) {
        let has = cluster.rules.iter().any(|rule| rule.epoch == reign.epoch);
        ensure(has, || format!("epoch {} lost its rule before a later one was complete", reign.epoch))?;
    }
    Ok(())
}

/// S3: the current reign is open only when it was promoted and owes no fence.
pub fn open_only_when_promoted_and_no_debts(cluster: &ClusterState) -> Result<(), String> {
    let Some(reign) = cluster.reigns.last().filter(|r| r.open && cluster.election.is_none()) else { return Ok(()) };
    let running_on = reign.start == Start::Continue;
    ensure((reign.promotion.is_some() || running_on) && cluster.fence_debts.is_empty(), || {
        format!("epoch {} is open, debts {:?}", reign.epoch, cluster.fence_debts)
    })
}

/// A9: no two members, and no two data directories, share an incarnation.
pub fn incarnations_are_distinct(cluster: &ClusterState) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for member in cluster.members.values() {
        ensure(seen.insert(member.incarnation), || format!("incarnation {} twice", member.incarnation))?;
        ensure(member.incarnation <= cluster.last_incarnation, || format!("{} not allotted", member.incarnation))?;
    }
    Ok(())
}
