//! Goal: a store that was damaged, cut, swapped or written by a newer program is refused, with the reason.
//!
//! Method: one store with a bit of everything is made, closed, tampered with and opened again.

mod common;

use common::{Model, Step, append, copy, entry, fat_entry, perform, reopen, write_ahead_logs};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use pgvigil_raft_store::{PeerError, StoreError, TypeConfig, open};
use rocksdb::{ColumnFamilyDescriptor, DB, IteratorMode, Options};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const FAMILIES: [&str; 4] = ["default", "logs", "meta", "sm"];

/// A closed store with votes, entries, marks, state, snapshot and a peer.
async fn sample() -> (TempDir, PathBuf, Model) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("raft");
    let (mut store, closed) = open(&path, 1, None).expect("an empty directory becomes a store");
    for step in [
        Step::Vote(1),
        Step::Append { term: 1, from: 0, to: 9 },
        Step::Commit(8),
        Step::Apply(6),
        Step::Snapshot,
        Step::Purge(3),
        Step::Vote(2),
    ] {
        perform(&mut store, step).await;
    }
    store.handle.peers.meet(2, 77).await.expect("a new peer is remembered");
    let model = Model::of(&mut store).await;
    drop(store);
    closed.wait().await;
    (directory, path, model)
}

/// Changes the closed store through RocksDB itself, and moves the durable mark out of the way of what is tested.
fn tamper(path: &Path, change: impl FnOnce(&DB)) {
    let families = FAMILIES.map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
    let db = DB::open_cf_descriptors(&Options::default(), path.join("db"), families).expect("RocksDB opens it");
    change(&db);
}

fn refused(path: &Path) -> StoreError {
    match open(path, 1, None) {
        Err(error) => error,
        Ok(_) => panic!("the store must be refused"),
    }
}

#[tokio::test]
async fn a_flipped_bit_in_any_value_is_refused_by_name() {
    let (_keep, path, _) = sample().await;
    let mut rows = Vec::new();
    tamper(&path, |db| {
        for family in FAMILIES {
            let handle = db.cf_handle(family).expect("it exists");
            for row in db.iterator_cf(handle, IteratorMode::Start) {
                let (key, value) = row.expect("readable");
                rows.push((family, key, value));
            }
        }
    });
    assert!(rows.len() > 12, "identity, vote, marks, peer, entries, state, snapshot: {}", rows.len());
    for (family, key, value) in rows {
        for byte in [0, value.len() / 2, value.len() - 1] {
            let mut bad = value.to_vec();
            bad[byte] ^= 0x10;
            tamper(&path, |db| db.put_cf(db.cf_handle(family).expect("it exists"), &key, &bad).expect("written"));
            let error = refused(&path);
            assert!(matches!(error, StoreError::Damaged { .. }), "{family} {key:?}: {error}");
        }
        tamper(&path, |db| db.put_cf(db.cf_handle(family).expect("it exists"), &key, &value).expect("written"));
    }
    reopen(&path);
}

#[tokio::test]
async fn a_log_that_lost_entries_is_refused() {
    // The last, one in the middle, the first, all of them.
    for lost in [9..10, 6..7, 4..5, 0..10] {
        let (_keep, path, _) = sample().await;
        tamper(&path, |db| {
            for index in lost.clone() {
                db.delete_cf(db.cf_handle("logs").expect("it exists"), u64::to_be_bytes(index)).expect("deleted");
            }
        });
        let error = refused(&path);
        assert!(matches!(error, StoreError::Incomplete { .. }), "{lost:?}: {error}");
        assert!(error.to_string().contains("new node id"), "it says what to do: {error}");
    }
}

#[tokio::test]
async fn a_lost_mark_state_or_identity_is_refused() {
    for (family, key) in
        [("meta", "tail"), ("meta", "identity"), ("meta", "purged"), ("sm", "applied"), ("sm", "snapshot-data")]
    {
        let (_keep, path, _) = sample().await;
        tamper(&path, |db| db.delete_cf(db.cf_handle(family).expect("it exists"), key).expect("deleted"));
        let error = refused(&path);
        assert!(matches!(error, StoreError::Incomplete { .. }), "{key}: {error}");
    }
}

