//! One real server: start, adoption, its end noticed, killing, the canary, the door, drift.

mod common;

use common::{LIMIT, Node, ROLE, until};
use nix::{sys::signal::Signal, unistd::Pid};
use pgvigil_postgres::{
    Beat, Canary, CanaryError, Postmaster, StartAs, StopMode, SyncRule, canary, drift,
    hba::Door,
    kill::{kill_all, processes},
    link::fresh_value,
    process::Exit,
};
use std::time::{Duration, Instant};

pg_test!(
    /// The postmaster outlives handles, is adopted, and its end is noticed at once; nothing survives a kill.
    a_server_is_started_adopted_and_killed,
    async {
        let root = tempfile::tempdir().unwrap();
        let mut node = Node::primary(root.path(), "a").await;
        let first = node.postmaster.take().unwrap();
        let adopted = node.instance.adopt().unwrap().unwrap();
        assert_eq!((adopted.pid(), adopted.start_ticks()), (first.pid(), first.start_ticks()));
        let spawned = Postmaster::spawn(&node.instance.binaries, &node.instance.layout, &Default::default());
        assert!(spawned.is_err(), "a second server in the same directory");

        // Its end is noticed within milliseconds, through both handles.
        let noticed = tokio::spawn(async move { (adopted.exited().await.unwrap(), Instant::now()) });
        let killed = Instant::now();
        first.signal(Signal::SIGKILL).unwrap();
        let exit = first.exited().await.unwrap();
        let (other, at) = noticed.await.unwrap();
        assert!(exit == Exit::Signal(9) || other == Exit::Signal(9), "{exit:?} {other:?}");
        let took = at.duration_since(killed);
        eprintln!("noticed after {took:?}");
        assert!(took < Duration::from_secs(1));

        // Its children may still be there; afterwards they are not, although they are orphans.
        let done = kill_all(&node.instance.layout.data_dir, None, LIMIT).unwrap();
        eprintln!("{} left-overs killed in {:?}", done.pids.len(), done.took);
        assert!(processes(&node.instance.layout.data_dir, None).unwrap().is_empty());
        assert!(node.instance.adopt().unwrap().is_none());

        // It comes back with its data.
        node.start(StartAs::Primary).await;
        assert_eq!(node.sql("SELECT pg_is_in_recovery()").await, "f");
        let exit = node.instance.stop(StopMode::Fast, LIMIT).await.unwrap();
        assert!(exit.is_some());
        assert!(node.instance.control_file().await.unwrap().state.is_clean());
    }
);

pg_test!(
    /// Its postmaster looks for its files once a minute only: until then whoever is connected is served on.
    a_server_whose_directory_was_removed_is_seen_and_killed,
    async {
        let root = tempfile::tempdir().unwrap();
        let node = Node::primary(root.path(), "a").await;
        let link = node.link().await;
        let data_dir = &node.instance.layout.data_dir;
        std::fs::remove_dir_all(data_dir).unwrap();
        assert_eq!(link.value("test", "SELECT 7", LIMIT).await.unwrap(), "7", "it serves on");
        assert!(!processes(data_dir, None).unwrap().is_empty());
        assert!(!kill_all(data_dir, None, LIMIT).unwrap().pids.is_empty());
        assert!(link.value("test", "SELECT 7", LIMIT).await.is_err());
        assert!(processes(data_dir, None).unwrap().is_empty());
    }
);

pg_test!(
    /// A prepared statement that fails is asked again as it is, not prepared a second time: that would fail for ever.
    a_statement_that_failed_once_is_asked_again_in_its_session,
    async {
        let root = tempfile::tempdir().unwrap();
        let node = Node::primary(root.path(), "a").await;
        let link = node.link().await;
        let sql = "SELECT 1 / (random() - 2 > 0)::int";
        for _ in 0..2 {
            let failed = link.value_again("test", "again", sql, LIMIT).await.unwrap_err();
            assert_eq!(failed.sqlstate(), Some("22012"), "{failed}");
        }
        let session = node.link().await;
        for _ in 0..2 {
            assert_eq!(session.value_again("test", "again", "SELECT 7", LIMIT).await.unwrap(), "7");
        }
    }
);

