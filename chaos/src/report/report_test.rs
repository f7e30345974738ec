//! A report of one good run, one bad one and one left out, in every form.

use super::*;
use crate::check::{Counts, Findings, Kind};
use crate::history::{History, Outcome};

fn good() -> RunRecord {
    let phase = |name: &str, at_ms| IncidentPhase { name: name.to_owned(), at_ms, after_ms: at_ms - 1_005_000 };
    RunRecord {
        scenario: "kill-postmaster".to_owned(),
        number: Some(1),
        story: "The primary's postmaster is killed under load.".to_owned(),
        seed: 7,
        began_at_ms: 1_000_000,
        length_us: 20_000_000,
        members: vec!["pg1".to_owned(), "pg2".to_owned()],
        faults: vec![FaultSpan {
            kind: "kill".to_owned(),
            target: "pg1".to_owned(),
            from_us: 5_000_000,
            until_us: None,
            may_move: true,
        }],
        epochs: vec![
            EpochSpan { epoch: 1, from_us: 0, primary: "pg1".to_owned() },
            EpochSpan { epoch: 2, from_us: 5_100_000, primary: "pg2".to_owned() },
        ],
        roles: vec![RoleSpan {
            member: "pg1".to_owned(),
            from_us: 0,
            until_us: Some(5_000_000),
            role: SpanRole::Primary,
        }],
        rates: vec![Rate { second: 4, ok: 90, fail: 0, unknown: 1 }],
        gaps: vec![GapRecord { fault: Some(0), client: None, from_us: 5_000_000, until_us: Some(5_250_000) }],
        incidents: vec![IncidentRecord {
            number: 2,
            phases: vec![
                phase("begun", 1_005_050),
                phase("appointed", 1_005_100),
                phase("promoted", 1_005_180),
                phase("opened", 1_005_200),
            ],
            ..IncidentRecord::default()
        }],
        bar: Some(Bar { median_ms: 300.0, max_ms: 1000.0 }),
        repeat: "pgvigil-chaos run kill-postmaster --seed 7".to_owned(),
        ..RunRecord::default()
    }
}

fn bad() -> RunRecord {
    let mut findings = Findings::default();
    findings.add(Kind::Lost, "row 5 <gone> & \"lost\"");
    let verdict = findings.into_verdict(Counts::default());
    RunRecord { scenario: "power-off".to_owned(), verdict, repeat: "again".to_owned(), ..good() }
}

fn skipped() -> RunRecord {
    RunRecord { scenario: "rewire".to_owned(), skipped: Some("no namespaces".to_owned()), ..RunRecord::default() }
}

fn report(runs: Vec<RunRecord>) -> Report {
    Report { title: "chaos".to_owned(), began_at_ms: 0, about: vec!["a machine".to_owned()], runs }
}

#[test]
fn runs_and_bars_decide() {
    assert!(report(vec![good(), skipped()]).is_good());
    assert!(!report(vec![good(), bad()]).is_good(), "something was lost");
    assert!(!report(vec![skipped()]).is_good(), "nothing was run");
    let mut slow = good();
    slow.gaps[0].until_us = Some(6_100_000);
    assert!(!report(vec![slow.clone()]).is_good(), "longer than the bar");
    slow.bar = None;
    assert!(report(vec![slow.clone()]).is_good(), "within five minutes");
    slow.gaps[0].until_us = None;
    assert!(!report(vec![slow]).is_good(), "writes never resumed");
    let failed = RunRecord { failures: vec!["it did not move".to_owned()], ..good() };
    assert!(!report(vec![failed]).is_good());
}

#[test]
fn the_time_of_a_gap_is_divided_among_its_phases() {
    let run = good();
    assert_eq!(phases(&run, &run.gaps[0]), Some([50.0, 50.0, 80.0, 20.0, 50.0]));
    let elsewhere = GapRecord { from_us: 10_000_000, until_us: Some(10_100_000), ..run.gaps[0].clone() };
    assert_eq!(phases(&run, &elsewhere), None, "no change of primary in it");
}

#[test]
fn the_table_says_what_failed_and_how_to_repeat_it() {
    let table = report(vec![good(), bad(), skipped()]).table();
    for words in [
        "kill-postmaster",
        "250",
        "300/1000",
        "row 5",
        "again: again",
        "not run: rewire: no namespaces",
        "kill 2",
        "NOT all good",
    ] {
        assert!(table.contains(words), "{words:?} in\n{table}");
    }
    assert!(report(vec![good()]).table().ends_with("all good\n"));
}

#[test]
fn junit_counts_failures_and_escapes() {
    let xml = report(vec![good(), bad(), skipped()]).junit();
    assert!(xml.contains("tests=\"3\" failures=\"1\" skipped=\"1\""), "{xml}");
    assert!(xml.contains("lost: row 5 &lt;gone&gt; &amp; &quot;lost&quot;"), "{xml}");
}

#[test]
fn the_page_needs_nothing_beside_it() {
    let page = report(vec![good(), bad(), skipped()]).html();
    for outside in ["http://", "https://", "<script", "<link", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("row 5 &lt;gone&gt;"));
    assert_eq!(page.matches("<details").count(), 3);
    assert_eq!(page.matches("aria-label=\"timeline").count(), 2);
}

#[test]
fn a_report_survives_json() {
    let report = report(vec![good(), bad(), skipped()]);
    let text = serde_json::to_string(&report).expect("is written");
    assert_eq!(serde_json::from_str::<Report>(&text).expect("is read"), report);
}

#[test]
fn every_second_of_a_run_has_its_rate() {
    let mut write = crate::history::Operation {
        client: 0,
        direct: false,
        began: 1_400_000,
        ended: 1_500_000,
        connected: 0,
        server: None,
        outcome: Outcome::Ok,
        why: None,
        work: crate::history::Work::Insert { seq: 1 },
    };
    let first = write.clone();
    write.outcome = Outcome::Unknown;
    let rates = rates(&History { operations: vec![first, write] }, 2_500_000);
    assert_eq!(rates.len(), 3);
    assert_eq!(rates[1], Rate { second: 1, ok: 1, fail: 0, unknown: 1 });
}
