//! Who gets in by the replication role, how, and what becomes of those whom no rule concerns.

mod common;

use common::{LIMIT, Node, PASSWORD, ROLE, until};
use nix::{sys::signal::Signal, unistd::Pid};
use pgvigil_postgres::{
    StartAs, SyncRule,
    canary::marker,
    handshake::{Caller, Met, Refused, meet},
    libpq,
    process::SpawnOptions,
    role::{Look, Secret},
    walsender::behind,
};
use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
};

fn caller<'a>(node: &Node, password: &'a str) -> Caller<'a> {
    Caller { host: "127.0.0.1", port: node.instance.endpoint.port, role: ROLE, password }
}

pg_test!(
    /// Whatever people do to the role: it is put back, without a standby, and where nothing is wrong nothing is written.
    the_replication_role_is_put_back,
    async {
        let root = tempfile::tempdir().unwrap();
        let mut node = Node::primary(root.path(), "a").await;
        let secret = Secret::new(PASSWORD.to_owned());
        node.config.settings.rule = SyncRule::Nobody;
        node.apply_config().await;
        let link = node.local_link().await;
        let mend = async |look| link.mend_replication_role(ROLE, &secret, look, LIMIT).await.unwrap();
        let xid = async || node.sql("SELECT pg_snapshot_xmax(pg_current_snapshot())").await;
        let before = xid().await;
        assert_eq!(mend(Look::Close).await, [""; 0], "as it was made");
        assert_eq!(xid().await, before);
        assert_eq!(meet(caller(&node, PASSWORD), LIMIT).await, Ok(Met { tls: false }));
        let harms = [
            (format!("ALTER ROLE {ROLE} PASSWORD 'x'"), "28P01"),
            (format!("ALTER ROLE {ROLE} PASSWORD NULL"), "28P01"),
            (format!("ALTER ROLE {ROLE} NOLOGIN"), "28000"),
            (format!("ALTER ROLE {ROLE} NOREPLICATION"), "42501"),
            (format!("ALTER ROLE {ROLE} CONNECTION LIMIT 0"), ""),
            (format!("ALTER ROLE {ROLE} VALID UNTIL '2020-01-01'"), "28P01"),
            (format!("ALTER ROLE {ROLE} SET session_preload_libraries = 'none'"), ""),
            (format!("REVOKE EXECUTE ON FUNCTION pg_read_binary_file(text) FROM {ROLE}"), ""),
            (format!("DROP OWNED BY {ROLE}; DROP ROLE {ROLE}"), "28P01"),
        ];
        for (harm, code) in harms {
            link.execute("test", &harm, LIMIT).await.unwrap();
            if !code.is_empty() {
                match meet(caller(&node, PASSWORD), LIMIT).await {
                    Err(Refused::Said { code: said, .. }) => assert_eq!(said, code, "{harm}"),
                    other => panic!("{harm}: {other:?}"),
                }
            }
            assert_eq!(mend(Look::Close).await.len(), 1, "{harm}");
            assert_eq!(mend(Look::Close).await.len(), 0, "{harm}");
            assert_eq!(meet(caller(&node, PASSWORD), LIMIT).await, Ok(Met { tls: false }), "{harm}");
        }
        // A password that was changed in the configuration.
        let rotated = Secret::new("another".to_owned());
        assert_eq!(link.mend_replication_role(ROLE, &rotated, Look::Close, LIMIT).await.unwrap().len(), 1);
        assert!(meet(caller(&node, PASSWORD), LIMIT).await.is_err_and(|refused| refused.lasts()));
        assert_eq!(meet(caller(&node, "another"), LIMIT).await, Ok(Met { tls: false }));
    }
);

