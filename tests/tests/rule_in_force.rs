//! Where PostgreSQL cannot be made to show the agreed rule, the primary keeps its clients out until it does; a setting may
//! choose to serve on, and then that counts against RPO 0. (Lines that merely override are the chaos suite's
//! `config-lines` and `alter-system`.)

use nix::sys::signal::Signal;
use pgvigil_chaos::cluster::ClusterOptions;
use pgvigil_tests::{
    assert_says, sql, wait,
    world::{World, moves, nothing_lost},
};
use std::{fs, path::Path};

/// The line that no version of PostgreSQL can read.
const BROKEN: &str = "\nmy broken line\n";

/// The rule is overridden by `ALTER SYSTEM`, and before it can be put back a file does not parse any more. pgvigil is
/// stopped for that moment, much shorter than a lease.
#[track_caller]
fn override_for_good(world: &World, primary: &str) {
    let conf = world.host(primary).join("pgdata/postgresql.conf");
    let pid = world.cluster.pgvigil_pid(world.id_of(primary)).expect("it runs");
    let dsn = world.dsn_of(primary);
    world.send(pid, Signal::SIGSTOP);
    let overridden = (|| {
        sql::try_value(&dsn, "ALTER SYSTEM SET synchronous_standby_names = ''")?;
        sql::try_value(&dsn, "SELECT pg_reload_conf()")?;
        for _ in 0..200 {
            if sql::try_value(&dsn, "SHOW synchronous_standby_names")?.is_empty() {
                return append(&conf).map_err(|e| e.to_string());
            }
        }
        Err("never in force".to_owned())
    })();
    world.send(pid, Signal::SIGCONT);
    overridden.unwrap_or_else(|error| panic!("nothing was tried: {error}"));
}

fn append(conf: &Path) -> std::io::Result<()> {
    let before = fs::read_to_string(conf)?;
    fs::write(conf, before + BROKEN)
}

fn mend(conf: &Path) {
    let text = fs::read_to_string(conf).expect("it is there");
    fs::write(conf, text.replace(BROKEN, "")).expect("it can be written");
}

#[test]
fn a_primary_that_cannot_show_its_rule_keeps_clients_out() {
    // A lease that a busy machine does not miss while pgvigil is stopped.
    let settings = [("lease_ms".to_owned(), "3000".to_owned())].into();
    let mut world = World::healthy("rule-in-force", ClusterOptions { settings, ..ClusterOptions::default() });
    let load = world.load();
    let before = world.status();
    let primary = before.primary.clone();
    let conf = world.host(&primary).join("pgdata/postgresql.conf");

    override_for_good(&world, &primary);
    let closed = world.until("clients are kept out, and PostgreSQL's words say why", |now| {
        let said = now.findings.iter().any(|f| f.contains("syntax error") && f.contains("postgresql.conf line"));
        let why = now.rpo.not_writable.join(" ");
        if !now.rpo.zero && why.contains("closed") && said { Ok(()) } else { Err(format!("{why}: {:?}", now.findings)) }
    });
    assert_eq!(closed.epoch, before.epoch, "it is no failover");
    let refused = sql::try_value(&world.dsn_of(&primary), "SELECT 1").expect_err("a client got in");
    assert_says(&refused, &["pg_hba.conf"]);
    mend(&conf);
    let healed = world.heal();
    assert_eq!(healed.epoch, before.epoch);
    moves(&load, 20);

    world.ok(&["settings", "set", "serve_without_rule=true"]);
    override_for_good(&world, &primary);
    world.until("it is said that RPO 0 does not hold", |now| {
        let said = now.findings.iter().any(|f| f.contains("syntax error"));
        if !now.rpo.zero && said { Ok(()) } else { Err(format!("{:?}", now.rpo.why_not)) }
    });
    let later = load.now() + std::time::Duration::from_secs(6);
    wait("a write that was sent two leases later", || {
        if load.acknowledged_since(later) > 0 { Ok(()) } else { Err("none yet".to_owned()) }
    });
    assert!(!world.status().rpo.zero, "and it is still said");
    mend(&conf);
    world.heal();
    nothing_lost(&load);
}
