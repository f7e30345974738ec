//! Goal: what simulated clusters did passes the check, and every kind of wrong step is objected to.
//!
//! Method: seeds of the simulation tell their past as real nodes do, through JSON. Then one thing at a time is changed in
//! it: an entry, a state, a decision, an act.

use pgvigil_core::{
    command::Command,
    id::{Epoch, Revision},
    reconcile::Action,
    reign::Start,
    trace::Line,
};
use pgvigil_simulation::{
    raft::Kind,
    run::{Options, run},
};
use pgvigil_trace::{Verdict, check, read};

fn past(seed: u64) -> Vec<Line> {
    past_with(Kind::Model, seed)
}

fn past_with(raft: Kind, seed: u64) -> Vec<Line> {
    run(seed, &Options { record: true, raft, ..Options::default() }).lines
}

fn checked(files: &[&[Line]]) -> Verdict {
    let pasts: Vec<_> = files
        .iter()
        .enumerate()
        .map(|(number, lines)| {
            let text: String = lines
                .iter()
                .map(|line| serde_json::to_string(line).expect("every line has a JSON form") + "\n")
                .collect();
            read(&format!("n{number}"), text.as_bytes()).expect("it is read back")
        })
        .collect();
    check(&pasts)
}

#[test]
fn every_step_of_simulated_clusters_is_allowed() {
    let (mut decisions, mut acts, mut refused) = (0, 0, 0);
    for seed in 1..=25 {
        let verdict = checked(&[&past(seed)]);
        assert!(verdict.findings.is_empty(), "seed {seed}: {verdict}");
        assert!(verdict.agreed > 5 && verdict.states == 1, "seed {seed}: {verdict}");
        decisions += verdict.decisions;
        acts += verdict.acts;
        refused += verdict.refused;
    }
    println!("{decisions} decisions, {acts} acts, {refused} refused entries");
    assert!(decisions > 500 && acts > 1_000 && refused > 0, "{decisions}, {acts}, {refused}");
}

#[test]
fn every_step_of_clusters_with_openraft_is_allowed() {
    for seed in 1..=5 {
        let verdict = checked(&[&past_with(Kind::Openraft, seed)]);
        assert!(verdict.findings.is_empty() && verdict.agreed > 5 && verdict.states == 1, "seed {seed}: {verdict}");
    }
}

#[test]
fn two_nodes_that_agree_are_compared() {
    let lines = past(1);
    let verdict = checked(&[&lines, &lines]);
    assert!(verdict.findings.is_empty() && verdict.states == 2, "{verdict}");
}

/// A past in which somebody was promoted, and the place of that appointment.
fn with_promotion() -> (Vec<Line>, usize) {
    (1..100)
        .find_map(|seed| {
            let lines = past(seed);
            let appoints = |line: &Line| match line {
                Line::Entry { proposal: Some(proposal), .. } => {
                    matches!(&proposal.command, Command::Appoint { start: Start::Promote, .. })
                }
                _ => false,
            };
            let at = lines.iter().position(appoints)?;
            Some((lines, at))
        })
        .expect("some seed promotes")
}

fn command(line: &mut Line) -> &mut Command {
    match line {
        Line::Entry { proposal: Some(proposal), .. } => &mut proposal.command,
        other => panic!("no proposal: {other:?}"),
    }
}

fn place(lines: &[Line], what: impl Fn(&Line) -> bool) -> usize {
    lines.iter().position(what).expect("there is one")
}

fn objects(what: &str, lines: &[Line], words: &str) {
    let verdict = checked(&[lines]);
    assert!(verdict.findings.iter().any(|finding| finding.contains(words)), "{what}: {verdict}");
}

#[test]
fn an_appointment_without_its_seals_is_objected_to() {
    let (mut lines, at) = with_promotion();
    if let Command::Appoint { seals, .. } = command(&mut lines[at]) {
        seals.truncate(1);
    }
    objects("too few seals", &lines, "another state than the log makes");
    objects("too few seals", &lines, "never decided appoint");
}

