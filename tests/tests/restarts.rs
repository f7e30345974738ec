//! Story 4: pgvigil and its guard die, the Raft leader dies, every pgvigil is restarted in turn: PostgreSQL serves on,
//! is adopted, and not one postmaster is replaced.

use nix::sys::signal::Signal;
use pgvigil_chaos::{cluster::ClusterOptions, processes};
use pgvigil_tests::{
    LIMIT, wait,
    world::{World, moves, nothing_lost},
};

#[test]
fn whatever_happens_to_pgvigil_postgresql_runs_on() {
    let mut world = World::healthy("restarts", ClusterOptions::default());
    let load = world.load();
    let began = world.status();
    let postmasters = world.postmasters();
    let primary = began.primary.clone();
    let beside = world.id_of(&primary);

    world.say("kill -9 of the pgvigil beside the primary; it is started again at once, as systemd would");
    world.kill_pgvigil(beside);
    world.start_pgvigil(beside);
    moves(&load, 50);
    world.heal();
    assert_eq!(world.postmasters(), postmasters, "adopted, not restarted");

    for member in ["pg1", "pg2", "pg3"] {
        let guard = wait("a guard", || world.guard(member).ok_or_else(|| "none".to_owned()));
        world.say(&format!("kill -9 of the guard of {member}"));
        world.send(guard, Signal::SIGKILL);
        wait("another guard", || match world.guard(member) {
            Some(other) if other != guard => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    moves(&load, 50);
    let healed = world.heal();
    assert_eq!(world.postmasters(), postmasters);
    assert_eq!((healed.epoch, &healed.primary), (began.epoch, &primary), "no failover for the sake of a guard");

    let leader = healed.leader;
    world.say(&format!("kill -9 of the Raft leader, node {leader}"));
    assert_ne!(leader, beside, "the leader does not sit on the primary's host");
    // It stays dead until another leads: one that is back at once may lead again.
    world.kill_pgvigil(leader);
    let elected = world.until("another node leads", |now| {
        if now.from_leader && now.leader != leader { Ok(()) } else { Err(format!("leader {}", now.leader)) }
    });
    assert_eq!((elected.epoch, &elected.primary), (began.epoch, &primary), "the primary did not move");
    world.start_pgvigil(leader);
    moves(&load, 50);
    world.heal();
    assert_eq!(world.postmasters(), postmasters);

    for id in 1..=3 {
        world.say(&format!("SIGTERM to the pgvigil of node {id}, and its start"));
        world.restart_pgvigil(id);
        world.heal();
        moves(&load, 20);
    }
    let ended = world.heal();
    assert_eq!(world.postmasters(), postmasters, "an upgrade of pgvigil restarts no PostgreSQL");
    assert_eq!((ended.epoch, &ended.primary), (began.epoch, &primary), "and moves no primary");
    nothing_lost(&load);

    world.say("all three pgvigil stopped, and a guard left alone ends the primary when its right runs out");
    for id in 1..=3 {
        world.cluster.stop_node(id, LIMIT).expect("it ends");
    }
    let old = postmasters[&primary];
    wait("the guard to end the primary", || if processes::is_alive(old) { Err("alive".to_owned()) } else { Ok(()) });
    for (member, pid) in &postmasters {
        assert_eq!(processes::is_alive(*pid), *member != primary, "{member}: a standby is left alone");
    }
    for id in 1..=3 {
        world.cluster.start_node(id).expect("it starts");
    }
    world.heal();
    nothing_lost(&load);
}
