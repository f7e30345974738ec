use super::*;

const WATCHED: [&str; 5] =
    ["synchronous_standby_names", "synchronous_commit", "primary_conninfo", "fsync", "full_page_writes"];

fn sample(in_recovery: bool, changes: &[(&str, &str)]) -> Sample {
    let mut watched: BTreeMap<&str, &str> = WATCHED.into_iter().map(|name| (name, "as set")).collect();
    watched.extend(changes.iter().copied());
    serde_json::from_value(serde_json::json!({
        "in_recovery": in_recovery, "timeline": 1, "insert_lsn": null, "flush_lsn": null, "receive_lsn": null,
        "replay_lsn": null, "replay_paused": false, "receiver": null, "walsenders": [], "sync_names": "",
        "sync_commit": "on", "has_upstream": false, "commit_waiters": [], "watched": watched, "config_file": "/x",
        "loaded_us": 1, "canary_lock": null, "writers": 0, "next_xid": null, "archives_by_time": false,
    }))
    .unwrap()
}

fn expected(seen: bool) -> Expected {
    let shown = WATCHED.into_iter().map(|name| (name.to_owned(), "as set".to_owned())).collect();
    Expected { shown, since: Time(10_000), seen }
}

#[test]
fn a_look_is_held_against_what_was_put_in_force_before_it_began() {
    let other = sample(false, &[("synchronous_standby_names", ""), ("fsync", "off")]);
    let none = BTreeMap::new();
    let at = |seen: bool, ms: u64| astray(&expected(seen), &none, &other, Time(ms));
    assert_eq!(at(true, 10_000), ["fsync", "synchronous_standby_names"]);
    assert!(at(true, 9_999).is_empty(), "it may show what was before");
    assert!(at(false, 10_999).is_empty(), "a reload that nobody waited for is under way");
    assert_eq!(at(false, 11_000), ["fsync", "synchronous_standby_names"]);
    assert!(astray(&expected(true), &none, &sample(false, &[]), Time(20_000)).is_empty());
}

#[test]
fn a_standby_answers_for_its_upstream_and_a_session_for_itself() {
    let changes = [("synchronous_standby_names", ""), ("synchronous_commit", "off"), ("primary_conninfo", "")];
    let none = BTreeMap::new();
    assert_eq!(astray(&expected(true), &none, &sample(true, &changes), Time(20_000)), ["primary_conninfo"]);
    let of_session = BTreeMap::from([("synchronous_commit".to_owned(), "off".to_owned())]);
    let primary = sample(false, &changes[1..2]);
    assert!(astray(&expected(true), &of_session, &primary, Time(20_000)).is_empty(), "set for the agent's own role");
}
