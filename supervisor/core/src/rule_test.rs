//! Goal: the arithmetic is right for every rule of up to four members. Method: enumerate all sets and check the words
//! of the definitions against the formulas.

use super::*;
use crate::id::{Incarnation, MemberId};

fn key(number: u32) -> MemberKey {
    MemberKey::new(MemberId(format!("m{number}")), Incarnation(1))
}

fn sets() -> Vec<BTreeSet<MemberKey>> {
    (0..16u32).map(|bits| (0..4).filter(|n| bits >> n & 1 == 1).map(key).collect()).collect()
}

fn settings() -> Vec<Setting> {
    let mut all = Vec::new();
    for cohort in sets() {
        for k in 0..=3 {
            all.push(Setting { cohort: cohort.clone(), k });
        }
    }
    all
}

#[test]
fn implies_means_that_every_satisfying_set_satisfies_the_other() {
    for a in settings() {
        for b in settings() {
            let words = sets().iter().filter(|set| a.satisfied_by(*set)).all(|set| b.satisfied_by(set));
            let formula = a.implies(&b);
            // The formula is exact where `a` can be satisfied at all; where it cannot, it may only be too strict.
            if a.cohort.len() >= a.k as usize {
                assert_eq!(words, formula || b.k == 0, "{a:?} {b:?}");
            } else {
                assert!(words);
            }
        }
    }
}

/// History A1: a walsender counts with one setting's number over the other's names.
#[test]
fn the_wide_rule_is_implied_by_every_mixture() {
    for a in settings() {
        for b in settings() {
            let wide = a.wide(&b);
            for k in [a.k, b.k] {
                for names in sets().into_iter().filter(|s| s.is_subset(&wide.cohort)) {
                    assert!(Setting { cohort: names, k }.implies(&wide) || wide.k == 0);
                }
            }
        }
    }
}

#[test]
fn sealed_members_meet_every_satisfying_set_and_leave_too_few() {
    for setting in settings().into_iter().filter(|s| s.k > 0) {
        let rule = Rule { epoch: Epoch(1), version: RuleVersion(1), primary: key(9), setting: setting.clone() };
        for sealed in sets() {
            let unsealed: BTreeSet<_> = setting.cohort.difference(&sealed).cloned().collect();
            let meets_all = sets().iter().filter(|ack| setting.satisfied_by(*ack)).all(|ack| {
                let ack: BTreeSet<_> = ack.intersection(&setting.cohort).cloned().collect();
                !ack.is_disjoint(&sealed)
            });
            let closed = rule.closed_by(&sealed, None);
            assert_eq!(closed, !setting.satisfied_by(&unsealed), "{setting:?} {sealed:?}");
            assert_eq!(closed, meets_all, "{setting:?} {sealed:?}");
        }
    }
}

/// History B6: with k = 0 only the primary's own seal ends the reign.
#[test]
fn nothing_but_the_primary_closes_a_rule_of_zero() {
    for cohort in sets() {
        let rule =
            Rule { epoch: Epoch(3), version: RuleVersion(1), primary: key(9), setting: Setting { cohort, k: 0 } };
        for sealed in sets() {
            assert!(!rule.closed_by(&sealed, None));
            assert!(!rule.closed_by(&sealed, Some(Epoch(2))));
            assert!(rule.closed_by(&sealed, Some(Epoch(3))));
        }
    }
}