pg_test!(
    /// A proof waits for the standbys of the rule; backups and log receivers are neither waited for nor ended.
    a_slow_backup_is_no_concern_of_a_proof,
    async {
        let root = tempfile::tempdir().unwrap();
        let mut a = Node::primary(root.path(), "a").await;
        let b = Node::standby(root.path(), "b", &a).await;
        a.config.settings.rule = SyncRule::Any { k: 1, names: vec!["b".into()] };
        a.apply_config().await;
        let port = a.instance.endpoint.port;
        let started = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(a.instance.binaries.program(program));
            libpq::quiet_environment(&mut command);
            command.env("PGPASSWORD", PASSWORD).args(["-h", "127.0.0.1", "-U", ROLE, "-p", &port.to_string()]);
            command.args(arguments).stdin(Stdio::null()).spawn().unwrap()
        };
        let (copy, log) = (root.path().join("copy"), root.path().join("log"));
        std::fs::create_dir(&log).unwrap();
        let mut backup =
            started("pg_basebackup", &["-D", copy.to_str().unwrap(), "--max-rate=32", "--checkpoint=fast", "--no-sync"]);
        let mut receiver = started("pg_receivewal", &["-D", log.to_str().unwrap()]);
        let link = a.link().await;
        until("all of them", async || link.proof_senders(LIMIT).await.unwrap().len() == 4).await;
        a.wait_caught_up(&b).await;
        let walreceivers = b.postmaster.as_ref().unwrap().walreceivers().unwrap();
        let freeze = |signal| walreceivers.iter().for_each(|pid| nix::sys::signal::kill(Pid::from_raw(*pid), signal).unwrap());
        freeze(Signal::SIGSTOP);
        let before: BTreeSet<i32> = link.proof_senders(LIMIT).await.unwrap().iter().map(|sender| sender.pid).collect();
        let marker = marker(&a.instance.endpoint, LIMIT).await.unwrap();
        let senders = link.proof_senders(LIMIT).await.unwrap();
        let late = behind(&senders, &before, &BTreeSet::from(["b".to_owned()]), marker);
        let name = |pid: &i32| senders.iter().find(|sender| sender.pid == *pid).unwrap().name.clone();
        assert_eq!(late.iter().map(name).collect::<Vec<_>>(), ["b"], "{senders:?}");
        freeze(Signal::SIGCONT);
        until("the standby has it", async || {
            behind(&link.proof_senders(LIMIT).await.unwrap(), &before, &BTreeSet::from(["b".to_owned()]), marker).is_empty()
        })
        .await;
        for child in [&mut backup, &mut receiver] {
            assert_eq!(child.try_wait().unwrap(), None, "it lives on");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
);

/// A file of the fixtures, where PostgreSQL takes a key from.
fn fixture(root: &std::path::Path, name: &str, text: &str) -> PathBuf {
    let path = root.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

pg_test!(
    /// Neither a variable nor a file in a home directory takes the encryption away, and a bound channel can be demanded.
    an_environment_does_not_change_a_connection,
    async {
        let root = tempfile::tempdir().unwrap();
        let key = fixture(root.path(), "server.key", include_str!("fixtures/server.key"));
        let certificate = fixture(root.path(), "server.crt", include_str!("fixtures/server.crt"));
        let other = fixture(root.path(), "root.crt", include_str!("fixtures/other.crt"));
        let mut a = Node::new(root.path(), "a");
        for (name, value) in [
            ("ssl", "on"),
            ("ssl_key_file", key.to_str().unwrap()),
            ("ssl_cert_file", certificate.to_str().unwrap()),
        ] {
            a.config.settings.user.push((name.to_owned(), value.to_owned()));
        }
        a.found().await;
        assert_eq!(meet(caller(&a, PASSWORD), LIMIT).await, Ok(Met { tls: true }));
        let mut b = Node::standby(root.path(), "b", &a).await;
        let environ = std::fs::read(format!("/proc/{}/environ", b.postmaster.as_ref().unwrap().pid())).unwrap();
        let environ = String::from_utf8_lossy(&environ).into_owned();
        assert!(environ.contains("PATH=") && !environ.contains("CARGO") && !environ.contains("PWD="), "{environ}");
        let encrypted = async || {
            let sample = a.link().await.sample(LIMIT).await.unwrap();
            sample.walsenders.iter().find(|sender| sender.application_name == "b").and_then(|sender| sender.encrypted)
        };
        assert_eq!(encrypted().await, Some(true));
        // As in a server that somebody else started: with his own certificate authority, in a home directory too.
        let home = root.path().join("home");
        std::fs::create_dir_all(home.join(".postgresql")).unwrap();
        std::fs::copy(&other, home.join(".postgresql/root.crt")).unwrap();
        let env = [
            ("HOME", home.to_str().unwrap()),
            ("PGSSLROOTCERT", other.to_str().unwrap()),
            ("PGSSLMODE", "disable"),
            ("PGGSSENCMODE", "require"),
            ("PGTARGETSESSIONATTRS", "standby"),
            ("PGHOSTADDR", "127.9.9.9"),
            ("PGOPTIONS", "-c work_mem=1"),
            ("PGCHANNELBINDING", "disable"),
        ];
        for plus in [false, true] {
            b.instance.fence().await.unwrap();
            b.config.settings.upstream.as_mut().unwrap().scram_plus = plus;
            b.write_config();
            let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
            let options = SpawnOptions { env, ..SpawnOptions::default() };
            let (postmaster, _) = b.instance.start(StartAs::Standby, &options, LIMIT).await.unwrap();
            b.postmaster = Some(postmaster);
            b.wait_streaming().await;
            assert_eq!(encrypted().await, Some(true));
        }
        // A channel that must be bound is not made without TLS.
        a.config.settings.user.push(("ssl".to_owned(), "off".to_owned()));
        a.apply_config().await;
        until("TLS is off", async || meet(caller(&a, PASSWORD), LIMIT).await == Ok(Met { tls: false })).await;
        a.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication").await;
        until("its refusal", async || b.instance.log_tail(20).contains("server does not support SSL")).await;
    }
);
