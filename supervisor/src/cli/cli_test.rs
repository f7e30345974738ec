//! Arguments, formats and the judgement of what is done.

use super::{
    args::{Arguments, Connection},
    asks::Asked,
    client::Client,
    format,
    outcome::Failure,
    wait::Progress,
};
use crate::view::{IncidentDocument, PhaseDocument, StatusDocument};
use clap::{CommandFactory, Parser};

#[test]
fn the_arguments_are_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn giving_members_up_needs_the_recorded_word() {
    assert!(Arguments::try_parse_from(["pgvigil", "failover", "--give-up", "pg1"]).is_err());
    let given = ["pgvigil", "failover", "--give-up", "pg1,pg3", "--old-primary-is-off"];
    assert!(Arguments::try_parse_from(given).is_ok());
}

#[test]
fn an_address_that_is_none_is_bad_usage() {
    for connect in ["", "db1", "db1:", ":7400", "http://db1:7400", "db1:99999"] {
        let client = Client::new(&Connection { connect: connect.to_owned(), cluster: None });
        assert!(matches!(client, Err(Failure::Usage(_))), "{connect:?}");
    }
    let connection = Connection { connect: "db1:7400, [::1]:7400".to_owned(), cluster: None };
    assert!(Client::new(&connection).is_ok());
}

#[test]
fn numbers_are_shown_as_people_read_them() {
    let shown: Vec<String> = [7, 999, 1_240, 119_999, 200_000].into_iter().map(format::milliseconds).collect();
    assert_eq!(shown, ["7 ms", "999 ms", "1.24 s", "119.99 s", "3 min 20 s"]);
    let shown: Vec<String> = [0, 1023, 1024, 1024 * 1024 - 1, 5 << 30].into_iter().map(format::bytes).collect();
    assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "5.0 GiB"]);
    assert_eq!(format::date_time(1_700_000_000_123), "2023-11-14 22:13:20.123Z");
    assert_eq!(format::local_time(1_700_000_000_123), "22:13:20.123");
}

#[test]
fn tables_are_aligned_without_trailing_blanks() {
    let text = format::table(&["A", "LONGER"], &[vec!["wide cell".to_owned(), "x".to_owned()]]);
    assert_eq!(text, "A          LONGER\nwide cell  x\n");
}

fn incident(number: u64, request_revision: u64, to: &str, outcome: &str) -> IncidentDocument {
    let completed = PhaseDocument { name: "completed".to_owned(), ..Default::default() };
    IncidentDocument {
        number,
        outcome: outcome.to_owned(),
        from: "pg1".to_owned(),
        to: to.to_owned(),
        phases: if matches!(outcome, "moved" | "stayed") { vec![completed] } else { vec![] },
        request_revision,
        ..Default::default()
    }
}

fn status(primary: &str, incidents: Vec<IncidentDocument>) -> StatusDocument {
    StatusDocument { revision: 30, primary: primary.to_owned(), incidents, ..Default::default() }
}

/// Asked for as revision 20, to pg2.
fn judged(status: &StatusDocument) -> (&'static str, String) {
    match (Asked { revision: 20, what: "switchover", to: Some("pg2") }).judge(status) {
        Progress::Going => ("going", String::new()),
        Progress::Done(text) => ("done", text),
        Progress::Failed(text) => ("failed", text),
        Progress::Refused(text) => ("refused", text),
    }
}

#[test]
fn a_request_that_stands_or_is_on_its_way_goes_on() {
    let older = incident(4, 11, "pg2", "moved");
    let mut now = status("pg1", vec![older.clone()]);
    now.revision = 19;
    assert_eq!(judged(&now).0, "going", "not applied yet");
    now.revision = 21;
    now.request_revision = 20;
    assert_eq!(judged(&now).0, "going", "asked for, not begun");
    let begun = status("pg1", vec![older.clone(), incident(5, 20, "", "open")]);
    assert_eq!(judged(&begun).0, "going");
}

/// Trial T2.8: what is told is the request's own end, not that of the newest incident.
#[test]
fn a_switchover_is_done_only_when_whoever_was_named_is_the_primary() {
    let done = status("pg2", vec![incident(5, 20, "pg2", "moved")]);
    assert_eq!(judged(&done).0, "done");
    // Another one was appointed in its place.
    let mut instead = incident(5, 20, "pg3", "moved");
    instead.evidence = vec!["pg2 was asked for, but it lacks WAL".to_owned()];
    let (word, text) = judged(&status("pg3", vec![instead]));
    assert!(word == "failed" && text.contains("not pg2") && text.contains("lacks WAL"), "{text}");
    // Its rule was formed anew: it is the primary all the same.
    let renewed = status("pg2", vec![incident(5, 20, "pg2", "superseded"), incident(6, 0, "pg2", "stayed")]);
    assert_eq!(judged(&renewed).0, "done");
    let renewing = status("pg2", vec![incident(5, 20, "pg2", "superseded"), incident(6, 0, "pg2", "open")]);
    assert_eq!(judged(&renewing).0, "going");
    // It was, and somebody took over since.
    let lost = status("pg3", vec![incident(5, 20, "pg2", "moved"), incident(6, 0, "pg3", "moved")]);
    let (word, text) = judged(&lost);
    assert!(word == "failed" && text.contains("pg3 is the primary since incident 6"), "{text}");
    // Called off.
    let (word, text) = judged(&status("pg1", vec![incident(5, 20, "pg1", "stayed")]));
    assert!(word == "failed" && text.contains("called off"), "{text}");
}

/// Nothing was stopped for it: refused, with the reason that is on record for this request and no other.
#[test]
fn a_switchover_that_was_dropped_is_refused_with_its_own_reason() {
    let somebody_elses = incident(5, 23, "pg2", "moved");
    let mut now = status("pg1", vec![somebody_elses]);
    now.dropped_revision = 20;
    now.dropped_because = "pg2: it does not stream".to_owned();
    let (word, text) = judged(&now);
    assert!(word == "refused" && text.contains("does not stream"), "{text}");
    now.dropped_revision = 25;
    assert_eq!(judged(&now).0, "failed", "nobody knows any more");
}
