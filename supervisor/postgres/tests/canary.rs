//! The canary and the marker on a real server: they need no table, and what they wait for is told.

mod common;

use common::{LIMIT, Node, until};
use pgvigil_postgres::{Beat, Canary, SyncRule, canary};
use std::time::Duration;

/// Commits wait for nobody.
async fn alone(node: &Node) {
    node.sql("ALTER SYSTEM SET synchronous_standby_names = ''").await;
    node.sql("SELECT pg_reload_conf()").await;
    until("no rule", async || node.link().await.sample(LIMIT).await.unwrap().sync_names.is_empty()).await;
}

pg_test!(
    /// What an earlier version kept may be locked or dropped, and DDL be forbidden: nothing waits for it.
    nobody_can_lock_or_drop_what_the_canary_needs,
    async {
        let root = tempfile::tempdir().unwrap();
        let node = Node::primary(root.path(), "a").await;
        alone(&node).await;
        node.sql("CREATE SCHEMA pgvigil; CREATE TABLE pgvigil.canary (key text PRIMARY KEY, beat bigint, at timestamptz)").await;
        node.sql(
            "CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no DDL'; END $$; \
             CREATE EVENT TRIGGER no ON ddl_command_start EXECUTE FUNCTION no()",
        )
        .await;
        let holder = node.link().await;
        holder.execute("test", "BEGIN; LOCK TABLE pgvigil.canary", LIMIT).await.unwrap();
        let mut canary = Canary::new(node.instance.endpoint.clone(), "a'b");
        let mut beat = async || match canary.beat(LIMIT).await.unwrap() {
            Beat::Acknowledged { lsn, xid, .. } => (lsn, xid),
            other @ Beat::Pending { .. } => panic!("{other:?}"),
        };
        let first = beat().await;
        let second = beat().await;
        assert!(second.0 > first.0, "it writes");
        assert_eq!(second.1, first.1 + 1, "nobody else wrote");
        let sample = node.link().await.sample(LIMIT).await.unwrap();
        assert_eq!((sample.next_xid, sample.writers), (Some(second.1 + 1), 1), "whoever holds such a lock counts");
        assert!(canary::marker(&node.instance.endpoint, LIMIT).await.unwrap() > second.0);
        let third = beat().await;
        assert_eq!(third.1, second.1 + 2, "the marker wrote in between");
        // Somebody is in the middle of writing.
        let writer = node.link().await;
        writer.execute("test", "BEGIN; CREATE TEMP TABLE t (); SELECT pg_current_xact_id()", LIMIT).await.unwrap_err();
        writer.execute("test", "ROLLBACK; BEGIN; SELECT pg_current_xact_id()", LIMIT).await.unwrap();
        assert_eq!(node.link().await.sample(LIMIT).await.unwrap().writers, 2);
    }
);

pg_test!(
    /// A wait for a lock is told apart from a wait for standbys; what is left to lock is a catalog.
    a_canary_that_waits_for_a_lock_says_so,
    async {
        let root = tempfile::tempdir().unwrap();
        let mut node = Node::primary(root.path(), "a").await;
        alone(&node).await;
        let sampler = node.link().await;
        assert_eq!(sampler.sample(LIMIT).await.unwrap().canary_lock, None);
        let holder = node.link().await;
        let pid = holder.value("test", "SELECT pg_backend_pid()", LIMIT).await.unwrap();
        holder.execute("test", "BEGIN; LOCK TABLE pg_proc", LIMIT).await.unwrap();
        let mut canary = Canary::new(node.instance.endpoint.clone(), "a");
        let Beat::Pending { .. } = canary.beat(Duration::from_millis(100)).await.unwrap() else { panic!("not locked") };
        let mut told = None;
        until("the lock", async || {
            told = sampler.sample(LIMIT).await.unwrap().canary_lock;
            told.is_some()
        })
        .await;
        assert_eq!(told.unwrap(), format!("relation, held by process {pid}"));
        holder.execute("test", "ROLLBACK", LIMIT).await.unwrap();
        assert!(matches!(canary.beat(LIMIT).await.unwrap(), Beat::Acknowledged { .. }));
        // A wait for standbys is none.
        node.config.settings.rule = SyncRule::Nobody;
        node.apply_config().await;
        let Beat::Pending { .. } = canary.beat(Duration::from_millis(100)).await.unwrap() else { panic!("nobody confirms") };
        until("the waiter", async || sampler.sample(LIMIT).await.unwrap().commit_waiters.len() == 1).await;
        assert_eq!(sampler.sample(LIMIT).await.unwrap().canary_lock, None);
    }
);

pg_test!(
    /// Subscribers get nothing of it.
    logical_subscribers_do_not_see_the_canary,
    async {
        let root = tempfile::tempdir().unwrap();
        let mut node = Node::new(root.path(), "a");
        node.config.settings.wal_level = "logical".to_owned();
        node.found().await;
        alone(&node).await;
        node.sql("CREATE PUBLICATION p FOR ALL TABLES").await;
        node.sql("SELECT pg_create_logical_replication_slot('s', 'pgoutput')").await;
        let mut canary = Canary::new(node.instance.endpoint.clone(), "a");
        for _ in 0..3 {
            assert!(matches!(canary.beat(LIMIT).await.unwrap(), Beat::Acknowledged { .. }));
        }
        let changes = "SELECT count(*) FROM pg_logical_slot_get_binary_changes('s', NULL, NULL, \
                       'proto_version', '1', 'publication_names', 'p')";
        assert_eq!(node.sql(changes).await, "0");
        node.sql("CREATE TABLE t (a int)").await;
        node.sql("INSERT INTO t VALUES (1)").await;
        assert_ne!(node.sql(changes).await, "0");
    }
);
