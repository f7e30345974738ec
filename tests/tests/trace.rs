//! Story: a cluster goes through crashes, a planned change and restarts of pgvigil, with every node writing down what it
//! decides and does. Afterwards the log of each node is read from its files, and every step is repeated with the core:
//! what was agreed, decided and done is what the proven code wants, and the nodes hold the same. Then one thing in what
//! they told is changed, and the check objects.

use nix::sys::signal::Signal;
use pgvigil_chaos::cluster::ClusterOptions;
use pgvigil_tests::{
    LIMIT,
    world::{World, moves, nothing_lost},
};
use pgvigil_trace::{Past, check, read};
use std::{fs, io::BufReader};

fn pasts(world: &World) -> (Vec<Past>, Vec<String>) {
    let (mut pasts, mut logs) = (Vec::new(), Vec::new());
    // The journals first: what they speak of is in the logs then.
    for node in &world.cluster.nodes {
        let journal = fs::File::open(node.dir.join("journal")).expect("it was written");
        pasts.push(read(&format!("journal of node {}", node.id), BufReader::new(journal)).expect("it is read"));
    }
    for node in &world.cluster.nodes {
        let state = node.dir.join("state");
        let log = world.ok(&["log", "--json", &state.display().to_string()]);
        pasts.push(read(&format!("log of node {}", node.id), log.as_bytes()).expect("it is read"));
        logs.push(log);
    }
    (pasts, logs)
}

#[test]
fn every_step_of_a_real_cluster_was_allowed() {
    let mut world = World::healthy("trace", ClusterOptions { journal: true, ..ClusterOptions::default() });
    let load = world.load();
    for _ in 0..2 {
        let before = world.status();
        world.say("the primary's postmaster is killed");
        world.send(world.postmaster(&before.primary), Signal::SIGKILL);
        world.until("a new epoch is open", |now| {
            if now.epoch > before.epoch && now.rpo.writable { Ok(()) } else { Err(format!("epoch {}", now.epoch)) }
        });
        world.heal();
    }
    world.ok(&["switchover"]);
    let primary = world.heal().primary;
    world.restart_pgvigil(world.id_of(&primary));
    world.heal();
    moves(&load, 50);
    nothing_lost(&load);

    world.say("read beside the running nodes");
    let (running, _) = pasts(&world);
    let verdict = check(&running);
    world.say(&verdict.to_string());
    assert!(verdict.findings.is_empty(), "{verdict}");
    assert!(verdict.agreed > 20 && verdict.decisions > 20 && verdict.acts > 20 && verdict.states >= 3, "{verdict}");

    world.say("and after their end");
    for id in 1..=3 {
        let ended = world.cluster.stop_node(id, LIMIT).expect("it ends");
        assert!(ended.success(), "{ended}");
    }
    let (stopped, logs) = pasts(&world);
    let verdict = check(&stopped);
    world.say(&verdict.to_string());
    assert!(verdict.findings.is_empty(), "{verdict}");

    world.say("a wrong step is objected to");
    let wrong: Vec<Past> = logs
        .iter()
        .map(|log| {
            // An appointment that forgot all of its seals but one.
            let changed: String = log
                .lines()
                .map(|line| {
                    let mut value: serde_json::Value = serde_json::from_str(line).expect("JSON");
                    if let Some(seals) = value.pointer_mut("/entry/proposal/command/appoint/seals") {
                        let seals = seals.as_array_mut().expect("a list");
                        seals.truncate(1);
                    }
                    format!("{value}\n")
                })
                .collect();
            read("changed", changed.as_bytes()).expect("it is read")
        })
        .collect();
    let verdict = check(&wrong);
    assert!(verdict.findings.iter().any(|finding| finding.contains("another state")), "{verdict}");
}
