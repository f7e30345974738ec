//! What pgvigil sets wins over every line that people write (case 01), and what PostgreSQL cannot take up is said in its
//! own words (case 49).

mod common;

use common::{LIMIT, Node, until};
use nix::sys::signal::Signal;
use pgvigil_postgres::{
    Link, StartAs, StopMode,
    conf_files::{ensure_include, is_included_last},
    drift,
    link::fresh_value,
    process::SpawnOptions,
    user_conf::UserValues,
};
use std::{collections::BTreeMap, fs, io::Write, process::Command};

/// What a person, a tuning tool or configuration management may have left in a file.
const SPOILT: &str = "synchronous_standby_names = ''\nsynchronous_commit = off\nfsync = off\nfull_page_writes = off\n\
    restart_after_crash = on\nprimary_conninfo = 'host=192.0.2.1'\nrestore_command = 'false'\nport = 1\n\
    listen_addresses = ''\nunix_socket_directories = '/nowhere'\nmax_wal_senders = 0\nwal_level = minimal\n\
    hot_standby = off\nhba_file = '/nowhere/pg_hba.conf'\ndata_directory = '/nowhere'\nrecovery_target_xid = '1'\n\
    recovery_target = 'immediate'\n";

fn append(node: &Node, file: &str, text: &str) {
    let path = node.instance.layout.data_dir.join(file);
    fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

async fn shown(node: &Node) -> BTreeMap<String, String> {
    let mut names = vec!["port", "listen_addresses", "max_wal_senders", "hot_standby", "hba_file", "data_directory"];
    names.extend(["recovery_target_xid", "recovery_target", "wal_level"]);
    names.extend(pgvigil_postgres::sample::WATCHED);
    let link = node.link().await;
    let mut shown = BTreeMap::new();
    for name in names {
        shown.insert(name.to_owned(), link.setting(name, LIMIT).await.unwrap());
    }
    shown
}

/// Reloads, and returns when a new connection shows the mark that was appended behind everything else.
async fn reload(node: &Node, mark: &str) {
    node.instance.reload(node.postmaster.as_ref().unwrap()).unwrap();
    until("the reload", async || fresh_value(&node.instance.endpoint, "my.mark", LIMIT).await.is_ok_and(|m| m == mark))
        .await;
}

pg_test!(
    /// Appended, in an included file, in a file that replaces postgresql.conf: in force at no moment, also after a restart.
    no_line_that_a_person_writes_comes_after_ours,
    async {
        let root = tempfile::tempdir().unwrap();
        let mut node = Node::primary(root.path(), "a").await;
        let ours = shown(&node).await;
        assert_ne!(ours["synchronous_standby_names"], "");
        append(&node, "tuning.conf", SPOILT);
        for (mark, conf) in [("appended", SPOILT), ("included", "include 'tuning.conf'\n"), ("replaced", SPOILT)] {
            let path = node.instance.layout.postgresql_conf();
            let before = fs::read(&path).unwrap();
            if mark == "replaced" {
                fs::write(&path, "").unwrap();
            }
            append(&node, "postgresql.conf", &format!("{conf}my.mark = '{mark}'\n"));
            reload(&node, mark).await;
            assert_eq!(shown(&node).await, ours, "{mark}, reloaded");
            node.instance.stop(StopMode::Fast, LIMIT).await.unwrap();
            node.start(StartAs::Primary).await;
            assert_eq!(shown(&node).await, ours, "{mark}, restarted");
            node.instance.stop(StopMode::Fast, LIMIT).await.unwrap();
            node.start(StartAs::Standby).await;
            assert_eq!(node.sql("SHOW hot_standby").await, "on", "{mark}, as a standby");
            node.instance.stop(StopMode::Fast, LIMIT).await.unwrap();
            fs::write(&path, before).unwrap();
            node.start(StartAs::Primary).await;
        }
    }
);

pg_test!(
    /// What only a start takes up, and what never changes, stands on the command line: before PostgreSQL 17 `ALTER SYSTEM`
    /// overrides the rest until it is taken out, and a look shows from which line it comes.
    what_alter_system_overrides_is_seen_with_its_line,
    async {
        let root = tempfile::tempdir().unwrap();
        let mut node = Node::primary(root.path(), "a").await;
        let before = node.link().await.sample(LIMIT).await.unwrap();
        for (name, value) in [("fsync", "off"), ("full_page_writes", "off"), ("restart_after_crash", "on"), ("port", "1")] {
            node.link().await.execute("test", &format!("ALTER SYSTEM SET {name} = {value}"), LIMIT).await.unwrap();
        }
        node.link().await.execute("test", "ALTER SYSTEM SET synchronous_standby_names = ''", LIMIT).await.unwrap();
        let asking: Link = node.link().await;
        node.instance.reload(node.postmaster.as_ref().unwrap()).unwrap();
        until("the override", async || node.sql("SHOW synchronous_standby_names").await.is_empty()).await;
        let after = asking.sample(LIMIT).await.unwrap();
        assert!(after.loaded_us > before.loaded_us, "every reload is seen, whoever asked for it");
        assert_eq!(after.watched["fsync"], "on");
        let changed = |name: &str| after.watched[name] != before.watched[name];
        let names: Vec<&str> = pgvigil_postgres::sample::WATCHED.into_iter().filter(|name| changed(name)).collect();
        assert_eq!(names, ["synchronous_standby_names"]);
        let origins = asking.origins(&names, LIMIT).await.unwrap();
        let place = origins[0].place.as_ref().unwrap();
        assert!(place.file.ends_with("postgresql.auto.conf") && place.line > 2, "{origins:?}");
        assert!(origins[0].to_string().contains("by ALTER SYSTEM"), "{}", origins[0]);
        let found = drift::find(&node.instance.layout).unwrap();
        let same = found.iter().find(|drift| drift.name == "synchronous_standby_names").unwrap();
        assert_eq!(same.line, place.line as usize);

        // Taken out, it is as before; and a start obeys none of them.
        node.instance.stop(StopMode::Fast, LIMIT).await.unwrap();
        drift::remove(&node.instance.layout).unwrap();
        append(&node, "postgresql.auto.conf", "port = '1'\nlisten_addresses = ''\nmax_wal_senders = '0'\n");
        node.start(StartAs::Primary).await;
        assert_eq!(node.link().await.sample(LIMIT).await.unwrap().watched, before.watched);
        assert_eq!(node.sql("SHOW max_wal_senders").await, "20");
    }
);

pg_test!(
    /// Case 49: a syntax error lets no line of any file be taken up; a value that does not fit only its own.
    a_file_that_does_not_parse_is_named_in_postgresqls_words,
    async {
        let root = tempfile::tempdir().unwrap();
        let node = Node::primary(root.path(), "a").await;
        assert_eq!(node.link().await.file_errors(LIMIT).await.unwrap(), []);
        let clean = fs::read(node.instance.layout.postgresql_conf()).unwrap();

        append(&node, "postgresql.conf", "work_mem = '1kB'\nport = 1\nmy.mark = 'taken'\n");
        reload(&node, "taken").await;
        let errors = node.link().await.file_errors(LIMIT).await.unwrap();
        assert!(!errors.iter().any(|error| error.blocks), "{errors:?}");
        let of = |name: &str| errors.iter().find(|e| e.setting.as_ref().is_some_and(|(n, _)| n == name)).unwrap();
        assert!(of("port").restart && !of("work_mem").restart, "{errors:?}");
        assert!(of("work_mem").to_string().contains("postgresql.conf line"), "{}", of("work_mem"));

        for (line, words) in [("foo = \n", "syntax error"), ("include 'missing.conf'\n", "could not open"), ("nonsense = 1\n", "unrecognized")]
        {
            fs::write(node.instance.layout.postgresql_conf(), &clean).unwrap();
            append(&node, "postgresql.conf", &format!("my.mark = 'not taken'\n{line}"));
            node.instance.reload(node.postmaster.as_ref().unwrap()).unwrap();
            let errors = node.link().await.file_errors(LIMIT).await.unwrap();
            let blocking: Vec<_> = errors.iter().filter(|error| error.blocks).collect();
            assert!(blocking.iter().any(|error| error.error.contains(words)), "{line:?}: {errors:?}");
            assert_eq!(fresh_value(&node.instance.endpoint, "my.mark", LIMIT).await.unwrap(), "taken");
        }
    }
);

pg_test!(
    /// A server that somebody else starts reads the user's file first: ours is included at its end, and put there again.
    a_server_started_by_hand_reads_ours_too,
    async {
        let root = tempfile::tempdir().unwrap();
        let mut node = Node::primary(root.path(), "a").await;
        node.instance.stop(StopMode::Fast, LIMIT).await.unwrap();
        let dir = &node.instance.layout.data_dir;
        let by_hand = Command::new(node.instance.binaries.program("postgres")).arg("-D").arg(dir).spawn().unwrap();
        until("a server", async || node.instance.adopt().is_ok_and(|p| p.is_some())).await;
        node.postmaster = node.instance.adopt().unwrap();
        node.instance.wait_ready(node.postmaster.as_ref().unwrap(), LIMIT).await.unwrap();
        assert_eq!(node.sql("SELECT pg_is_in_recovery()").await, "t", "the fence makes it a standby");
        assert!(node.sql("SHOW config_file").await.ends_with("/postgresql.conf"));
        assert_eq!(node.sql("SHOW max_wal_senders").await, "20");
        let names = node.sql("SHOW synchronous_standby_names").await;
        assert_ne!(names, "");

        append(&node, "postgresql.conf", "synchronous_standby_names = ''\nmy.mark = 'last'\n");
        reload(&node, "last").await;
        assert_eq!(node.sql("SHOW synchronous_standby_names").await, "");
        assert!(!is_included_last(&node.instance.layout).unwrap());
        ensure_include(&node.instance.layout).unwrap();
        assert!(is_included_last(&node.instance.layout).unwrap());
        node.instance.reload(node.postmaster.as_ref().unwrap()).unwrap();
        until("the rule", async || node.sql("SHOW synchronous_standby_names").await == names).await;
        node.postmaster.as_ref().unwrap().signal(Signal::SIGINT).unwrap();
        let mut by_hand = by_hand;
        tokio::task::spawn_blocking(move || by_hand.wait()).await.unwrap().unwrap();
    }
);

pg_test!(
    /// `pg_ctl restart` takes the command line of the last start: the same files, the same values.
    a_server_restarted_by_hand_keeps_our_command_line,
    async {
        let root = tempfile::tempdir().unwrap();
        let mut node = Node::primary(root.path(), "a").await;
        append(&node, "postgresql.conf", SPOILT);
        let layout = &node.instance.layout;
        let mut restart = Command::new(node.instance.binaries.program("pg_ctl"));
        restart.arg("restart").arg("-w").arg("-D").arg(&layout.data_dir).arg("-l").arg(root.path().join("by-hand.log"));
        let status = tokio::task::spawn_blocking(move || restart.status()).await.unwrap().unwrap();
        assert!(status.success());
        node.postmaster = node.instance.adopt().unwrap();
        assert!(node.sql("SHOW config_file").await.ends_with("/pgvigil.main.conf"));
        assert_ne!(node.sql("SHOW synchronous_standby_names").await, "");
        assert_eq!(node.sql("SHOW max_wal_senders").await, "20");
    }
);

pg_test!(
    /// What the user wants more of than we need, in whatever file, holds at the next start.
    a_larger_value_in_a_file_of_the_user_holds,
    async {
        let root = tempfile::tempdir().unwrap();
        let mut node = Node::primary(root.path(), "a").await;
        append(&node, "more.conf", "max_wal_senders = 50\nwal_level = logical\n");
        append(&node, "postgresql.conf", "include 'more.conf'\n");
        node.link().await.execute("test", "ALTER SYSTEM SET max_replication_slots = 33", LIMIT).await.unwrap();
        node.instance.stop(StopMode::Fast, LIMIT).await.unwrap();
        node.config.settings.theirs = UserValues::read(&node.instance.layout);
        let overrides = node.config.settings.command_line(node.instance.binaries.version());
        let options = SpawnOptions { overrides, ..SpawnOptions::default() };
        node.postmaster = Some(node.instance.start(StartAs::Primary, &options, LIMIT).await.unwrap().0);
        let sql = "SELECT concat_ws(' ', current_setting('max_wal_senders'), current_setting('max_replication_slots'), \
                   current_setting('wal_level'))";
        assert_eq!(node.sql(sql).await, "50 33 logical");
    }
);