pg_test!(
    /// What a loss of power leaves of lock files keeps no server down, and no server from being seen.
    a_server_starts_over_lock_files_that_nobody_holds,
    async {
        let root = tempfile::tempdir().unwrap();
        let mut node = Node::primary(root.path(), "a").await;
        let pid_file = node.instance.layout.data_dir.join("postmaster.pid");
        let endpoint = node.instance.endpoint.clone();
        let lock = endpoint.socket_dir.join(format!(".s.PGSQL.{}.lock", endpoint.port));
        let bytes: [&[u8]; 5] = [b"", b"12345\n", &[0; 40], b"\xff\xfe\n", b"1\n/somewhere/else\n1700000000\n"];
        for text in bytes {
            node.instance.kill().await.unwrap();
            std::fs::write(&pid_file, text).unwrap();
            std::fs::write(&lock, text).unwrap();
            let long_ago = std::time::SystemTime::now() - Duration::from_secs(60);
            std::fs::File::options().write(true).open(&lock).unwrap().set_modified(long_ago).unwrap();
            assert!(node.instance.adopt().unwrap().is_none(), "{text:?}");
            // Another leftover, of a recovery to a point in time.
            std::fs::write(node.instance.layout.recovery_signal(), "").unwrap();
            node.start(StartAs::Primary).await;
            assert_eq!(node.sql("SELECT 1").await, "1");
        }
        // A living server is found whatever has become of its file.
        let pid = node.postmaster.as_ref().unwrap().pid();
        for text in bytes {
            std::fs::write(&pid_file, text).unwrap();
            assert_eq!(node.instance.adopt().unwrap().map(|found| found.pid()), Some(pid), "{text:?}");
        }
        std::fs::remove_file(&pid_file).unwrap();
        assert_eq!(node.instance.adopt().unwrap().map(|found| found.pid()), Some(pid));
    }
);

