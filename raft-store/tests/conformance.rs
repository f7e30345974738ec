//! openraft's own suite for storage implementations, on a fresh store for each of its tests.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use pgvigil_raft_store::{LogStore, StateMachine, TypeConfig, open};
use tempfile::TempDir;

struct Fresh;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Fresh {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let (store, _) = open(directory.path(), 1, None).expect("an empty directory becomes a store");
        Ok((directory, store.log, store.state_machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openraft_accepts_the_store() {
    Suite::test_all(Fresh).await.expect("the suite passes");
}
