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

/// One bit in the middle of one node's Raft log flips. Either it comes back by itself, or it refuses to start and says
/// why; the others go on, and a new node takes its place.
pub(super) fn bit_flip(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let victim = stage.others(primary)[0];
    let off = stage.begin(Fault::AgentGone(victim))?;
    stage.pause(Duration::from_secs(1))?;
    flip(stage, victim, 2)?;
    stage.end(off)?;
    stage.pause(Duration::from_secs(3))?;
    stage.writes_go_on(50)?;
    if let Some(said) = complaint(stage, victim)? {
        stage.say(format!("host {victim}: {said}"));
        stage.replace(victim)?;
    }
    stage.heal()?;
    stage.demand_epochs(epoch, 0..=0)
}

/// The same on two nodes at once, the leader's among them, at different places: without a quorum nothing is decided and
/// both say why they do not start; the primary serves on. It ends when the damage is undone.
pub(super) fn two_bit_flips(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    let leader = stage.leader()?;
    let other = stage.others(leader).into_iter().find(|id| *id != primary).unwrap_or(primary);
    let mut off = Vec::new();
    for victim in [leader, other] {
        off.push(stage.begin(Fault::AgentGone(victim))?);
    }
    stage.pause(Duration::from_secs(1))?;
    let whole = [flip(stage, leader, 2)?, flip(stage, other, 3)?];
    for handle in off {
        stage.end(handle)?;
    }
    stage.pause(Duration::from_secs(5))?;
    for victim in [leader, other] {
        let said = complaint(stage, victim)?;
        stage.demand(said.is_some(), format!("host {victim} runs on a damaged Raft log"))?;
        stage.say(format!("host {victim}: {}", said.unwrap_or_default()));
    }
    if ![leader, other].contains(&primary) {
        stage.writes_go_on(50)?;
    }
    for (log, bytes) in whole {
        overwrite(&log, &bytes)?;
    }
    stage.note("damage undone by the operator", &format!("host {leader}, host {other}"), true);
    stage.heal()?;
    stage.demand_epochs(epoch, 0..=1)
}

/// Flips a bit in a node's newest Raft log, one `share`th from its beginning; the log and what it held.
fn flip(stage: &mut Stage, victim: u64, share: usize) -> Result<(PathBuf, Vec<u8>), StoryError> {
    let log = newest(stage, victim, "log")?;
    let whole = fs::read(&log).map_err(HostError::io("reading a Raft log"))?;
    stage.demand(whole.len() > 64, format!("the Raft log of host {victim} is too short to be damaged inside"))?;
    let at = whole.len() / share;
    let mut bytes = whole.clone();
    bytes[at] ^= 0x10;
    overwrite(&log, &bytes)?;
    stage.note("bit flip in the Raft log", &format!("host {victim}, byte {at} of {}", whole.len()), true);
    Ok((log, whole))
}

/// What a pgvigil that cannot start says; `None`: it runs.
fn complaint(stage: &mut Stage, node: u64) -> Result<Option<String>, StoryError> {
    let log = stage.world.cluster.node(node)?.log();
    stage.until("the damaged node to run or to complain", super::stage::LIMIT, |stage| {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let tail: Vec<&str> = text.lines().rev().take(3).collect();
        let complains = tail.iter().find(|line| line.contains("orrupt") || line.contains("hecksum"));
        if let Some(line) = complains {
            return Ok(Some(Some((*line).to_owned())));
        }
        let status = stage.world.cluster.status();
        let reports = |s: crate::status::Status| {
            s.from_leader && s.members.iter().any(|member| member.node == node && !member.state.contains("silent"))
        };
        Ok(status.is_ok_and(reports).then_some(None))
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