pg_test!(
    /// A stopped (frozen) server with busy backends dies as well, and a server started by anybody is a standby.
    a_frozen_server_is_killed,
    async {
        let root = tempfile::tempdir().unwrap();
        let mut node = Node::primary(root.path(), "a").await;
        let busy = node.link().await;
        let work = tokio::spawn(async move { busy.execute("test", "SELECT pg_sleep(600)", Duration::from_secs(600)).await });
        until("the backend", async || node.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sleep(600%'").await != "0").await;
        let all = processes(&node.instance.layout.data_dir, None).unwrap();
        assert!(all.len() > 5, "{all:?}");
        for pid in &all {
            nix::sys::signal::kill(Pid::from_raw(*pid), Signal::SIGSTOP).unwrap();
        }
        let killed = node.instance.fence().await.unwrap();
        eprintln!("{} frozen processes killed in {:?}", killed.pids.len(), killed.took);
        assert!(all.iter().all(|pid| killed.pids.contains(pid)));
        assert!(work.await.unwrap().is_err());
        assert!(processes(&node.instance.layout.data_dir, None).unwrap().is_empty());
        node.start(StartAs::Standby).await;
        assert_eq!(node.sql("SELECT pg_is_in_recovery()").await, "t");
    }
);

pg_test!(
    /// The canary hangs without its standbys, and a cancelled wait is no success.
    the_canary_tells_the_truth,
    async {
        let root = tempfile::tempdir().unwrap();
        let mut node = Node::primary(root.path(), "a").await;
        node.config.settings.rule = SyncRule::Nobody;
        node.apply_config().await;
        let mut canary = Canary::new(node.instance.endpoint.clone(), "a");
        let Beat::Pending { began_ms } = canary.beat(Duration::from_millis(300)).await.unwrap() else {
            panic!("a commit that nobody confirmed")
        };
        assert!(began_ms <= pgvigil_postgres::boottime_ms());
        until("the waiter", async || node.link().await.sample(LIMIT).await.unwrap().commit_waiters.len() == 1).await;
        let waiters = Vec::from_iter(node.link().await.sample(LIMIT).await.unwrap().commit_waiters);
        assert!(waiters.len() == 1 && waiters[0].began_us > 0, "{waiters:?}");
        assert_eq!(node.link().await.count_alive(&[waiters[0].pid, i32::MAX], LIMIT).await.unwrap(), 1);
        assert_eq!(canary.beat(Duration::ZERO).await.unwrap(), Beat::Pending { began_ms });
        // Cancelling the wait commits locally with a warning.
        let pid = node.sql("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'").await;
        node.sql(&format!("SELECT pg_cancel_backend({pid})")).await;
        match canary.beat(LIMIT).await {
            Err(CanaryError::Warning { code, .. }) => assert_eq!(code, "01000"),
            other => panic!("{other:?}"),
        }
        // The marker never waits.
        let before: pgvigil_core::lsn::Lsn = node.sql("SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
        assert!(canary::marker(&node.instance.endpoint, LIMIT).await.unwrap() > before);
        let sample = node.link().await.sample(LIMIT).await.unwrap();
        assert_eq!(sample.timeline.map(|t| t.0), Some(1));
        assert_eq!(sample.sync_names, "ANY 1 (\"pgvigil_nobody\")");
        let slow = node.link().await.slow_sample(LIMIT).await.unwrap();
        assert_eq!(slow.system_identifier, node.instance.control_file().await.unwrap().system_identifier);
    }
);

pg_test!(
    /// The closed door lets in nobody but the agent and the replication role; clients are ended.
    the_door_opens_and_closes,
    async {
        let root = tempfile::tempdir().unwrap();
        let mut node = Node::primary(root.path(), "a").await;
        node.sql("CREATE ROLE joe LOGIN").await;
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(node.instance.endpoint.port).user("joe").dbname("postgres");
        let denied = config.connect(tokio_postgres::NoTls).await;
        assert!(denied.is_err_and(|e| e.code().is_some_and(|c| c.code() == "28000")));
        node.config.user_hba = vec!["host all joe 127.0.0.1/32 trust".into()];
        node.config.door = Door::Open;
        node.apply_config().await;
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        let driver = tokio::spawn(connection);
        client.simple_query("SELECT 1").await.unwrap();
        // The replication role has no way in without its password, whatever the user's lines say.
        node.config.user_hba.push("host all,replication all 0.0.0.0/0 trust".into());
        node.apply_config().await;
        config.user(ROLE);
        assert!(config.connect(tokio_postgres::NoTls).await.is_err());
        node.config.door = Door::Closed;
        node.apply_config().await;
        let link = node.link().await;
        assert_eq!(link.terminate_clients(&[], LIMIT).await.unwrap(), 1);
        assert!(tokio::time::timeout(LIMIT, driver).await.unwrap().unwrap().is_err());
        link.sample(LIMIT).await.unwrap();
    }
);

pg_test!(
    /// ALTER SYSTEM and role settings are seen, and ours come back.
    drift_is_detected_and_removed,
    async {
        let root = tempfile::tempdir().unwrap();
        let node = Node::primary(root.path(), "a").await;
        node.sql("ALTER SYSTEM SET synchronous_standby_names = ''").await;
        node.sql("ALTER SYSTEM SET work_mem = '5MB'").await;
        node.sql("ALTER ROLE boss IN DATABASE template1 SET synchronous_commit = off").await;
        node.sql("SELECT pg_reload_conf()").await;
        until("the hand-made value", async || node.link().await.sample(LIMIT).await.unwrap().sync_names.is_empty()).await;
        let found = drift::find(&node.instance.layout).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].value.as_str()), ("synchronous_standby_names", ""));
        let overrides = node.link().await.sample(LIMIT).await.unwrap().commit_overrides;
        assert_eq!(overrides.len(), 1);
        assert_eq!((overrides[0].value.as_str(), overrides[0].role.as_deref()), ("off", Some("boss")));
        node.apply_config().await;
        assert!(drift::find(&node.instance.layout).unwrap().is_empty());
        assert_eq!(fresh_value(&node.instance.endpoint, "work_mem", LIMIT).await.unwrap(), "5MB");
    }
);
