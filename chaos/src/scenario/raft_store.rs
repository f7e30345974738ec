//! What pgvigil itself has on its disk, damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Stage, StoryError, Told};
use crate::fault::Fault;
use crate::host::HostError;

/// A torn tail of the Raft log on one node, as a crash leaves it: it must start again by itself.
pub(super) fn torn_tail(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let victim = stage.others(primary)[0];
    let off = stage.begin(Fault::AgentGone(victim))?;
    stage.pause(Duration::from_secs(1))?;
    let log = newest(stage, victim, "log")?;
    let file = fs::OpenOptions::new().write(true).open(&log).map_err(HostError::io("opening a Raft log"))?;
    let length = file.metadata().map_err(HostError::io("reading a Raft log"))?.len();
    file.set_len(length.saturating_sub(7)).map_err(HostError::io("cutting a Raft log"))?;
    stage.note("torn tail of the Raft log", &format!("host {victim}, 7 of {length} bytes"), false);
    stage.end(off)?;
    stage.heal()?;
    stage.demand_epochs(epoch, 0..=0)
}

/// One bit in the middle of one node's Raft log flips: found, never followed; the others go on.
pub(super) fn bit_flip(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let victim = stage.others(primary)[0];
    flipped(stage, &[victim])?;
    stage.demand_epochs(epoch, 0..=0)
}

/// The same on two nodes at once, the leader's among them, at different places.
pub(super) fn two_bit_flips(stage: &mut Stage) -> Told {
    let primary = stage.primary()?;
    let leader = stage.leader()?;
    let other = stage.others(leader).into_iter().find(|id| *id != primary).unwrap_or(primary);
    flipped(stage, &[leader, other])
}

/// Damages the logs of these nodes while they are down. Each must either come back by itself or refuse to start with
/// a word about it; one that refuses gets what the runbook says: an empty Raft store, and its place in the group anew.
fn flipped(stage: &mut Stage, victims: &[u64]) -> Told {
    let mut off = Vec::new();
    for victim in victims {
        off.push(stage.begin(Fault::AgentGone(*victim))?);
    }
    stage.pause(Duration::from_secs(1))?;
    for (turn, victim) in victims.iter().enumerate() {
        let log = newest(stage, *victim, "log")?;
        let mut bytes = fs::read(&log).map_err(HostError::io("reading a Raft log"))?;
        stage.demand(bytes.len() > 64, format!("the Raft log of host {victim} is too short to be damaged inside"))?;
        let at = bytes.len() * (turn + 1) / (victims.len() + 1);
        bytes[at] ^= 0x10;
        overwrite(&log, &bytes)?;
        stage.note("bit flip in the Raft log", &format!("host {victim}, byte {at} of {}", bytes.len()), false);
    }
    for handle in off {
        stage.end(handle)?;
    }
    stage.pause(Duration::from_secs(5))?;
    for victim in victims {
        let said = complaint(stage, *victim)?;
        stage.say(format!("host {victim}: {}", said.as_deref().unwrap_or("started again by itself")));
        if said.is_some() {
            renew(stage, *victim)?;
        }
    }
    stage.heal().map(drop)
}

/// What a pgvigil that cannot start says; `None`: it runs.
fn complaint(stage: &mut Stage, node: u64) -> Result<Option<String>, StoryError> {
    let log = stage.world.cluster.node(node)?.dir.join("pgvigil.log");
    let answers = stage.until("the damaged node to run or to complain", super::stage::LIMIT, |stage| {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let tail: Vec<&str> = text.lines().rev().take(3).collect();
        let complains = tail.iter().find(|line| line.contains("orrupt") || line.contains("hecksum"));
        if let Some(line) = complains {
            return Ok(Some(Some((*line).to_owned())));
        }
        let status = stage.world.cluster.status();
        let reports = |s: crate::status::Status| {
            s.members.iter().any(|member| member.node == node && !member.state.contains("silent"))
        };
        Ok(status.is_ok_and(reports).then_some(None))
    })?;
    Ok(answers)
}

/// The node leaves the group, loses its Raft store, and joins again.
fn renew(stage: &mut Stage, node: u64) -> Told {
    let (dir, listen) = {
        let node = stage.world.cluster.node(node)?;
        (node.dir.join("state/raft"), node.listen.clone())
    };
    let off = stage.begin(Fault::AgentGone(node)).ok();
    stage.world.cluster.leave_dead(node);
    stage.pgvigil(&["voters", "remove", &node.to_string()])?;
    fs::remove_dir_all(&dir).map_err(HostError::io("removing a damaged Raft store"))?;
    stage.note("Raft store removed by the operator", &format!("host {node}"), false);
    match off {
        Some(handle) => stage.end(handle)?,
        None => stage.world.cluster.start_node(node)?,
    }
    stage.until("the node to be taken into the group again", super::stage::LIMIT, |stage| {
        let added = stage.world.cluster.run(&["voters", "add", &node.to_string(), &listen])?;
        Ok(added.status.success().then_some(()))
    })
}

/// The newest file of RocksDB's with that ending in a node's Raft store.
fn newest(stage: &Stage, node: u64, ending: &str) -> Result<PathBuf, StoryError> {
    let dir = stage.world.cluster.node(node)?.dir.join("state/raft");
    let mut found = Vec::new();
    collect(&dir, ending, &mut found).map_err(HostError::io(format!("reading {}", dir.display())))?;
    // Named by rising numbers of equal length.
    found.sort();
    found.pop().ok_or_else(|| StoryError::Claim(format!("no *.{ending} in {}", dir.display())))
}

fn collect(dir: &Path, ending: &str, into: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, ending, into)?;
        } else if path.extension().is_some_and(|found| found == ending) {
            into.push(path);
        }
    }
    Ok(())
}

/// Writes over a file in place, so that its owner stays.
fn overwrite(path: &Path, bytes: &[u8]) -> Result<(), StoryError> {
    use std::io::Write;
    let mut file = fs::OpenOptions::new().write(true).open(path).map_err(HostError::io("opening a Raft log"))?;
    Ok(file.write_all(bytes).map_err(HostError::io("damaging a Raft log"))?)
}
