//! Story 2: the primary crashes, its host is lost, its host freezes, under load. Nothing acknowledged is lost, the old
//! primary comes back as a standby by itself, and RPO 0 holds again.

use nix::sys::signal::Signal;
use pgvigil_chaos::{cluster::ClusterOptions, processes};
use pgvigil_tests::world::{World, moves, nothing_lost};

#[test]
fn a_primary_that_crashes_is_lost_or_freezes_loses_nothing() {
    let mut world = World::healthy("faults", ClusterOptions::default());
    let load = world.load();

    let before = world.status();
    world.say(&format!("crash of {}", before.primary));
    world.send(world.postmaster(&before.primary), Signal::SIGKILL);
    let after = world.until("another member is the primary", |now| moved(&before.primary, before.epoch, now));
    moves(&load, 50);
    let healed = world.heal();
    assert_eq!(healed.primary, after.primary, "one crash, one failover");
    assert_eq!(healed.member(&before.primary).map(|m| m.role.as_str()), Some("standby"));
    nothing_lost(&load);

    let before = healed;
    world.say(&format!("loss of the host of {}", before.primary));
    let (id, host) = (world.id_of(&before.primary), world.host(&before.primary));
    world.cluster.leave_dead(id);
    processes::kill_host(&host).expect("the host can be killed");
    world.until("another member is the primary", |now| moved(&before.primary, before.epoch, now));
    moves(&load, 50);
    world.cluster.start_node(id).expect("the host comes back");
    let healed = world.heal();
    assert_eq!(healed.member(&before.primary).map(|m| m.role.as_str()), Some("standby"));
    nothing_lost(&load);

    let before = healed;
    world.say(&format!("freeze of the host of {}", before.primary));
    let host = world.host(&before.primary);
    processes::stop_host(&host).expect("the host can be frozen");
    world.until("another member is the primary", |now| moved(&before.primary, before.epoch, now));
    moves(&load, 50);
    let (port, thawed) = (world.port(&before.primary), load.now());
    processes::continue_host(&host).expect("the host can be woken");
    let healed = world.heal();
    assert_eq!(healed.member(&before.primary).map(|m| m.role.as_str()), Some("standby"));
    assert_eq!(load.acknowledged_by(port, thawed), 0, "the stale primary acknowledged writes after it had woken");
    nothing_lost(&load);
}

/// Whether a successor serves.
fn moved(from: &str, epoch: u64, now: &pgvigil_chaos::status::Status) -> Result<(), String> {
    let serves = now.epoch > epoch && now.primary != from && now.rpo.writable;
    if serves { Ok(()) } else { Err(format!("epoch {}, primary {}: {}", now.epoch, now.primary, now.state)) }
}
