//! Several real servers: cloning, the seal, a promotion with an allotted timeline, rewinding a diverged primary.

mod common;

use common::{LIMIT, Node, PASSWORD, ROLE, until};
use pgvigil_core::{
    id::{Epoch, TimelineId},
    lsn::Lsn,
};
use pgvigil_postgres::{
    Beat, Canary, SealLimits, SealedServer, StartAs, StopMode, SyncRule, Upstream, canary,
    clone::OldData,
    diverged, history_files,
    instance::Promoted,
    layout::segment_name,
    position,
    rewind::{RewindError, RewindPlan, interrupted, is_recovery, rewind},
    seal,
    settings::{RecoveryTimeline, write_pass_file},
};
use std::{
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

fn rule(k: u16, names: &[&str]) -> SyncRule {
    SyncRule::Any { k, names: names.iter().map(|name| (*name).to_owned()).collect() }
}

/// Of `of`, to follow `to`, which was promoted so.
fn rewind_plan(of: &Node, to: &Node, promoted: &Promoted) -> RewindPlan {
    let (source, config, fork, timeline) = (to.as_source(), of.config.clone(), promoted.fork, promoted.timeline);
    RewindPlan { source, fork, timeline, label: "incident-1".into(), config, limit: LIMIT }
}

pg_test!(
    /// With every standby of the cohort sealed, nothing more is acknowledged; the positions cover what was.
    sealed_standbys_acknowledge_nothing,
    async {
        let root = tempfile::tempdir().unwrap();
        let (mut a, b, c) = Node::three(root.path()).await;
        a.config.settings.rule = rule(1, &["b", "c"]);
        a.apply_config().await;
        let mut canary = Canary::new(a.instance.endpoint.clone(), "a");
        for _ in 0..20 {
            assert!(matches!(canary.beat(LIMIT).await.unwrap(), Beat::Acknowledged { .. }));
        }
        a.sql("CREATE TABLE t AS SELECT g, repeat('x', 200) FROM generate_series(1, 20000) g").await;

        // One sealed member does not stop ANY 1 of two, both do.
        let mut positions = Vec::new();
        for node in [&b, &c] {
            let beat = canary.beat(LIMIT).await.unwrap();
            let Beat::Acknowledged { lsn, .. } = beat else { panic!("{beat:?}") };
            a.wait_caught_up(node).await;
            let began = Instant::now();
            let sealed = node.seal().await;
            eprintln!("{} sealed in {:?}: {:?} {:?}", node.name, began.elapsed(), sealed.steps, sealed.position.wal);
            assert_eq!(sealed.server, SealedServer::Running { pinned: false });
            assert_eq!(sealed.position.timeline(), TimelineId(1));
            assert!(sealed.position.end() >= lsn, "{:?} is behind the acknowledged {lsn}", sealed.position);
            let redo = node.sql("SELECT redo_lsn FROM pg_control_checkpoint()").await.parse().unwrap();
            let (last, end) = node.waldump_end(&node.instance.layout.pg_wal(), TimelineId(1), redo);
            assert_eq!(sealed.position.end(), end);
            assert_eq!(sealed.position.wal.last_record, Some(last));
            positions.push(sealed.position.end());
        }
        // Commits are only local from here on.
        let hanging = canary.beat(Duration::from_secs(2)).await.unwrap();
        assert!(matches!(hanging, Beat::Pending { .. }), "{hanging:?}");
        until("no walsender", async || a.link().await.walsenders(LIMIT).await.unwrap().is_empty()).await;
        for (node, position) in [&b, &c].into_iter().zip(positions) {
            // Repeating the seal gives the same position; so does reading it from the stopped server.
            let again = node.seal().await;
            assert_eq!(again.position.end(), position);
            node.instance.kill().await.unwrap();
            let stopped = node.seal().await;
            assert_eq!(stopped.server, SealedServer::Stopped("not running"));
            assert_eq!(stopped.position.end(), position);
        }
    }
);

pg_test!(
    /// A startup process with the old connection string in memory cannot bring back an authenticated walreceiver.
    a_stale_connection_string_opens_no_door,
    async {
        let root = tempfile::tempdir().unwrap();
        let a = Node::primary(root.path(), "a").await;
        let b = Node::standby(root.path(), "b", &a).await;
        // The pass file is emptied and the walreceiver ended, but no reload is sent: the startup process retries with
        // the old string again and again.
        write_pass_file(&b.instance.layout, None).unwrap();
        let postmaster = b.postmaster.as_ref().unwrap();
        let deadline = Instant::now() + LIMIT;
        while !b.instance.log_tail(200).contains("no password supplied") {
            assert!(Instant::now() < deadline, "no attempt was refused: {}", b.instance.log_tail(200));
            for pid in postmaster.walreceivers().unwrap() {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let before = b.sql("SELECT pg_last_wal_receive_lsn()").await;
        a.sql("CREATE TABLE t ()").await;
        let log = b.instance.log_tail(400).matches("no password supplied").count();
        until("further attempts", async || {
            b.instance.log_tail(400).matches("no password supplied").count() > log + 2
        })
        .await;
        assert_eq!(b.sql("SELECT pg_last_wal_receive_lsn()").await, before);
        assert!(a.link().await.walsenders(LIMIT).await.unwrap().is_empty());
        // Nor when it is given the password of the next primary: that one must not open the door of the one before, which
        // would count what it confirms there (S1; found by the simulation).
        let next = Upstream::new("127.0.0.1", a.instance.endpoint.port ^ 1, ROLE, "b");
        write_pass_file(&b.instance.layout, Some((&next, PASSWORD))).unwrap();
        let log = b.instance.log_tail(9_999).matches("no password supplied").count();
        until("attempts with the other's password", async || {
            b.instance.log_tail(9_999).matches("no password supplied").count() > log + 2
        })
        .await;
        assert!(a.link().await.walsenders(LIMIT).await.unwrap().is_empty());
    }
);

pg_test!(
    /// The allotted timeline is taken although lower numbers are free; the others follow; the old primary is rewound and
    /// its diverged WAL kept.
    promotion_takes_the_allotted_timeline_and_the_old_primary_is_rewound,
    async {
        let root = tempfile::tempdir().unwrap();
        let (mut a, mut b, mut c) = Node::three(root.path()).await;
        canary::marker(&a.instance.endpoint, LIMIT).await.unwrap();
        a.wait_caught_up(&b).await;
        a.wait_caught_up(&c).await;
        let sealed = b.seal().await;
        c.seal().await;
        // The old primary writes on, unheard, and dies without a checkpoint.
        a.sql("CREATE TABLE lost AS SELECT g FROM generate_series(1, 50000) g").await;
        a.sql("CHECKPOINT").await;
        a.sql("INSERT INTO lost SELECT g FROM generate_series(1, 50000) g").await;
        a.instance.fence().await.unwrap();

        history_files::reserve(&b.instance.layout.pg_wal(), TimelineId(1), TimelineId(5)).unwrap();
        let began = Instant::now();
        let promoted = b.promote(TimelineId(5)).await;
        eprintln!("promoted in {:?}: {promoted:?}", began.elapsed());
        assert_eq!((promoted.timeline, promoted.parent, promoted.fork), (TimelineId(5), TimelineId(1), sealed.position.end()));
        b.sql("CREATE TABLE kept AS SELECT g FROM generate_series(1, 1000) g").await;

        // A running standby follows to the new timeline without a restart, over the reserved numbers.
        c.follow(&b);
        c.apply_config().await;
        c.wait_streaming().await;
        b.wait_caught_up(&c).await;
        let again = c.seal().await;
        assert_eq!(again.position.timeline(), TimelineId(5));
        assert!(again.position.end() > promoted.fork);

        // The old primary crashed, beyond the fork.
        a.follow(&b);
        let plan = rewind_plan(&a, &b, &promoted);
        let mut lines = Vec::new();
        let done = rewind(&a.instance, &plan, &mut |line| lines.push(line.to_owned())).await.unwrap();
        eprintln!("rewound in {:?}; {lines:?}", done.took);
        assert!(done.recovered && lines.iter().any(|line| line.contains("Done")));
        let kept = done.kept.unwrap();
        assert_eq!((kept.manifest.timeline, kept.manifest.fork), (TimelineId(1), promoted.fork));
        assert!(kept.manifest.diverged_bytes > 100_000 && kept.manifest.end == done.position.end());
        let (_, end) = a.waldump_end(&kept.dir, TimelineId(1), promoted.fork);
        assert_eq!(end, kept.manifest.end);
        assert!(a.instance.has_fence() && interrupted(&a.instance.layout).unwrap().is_none());
        a.start(StartAs::Standby).await;
        a.wait_streaming().await;
        b.wait_caught_up(&a).await;
        until("the kept table", async || a.sql("SELECT to_regclass('kept') IS NOT NULL").await == "t").await;
        assert_eq!(a.sql("SELECT count(*) FROM kept").await, "1000");
        assert_eq!(a.sql("SELECT to_regclass('lost') IS NULL").await, "t");
        assert_eq!(a.sql("SHOW port").await, a.instance.endpoint.port.to_string());
    }
);

pg_test!(
    /// A standby that received more than its successor was promoted with, and crashed: it is rewound at once, not when
    /// its next restartpoint is due, minutes later (found by the chaos suite, where a promotion was cut off).
    a_crashed_standby_is_rewound_without_waiting_for_a_restartpoint,
    async {
        let root = tempfile::tempdir().unwrap();
        let (a, mut b, mut c) = Node::three(root.path()).await;
        a.wait_caught_up(&b).await;
        b.seal().await;
        a.sql("CREATE TABLE lost AS SELECT g FROM generate_series(1, 1000) g").await;
        a.wait_caught_up(&c).await;
        c.instance.fence().await.unwrap();
        a.instance.fence().await.unwrap();
        let promoted = b.promote(TimelineId(2)).await;
        let crashed = c.instance.control_file().await.unwrap();
        assert!(crashed.min_recovery_point <= promoted.fork, "nothing to wait for: {}", crashed.min_recovery_point);

        c.follow(&b);
        let plan = rewind_plan(&c, &b, &promoted);
        let done = rewind(&c.instance, &plan, &mut |_| {}).await.unwrap();
        assert!(done.recovered && done.kept.is_some(), "{done:?}");
        c.start(StartAs::Standby).await;
        c.wait_streaming().await;
        b.wait_caught_up(&c).await;
        assert_eq!(c.sql("SELECT to_regclass('lost') IS NULL").await, "t");
    }
);

pg_test!(
    /// Somebody starts PostgreSQL while pg_rewind works in its directory, and it ends again: what it had read before, it may
    /// have written back. Such a directory keeps the note that it is neither the old one nor the new one.
    a_rewind_in_which_a_server_was_started_is_not_believed,
    async {
        let root = tempfile::tempdir().unwrap();
        let (a, mut b, mut c) = Node::three(root.path()).await;
        a.wait_caught_up(&b).await;
        b.seal().await;
        a.sql("CREATE TABLE lost AS SELECT g FROM generate_series(1, 1000) g").await;
        a.wait_caught_up(&c).await;
        c.instance.fence().await.unwrap();
        a.instance.fence().await.unwrap();
        let promoted = b.promote(TimelineId(2)).await;
        c.follow(&b);
        let plan = rewind_plan(&c, &b, &promoted);
        // What every postmaster does first.
        let opts = c.instance.layout.data_dir.join("postmaster.opts");
        let mut started = |_: &str| std::fs::write(&opts, "postgres").unwrap();
        let done = rewind(&c.instance, &plan, &mut started).await;
        assert!(matches!(done, Err(RewindError::Started)), "{done:?}");
        assert_eq!(interrupted(&c.instance.layout).unwrap(), Some(plan.label.clone()));
        let kept = diverged::kept(&c.instance.layout, &plan.label).unwrap();
        assert_eq!(kept.manifest.fork, promoted.fork, "what was kept before is known all the same");
    }
);

pg_test!(
    /// pgvigil died while a crashed standby finished recovery for its rewind: the next one adopted that server, which
    /// nobody can connect to, and waited for it for ever (found by the chaos suite). It is known for what it is, may be
    /// ended, and the rewind begins anew; the standby that comes of it is not taken for one.
    a_recovery_whose_agent_died_is_known_and_the_rewind_done_again,
    async {
        let root = tempfile::tempdir().unwrap();
        let (a, mut b, mut c) = Node::three(root.path()).await;
        a.wait_caught_up(&b).await;
        b.seal().await;
        a.sql("CREATE TABLE lost AS SELECT g FROM generate_series(1, 1000) g").await;
        a.wait_caught_up(&c).await;
        c.instance.fence().await.unwrap();
        a.instance.fence().await.unwrap();
        let promoted = b.promote(TimelineId(2)).await;
        c.follow(&b);
        let plan = rewind_plan(&c, &b, &promoted);
        assert!(!is_recovery(&c.instance.layout));
        let died = async {
            until("the recovery", async || {
                is_recovery(&c.instance.layout) && c.instance.adopt().is_ok_and(|found| found.is_some())
            })
            .await;
        };
        let mut ignored = |_: &str| {};
        tokio::select! {
            done = rewind(&c.instance, &plan, &mut ignored) => panic!("too soon: {done:?}"),
            () = died => {}
        }
        assert!(c.instance.adopt().unwrap().is_some() && is_recovery(&c.instance.layout));
        c.instance.fence().await.unwrap();
        rewind(&c.instance, &plan, &mut |_| {}).await.unwrap();
        c.start(StartAs::Standby).await;
        assert!(!is_recovery(&c.instance.layout));
        c.wait_streaming().await;
        b.wait_caught_up(&c).await;
    }
);

pg_test!(
    /// A sealed server with reservations above its timeline starts again when it is pinned, and reads the same position.
    a_called_off_promotion_leaves_a_server_that_starts,
    async {
        let root = tempfile::tempdir().unwrap();
        let a = Node::primary(root.path(), "a").await;
        let mut b = Node::standby(root.path(), "b", &a).await;
        let sealed = b.seal().await;
        let pg_wal = b.instance.layout.pg_wal();
        history_files::reserve(&pg_wal, TimelineId(1), TimelineId(4)).unwrap();
        b.instance.stop(StopMode::Immediate, LIMIT).await.unwrap();
        b.config.settings.upstream = None;
        b.config.settings.recovery_timeline = history_files::start_timeline(&pg_wal, TimelineId(1)).unwrap();
        b.write_config();
        b.start(StartAs::Standby).await;
        let again = b.seal().await;
        assert_eq!(again.position.end(), sealed.position.end());
        assert_eq!(again.server, SealedServer::Running { pinned: true });
        // Promoted after all, from the pinned state.
        let promoted = b.promote(TimelineId(4)).await;
        assert_eq!((promoted.timeline, promoted.fork), (TimelineId(4), sealed.position.end()));
        // A seal of a primary stops it, and so does one while a promotion may be under way.
        let sealed = b.seal().await;
        assert_eq!(sealed.server, SealedServer::Stopped("it is no standby"));
        assert_eq!(sealed.position.timeline(), TimelineId(4));
        assert!(sealed.position.end() > promoted.fork && b.instance.adopt().unwrap().is_none());
    }
);

pg_test!(
    /// Histories A3 and A4: the history file and the first kilobytes of a new timeline are on disk, received from the
    /// segment's start, and replay was paused. The position is that of the old timeline's end, and a pinned restart
    /// replays that far.
    the_beginning_of_a_new_timeline_hides_nothing,
    async {
        let root = tempfile::tempdir().unwrap();
        let a = Node::primary(root.path(), "a").await;
        let mut b = Node::standby(root.path(), "b", &a).await;
        b.sql("SELECT pg_wal_replay_pause()").await;
        a.sql("CREATE TABLE t AS SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g").await;
        a.wait_caught_up(&b).await;
        let sealed = b.seal().await;
        let (end, replayed) = (sealed.position.end(), b.sql("SELECT pg_last_wal_replay_lsn()").await);
        assert!(sealed.server == SealedServer::Running { pinned: false } && replayed.parse::<Lsn>().unwrap() < end, "{replayed} {end}");
        let pg_wal = b.instance.layout.pg_wal();
        let redo = b.sql("SELECT redo_lsn FROM pg_control_checkpoint()").await.parse().unwrap();
        assert_eq!(b.waldump_end(&pg_wal, TimelineId(1), redo).1, end);

        history_files::write(&pg_wal, TimelineId(5), &format!("1\t{end}\tx\n")).unwrap();
        let size: u64 = 16 << 20;
        let name = |timeline| segment_name(timeline, end.0 / size, size);
        let mut short = std::fs::read(pg_wal.join(name(1))).unwrap();
        short[3 * 8192..].fill(0);
        std::fs::write(pg_wal.join(name(5)), short).unwrap();
        let again = b.seal().await;
        assert_eq!((again.position.timeline(), again.position.end()), (TimelineId(1), end));
        assert_eq!(again.server, SealedServer::Stopped("it may wait for a timeline of which it has no WAL"));
        let stopped = b.seal().await;
        assert_eq!((stopped.position.timeline(), stopped.position.end()), (TimelineId(1), end));

        let keep = history_files::read(&pg_wal, stopped.position.timeline()).unwrap();
        let moved = history_files::set_aside(&pg_wal, &keep, size, &b.instance.layout.agent_dir.join("aside")).unwrap();
        assert_eq!(moved, [name(5)]);
        b.config.settings.upstream = None;
        b.config.settings.recovery_timeline = history_files::start_timeline(&pg_wal, TimelineId(1)).unwrap();
        b.write_config();
        b.start(StartAs::Standby).await;
        until("replay", async || b.sql("SELECT pg_last_wal_replay_lsn()").await == end.to_string()).await;
    }
);

pg_test!(
    /// A primary made a timeline, sent its history file and was gone before any of its WAL. Who ran on waited for that
    /// timeline for ever (found by the chaos suite), and would have named it as its own parent when promoted.
    a_timeline_that_came_to_nothing_misleads_nobody,
    async {
        let root = tempfile::tempdir().unwrap();
        let (a, mut b, mut c) = Node::three(root.path()).await;
        a.wait_caught_up(&b).await;
        a.wait_caught_up(&c).await;
        for node in [&b, &c] {
            let sealed = node.seal().await;
            assert_eq!(sealed.server, SealedServer::Running { pinned: false });
            let dead = format!("1\t{}\tx\n", sealed.position.end());
            history_files::write(&node.instance.layout.pg_wal(), TimelineId(2), &dead).unwrap();
            until("the wrong target", async || {
                node.instance.log_tail(200).contains("new target timeline is 2")
            })
            .await;
            let sealed = node.seal().await;
            assert_eq!(sealed.server, SealedServer::Stopped("it may wait for a timeline of which it has no WAL"));
        }
        a.instance.fence().await.unwrap();

        // One is promoted; what it keeps of the dead timeline tells nobody anything.
        let pg_wal = b.instance.layout.pg_wal();
        b.config.settings.upstream = None;
        b.config.settings.recovery_timeline = history_files::start_timeline(&pg_wal, TimelineId(1)).unwrap();
        b.write_config();
        b.start(StartAs::Standby).await;
        history_files::reserve(&pg_wal, TimelineId(1), TimelineId(3)).unwrap();
        let promoted = b.promote(TimelineId(3)).await;
        assert_eq!(promoted.parent, TimelineId(1));
        // The other one follows.
        let theirs = c.instance.layout.pg_wal();
        assert_eq!(history_files::remove_above(&theirs, TimelineId(1)).unwrap(), [TimelineId(2)]);
        c.follow(&b);
        c.write_config();
        c.start(StartAs::Standby).await;
        c.wait_streaming().await;
        b.wait_caught_up(&c).await;
        assert_eq!(history_files::newest(&theirs).unwrap(), Some(TimelineId(3)));
        assert_eq!(history_files::above(&theirs, TimelineId(1)).unwrap(), [TimelineId(3)]);
    }
);

pg_test!(
    /// Review F13: two standbys are promoted at the same place, one of them by hand, and take the same number. PostgreSQL
    /// sees no difference; the mark in the history file, which followers fetch and later timelines inherit, does.
    a_promotion_by_hand_is_told_from_the_one_that_was_ordered,
    async {
        let root = tempfile::tempdir().unwrap();
        let (mut a, mut b, mut c) = Node::three(root.path()).await;
        a.wait_caught_up(&b).await;
        a.wait_caught_up(&c).await;
        a.instance.fence().await.unwrap();
        b.seal().await;
        c.seal().await;
        let (ordered, by_hand) = (b.promote(TimelineId(2)).await, c.promote(TimelineId(2)).await);
        assert_eq!((ordered.parent, ordered.fork), (by_hand.parent, by_hand.fork), "an idle cluster");
        let (ours, theirs) = (b.instance.layout.pg_wal(), c.instance.layout.pg_wal());
        history_files::mark(&ours, TimelineId(2), Epoch(5)).unwrap();
        c.instance.fence().await.unwrap();
        let read = async |node: &Node| {
            let control = node.instance.control_file().await.unwrap();
            position::of_stopped(&node.instance.layout, &control, node.instance.binaries.version()).unwrap()
        };
        let found = read(&c).await;
        assert_eq!((found.timeline(), found.own.ancestors.len()), (TimelineId(2), 1));
        assert_eq!(found.own.ancestors[0].mark, None);

        // PostgreSQL takes it in: it compares numbers.
        b.sql("CREATE TABLE t AS SELECT g, repeat('x', 200) FROM generate_series(1, 20000) g").await;
        c.follow(&b);
        c.config.settings.recovery_timeline = RecoveryTimeline::Latest;
        c.write_config();
        c.start(StartAs::Standby).await;
        b.wait_caught_up(&c).await;
        assert!(history_files::text(&theirs, TimelineId(2)).unwrap().unwrap().find("pgvigil").is_none());

        // One that has no file of that number fetches the marked one, and what is promoted from there inherits the mark.
        a.follow(&b);
        a.write_config();
        a.start(StartAs::Standby).await;
        b.wait_caught_up(&a).await;
        a.seal().await;
        a.promote(TimelineId(3)).await;
        let theirs = a.instance.layout.pg_wal();
        history_files::mark(&theirs, TimelineId(3), Epoch(6)).unwrap();
        let history = history_files::read(&theirs, TimelineId(3)).unwrap();
        let told: Vec<_> = history.ancestors.iter().map(|a| (a.timeline, a.end, a.mark)).collect();
        let expected = (TimelineId(1), ordered.fork, Some(Epoch(5)));
        assert_eq!((told[0], told[1].0, told[1].2), (expected, TimelineId(2), Some(Epoch(6))));
    }
);

pg_test!(
    /// A walreceiver that cannot end (it is frozen) has its server stopped; the position is read from disk.
    a_frozen_walreceiver_is_sealed_by_stopping_the_server,
    async {
        let root = tempfile::tempdir().unwrap();
        let a = Node::primary(root.path(), "a").await;
        let b = Node::standby(root.path(), "b", &a).await;
        a.sql("CREATE TABLE t ()").await;
        a.wait_caught_up(&b).await;
        let flushed: Lsn = b.sql("SELECT flushed_lsn FROM pg_stat_wal_receiver").await.parse().unwrap();
        for pid in b.postmaster.as_ref().unwrap().walreceivers().unwrap() {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGSTOP).unwrap();
        }
        let limits = SealLimits { running: Duration::from_millis(300) };
        let sealed = seal(&b.instance, &b.config.settings, false, limits).await.unwrap();
        eprintln!("{:?}", sealed.steps);
        assert_eq!(sealed.server, SealedServer::Stopped("a walreceiver did not end"));
        assert!(sealed.position.end() >= flushed && b.instance.adopt().unwrap().is_none());
    }
);

pg_test!(
    /// A clone takes the place of an old data directory in one step; the old one is kept where that is asked for.
    a_clone_replaces_the_old_data_directory,
    async {
        let root = tempfile::tempdir().unwrap();
        let a = Node::primary(root.path(), "a").await;
        let mut b = Node::standby(root.path(), "b", &a).await;
        b.instance.stop(StopMode::Fast, LIMIT).await.unwrap();
        std::fs::write(b.instance.layout.data_dir.join("old-life"), "").unwrap();
        a.sql("CREATE TABLE t AS SELECT 1 AS x").await;
        let kept = b.clone_from(&a, OldData::Keep("1".into())).await.unwrap();
        assert!(kept.join("old-life").exists() && !b.instance.layout.data_dir.join("old-life").exists());
        assert!(!pgvigil_postgres::clone::staging_dir(&b.instance.layout).exists());
        b.start(StartAs::Standby).await;
        b.wait_streaming().await;
        a.wait_caught_up(&b).await;
        until("the table", async || b.sql("SELECT to_regclass('t') IS NOT NULL").await == "t").await;
        let receiver = b.link().await.sample(LIMIT).await.unwrap().receiver.unwrap();
        assert!(receiver.flushed_lsn > Some(Lsn::ZERO));
    }
);

pg_test!(
    /// Found by the bench (a frozen primary that came back): a segment in which a timeline ends goes on with bytes that
    /// belong to no later timeline. Neither may a diverged tail count as the new timeline's, nor may it hide what the
    /// new timeline has.
    bytes_beyond_a_fork_in_the_old_timelines_file_are_never_the_new_ones,
    async {
        let root = tempfile::tempdir().unwrap();
        let a = Node::primary(root.path(), "a").await;
        let mut b = Node::standby(root.path(), "b", &a).await;
        // The fork is to lie near the beginning of a page, so that what follows it begins in the same one.
        a.sql("CREATE TABLE t (a int)").await;
        a.sql("SELECT pg_switch_wal()").await;
        a.sql("INSERT INTO t VALUES (0)").await;
        a.wait_caught_up(&b).await;
        let (one, two) = (TimelineId(1), TimelineId(2));
        let version = a.instance.binaries.version();
        b.seal().await;
        let fork = b.promote(two).await.fork;
        a.sql("INSERT INTO t VALUES (1)").await;
        b.sql("CHECKPOINT").await;
        b.sql("INSERT INTO t VALUES (2)").await;
        let mut found = Vec::new();
        for node in [&a, &b] {
            node.instance.kill().await.unwrap();
            let control = node.instance.control_file().await.unwrap();
            let end = position::of_stopped(&node.instance.layout, &control, version).unwrap();
            found.push((control, end.timeline(), end.end()));
        }
        let [(control_a, of_a, end_a), (control_b, of_b, end_b)] = found.try_into().unwrap();
        assert_eq!((of_a, of_b), (one, two));
        let page = |lsn: Lsn| lsn.0 / 8192;
        assert!(end_a > fork && page(end_a) == page(fork), "{end_a} {fork}");
        assert!(control_b.redo > fork && page(control_b.redo) == page(fork), "{} {fork}", control_b.redo);

        // The old primary hears of the new timeline's history, not of its WAL: its tail remains its own.
        let (from, to) = (a.instance.layout.pg_wal(), b.instance.layout.pg_wal());
        std::fs::copy(to.join("00000002.history"), from.join("00000002.history")).unwrap();
        let format = position::wal_format(&control_a, version).unwrap();
        let known = position::Known { redo: control_a.redo, timeline: one };
        let running = position::of_running(&from, format, known, end_a).unwrap();
        assert_eq!((running.timeline(), running.end()), (one, end_a));
        let stopped = position::of_stopped(&a.instance.layout, &control_a, version).unwrap();
        assert_eq!((stopped.timeline(), stopped.end()), (one, end_a));

        // The new primary's old segment holds another record where its last checkpoint began.
        let segment = to.join(segment_name(1, fork.0 / format.segment_size, format.segment_size));
        let file = std::fs::OpenOptions::new().write(true).open(segment).unwrap();
        file.write_all_at(&short_record(control_b.redo), control_b.redo.0 % format.segment_size).unwrap();
        let stopped = position::of_stopped(&b.instance.layout, &control_b, version).unwrap();
        assert_eq!((stopped.timeline(), stopped.end()), (two, end_b));
    }
);

/// A valid record of 26 bytes at `at`: what a tail of another history may well hold there.
fn short_record(at: Lsn) -> Vec<u8> {
    let data = [0xFF, 0];
    let mut record = Vec::new();
    record.extend_from_slice(&26_u32.to_le_bytes());
    record.extend_from_slice(&0_u32.to_le_bytes());
    record.extend_from_slice(&(at.0 - 8).to_le_bytes());
    record.extend_from_slice(&[0, 10, 0, 0]);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&data), &record);
    record.extend_from_slice(&checksum.to_le_bytes());
    record.extend_from_slice(&data);
    record
}
