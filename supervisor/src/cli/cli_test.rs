//! Arguments, formats and the judgement of what is done.

use super::{
    args::{Arguments, Connection},
    asks::judge_change,
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

fn incident(number: u64, outcome: &str, complete: bool) -> IncidentDocument {
    let phases =
        if complete { vec![PhaseDocument { name: "completed".to_owned(), ..Default::default() }] } else { vec![] };
    IncidentDocument { number, outcome: outcome.to_owned(), to: "pg2".to_owned(), phases, ..Default::default() }
}

#[test]
fn a_switchover_is_done_when_the_new_reign_is_complete() {
    let mut status = StatusDocument { epoch: 4, revision: 20, request: "switchover".to_owned(), ..Default::default() };
    let judge = |status: &StatusDocument| judge_change(status, 4, 20, "switchover");
    assert!(matches!(judge(&status), Progress::Going), "asked for, not begun");
    status.incidents = vec![incident(4, "moved", true)];
    status.revision = 21;
    assert!(matches!(judge(&status), Progress::Going), "an older incident");
    status.request.clear();
    assert!(matches!(judge(&status), Progress::Refused(_)), "dropped");
    status.epoch = 5;
    status.incidents.push(incident(5, "open", false));
    assert!(matches!(judge(&status), Progress::Going));
    status.incidents[1] = incident(5, "superseded", false);
    status.incidents.push(incident(6, "moved", true));
    assert!(matches!(judge(&status), Progress::Done(text) if text.contains("pg2")), "overtaken, then done");
    status.incidents[2] = incident(6, "stayed", true);
    assert!(matches!(judge(&status), Progress::Failed(text) if text.contains("called off")));
}
