//! An agent that is kept out: every connection used, its database closed or dropped, its role's login taken, a library that
//! does not load. It gets in by another way, and everything that it has to do is done.

mod common;

use common::{LIMIT, Node, until};
use pgvigil_core::{evidence::judge, id::TimelineId, lsn::Lsn, time::Time};
use pgvigil_postgres::{
    Beat, Canary, Link, SealedServer, SyncRule,
    admin::AgentRole,
    canary,
    clients::end_clients,
    evidence::gather,
    hba::{Stands, stands},
    link::fresh_value,
    walsender::behind,
    ways::{AGENT_ROLE, Refused, Slot},
};
use std::collections::BTreeSet;

/// Takes every connection there is, those reserved for superusers too.
async fn hog(node: &Node) -> Vec<Link> {
    let mut held = Vec::new();
    loop {
        match Link::connect_as_usual(&node.instance.endpoint, "hog", LIMIT).await {
            Ok(link) => held.push(link),
            Err(error) => {
                assert_eq!(error.sqlstate(), Some("53300"), "{error}");
                return held;
            }
        }
    }
}

fn rule(names: &[&str]) -> SyncRule {
    SyncRule::Any { k: 1, names: names.iter().map(|name| (*name).to_owned()).collect() }
}

pg_test!(
    /// T1.3: the rule changes and is proven, and the canary begins, while every connection is used.
    a_full_primary_is_sampled_configured_and_proven,
    async {
        let root = tempfile::tempdir().unwrap();
        let mut a = Node::primary(root.path(), "a").await;
        let b = Node::standby(root.path(), "b", &a).await;
        let held = hog(&a).await;
        let endpoint = a.instance.endpoint.clone();
        assert_eq!(endpoint.ways.barred().unwrap().refused, Refused::Slots);

        let link = Link::connect(&endpoint, "test", "", LIMIT).await.unwrap();
        assert_eq!(link.way().slot, Slot::Walsender);
        assert_eq!(link.connections(LIMIT).await.unwrap(), (30, 30));
        let sample = link.sample(LIMIT).await.unwrap();
        assert!(!sample.in_recovery && sample.walsenders.iter().any(|sender| sender.application_name == "b"));
        link.slow_sample(LIMIT).await.unwrap();

        a.config.settings.rule = rule(&["b"]);
        a.apply_config().await;
        let shown = fresh_value(&endpoint, "synchronous_standby_names", LIMIT).await.unwrap();
        assert_eq!(shown, a.config.settings.rule.names_value());
        // What the proof waits for has only the standby in it: its own sessions would never flush anything.
        let before: BTreeSet<i32> =
            link.proof_senders(LIMIT).await.unwrap().into_iter().map(|sender| sender.pid).collect();
        let marker = canary::marker(&endpoint, LIMIT).await.unwrap();
        until("nobody is behind the marker", async || {
            let senders = link.proof_senders(LIMIT).await.unwrap();
            assert!(senders.iter().any(|sender| sender.name == "pgvigil:test" && !sender.counted), "{senders:?}");
            behind(&senders, &before, &BTreeSet::from(["b".to_owned()]), marker).is_empty()
        })
        .await;
        let mut canary = Canary::new(endpoint.clone(), "a");
        assert!(matches!(canary.beat(LIMIT).await.unwrap(), Beat::Acknowledged { .. }));
        b.seal().await;
        let beat = canary.beat(std::time::Duration::from_millis(500)).await.unwrap();
        assert!(matches!(beat, Beat::Pending { .. }), "nobody confirms any more: {beat:?}");

        // A connection becomes free: the usual way is used again, and what got in otherwise leaves.
        drop(held);
        until("the usual way", async || Link::connect_as_usual(&endpoint, "look", LIMIT).await.is_ok()).await;
        assert!(endpoint.ways.barred().is_none() && !endpoint.keeps(&link));
    }
);

