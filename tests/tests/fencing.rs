//! A host that is lost where time does not fence it: the successor stays closed until the fence command has succeeded.

use pgvigil_chaos::{cluster::ClusterOptions, processes};
use pgvigil_tests::{
    assert_says, wait,
    world::{World, moves, nothing_lost},
};
use std::{fs, os::unix::fs::PermissionsExt};

#[test]
fn the_successor_opens_only_when_the_fence_command_has_succeeded() {
    let shared = tempfile::tempdir().expect("a folder can be made");
    fs::set_permissions(shared.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let (switch, shot) = (shared.path().join("power-switch-works"), shared.path().join("shot"));
    fs::write(&shot, "").expect("it is ours");
    fs::set_permissions(&shot, fs::Permissions::from_mode(0o666)).expect("it is ours");
    // It fails until the switch works, as a power switch that cannot be reached does.
    let script = format!(
        "test -e {} || {{ echo no answer from the power switch >&2; exit 1; }}; echo $PGVIGIL_CLUSTER $PGVIGIL_MEMBER >> {}",
        switch.display(),
        shot.display()
    );
    let section = format!("[fence]\ncommand = [\"/bin/sh\", \"-c\", {script:?}]\n");
    let options = ClusterOptions {
        settings: [("fence_by_time".to_owned(), "false".to_owned())].into(),
        member: (1..=3).map(|id| (id, section.clone())).collect(),
        ..ClusterOptions::default()
    };
    let mut world = World::healthy("fencing", options);
    let load = world.load();
    let before = world.status();
    let (id, host) = (world.id_of(&before.primary), world.host(&before.primary));
    world.cluster.leave_dead(id);
    processes::kill_host(&host).expect("the host can be killed");
    world.until("a successor is promoted and stays closed", |now| {
        let waits = now.epoch > before.epoch && now.findings.iter().any(|f| f.contains("time does not fence"));
        if waits { Ok(()) } else { Err(format!("epoch {}: {:?}", now.epoch, now.findings)) }
    });
    wait("the fence command to fail, and to be reported", || {
        let said = |id: u64| world.log(id).contains("no answer from the power switch");
        let reported = world.cluster.nodes.iter().any(|node| said(node.id));
        if reported { Ok(()) } else { Err("no log speaks of it".to_owned()) }
    });
    let closed = world.status();
    assert!(!closed.rpo.writable, "{:?}", closed.findings);
    assert_eq!(fs::read_to_string(&shot).expect("it is ours"), "");

    fs::write(&switch, "").expect("it is ours");
    world.until("the successor serves", |now| {
        if now.rpo.writable && now.primary != before.primary { Ok(()) } else { Err(format!("{:?}", now.findings)) }
    });
    moves(&load, 20);
    let shots = fs::read_to_string(&shot).expect("it is ours");
    assert!(shots.lines().all(|line| line == format!("chaos {}", before.primary)) && !shots.is_empty(), "{shots}");
    let shown = world.ok(&["incidents", "show", &world.status().epoch.to_string()]);
    assert_says(&shown, &[&format!("the fence command for {} succeeded", before.primary)]);
    world.cluster.start_node(id).expect("the host comes back");
    world.heal();
    nothing_lost(&load);
}
