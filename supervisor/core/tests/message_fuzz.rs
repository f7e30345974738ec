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
