//! The bank: the total never changes, and each account is what its transfers make it.

use std::collections::{BTreeMap, HashMap};

use super::{Findings, Kind, Tables, verdict::told};
use crate::history::{History, Outcome, Work};

/// Returns how many transfers of unknown end took effect.
pub(super) fn check(history: &History, end: &Tables, findings: &mut Findings) -> usize {
    let total = end.opening_balance * end.accounts.len() as i64;
    for operation in history.acknowledged() {
        if let Work::Total { sum: Some(sum) } = operation.work
            && sum != total
        {
            findings.add(
                Kind::Unbalanced,
                format!("the accounts added up to {sum} instead of {total} {}", told(operation)),
            );
        }
    }
    let sum: i64 = end.accounts.values().sum();
    if sum != total {
        findings.add(Kind::Unbalanced, format!("at the end the accounts add up to {sum} instead of {total}"));
    }

    let mut present: HashMap<u64, usize> = HashMap::new();
    for id in &end.transfers {
        *present.entry(*id).or_default() += 1;
    }
    let mut owed: BTreeMap<u64, i64> = end.accounts.keys().map(|account| (*account, end.opening_balance)).collect();
    let mut unknown_present = 0;
    for operation in &history.operations {
        let Work::Transfer { id, from, to, amount } = operation.work else { continue };
        let there = present.remove(&id).is_some();
        match operation.outcome {
            Outcome::Ok if !there => {
                findings.add(Kind::Lost, format!("transfer {id}, acknowledged {}, is absent", told(operation)));
            }
            Outcome::Fail if there => {
                findings.add(Kind::Resurrected, format!("transfer {id}, refused {}, is there", told(operation)));
            }
            Outcome::Unknown if there => unknown_present += 1,
            _ => {}
        }
        if there {
            *owed.entry(from).or_default() -= amount;
            *owed.entry(to).or_default() += amount;
        }
    }
    for id in present.keys() {
        findings.add(Kind::Resurrected, format!("transfer {id} is there, and no client is known to have sent it"));
    }
    if present.is_empty() {
        for (account, owed) in owed.iter().filter(|(account, owed)| end.accounts.get(account) != Some(owed)) {
            let held = end.accounts.get(account).copied().unwrap_or(0);
            findings.add(Kind::Unbalanced, format!("account {account} holds {held}, its transfers make {owed}"));
        }
    }
    unknown_present
}

#[cfg(test)]
mod tests {
    use super::super::testing::{judged, op};
    use super::*;
    use crate::check::Verdict;

    fn history() -> History {
        let transfer = |id, from, to| Work::Transfer { id, from, to, amount: 5 };
        let operations = vec![
            op(1, 2, Outcome::Ok, transfer(1, 1, 2)),
            op(3, 4, Outcome::Unknown, transfer(2, 2, 1)),
            op(5, 6, Outcome::Fail, transfer(3, 2, 1)),
            op(7, 8, Outcome::Ok, Work::Total { sum: Some(200) }),
        ];
        History { operations }
    }

    fn found(history: &History, one: i64, two: i64, transfers: &[u64]) -> Verdict {
        let accounts = BTreeMap::from([(1, one), (2, two)]);
        let end = Tables { accounts, transfers: transfers.to_vec(), opening_balance: 100, ..Tables::default() };
        judged(history, end, |h, t, f| {
            check(h, t, f);
        })
    }

    #[test]
    fn balances_that_follow_from_the_transfers_are_clean() {
        assert!(found(&history(), 95, 105, &[1]).is_clean());
        assert!(found(&history(), 100, 100, &[1, 2]).is_clean(), "the unknown one took effect");
    }

    #[test]
    fn lost_and_resurrected_transfers_are_found() {
        assert_eq!(found(&history(), 100, 100, &[]).count(Kind::Lost), 1);
        assert_eq!(found(&history(), 100, 100, &[1, 3]).count(Kind::Resurrected), 1);
        assert_eq!(found(&history(), 95, 105, &[1, 9]).count(Kind::Resurrected), 1);
    }

    #[test]
    fn money_from_nowhere_is_found() {
        assert_eq!(found(&history(), 96, 105, &[1]).count(Kind::Unbalanced), 2, "the total and one account");
        assert_eq!(found(&history(), 105, 95, &[1]).count(Kind::Unbalanced), 2, "two accounts");
        let mut seen = history();
        seen.operations[3].work = Work::Total { sum: Some(195) };
        assert_eq!(found(&seen, 95, 105, &[1]).count(Kind::Unbalanced), 1, "seen on the way");
    }
}
