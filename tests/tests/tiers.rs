//! Story 8: an emergency member is promoted only when no primary- or replica-tier member can be; a backup member never.

use nix::sys::signal::Signal;
use pgvigil_chaos::{cluster::ClusterOptions, processes, status::Status};
use pgvigil_tests::world::{World, moves, nothing_lost};
use std::collections::BTreeMap;

/// Whether `primary` serves, `streaming` stream from it, and exactly `counted` are in the rule.
fn settled(now: &Status, primary: &str, streaming: &[&str], counted: &[&str]) -> Result<(), String> {
    let streams = |name: &&&str| now.member(name).is_some_and(|m| m.role == "standby" && m.state == "streaming");
    let in_rule: Vec<&str> = now.members.iter().filter(|m| m.in_rule).map(|m| m.name.as_str()).collect();
    let missing: Vec<_> = streaming.iter().filter(|name| !streams(name)).collect();
    if now.primary == primary && missing.is_empty() && in_rule == counted && now.rpo.zero && now.rpo.writable {
        return Ok(());
    }
    Err(format!("{} is {}, not streaming: {missing:?}, in the rule: {in_rule:?}", now.primary, now.state))
}

#[test]
fn an_emergency_member_is_the_last_resort_and_a_backup_none() {
    let tiers = [(1, "primary"), (2, "replica"), (3, "emergency"), (4, "backup"), (5, "backup")];
    let member: BTreeMap<u64, String> = tiers.map(|(id, tier)| (id, format!("tier = \"{tier}\"\n"))).into();
    let mut world = World::start("tiers", ClusterOptions { nodes: Some(5), member, ..ClusterOptions::default() });
    let others = ["pg2", "pg3", "pg4", "pg5"];
    let began = world.until("pg1 is the primary, and only pg2 counts", |now| settled(now, "pg1", &others, &["pg2"]));
    for backup in ["pg4", "pg5"] {
        let seen = began.member(backup).expect("it is a member");
        assert!(!seen.may_take_over && seen.may_not_because.contains("backup"), "{seen:?}");
        world.refused(&["switchover", "--to", backup], 3, &[backup, "never promoted"]);
        world.refused(&["failover", "--to", backup], 3, &[backup, "never promoted"]);
    }
    let load = world.load();

    world.say("the host of pg1 is lost");
    world.cluster.leave_dead(1);
    processes::kill_host(&world.host("pg1")).expect("the host can be killed");
    world.until("the replica takes over, and counts the emergency member for want of others", |now| {
        settled(now, "pg2", &["pg3", "pg4", "pg5"], &["pg3"])
    });
    moves(&load, 50);

    world.say("the host of pg2 is lost as well");
    world.cluster.leave_dead(2);
    processes::kill_host(&world.host("pg2")).expect("the host can be killed");
    let last = world.until("the emergency member takes over; backups confirm nothing", |now| {
        let pg3 = now.member("pg3").is_some_and(|m| m.role == "primary" && m.state == "open");
        let counted = now.members.iter().any(|m| m.in_rule && m.name != "pg1" && m.name != "pg2");
        if now.primary == "pg3" && pg3 && !counted { Ok(()) } else { Err(format!("{} {}", now.primary, now.state)) }
    });

    world.say("pg3 crashes, and only backups are left");
    world.send(world.postmaster("pg3"), Signal::SIGKILL);
    world.until("pg3 itself goes on", |now| {
        let pg3 = now.member("pg3").is_some_and(|m| m.role == "primary");
        let backups = ["pg4", "pg5"].iter().all(|name| now.member(name).is_some_and(|m| m.role == "standby"));
        let on = now.epoch > last.epoch && now.primary == "pg3" && pg3 && backups;
        if on { Ok(()) } else { Err(format!("epoch {} {} {}", now.epoch, now.primary, now.state)) }
    });

    world.say("the other hosts come back");
    for id in [1, 2] {
        world.cluster.start_node(id).expect("it starts");
    }
    // Where the machine is slow, a member that is better placed may have become the primary meanwhile.
    let all = ["pg1", "pg2", "pg3", "pg4", "pg5"];
    world.until("commits are confirmed by those of the better tiers again", |now| {
        let others: Vec<&str> = all.into_iter().filter(|name| *name != now.primary).collect();
        let counted: Vec<&str> = ["pg1", "pg2"].into_iter().filter(|name| *name != now.primary).collect();
        settled(now, &now.primary, &others, &counted)
    });
    nothing_lost(&load);
}
