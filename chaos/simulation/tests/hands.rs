//! Goal: whenever the agreed verdict on a change of primary says that no acknowledged commit was lost, none was; also where
//! people take the rule out of force and the primary dies soon after.
//! Method: seeds with such hands in their plans; commits are lost in some of them, and every such incident says so. The
//! proof that this is looked at: a leader that has no evidence agreed.

use pgvigil_simulation::{
    coverage::{self, Counts},
    planted::Planted,
    run::{Options, replay_command, run},
};

#[test]
fn no_incident_denies_a_loss() {
    let options = Options { hands: true, ..Options::default() };
    let mut counts = Counts::new();
    let mut failed = Vec::new();
    for seed in 1..=120 {
        let outcome = run(seed, &options);
        coverage::add(&mut counts, &outcome.coverage);
        if let Some(violation) = outcome.violation {
            failed.push(format!("{violation:?}\n    {}", replay_command(seed, &options)));
        }
    }
    assert!(failed.is_empty(), "{} seeds failed:\n{}", failed.len(), failed.join("\n"));
    for name in ["by-hand", "named"] {
        assert!(coverage::count(&counts, "loss", name) > 0, "no loss was {name}");
    }
}

#[test]
fn evidence_that_is_not_agreed_is_found() {
    let options = Options { hands: true, planted: Some(Planted::EvidenceNotAgreed), ..Options::default() };
    let denied = |seed| run(seed, &options).violation.is_some_and(|violation| violation.property == "RPO");
    assert!((1..=1_500).any(denied));
}
