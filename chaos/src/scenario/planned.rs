//! What operators do, and others try, while clients work and hosts fail.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rand::RngCore;

use super::{Stage, StoryError, Told};
use crate::fault::{Fault, Part};
use crate::host::HostError;
use crate::libpq::Connection;

/// Planned changes of primary, one after the other, with a transaction open all the time.
pub(super) fn switchovers(stage: &mut Stage) -> Told {
    let epoch = stage.epoch()?;
    let rounds = 8;
    for _ in 0..rounds {
        let primary = stage.primary()?;
        let long = long_transaction(stage, primary)?;
        stage.note("switchover", &format!("away from host {primary}"), true);
        stage.pgvigil(&["switchover", "--timeout", "60"])?;
        drop(long);
        stage.writes_go_on(50)?;
        let now = stage.primary()?;
        stage.demand(now != primary, format!("host {primary} is still the primary after a switchover"))?;
        stage.heal()?;
    }
    stage.demand_epochs(epoch, rounds..=rounds)
}

/// A person locks whatever pgvigil keeps in a database, for longer than a hang may last: no hang, no change of primary.
pub(super) fn locked(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let held = stage.begin(Fault::Locked(primary))?;
    stage.pause(Duration::from_secs(8))?;
    stage.writes_go_on(50)?;
    stage.end(held)?;
    stage.heal()?;
    stage.demand_epochs(epoch, 0..=0)
}

/// A transaction that has written and does not end.
fn long_transaction(stage: &Stage, primary: u64) -> Result<Connection, StoryError> {
    let dsn = stage.world.cluster.dsn().pinned(stage.world.cluster.node(primary)?.address());
    let limit = std::time::Instant::now() + Duration::from_secs(10);
    let failed = |why: String| StoryError::Claim(format!("a long transaction could not be begun: {why}"));
    let mut connection = Connection::connect(&dsn.to_string(), limit).map_err(|e| failed(e.to_string()))?;
    let begun = connection.exec("BEGIN; CREATE TABLE chaos_long (i int)", limit);
    begun.map_err(|e| failed(e.to_string()))?;
    Ok(connection)
}

/// Every pgvigil is restarted in turn, as an upgrade does it; PostgreSQL must not notice.
pub(super) fn rolling_restart(stage: &mut Stage) -> Told {
    let epoch = stage.epoch()?;
    let dirs: Vec<_> = stage.world.cluster.nodes.iter().map(|node| (node.id, node.dir.clone())).collect();
    let running = || dirs.iter().map(|(_, dir)| crate::cluster::postmaster(dir)).collect::<Vec<_>>();
    let before = running();
    for _ in 0..2 {
        for (id, _) in &dirs {
            stage.begin(Fault::RestartAgent(*id))?;
            stage.writes_go_on(50)?;
            stage.heal()?;
        }
    }
    stage.demand(running() == before, "PostgreSQL was restarted with pgvigil")?;
    stage.demand_epochs(epoch, 0..=0)
}

/// The Raft leadership moves all the time; no primary moves with it.
pub(super) fn raft_churn(stage: &mut Stage) -> Told {
    let epoch = stage.epoch()?;
    let nodes: Vec<u64> = stage.world.cluster.nodes.iter().map(|node| node.id).collect();
    for turn in 0..12 {
        stage.begin(Fault::Lead(nodes[turn % nodes.len()]))?;
        stage.pause(Duration::from_millis(700))?;
    }
    stage.writes_go_on(50)?;
    stage.heal()?;
    stage.demand_epochs(epoch, 0..=0)
}

/// A member joins while the primary fails, and leaves while the next one fails.
pub(super) fn membership(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let fourth = stage.world.add_host()?;
    stage.note("member added", &format!("host {fourth}"), false);
    stage.pause(Duration::from_millis(800))?;
    stage.begin(Fault::Kill(Part::Postmaster, primary))?;
    stage.writes_resume()?;
    stage.heal()?;
    let member = stage.world.cluster.node(fourth)?.member.clone();
    if stage.primary()? == fourth {
        stage.note("switchover", "away from the new member", true);
        stage.pgvigil(&["switchover", "--to", "pg1", "--timeout", "60"])?;
    }
    let primary = stage.primary()?;
    stage.pgvigil(&["members", "remove", &member, "--no-wait"])?;
    stage.note("member removed", &format!("host {fourth}"), false);
    stage.begin(Fault::Kill(Part::Postmaster, primary))?;
    stage.writes_resume()?;
    stage.until_status("the member to be gone", |status| status.member(&member).is_none())?;
    stage.world.remove_host(fourth)?;
    stage.heal()?;
    stage.demand_epochs(epoch, 2..=3)
}

/// Wrong orders and wrong bytes: refused or ignored, with nothing moved and nobody dead.
pub(super) fn adversary(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let member = stage.world.cluster.node(primary)?.member.clone();
    stage.refused(&["failover", "--give-up", &member], 2)?;
    stage.refused(&["switchover", "--to", "nobody"], 3)?;
    stage.refused(&["settings", "set", "lease_ms=1"], 3)?;
    let agents: Vec<Option<i32>> =
        stage.world.cluster.nodes.iter().map(|node| stage.world.cluster.pgvigil_pid(node.id)).collect();
    let mut sent = 0;
    let addresses: Vec<String> = stage.world.cluster.nodes.iter().map(|node| node.listen.clone()).collect();
    for round in 0..60 {
        for address in &addresses {
            sent += garbage(stage, address, round)?;
        }
        stage.tick()?;
    }
    stage.note("malformed frames", &format!("{sent} bytes to every pgvigil"), false);
    stage.writes_go_on(50)?;
    let after: Vec<Option<i32>> =
        stage.world.cluster.nodes.iter().map(|node| stage.world.cluster.pgvigil_pid(node.id)).collect();
    stage.demand(agents == after, "a pgvigil died of what it was sent")?;
    stage.heal()?;
    stage.demand_epochs(epoch, 0..=0)
}

/// Sends something that is no request; how many bytes went out.
fn garbage(stage: &mut Stage, address: &str, round: usize) -> Result<usize, StoryError> {
    let mut bytes = vec![0_u8; 1 + (round * 97) % 4000];
    stage.random.fill_bytes(&mut bytes);
    // Often behind a true beginning of HTTP/2, so that it gets further.
    if round % 3 == 1 {
        bytes.splice(0..0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".iter().copied());
    }
    let failed = |source| HostError::Io { what: format!("sending garbage to {address}"), source };
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_millis(20))).map_err(failed)?;
    // It may hang up in the middle, and owes no answer.
    let sent = stream.write(&bytes).unwrap_or(0);
    let _answer = stream.read(&mut [0_u8; 64]);
    Ok(sent)
}
