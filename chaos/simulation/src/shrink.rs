//! Shrinks a failing seed: drops faults from its list while it still fails in the same way.

use crate::run::{Options, Outcome, run, scenario};
use std::collections::BTreeSet;

/// The fewest faults found with which `seed` still breaks the same property, and what came of them.
/// `None` if the seed does not fail.
#[must_use]
pub fn shrink(seed: u64, options: &Options) -> Option<(BTreeSet<usize>, Outcome)> {
    let attempt = |keep: &BTreeSet<usize>| {
        let outcome = run(seed, &Options { keep: Some(keep.clone()), trace: false, ..options.clone() });
        outcome.violation.as_ref().map(|v| v.property).map(|property| (property, outcome))
    };
    let mut keep: BTreeSet<usize> = match &options.keep {
        Some(keep) => keep.clone(),
        None => (0..scenario(seed, options).faults.len()).collect(),
    };
    let (property, mut best) = attempt(&keep)?;
    let mut chunk = keep.len().div_ceil(2).max(1);
    loop {
        let mut smaller = false;
        let all: Vec<usize> = keep.iter().copied().collect();
        for part in all.chunks(chunk) {
            let without: BTreeSet<usize> = keep.iter().copied().filter(|number| !part.contains(number)).collect();
            if let Some((of, outcome)) = attempt(&without)
                && of == property
            {
                keep = without;
                best = outcome;
                smaller = true;
            }
        }
        if chunk == 1 && !smaller {
            return Some((keep, best));
        }
        if !smaller {
            chunk = (chunk / 2).max(1);
        }
    }
}
