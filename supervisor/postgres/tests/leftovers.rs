//! What a rewind or a backup leaves behind, and what cuts one short.

mod common;

use common::{LIMIT, Node, until};
use nix::{sys::signal::Signal, unistd::Pid};
use pgvigil_core::id::TimelineId;
use pgvigil_postgres::{
    Promoted, StartAs, StopMode, SyncRule,
    position::PositionError,
    procfs,
    rewind::{RewindError, RewindPlan, interrupted, rewind},
    seal::SealedServer,
    stopped::{self, StoppedError},
};

const LABEL: &str = "START WAL LOCATION: 0/1000028 (file 000000010000000000000001)\nCHECKPOINT LOCATION: 0/1000060\n\
    BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-29 13:00:00 UTC\nLABEL: yesterday\nSTART TIMELINE: 1\n";

fn rewind_plan(of: &Node, to: &Node, promoted: &Promoted) -> RewindPlan {
    let (source, config, fork, timeline) = (to.as_source(), of.config.clone(), promoted.fork, promoted.timeline);
    RewindPlan { source, fork, timeline, label: "i7".into(), config, limit: LIMIT }
}

fn checkpointer(node: &Node) -> Pid {
    let pids = procfs::children_by_parent(node.postmaster.as_ref().unwrap().pid()).unwrap();
    let is = |pid: &i32| procfs::title(*pid).unwrap().is_some_and(|title| title.contains("checkpointer"));
    Pid::from_raw(pids.into_iter().find(is).expect("a checkpointer"))
}

/// `a` has died with WAL that `b`, promoted since, has not; the checkpointer of `b` is frozen since before.
async fn diverged(root: &std::path::Path) -> (Node, Node, Promoted) {
    let a = Node::primary(root, "a").await;
    let mut b = Node::standby(root, "b", &a).await;
    // A rewind begins at this checkpoint, not at that of the backup: PostgreSQL would meet the backup's end there again.
    a.sql("CHECKPOINT").await;
    a.wait_caught_up(&b).await;
    b.seal().await;
    a.sql("CREATE TABLE lost AS SELECT g FROM generate_series(1, 1000) g").await;
    a.instance.fence().await.unwrap();
    b.config.settings.rule = SyncRule::Local;
    b.config.settings.upstream = None;
    b.apply_config().await;
    nix::sys::signal::kill(checkpointer(&b), Signal::SIGSTOP).unwrap();
    let link = b.link().await;
    b.instance.promote(b.postmaster.as_ref().unwrap()).unwrap();
    let promoted = b.instance.wait_promoted(&link, Some(TimelineId(2)), LIMIT).await.unwrap();
    b.instance.write_fence().unwrap();
    (a, b, promoted)
}

pg_test!(
    /// Before its source's first checkpoint on the new timeline, pg_rewind (up to 15) says that no rewind is required, and
    /// leaves the diverged WAL where it is.
    a_rewind_waits_for_the_checkpoint_of_its_source,
    async {
        let root = tempfile::tempdir().unwrap();
        let (mut a, b, promoted) = diverged(root.path()).await;
        a.follow(&b);
        let plan = rewind_plan(&a, &b, &promoted);
        let (told, mut waits) = tokio::sync::mpsc::unbounded_channel();
        let mut on_line = |line: &str| {
            if line.contains("waiting for the source's checkpoint on timeline 2") {
                told.send(()).unwrap();
            }
        };
        let thawing = async {
            waits.recv().await.unwrap();
            assert!(interrupted(&a.instance.layout).unwrap().is_none(), "nothing has begun");
            nix::sys::signal::kill(checkpointer(&b), Signal::SIGCONT).unwrap();
        };
        let (done, ()) = tokio::join!(rewind(&a.instance, &plan, &mut on_line), thawing);
        assert!(done.unwrap().kept.is_some());

        // Its label has no START TIMELINE; where its WAL ends is read nevertheless.
        let (control, found) = stopped::read(&a.instance).await.unwrap();
        assert!(found.end() <= control.min_recovery_point || found.needs.is_none(), "{found:?}");
        a.start(StartAs::Standby).await;
        a.wait_streaming().await;
        assert_eq!(a.sql("SELECT to_regclass('lost') IS NULL").await, "t");
    }
);

