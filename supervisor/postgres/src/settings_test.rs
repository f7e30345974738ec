use super::*;

fn layout() -> Layout {
    Layout::new("/data", "/agent dir")
}

const V15: Version = Version { major: 15, minor: 0 };
const V17: Version = Version { major: 17, minor: 0 };

#[test]
fn a_streaming_standby_golden() {
    let mut settings = Settings::new(5433, "/run/pg");
    let mut upstream = Upstream::new("10.0.0.1", 5432, "pgvigil_repl", "pgvigil_b_i2_e7");
    upstream.slot = "pgvigil_b".to_owned();
    settings.upstream = Some(upstream);
    settings.user = vec![("work_mem".into(), "8MB".into()), ("cluster_name".into(), "it's".into())];
    settings.listen_addresses = "*".to_owned();
    assert_eq!(settings.render_rule(V15, &layout()).unwrap(), include_str!("../tests/fixtures/standby.conf"));
}

#[test]
fn a_primary_under_a_rule_golden() {
    let mut settings = Settings::new(5433, "/run/pg");
    settings.rule = SyncRule::Any { k: 1, names: vec!["pgvigil_c_i1_e7".into(), "pgvigil_b_i2_e7".into()] };
    settings.allow_alter_system = false;
    assert_eq!(settings.render_rule(V17, &layout()).unwrap(), include_str!("../tests/fixtures/primary.conf"));
    assert_eq!(settings.render_start().unwrap(), include_str!("../tests/fixtures/start.conf"));
    assert!(settings.command_line(V17).contains(&("allow_alter_system".to_owned(), "off".to_owned())));
}

#[test]
fn what_is_watched_is_what_has_to_be_shown() {
    let shown = Settings::new(1, "/s").shown(V15, &layout());
    let mut watched = crate::sample::WATCHED;
    watched.sort_unstable();
    assert_eq!(shown.keys().map(String::as_str).collect::<Vec<_>>(), watched);
}

#[test]
fn the_rule_is_never_empty() {
    for rule in [SyncRule::Nobody, SyncRule::Local, SyncRule::Any { k: 1, names: vec![] }] {
        assert_eq!(rule.names_value(), "ANY 1 (\"pgvigil_nobody\")");
    }
    assert_eq!(sync_names(2, &["b".into(), "a\"".into(), "b".into()]), "ANY 2 (\"a\"\"\",\"b\")");
}

#[test]
fn a_sealed_member_has_no_upstream_and_no_archive() {
    let mut settings = Settings::new(1, "/s");
    settings.upstream = Some(Upstream::new("h", 1, "u", "n"));
    settings.restore_command = "cp x".to_owned();
    let text = settings.sealed().render_rule(V15, &layout()).unwrap();
    assert!(text.contains("primary_conninfo = ''\n") && text.contains("restore_command = ''\n"));
}

#[test]
fn the_user_cannot_set_what_is_ours() {
    let mut settings = Settings::new(1, "/s");
    settings.user = vec![("Synchronous_Commit".into(), "off".into())];
    assert!(matches!(settings.render_rule(V15, &layout()), Err(SettingsError::Managed { .. })));
}

#[test]
fn a_standby_starts_with_no_less_than_its_primary_runs_with() {
    let mut settings = Settings::new(1, "/s");
    settings.theirs = UserValues::from_text("max_connections = 20\nmax_worker_processes = 30\n");
    settings.floors = Some(SettingFloors {
        max_connections: 100,
        max_worker_processes: 16,
        max_wal_senders: 44,
        max_prepared_transactions: 0,
        max_locks_per_transaction: 65,
    });
    let line = settings.command_line(V15);
    let value = |name: &str| line.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    assert_eq!(value("max_connections"), Some("100"));
    assert_eq!((value("max_worker_processes"), value("max_prepared_transactions")), (None, None));
    assert_eq!((value("max_wal_senders"), value("max_locks_per_transaction")), (Some("44"), Some("65")));
    settings.user = vec![("max_connections".into(), "200".into())];
    assert!(!settings.command_line(V15).iter().any(|(name, _)| name == "max_connections"));
}

#[test]
fn a_larger_value_of_the_user_holds_and_a_smaller_one_does_not() {
    let mut settings = Settings::new(1, "/s");
    settings.user = vec![("Max_WAL_Senders".into(), "64".into()), ("max_replication_slots".into(), "2".into())];
    settings.theirs = UserValues::from_text("wal_level = Logical\nmax_replication_slots = 4\nmax_wal_senders = 0\n");
    let line = settings.command_line(V15);
    let value = |name: &str| line.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    assert_eq!(value("max_wal_senders"), Some("64"));
    assert_eq!(value("max_replication_slots"), Some("20"));
    assert_eq!(value("wal_level"), Some("logical"));
    assert!(!settings.render_rule(V15, &layout()).unwrap().to_lowercase().contains("max_wal_senders"));
}
