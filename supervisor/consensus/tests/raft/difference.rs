//! Goal: a node whose agreed state is not that of the others is found out, and said; no other is.
//!
//! Method: one follower is stopped, its applied state on disk is changed with a checksum that fits, and it is started again.

use crate::common::{Group, eventually, sees};
use rocksdb::{ColumnFamilyDescriptor, DB, Options};
use std::path::Path;

/// Changes the applied state in a closed store, as a damaged memory or disk could have before the checksum was made.
fn plant(store: &Path) {
    let families = ["default", "logs", "meta", "sm"].map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
    let db = DB::open_cf_descriptors(&Options::default(), store.join("db"), families).expect("it opens");
    let family = db.cf_handle("sm").expect("it exists");
    let stored = db.get_cf(family, "applied").expect("readable").expect("something was applied");
    let mut value: serde_json::Value = serde_json::from_slice(&stored[5..]).expect("JSON");
    let epoch = value.pointer_mut("/state/clusters/kept/epoch").expect("the cluster is there");
    *epoch = 7.into();
    let json = serde_json::to_vec(&value).expect("JSON");
    let checksum = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&[1]), b"sm/applied"), &json);
    let framed = [&[1], checksum.to_le_bytes().as_slice(), &json].concat();
    db.put_cf(family, "applied", framed).expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_another_state_is_found_out() {
    let mut group = Group::formed(3, |_| {}).await;
    group.agree("kept").await;
    for (_, node) in group.running() {
        sees(&node, "kept").await;
    }
    let leader = group.leader().await;
    let damaged = leader % 3 + 1;
    let third = 6 - leader - damaged;
    group.stop(damaged).await;
    for (id, node) in group.running() {
        assert_eq!(node.difference(), None, "nothing differs yet for node {id}");
    }
    plant(&group.nodes[&damaged].directory.path().join("raft"));
    group.start(damaged, None).await;
    group.agree("more").await;
    eventually("both sides of the difference say so", || {
        // Whoever leads by now talks to the damaged node, or is it.
        let differs = |id| group.node(id).difference();
        differs(damaged).is_some() && (differs(leader).is_some() || differs(third).is_some())
    })
    .await;
    let said = group.node(damaged).difference().expect("seen above");
    assert!(said.contains("another agreed state") && said.contains("new node id"), "{said}");
    let others = [leader, third].into_iter().filter_map(|id| group.node(id).difference());
    for said in others {
        assert!(said.contains(&format!("node {damaged} ")), "only the damaged node is named: {said}");
    }
}
