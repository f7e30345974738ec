//! Goal: no message that can be decoded makes the core panic, whatever it says: reports of agents, answers of leaders,
//! proposals, states; and what the core writes it reads back the same.
//!
//! Method: messages of a living cluster as JSON, in which proptest changes numbers, words and branches anywhere. What can
//! still be decoded is handed to `decide`, `reconcile` and `apply`. `PROPTEST_CASES=100000` asks for more by hand.

mod common;

use pgvigil_core::{
    Proposal, State, apply,
    cluster::ClusterState,
    decide, invariant,
    local::Local,
    observation::Observations,
    reconcile,
    report::{Answer, Report},
    time::Time,
};
use proptest::{collection::vec, prelude::*, sample::Index};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// What may stand anywhere in a message.
fn anything() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![Just(0_u64), Just(1), Just(2), Just(u64::MAX), Just(u64::MAX - 1), Just(1 << 32), any::<u64>()]
            .prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop_oneof![Just(String::new()), Just("a".to_owned()), Just("b".to_owned()), any::<String>()]
            .prop_map(Value::from),
        Just(Value::Array(Vec::new())),
    ]
}

/// Every place in a message, by its path.
fn places(value: &Value, path: String, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                places(inner, format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                places(inner, format!("{path}/{index}"), found);
            }
        }
        _ => {}
    }
    found.push(path);
}

fn changed(mut value: Value, edits: &[(Index, Value)]) -> Value {
    for (at, with) in edits {
        let mut found = Vec::new();
        places(&value, String::new(), &mut found);
        if let Some(place) = value.pointer_mut(at.get(found.as_slice()).as_str()) {
            *place = with.clone();
        }
    }
    value
}

/// A message as it may arrive: changed, and decodable all the same.
fn arrived<T: Serialize + DeserializeOwned>(message: &T, edits: &[(Index, Value)]) -> Option<T> {
    serde_json::from_value(changed(serde_json::to_value(message).expect("it has a JSON form"), edits)).ok()
}

fn same_again<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(message: &T) {
    let text = serde_json::to_string(message).expect("it has a JSON form");
    assert_eq!(&serde_json::from_str::<T>(&text).expect("it is read back"), message, "{text}");
}

/// A cluster some way into its life, and what is asked of it.
fn life(rolls: &[common::Roll]) -> (State, ClusterState) {
    let mut state = State::default();
    let mut dice = common::Dice(7);
    // Until there is a cluster with members and a primary, whatever the dice say.
    while state.clusters.values().all(|cluster| cluster.reigns.is_empty()) {
        common::step(&mut state, &dice.roll());
    }
    for roll in rolls {
        common::step(&mut state, roll);
    }
    let cluster = state.clusters.values().next().expect("created above").clone();
    (state, cluster)
}

fn report(cluster: &ClusterState, number: u8) -> Report {
    let member = cluster.members.get(&common::name(number));
    let value = serde_json::json!({
        "cluster": cluster.id, "spec": common::spec(number), "seq": 1,
        "incarnation": member.map(|member| member.incarnation), "revision": cluster.revision, "promised": cluster.epoch,
        "postgres": {"primary": {
            "epoch": cluster.epoch, "timeline": cluster.last_timeline, "flush_lsn": 500, "promotion": {"fork": 1, "end": 2},
            "system_identifier": 7, "door_open": true, "checkpoint_age_ms": 5, "setting_in_force": 1,
            "proof": {"version": 1, "marker": 600, "flushed": cluster.members.values().map(|m| m.key()).collect::<Vec<_>>()},
            "canary": {"ok_age_ms": 3, "waiting_ms": 0, "took_us": 9},
            "standbys": cluster.members.values().map(|m| serde_json::json!({
                "key": m.key(), "flush_lsn": 500, "flushed_record": 400, "streaming": true, "counted": true,
            })).collect::<Vec<_>>(),
            "weakened": ["x"], "right_ms": 1000, "shown_ago_ms": 3,
        }},
        "seal": member.map(|member| serde_json::json!({
            "seal": {"epoch": cluster.epoch, "key": member.key(), "position": {"epoch": 1, "lsn": 500}, "kind": "sealed"},
            "quiet_ms": 5, "can_stream": true,
        })),
        "fenced": cluster.epoch, "starved_ms": 0, "guard_armed": true,
        "probe": {"member": "m0", "answered": false, "age_ms": 4, "detail": "x"},
        "activity": null, "problems": [], "needs_new_incarnation": "lost", "restarted": 0, "was_member": true,
        "discarded_wal": {"epoch": 1, "timeline": 1, "from": 1, "to": 2, "kept_in": "x"},
        "unproven": [{"epoch": cluster.epoch, "id": 5, "cause": "rule-not-in-force", "detail": "x", "began_ago_ms": 9,
            "ended_ago_ms": 2}],
        "shown_to_leader": [cluster.epoch, 7], "echo": [{"node": 1, "since": 0, "at": 5}, 3],
    });
    serde_json::from_value(value).expect("a report as agents send it")
}