pg_test!(
    /// T1.2: a standby whose connections are all used is sealed without being stopped, and promoted.
    a_full_standby_is_sealed_and_promoted,
    async {
        let root = tempfile::tempdir().unwrap();
        let a = Node::primary(root.path(), "a").await;
        let mut b = Node::standby(root.path(), "b", &a).await;
        let held = hog(&b).await;
        a.instance.kill().await.unwrap();
        assert_eq!(b.seal().await.server, SealedServer::Running { pinned: false });
        assert_eq!(b.promote(TimelineId(2)).await.timeline, TimelineId(2));
        assert!(held.iter().all(|link| !link.is_closed()), "nobody had to leave for it");
    }
);

pg_test!(
    /// T1.1, T1.2: what a server is follows from its files and processes too; between two states nothing is claimed.
    a_server_is_known_without_a_session,
    async {
        let root = tempfile::tempdir().unwrap();
        let mut a = Node::primary(root.path(), "a").await;
        let mut b = Node::standby(root.path(), "b", &a).await;
        let known = |node: &Node, reigned: Option<TimelineId>| {
            let Node { instance, postmaster, .. } = node;
            let seen = gather(&instance.binaries, &instance.layout.data_dir, postmaster.as_ref().unwrap()).unwrap();
            judge(&seen.unwrap(), None, reigned, Time(1))
        };
        let primary = known(&a, Some(TimelineId(1))).unwrap();
        let flushed: Lsn = a.sql("SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
        assert!(!primary.in_recovery && primary.timeline == TimelineId(1) && primary.flush_lsn <= flushed);
        let standby = known(&b, None).unwrap();
        assert!(standby.in_recovery && standby.timeline == TimelineId(1));
        // Its title says that it streams from the first WAL on that comes.
        a.sql("CREATE TABLE t ()").await;
        let flushed: Lsn = a.sql("SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
        until("its walreceiver's title moves", async || {
            known(&b, None).is_some_and(|standby| standby.streaming && standby.flush_lsn >= flushed)
        })
        .await;

        a.instance.kill().await.unwrap();
        until("nothing streams", async || known(&b, None).is_some_and(|standby| !standby.streaming)).await;
        b.promote(TimelineId(2)).await;
        let promoted = known(&b, Some(TimelineId(2))).unwrap();
        assert_eq!((promoted.in_recovery, promoted.timeline), (false, TimelineId(2)));
        assert_eq!(known(&b, Some(TimelineId(1))), None, "not on the timeline of that reign");
        a.postmaster = None;
    }
);

pg_test!(
    /// T1.5: another database is used, another role; none of it can be spoilt by settings, and a role that lost its rights
    /// is not believed.
    another_database_and_another_role_are_used,
    async {
        let root = tempfile::tempdir().unwrap();
        let a = Node::primary(root.path(), "a").await;
        let endpoint = a.instance.endpoint.clone();
        let first = a.link().await;
        assert_eq!(first.ensure_agent_role(LIMIT).await.unwrap(), AgentRole::Ready);
        for sql in ["CREATE DATABASE app", "CREATE ROLE x"] {
            first.execute("test", sql, LIMIT).await.unwrap();
        }
        assert_eq!(first.databases(LIMIT).await.unwrap(), ["app"]);
        endpoint.ways.learn(vec!["app".to_owned()]).unwrap();

        // What keeps sessions out by settings keeps none of ours out.
        let settings = "ALTER ROLE boss SET session_preload_libraries = 'absent'; ALTER ROLE boss SET role = 'x'; \
                        ALTER DATABASE postgres SET local_preload_libraries = 'absent'";
        first.execute("test", settings, LIMIT).await.unwrap();
        let link = Link::connect_as_usual(&endpoint, "test", LIMIT).await.unwrap();
        assert_eq!(link.value("test", "SELECT current_user", LIMIT).await.unwrap(), "boss");

        let mut own = endpoint.clone();
        own.user = AGENT_ROLE.to_owned();
        let other = Link::connect_to(&own, "template1", LIMIT).await.unwrap();
        let change = async |sql: &str| other.execute("test", sql, LIMIT).await.unwrap();
        change("ALTER DATABASE postgres ALLOW_CONNECTIONS false").await;
        let link = Link::connect(&endpoint, "test", "", LIMIT).await.unwrap();
        assert_eq!((link.way().database.as_str(), link.way().role.as_str()), ("app", "boss"));
        assert!(Link::connect_as_usual(&endpoint, "test", LIMIT).await.is_err());
        assert_eq!(endpoint.ways.barred().unwrap().refused, Refused::Database);
        change("DROP DATABASE postgres WITH (FORCE)").await;

        let mut barring = vec!["ALTER ROLE boss NOLOGIN"];
        if a.instance.binaries.version().major < 16 {
            // Later ones do not take the first superuser its rights.
            barring.push("ALTER ROLE boss LOGIN NOSUPERUSER");
        }
        for sql in barring {
            change(sql).await;
            let link = Link::connect(&endpoint, "test", "", LIMIT).await.unwrap();
            assert_eq!((link.way().database.as_str(), link.way().role.as_str()), ("app", AGENT_ROLE), "{sql}");
            assert!(!link.sample(LIMIT).await.unwrap().in_recovery);
            change("ALTER ROLE boss LOGIN SUPERUSER").await;
        }

        // Its own role is mended, and a stranger of that name is not touched.
        change(&format!("ALTER ROLE {AGENT_ROLE} NOLOGIN")).await;
        assert_eq!(other.agent_role(LIMIT).await.unwrap(), AgentRole::NoLogin);
        assert_eq!(other.ensure_agent_role(LIMIT).await.unwrap(), AgentRole::Ready);
        change(&format!("ALTER ROLE {AGENT_ROLE} NOSUPERUSER")).await;
        assert_eq!(other.ensure_agent_role(LIMIT).await.unwrap(), AgentRole::Another);
    }
);

pg_test!(
    /// A door is closed for whoever is in, although the agent gets no session, not even in a walsender's slot; standbys and
    /// other walsenders stay.
    clients_are_ended_where_no_session_can_be_had,
    async {
        let root = tempfile::tempdir().unwrap();
        let a = Node::primary(root.path(), "a").await;
        let _b = Node::standby(root.path(), "b", &a).await;
        let endpoint = a.instance.endpoint.clone();
        let held = hog(&a).await;
        let mut senders = Vec::new();
        let refused = loop {
            match Link::connect(&endpoint, "hog", "", LIMIT).await {
                Ok(link) => senders.push(link),
                Err(error) => break error,
            }
        };
        assert!(refused.is_refusal() && senders.iter().all(|link| link.way().slot == Slot::Walsender), "{refused}");

        // One that was refused may still be on its way out.
        assert!(end_clients(a.postmaster.as_ref().unwrap()).unwrap() >= 30);
        until("they are gone", async || held.iter().all(Link::is_closed)).await;
        let link = Link::connect_as_usual(&endpoint, "test", LIMIT).await.unwrap();
        let sample = link.sample(LIMIT).await.unwrap();
        assert!(sample.walsenders.iter().any(|sender| sender.state.as_deref() == Some("streaming")));
        assert!(senders.iter().all(|link| !link.is_closed()));
    }
);

pg_test!(
    /// A `pg_hba.conf` of somebody else's that asks for a password: the server refuses, which is another thing than silence.
    a_server_that_asks_for_a_password_has_refused,
    async {
        let root = tempfile::tempdir().unwrap();
        let a = Node::primary(root.path(), "a").await;
        let Node { instance, config, postmaster, .. } = &a;
        for method in ["scram-sha-256", "md5", "password", "reject"] {
            std::fs::write(instance.layout.pg_hba(), format!("local all all {method}\n")).unwrap();
            instance.reload(postmaster.as_ref().unwrap()).unwrap();
            until("it is refused", async || match Link::connect(&instance.endpoint, "test", "", LIMIT).await {
                Ok(_) => false,
                Err(error) => {
                    assert!(error.is_refusal() && Refused::of(&error) == Refused::Role, "{method}: {error}");
                    true
                }
            })
            .await;
            assert_eq!(stands(&instance.layout, config.door, &config.access, &[]).unwrap(), Stands::Replaced);
            a.write_config();
            instance.reload(postmaster.as_ref().unwrap()).unwrap();
            until("it is let in", async || Link::connect(&instance.endpoint, "test", "", LIMIT).await.is_ok()).await;
        }
    }
);