#[tokio::test]
async fn a_newer_format_is_refused_with_both_versions() {
    let (_keep, path, _) = sample().await;
    let json = br#"{"format":99,"node":1,"store":5}"#;
    let checksum = crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&[1]), b"meta/identity"), json);
    let framed = [&[1], checksum.to_le_bytes().as_slice(), json].concat();
    tamper(&path, |db| db.put_cf(db.cf_handle("meta").expect("it exists"), "identity", &framed).expect("written"));
    let error = refused(&path);
    assert!(matches!(error, StoreError::NewerFormat { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("99") && error.to_string().contains("newer pgvigil"), "{error}");
}

#[tokio::test]
async fn a_write_ahead_log_cut_anywhere_is_refused() {
    let (keep, path, _) = sample().await;
    let log = write_ahead_logs(&path).pop().expect("there is one");
    let length = std::fs::metadata(&log).expect("it exists").len();
    assert!(length > 1000);
    for kept in (0..length).step_by(97) {
        let cut = keep.path().join("cut");
        copy(&path, &cut);
        let file = std::fs::OpenOptions::new().write(true).open(cut.join("db").join(log.file_name().expect("a name")));
        file.expect("it opens").set_len(kept).expect("it can be cut");
        let error = refused(&cut);
        let fits = matches!(error, StoreError::Incomplete { .. } | StoreError::Open { .. });
        assert!(fits, "{kept} of {length} bytes kept: {error}");
        std::fs::remove_dir_all(&cut).expect("deleted");
    }
}

#[tokio::test]
async fn a_flipped_bit_in_the_write_ahead_log_never_goes_unnoticed() {
    let (keep, path, model) = sample().await;
    let log = write_ahead_logs(&path).pop().expect("there is one");
    let bytes = std::fs::read(&log).expect("readable");
    for at in (0..bytes.len()).step_by(61) {
        let bad = keep.path().join("bad");
        copy(&path, &bad);
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x04;
        std::fs::write(bad.join("db").join(log.file_name().expect("a name")), flipped).expect("written");
        if let Ok((mut store, closed)) = open(&bad, 1, None) {
            assert_eq!(Model::of(&mut store).await, model, "byte {at}");
            drop(store);
            closed.wait().await;
        }
        std::fs::remove_dir_all(&bad).expect("deleted");
    }
}

/// A sector whose zeros reach to the end of the newest write-ahead log, as when the last pages never reached the disk.
fn zero_the_last_sector(path: &Path) {
    let log = write_ahead_logs(path).pop().expect("there is one");
    let mut bytes = std::fs::read(&log).expect("readable");
    let from = (bytes.len() - 1) / 512 * 512;
    bytes[from..].fill(0);
    std::fs::write(&log, bytes).expect("written");
}

#[tokio::test]
async fn a_tail_whose_pages_never_arrived_is_trimmed_unless_it_was_reported() {
    let (_keep, path, model) = sample().await;
    let mark = path.join("durable-mark");
    let before = std::fs::read(&mark).expect("readable");
    let (mut store, closed) = open(&path, 1, None).expect("the store opens");
    append(&mut store, vec![fat_entry(2, 10, 40_000)]).await;
    drop(store);
    closed.wait().await;
    zero_the_last_sector(&path);
    let error = refused(&path);
    assert!(matches!(error, StoreError::Incomplete { .. }), "it was reported: {error}");
    // As if power had gone before the flush: the mark is that of the change before.
    std::fs::write(&mark, &before).expect("written");
    for _ in 0..2 {
        let (mut store, closed) = open(&path, 1, None).expect("a torn tail is trimmed");
        assert_eq!(Model::of(&mut store).await, model);
        drop(store);
        closed.wait().await;
    }
}

#[tokio::test]
async fn the_durable_mark_must_be_there_and_readable() {
    let (_keep, path, _) = sample().await;
    let mark = path.join("durable-mark");
    let good = std::fs::read(&mark).expect("readable");
    std::fs::remove_file(&mark).expect("deleted");
    assert!(matches!(refused(&path), StoreError::Incomplete { .. }));
    std::fs::write(&mark, &good[1..]).expect("written");
    assert!(matches!(refused(&path), StoreError::Damaged { .. }));
    std::fs::write(&mark, &good).expect("written");
    reopen(&path);
}

#[tokio::test]
async fn an_unfinished_new_store_is_completed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (store, closed) = open(directory.path(), 1, None).expect("an empty directory becomes a store");
    drop(store);
    closed.wait().await;
    // As after a crash right before the mark: nothing was ever reported from this store.
    std::fs::remove_file(directory.path().join("durable-mark")).expect("deleted");
    reopen(directory.path());
}

#[tokio::test]
async fn a_hole_is_refused_and_ends_the_store() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut store = reopen(directory.path());
    append(&mut store, vec![entry(1, 0)]).await;
    let (tell, told) = TypeConfig::oneshot();
    let hole = store.log.append([entry(1, 5)], IOFlushed::<TypeConfig>::signal(tell)).await;
    assert!(hole.is_err());
    told.await.expect("called back all the same").expect_err("with the failure");
    let reason = store.handle.failure.borrow().clone().expect("the supervisor can see it");
    assert!(reason.contains("hole"), "{reason}");
    store.log.save_vote(&openraft::Vote::new(5, 1)).await.expect_err("nothing is written after a failure");
}

#[tokio::test]
async fn a_peer_that_changed_its_store_is_refused_after_a_restart_too() {
    let (_keep, path, _) = sample().await;
    let store = reopen(&path);
    store.handle.peers.meet(2, 77).await.expect("the same store");
    let error = store.handle.peers.meet(2, 78).await.expect_err("another store");
    assert!(matches!(error, PeerError::Replaced { node: 2, known: 77, found: 78 }), "{error}");
    store.handle.peers.meet(3, 1).await.expect("somebody new");
}