proptest! {
    #[test]
    fn reports_of_agents(
        rolls in vec(common::roll(), 0..40),
        edits in vec((any::<Index>(), anything()), 0..5),
        who in 0..4_u8,
        now in prop_oneof![Just(u64::MAX), any::<u64>(), 0..100_000_u64],
    ) {
        let (_, cluster) = life(&rolls);
        let message = report(&cluster, who);
        same_again(&message);
        let mut seen = Observations { since: Time(now / 2), ..Observations::default() };
        for number in 0..4 {
            seen.receive(Some(&cluster), report(&cluster, number), Time(now));
        }
        if let Some(report) = arrived(&message, &edits) {
            seen.receive(Some(&cluster), report, Time(now));
        }
        seen.notice(&cluster, Time(now));
        let decision = decide::decide(&cluster, &seen, Time(now));
        if let Some(wanted) = &decision.command {
            seen.appointing(&wanted.command);
        }
        same_again(&seen);
    }

    #[test]
    fn answers_of_leaders(
        rolls in vec(common::roll(), 0..40),
        edits in vec((any::<Index>(), anything()), 0..4),
        local_edits in vec((any::<Index>(), anything()), 0..4),
        now in any::<u64>(),
    ) {
        let (state, cluster) = life(&rolls);
        same_again(&state);
        let answer = Answer { state: Some(Box::new(cluster.clone())), renewed: Some(1), refused: None, shown: None, primary_late: None, clock: None };
        same_again(&answer);
        let agreed = arrived(&answer, &edits).and_then(|answer| answer.state).map_or(cluster.clone(), |state| *state);
        let local = serde_json::json!({
            "me": "m0", "marker": {"cluster": "c", "member": "m0", "incarnation": 1},
            "promise": {"epoch": cluster.epoch, "sealed": null, "reigned": cluster.epoch, "promotion": null},
            "postgres": {"running": {"in_recovery": false, "timeline": 1, "flush_lsn": 5, "streaming": true, "wal_moved_at": 1}},
            "wal_end": [{"epoch": 1, "lsn": 5}, 1], "sealed": null, "fence_on_disk": false,
            "in_force": {"epoch": cluster.epoch, "version": 1, "door_open": true, "upstream": null},
            "right": {"renewed_sent_at": 1, "canary_began_at": 2}, "election_since": 1, "canary_waiting_ms": 0,
            "standbys_enough_since": 1, "proven": 1, "checkpointed_at": 1, "busy": false, "restart_due": null,
        });
        let local: Local = serde_json::from_value(local).expect("as an agent knows itself");
        same_again(&local);
        let local = arrived(&local, &local_edits).unwrap_or(local);
        let _no_panic = reconcile::reconcile(&agreed, &local, Time(now));
    }

    /// Whatever is proposed, `apply` answers, and what it agrees keeps the rules.
    #[test]
    fn proposals(rolls in vec(common::roll(), 1..40), edits in vec((any::<Index>(), anything()), 1..5), last in common::roll()) {
        let (mut state, cluster) = life(&rolls);
        let proposal: Proposal = common::proposal(&state, &last);
        same_again(&proposal);
        if let Some(changed) = arrived(&proposal, &edits) {
            let _outcome = apply(&mut state, &changed);
            for cluster in state.clusters.values() {
                prop_assert!(invariant::check(cluster).is_ok(), "{changed:?}: {:?}", invariant::check(cluster));
            }
        }
        prop_assert!(cluster.revision <= state.clusters[&cluster.id].revision);
    }

    #[test]
    fn rubbish(raw in vec(any::<u8>(), 0..300), text in "[\\[\\]{}\",:a-z0-9]{0,200}") {
        for bytes in [raw.as_slice(), text.as_bytes()] {
            prop_assert!(serde_json::from_slice::<Report>(bytes).is_err());
            prop_assert!(serde_json::from_slice::<Proposal>(bytes).is_err());
            prop_assert!(serde_json::from_slice::<State>(bytes).is_err());
        }
    }
}
