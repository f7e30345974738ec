//! Stories 3 and 5: what an operator asks for, under load: switchover, forced failover, restart, reinit, pause, settings,
//! members and voters that come and go. Nothing acknowledged is lost by any of it, and what is refused changes nothing.

use nix::sys::signal::Signal;
use pgvigil_chaos::{cluster::ClusterOptions, libpq::Connection, status::Status};
use pgvigil_tests::{
    LIMIT, assert_says, sql, wait,
    world::{World, moves, nothing_lost},
};
use std::time::Instant;

/// A standby of the present reign: the first by name.
fn a_standby(status: &Status) -> String {
    let found = status.members.iter().find(|member| member.role == "standby");
    found.expect("there is a standby").name.clone()
}

#[test]
fn planned_changes_of_primary() {
    let mut world = World::healthy("switchover", ClusterOptions::default());
    let load = world.load();
    let first = world.status().primary;
    let to = a_standby(&world.status());

    assert_says(&world.ok(&["switchover", "--to", &to]), &[&format!("{to} is the primary, open to clients")]);
    assert_eq!(world.heal().primary, to);
    moves(&load, 50);
    assert_says(&world.ok(&["switchover", "--to", &first]), &[&format!("{first} is the primary")]);
    assert_eq!(world.heal().primary, first);
    nothing_lost(&load);

    let before = world.status();
    let said = world.refused(&["switchover", "--to", "nobody"], 3, &["no member nobody", "pg1, pg2, pg3"]);
    assert!(!said.contains('{'), "a text for people: {said}");
    world.refused(&["switchover", "--to", &first], 3, &[&first, "is the primary"]);
    let held = a_standby(&before);
    sql::value(&world.dsn_of(&held), "SELECT pg_wal_replay_pause()");
    world.until("the leader sees that replay is held", |now| {
        let seen = now.members.iter().find(|m| m.name == held).is_some_and(|m| m.may_not_because.contains("paused"));
        if seen { Ok(()) } else { Err(format!("{:?}", now.member(&held))) }
    });
    world.refused(&["switchover", "--to", &held], 3, &[&held, "replay is paused"]);
    sql::value(&world.dsn_of(&held), "SELECT pg_wal_replay_resume()");
    let after = world.heal();
    assert_eq!((after.epoch, after.primary), (before.epoch, before.primary.clone()), "nothing has changed");

    let to = a_standby(&before);
    assert_says(&world.ok(&["failover", "--to", &to]), &[&format!("{to} is the primary")]);
    assert_eq!(world.heal().primary, to);
    nothing_lost(&load);
}