pg_test!(
    /// Promoted by hand and ended at once (case 16): its control file still tells of the timeline before, which is the
    /// source's, so that pg_rewind (up to 15) would find nothing to do for ever.
    a_server_that_ended_before_its_first_checkpoint_is_not_rewound,
    async {
        let root = tempfile::tempdir().unwrap();
        let (a, b, promoted) = diverged(root.path()).await;
        a.instance.fence().await.unwrap();
        let (config, fork, timeline) = (b.config.clone(), promoted.fork, TimelineId(1));
        let plan = RewindPlan { source: a.as_source(), fork, timeline, label: "i8".into(), config, limit: LIMIT };
        let refused = rewind(&b.instance, &plan, &mut |_| {}).await.map(|_| ());
        if b.instance.binaries.version().major < 16 {
            let Err(RewindError::BeforeCheckpoint { timeline, control }) = refused else { panic!("{refused:?}") };
            assert_eq!((timeline, control), (TimelineId(2), TimelineId(1)));
        }
        assert!(interrupted(&b.instance.layout).unwrap().is_none(), "nothing has begun");
    }
);

pg_test!(
    /// A rewound directory whose first recovery was cut: the label is taken up, and the WAL it needs has not come yet.
    a_first_recovery_that_was_cut_is_read_and_goes_on,
    async {
        let root = tempfile::tempdir().unwrap();
        let (mut a, b, promoted) = diverged(root.path()).await;
        nix::sys::signal::kill(checkpointer(&b), Signal::SIGCONT).unwrap();
        b.sql("CREATE TABLE kept AS SELECT g FROM generate_series(1, 1000) g").await;
        let plan = rewind_plan(&a, &b, &promoted);
        rewind(&a.instance, &plan, &mut |_| {}).await.unwrap();
        // What the source wrote last is not here, as if it had been written while pg_rewind was at work.
        let pg_wal = a.instance.layout.pg_wal();
        for entry in std::fs::read_dir(&pg_wal).unwrap().flatten() {
            if entry.file_name().to_str().is_some_and(|name| name.len() == 24 && name.starts_with("00000002")) {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        let (control, before) = stopped::read(&a.instance).await.unwrap();
        assert_eq!(before.needs, Some((TimelineId(2), control.min_recovery_point)));
        // It starts, finds too little, is left to itself as soon as its primary is another one, and sealed for that.
        let label = a.instance.layout.data_dir.join("backup_label");
        let taken = until("the label is taken up", async || !label.exists());
        let started = a.instance.start_until(StartAs::Standby, &Default::default(), LIMIT, taken).await.unwrap();
        assert_eq!(started.1, None, "it cannot be ready");
        let sealed = a.seal().await;
        assert!(matches!(sealed.server, SealedServer::Stopped(_)), "{sealed:?}");
        drop(started);
        let (control, cut) = stopped::read(&a.instance).await.unwrap();
        assert!(control.copy_unrecovered, "{control:?}");
        assert_eq!((cut.end(), cut.needs), (before.end(), before.needs));
        a.follow(&b);
        a.write_config();
        a.start(StartAs::Standby).await;
        a.wait_streaming().await;
        b.wait_caught_up(&a).await;
        let (control, _) = (a.instance.control_file().await.unwrap(), ());
        assert!(!control.copy_unrecovered);
    }
);

pg_test!(
    /// A label of yesterday's backup, whose WAL is recycled since. Moved aside where the control file proves that it is a
    /// leftover; else named: it may as well be a backup that somebody has just restored.
    a_label_whose_wal_is_gone_is_named_or_moved_aside,
    async {
        let root = tempfile::tempdir().unwrap();
        let a = Node::primary(root.path(), "a").await;
        let mut b = Node::standby(root.path(), "b", &a).await;
        a.sql("CREATE TABLE t AS SELECT 1 AS x").await;
        a.wait_caught_up(&b).await;
        b.instance.stop(StopMode::Fast, LIMIT).await.unwrap();
        let (_, whole) = stopped::read(&b.instance).await.unwrap();
        let data = b.instance.layout.data_dir.clone();
        let first = b.instance.layout.pg_wal().join("000000010000000000000001");
        let _may_be_gone_already = std::fs::remove_file(first);
        std::fs::write(data.join("backup_label"), LABEL).unwrap();
        std::fs::write(data.join("tablespace_map"), "").unwrap();
        let (_, found) = stopped::read(&b.instance).await.unwrap();
        assert_eq!(found.end(), whole.end());
        for name in ["backup_label", "tablespace_map"] {
            assert!(!data.join(name).exists() && data.join(format!("{name}.stale")).exists(), "{name}");
        }
        b.start(StartAs::Standby).await;
        b.wait_streaming().await;

        b.instance.kill().await.unwrap();
        std::fs::write(data.join("backup_label"), LABEL).unwrap();
        let error = stopped::read(&b.instance).await.unwrap_err();
        let StoppedError::Position(error @ PositionError::LabelWithoutWal { .. }) = error else { panic!("{error}") };
        let text = error.to_string();
        assert!(text.contains("backup_label (streamed, 2026-11-29") && text.contains("remove it"), "{text}");
        assert!(error.lacks_wal() && data.join("backup_label").exists());
    }
);
