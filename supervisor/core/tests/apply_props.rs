//! Goal: whatever the log holds, every member computes the same state, the invariants hold, and nothing panics.
//! Method: random lists of commands, most of them aimed at the present state so that many are agreed, applied to a fresh
//! state, and to one that is encoded and decoded after every step. A counter shows that the interesting ones happen.

mod common;

use common::{Dice, roll, step};
use pgvigil_core::{
    Outcome, State,
    cluster::ClusterState,
    id::MemberKey,
    invariant,
    reign::{SealKind, Start},
    rpo::{self, Cause, Unproven, Verdict},
};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// S2: a later reign starts from a position that no open rule's acknowledged commits can exceed; here: an agreed
/// appointment's evidence closes every rule that was open, computed anew from the definition.
fn appointment_closes_rules(before: &ClusterState, after: &ClusterState) {
    let (Some(election), Some(reign)) = (&before.election, after.reign()) else { return };
    if reign.epoch != election.epoch || before.reigns.len() == after.reigns.len() {
        return;
    }
    let own = reign.seals.iter().find(|s| s.key == reign.primary).expect("the appointee is sealed").position;
    for rule in &before.rules {
        let in_reach = |key: &MemberKey| {
            before.void.contains(key)
                || reign.seals.iter().any(|s| s.key == *key && s.kind == SealKind::Sealed && s.position <= own)
        };
        let unsealed = rule.setting.cohort.iter().filter(|key| !in_reach(key)).count();
        let by_count = unsealed < rule.setting.k as usize;
        let by_primary = reign.seals.iter().any(|s| {
            s.position <= own
                && before.reigns.iter().any(|r| {
                    // Re-appointed where it stood: it holds all that it ever acknowledged, also before it carries on.
                    let reigned = r.promotion.is_some() || matches!(r.start, Start::Continue | Start::Adopt);
                    r.primary == s.key && reigned && r.epoch >= rule.epoch
                })
        });
        assert!(by_count || by_primary, "rule {rule:?} was not closed by {:?}", reign.seals);
    }
}

/// What speaks against "none lost" is never taken back, and nothing leads from it to "none": stated anew, not by the verdict.
fn evidence_stays(before: &ClusterState, after: &ClusterState) {
    for old in &before.reigns {
        let Some(new) = after.reigns.iter().find(|reign| reign.epoch == old.epoch) else { continue };
        for stretch in &old.unproven {
            let holds = |known: &&Unproven| {
                let ends = known.until.is_none() || (stretch.until.is_some() && known.until >= stretch.until);
                known.cause == stretch.cause && known.from <= stretch.from && (ends || stretch.until.is_none())
            };
            assert!(new.unproven.iter().any(|known| holds(&known)), "{stretch:?} is gone from {:?}", new.unproven);
        }
    }
    for incident in &after.incidents {
        let old = before.incidents.iter().find(|old| old.epoch == incident.epoch);
        assert!(
            incident.possible_data_loss || !old.is_some_and(|old| old.possible_data_loss),
            "taken back: {incident:?}"
        );
        let Some(successor) = after.reigns.iter().find(|reign| reign.epoch == incident.epoch) else { continue };
        // Whoever was promoted and never opened has acknowledged nothing.
        let earlier = || after.reigns.iter().rev().filter(|reign| reign.epoch < incident.epoch);
        let served = earlier().find(|reign| reign.open || reign.start != Start::Promote);
        let Some(last) = served.or_else(|| earlier().next()) else { continue };
        let own = successor.seals.iter().any(|seal| seal.key == last.primary);
        let evidence = last.unproven.iter().any(|s| !own || s.cause == Cause::CommitLowered);
        assert!(incident.possible_data_loss || !evidence, "{incident:?} in spite of {:?}", last.unproven);
        let none = matches!(rpo::verdict(after, incident), Verdict::NoneLost(_));
        assert!(none != incident.possible_data_loss || old.is_some_and(|old| old.possible_data_loss), "{incident:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn any_command_list_keeps_the_invariants(rolls in prop::collection::vec(roll(), 1..160)) {
        let mut state = State::default();
        let mut decoded = State::default();
        for roll in &rolls {
            let before = state.clusters.values().next().cloned();
            let (name, outcome) = step(&mut state, roll);
            let (_, again) = step(&mut decoded, roll);
            prop_assert_eq!(&outcome, &again);
            let bytes = serde_json::to_vec(&decoded).unwrap();
            decoded = serde_json::from_slice(&bytes).unwrap();
            prop_assert_eq!(&state, &decoded);
            for cluster in state.clusters.values() {
                invariant::check(cluster).map_err(|v| TestCaseError::fail(format!("{v} after {name}")))?;
                if let Some(before) = &before {
                    appointment_closes_rules(before, cluster);
                    evidence_stays(before, cluster);
                    prop_assert!(cluster.epoch >= before.epoch && cluster.revision >= before.revision);
                }
            }
        }
    }
}

/// The dice must reach what matters, or the property above says nothing.
#[test]
fn the_dice_reach_every_kind_of_step() {
    let mut state = State::default();
    let mut dice = Dice(7);
    let mut seen = BTreeMap::<&'static str, u64>::new();
    for round in 0..60_000 {
        if round % 300 == 0 {
            state = State::default();
        }
        let roll = dice.roll();
        let (name, outcome) = step(&mut state, &roll);
        if matches!(outcome, Outcome::Agreed { .. }) {
            *seen.entry(name).or_default() += 1;
        }
    }
    for name in [
        "found",
        "begin-election",
        "appoint",
        "record-promotion",
        "open",
        "complete-rule",
        "begin-change",
        "finish-change",
        "new-incarnation",
        "forget",
        "catch-up",
        "note-unproven",
    ] {
        assert!(seen.get(name).copied().unwrap_or(0) > 0, "never agreed: {name}; {seen:?}");
    }
}
