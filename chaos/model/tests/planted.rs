//! Goal: the model sees what it is meant to see. Method: each protection is taken out; a counterexample must be found,
//! and its steps must be those that `TRACES.md` tells, so that the page never lies.
//! After a change that is meant: `cargo run -p pgvigil-model -- trace all > chaos/model/TRACES.md`, and read the diff.

use pgvigil_model::{clocked, run::check, service, sizes};
use std::collections::BTreeMap;

const PAGE: &str = include_str!("../TRACES.md");

/// The steps of each section of the page.
fn told() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut sections: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut section = "";
    for line in PAGE.lines() {
        if let Some(name) = line.strip_prefix("## ") {
            section = name;
            sections.entry(section).or_default();
        } else if line.starts_with(|c: char| c.is_ascii_digit())
            && let Some((_, step)) = line.split_once(". ")
        {
            sections.entry(section).or_default().push(step);
        }
    }
    sections
}

fn compare(name: &str, found: &[String]) {
    let told = told();
    let page = told.get(name).unwrap_or_else(|| panic!("TRACES.md has no section {name}"));
    assert_eq!(page, found, "TRACES.md tells another history of {name}");
}

#[test]
fn each_protection_of_durability_has_its_counterexample() {
    for size in sizes::PLANTED {
        let outcome = check(*size, |states, depth, _| eprintln!("{}: {states} states, depth {depth}", size.name));
        assert!(outcome.counterexample().is_some(), "{}: taking it out is not noticed", size.name);
        let steps: Vec<String> = outcome.story().into_iter().map(|told| told.step).collect();
        compare(size.name, &steps);
    }
}

#[test]
fn each_protection_of_service_has_its_counterexample() {
    for (name, planted) in service::PLANTED {
        let outcome = clocked::check(*planted, |_, _, _| ());
        assert!(outcome.path.is_some(), "{name}: taking it out is not noticed");
        compare(name, &outcome.story);
    }
}

#[test]
fn the_page_tells_nothing_else() {
    let known = sizes::PLANTED.iter().map(|size| size.name).chain(service::PLANTED.iter().map(|(name, _)| *name));
    let mut known: Vec<&str> = known.collect();
    known.sort_unstable();
    assert_eq!(told().into_keys().collect::<Vec<_>>(), known);
}