#[test]
fn an_entry_that_was_lost_is_objected_to() {
    let (mut lines, at) = with_promotion();
    lines.remove(at);
    objects("a gap", &lines, "a gap between entries");
}

#[test]
fn a_door_that_opens_before_the_promotion_is_objected_to() {
    let (mut lines, at) = with_promotion();
    let after = |what: fn(&Command) -> bool, lines: &[Line]| {
        at + place(&lines[at..], |line| matches!(line, Line::Entry { proposal: Some(p), .. } if what(&p.command)))
    };
    let promoted = after(|c| matches!(c, Command::RecordPromotion { .. }), &lines);
    let opened = after(|c| matches!(c, Command::Open { .. }), &lines);
    let (early, late) = (command(&mut lines[promoted]).clone(), command(&mut lines[opened]).clone());
    *command(&mut lines[promoted]) = late;
    *command(&mut lines[opened]) = early;
    objects("open too early", &lines, "another state than the log makes");
}

#[test]
fn a_node_whose_state_or_log_differs_is_objected_to() {
    let lines = past(1);
    let mut other = lines.clone();
    for line in &mut other {
        if let Line::Applied { state, .. } = line {
            state.clusters.values_mut().for_each(|cluster| cluster.epoch = Epoch(cluster.epoch.0 + 1));
        }
    }
    objects("a state", &other, "another state than the log makes");
    let mut other = lines.clone();
    let at = place(&other, |line| matches!(line, Line::Entry { proposal: Some(_), .. }));
    if let Line::Entry { proposal: Some(proposal), .. } = &mut other[at] {
        proposal.reason.push_str(" (not what the others hold)");
    }
    let verdict = checked(&[&lines, &other]);
    assert!(verdict.findings.iter().any(|finding| finding.contains("hold different entries")), "{verdict}");
}

#[test]
fn a_decision_that_the_core_would_not_make_is_objected_to() {
    let mut lines = past(1);
    let at = place(&lines, |line| matches!(line, Line::Decided(d) if matches!(d.command, Command::Open { .. })));
    if let Line::Decided(decided) = &mut lines[at] {
        decided.command = Command::Pause;
    }
    objects("a decision", &lines, "but the core decides");
    objects("a decision", &lines, "never decided open");
}

#[test]
fn an_act_that_the_core_would_not_want_or_from_a_stale_state_is_objected_to() {
    let original = past(1);
    let at = place(&original, |line| matches!(line, Line::Acted(a) if matches!(a.action, Action::Follow { .. })));
    let changed = |change: &dyn Fn(&mut pgvigil_core::trace::Acted)| {
        let mut lines = original.clone();
        if let Line::Acted(acted) = &mut lines[at] {
            change(acted);
        }
        lines
    };
    let sealed = changed(&|acted| acted.action = Action::Seal { epoch: Epoch(1) });
    objects("an act", &sealed, "but the core wants");
    let ahead = changed(&|acted| acted.revision = Revision(acted.revision.0 + 10_000));
    objects("a revision", &ahead, "never agreed (S5)");
    let mut back = original.clone();
    let Line::Acted(acted) = &original[at] else { panic!("an act") };
    let mut acted = acted.clone();
    acted.revision = Revision(acted.revision.0 - 1);
    back.insert(at + 1, Line::Acted(acted));
    objects("a stale state", &back, "after it knew");
}

#[test]
fn a_line_that_was_being_written_is_left_out_and_a_damaged_one_is_named() {
    let text = serde_json::to_string(&past(1)[1]).expect("JSON");
    let past = read("half", format!("{text}\n{}", &text[..text.len() / 2]).as_bytes()).expect("the whole line counts");
    assert_eq!(past.entries.len(), 1);
    let error = read("bad", format!("{text}\n{{}}\n{text}\n").as_bytes()).expect_err("no line").to_string();
    assert!(error.starts_with("bad:2: "), "{error}");
}
