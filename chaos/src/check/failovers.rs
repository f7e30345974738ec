//! Unneeded failovers: epochs that rose although nothing had happened that calls for it.

use super::{Findings, Kind};
use crate::report::{EpochSpan, FaultSpan};

/// How long after a fault is over a change of primary may still be its consequence.
const AFTERMATH_US: u64 = 60_000_000;

pub(super) fn check(epochs: &[EpochSpan], faults: &[FaultSpan], findings: &mut Findings) {
    for epoch in epochs.iter().skip(1) {
        let called_for = faults.iter().any(|fault| {
            let ends = fault.until_us.unwrap_or(fault.from_us);
            fault.may_move && fault.from_us <= epoch.from_us && epoch.from_us <= ends + AFTERMATH_US
        });
        if !called_for {
            let at = epoch.from_us as f64 / 1e6;
            let text =
                format!("epoch {} ({}) began at {at:.1} s, and nothing called for it", epoch.epoch, epoch.primary);
            findings.add(Kind::UnneededFailover, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Counts;

    fn found(epochs: &[u64], faults: &[(u64, Option<u64>, bool)]) -> usize {
        let epochs: Vec<_> = (1..)
            .zip(epochs)
            .map(|(epoch, from)| EpochSpan { epoch, from_us: *from, primary: "a".to_owned() })
            .collect();
        let fault = |&(from_us, until_us, may_move): &(u64, Option<u64>, bool)| FaultSpan {
            from_us,
            until_us,
            may_move,
            ..FaultSpan::default()
        };
        let faults: Vec<_> = faults.iter().map(fault).collect();
        let mut findings = Findings::default();
        check(&epochs, &faults, &mut findings);
        findings.into_verdict(Counts::default()).count(Kind::UnneededFailover)
    }

    #[test]
    fn a_failover_after_a_fault_is_no_surprise() {
        assert_eq!(found(&[0], &[]), 0, "the first epoch is the cluster's beginning");
        assert_eq!(found(&[0, 6_000_000], &[(5_000_000, None, true)]), 0);
        assert_eq!(found(&[0, 206_000_000], &[(5_000_000, Some(200_000_000), true)]), 0);
    }

    #[test]
    fn a_failover_without_a_reason_is_found() {
        assert_eq!(found(&[0, 4_000_000], &[(5_000_000, None, true)]), 1, "before the fault");
        assert_eq!(found(&[0, 6_000_000], &[(5_000_000, None, false)]), 1, "the fault is none that calls for it");
        assert_eq!(found(&[0, 70_000_000], &[(5_000_000, None, true)]), 1, "long after it");
    }
}
