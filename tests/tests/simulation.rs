//! Goal: what the simulation shows of openraft is true of the program.
//! Method: the settings of both are compared, field by field.

use pgvigil_consensus::Options;
use pgvigil_core::id::NodeId;
use serde_json::Value;

/// What differs on purpose: the name of the group, and how soon a snapshot is made.
const ITS_OWN: [&str; 4] =
    ["cluster_name", "snapshot_policy", "replication_lag_threshold", "max_in_snapshot_log_to_keep"];

fn common(settings: Value) -> Vec<(String, Value)> {
    let Value::Object(fields) = settings else { panic!("{settings} is no object") };
    fields.into_iter().filter(|(name, _)| !ITS_OWN.contains(&name.as_str())).collect()
}

#[test]
fn the_simulated_openraft_has_the_settings_of_the_program() {
    let program = Options::new(NodeId(1), "localhost:1", "unused").raft_settings().unwrap();
    let simulated = serde_json::to_value(pgvigil_simulation::raft::settings(50)).unwrap();
    let program = common(program);
    assert!(program.len() > 20, "{program:?}");
    assert_eq!(program, common(simulated));
}