#[test]
fn maintenance() {
    let mut world = World::healthy("maintenance", ClusterOptions::default());
    let began = world.status();
    let (primary, standby) = (began.primary.clone(), a_standby(&began));

    world.say("restart of a standby, while nobody writes");
    let before = world.postmasters();
    world.ok(&["restart", &standby, "--timeout", "60"]);
    let healed = world.heal();
    assert_eq!(healed.primary, primary);
    let after = world.postmasters();
    assert_ne!(before[&standby], after[&standby]);
    assert_eq!(before[&primary], after[&primary]);
    let load = world.load();

    world.say("the pgvigil of a member that was restarted on request must not do it again when it starts");
    let id = world.id_of(&standby);
    world.restart_pgvigil(id);
    world.heal();
    moves(&load, 20);
    world.heal();
    assert_eq!(world.postmasters(), after, "the request was done once");

    world.say("reinit of a standby");
    world.ok(&["reinit", &standby, "--timeout", "60"]);
    world.heal();
    assert_eq!(world.postmasters()[&primary], before[&primary]);
    world.refused(&["reinit", &primary], 3, &[&primary, "is the primary", "Switch over first"]);
    nothing_lost(&load);

    world.say("settings");
    let settings = world.ok(&["--json", "settings"]);
    world.refused(&["settings", "set", "lease_ms=10"], 3, &["lease_ms", "because"]);
    world.refused(&["settings", "set", "no_such_thing=1"], 3, &["no_such_thing", "lease_ms"]);
    world.refused(&["settings", "set", "lease_ms=soon"], 3, &["lease_ms", "soon"]);
    world.refused(&["settings", "set", "standby_timeout_ms=4000", "lease_ms=10"], 3, &["lease_ms"]);
    assert_eq!(world.ok(&["--json", "settings"]), settings, "nothing has changed, also not the half that was right");
    world.ok(&["settings", "set", "lease_ms=2000"]);
    assert_says(&world.ok(&["settings", "get", "lease_ms"]), &["2000"]);

    world.say("pause: a dead primary stays dead");
    world.ok(&["pause", "--reason", "work on the network"]);
    world.refused(&["restart", &primary], 3, &[&primary, "paused", "work on the network", "Resume first"]);
    world.ok(&["restart", &standby, "--timeout", "60"]);
    world.send(world.postmaster(&primary), Signal::SIGKILL);
    let paused = world.until("the leader sees the dead primary and does nothing", |now| {
        let seen = now.findings.iter().any(|f| f.contains("paused") && f.contains("no failover"));
        if seen { Ok(()) } else { Err(format!("{:?}", now.findings)) }
    });
    assert_eq!(paused.epoch, began.epoch);
    assert_says(&paused.paused, &["work on the network"]);
    world.ok(&["resume"]);
    let healed = world.heal();
    assert!(healed.epoch > began.epoch);
    nothing_lost(&load);

    world.say("restart of the primary");
    let before = world.postmasters();
    let primary = healed.primary;
    world.ok(&["restart", "--timeout", "60"]);
    world.heal();
    assert_ne!(world.postmasters()[&primary], before[&primary]);
    nothing_lost(&load);
}

#[test]
fn members_and_voters_come_and_go() {
    let mut world = World::healthy("members", ClusterOptions::default());
    let load = world.load();
    let began = world.status();

    world.say("a fourth node, without a vote, whose member joins by a clone");
    let id = world.cluster.add_node().expect("it starts");
    let joined = world.heal();
    assert_eq!(joined.members.len(), 4);
    assert_eq!(joined.epoch, began.epoch);
    let voters = world.ok(&["voters"]);
    assert!(!voters.contains(&world.cluster.nodes[3].listen), "an agent only: {voters}");

    world.say("it gets a vote, and gives it back");
    let address = world.cluster.nodes[3].listen.clone();
    world.ok(&["voters", "add", &id.to_string(), &address]);
    assert_says(&world.ok(&["voters"]), &[&address]);
    world.heal();
    world.ok(&["voters", "remove", &id.to_string()]);
    let voters = world.ok(&["voters"]);
    assert!(!voters.contains(&address), "{voters}");
    world.refused(&["voters", "remove", "9"], 3, &["node 9", "not in the Raft group"]);
    moves(&load, 20);
    world.heal();

    world.say("libpq finds the primary by pgvigil dsn, and a standby by --ro");
    let user = world.cluster.account.name.clone();
    for (more, wanted) in [(None, "f"), (Some("--ro"), "t")] {
        let mut arguments = vec!["dsn", "--user", &user];
        arguments.extend(more);
        let dsn = world.ok(&arguments);
        let mut connection = Connection::connect(dsn.trim(), Instant::now() + LIMIT).expect("libpq understands it");
        let answer = connection.exec("SELECT pg_is_in_recovery()", Instant::now() + LIMIT).expect("it answers");
        assert_eq!(answer.rows[0][0].as_deref(), Some(wanted), "{dsn}");
    }

    world.say("a member leaves");
    let primary = world.status().primary;
    world.refused(&["members", "remove", &primary], 3, &[&primary, "is the primary"]);
    world.refused(&["members", "remove", "nobody"], 3, &["no member nobody"]);
    world.ok(&["members", "remove", "pg4", "--timeout", "60"]);
    wait("its pgvigil to hear of it, and not to join again", || {
        let said = world.log(id);
        if said.contains("pg4 was removed from the cluster") { Ok(()) } else { Err(said) }
    });
    assert!(world.status().member("pg4").is_none());
    world.cluster.drop_node(id).expect("it ends");
    let left = world.heal();
    assert_eq!(left.members.len(), 3);
    nothing_lost(&load);
}
