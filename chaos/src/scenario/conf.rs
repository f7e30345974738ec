//! People, tuning tools and configuration management write into PostgreSQL's own files (case 01).

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::stage::LIMIT;
use super::{Stage, StoryError, Told};
use crate::cluster::postmaster;
use crate::fault::{Fault, FaultError, Part};
use crate::host::{End, HostError, Service};
use crate::libpq::Connection;
use crate::processes;

/// Everything that would weaken the rule, cut a standby off, or keep a server from being what it has to be.
const SPOILT: [(&str, &str); 11] = [
    ("synchronous_standby_names", ""),
    ("synchronous_commit", "local"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("restart_after_crash", "on"),
    ("primary_conninfo", ""),
    ("port", "1"),
    ("listen_addresses", ""),
    ("max_wal_senders", "0"),
    ("wal_level", "minimal"),
    ("hot_standby", "off"),
];

/// How the lines get there.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// At the end of postgresql.conf, after pgvigil's include.
    Appended,
    /// In a file that is included there.
    Included,
    /// By a template that replaces postgresql.conf, without pgvigil's include.
    Replaced,
}

/// Lines in files: they weaken nothing, not for a moment, on no member; and a member that is started with them is as it
/// has to be.
pub(super) fn lines(stage: &mut Stage) -> Told {
    for way in [Way::Appended, Way::Included, Way::Replaced] {
        let epoch = stage.epoch()?;
        let mut kept = Vec::new();
        for node in stage.world.cluster.nodes.iter().map(|node| node.id).collect::<Vec<_>>() {
            kept.push(spoil(stage, node, way)?);
            reload(stage, node)?;
        }
        stage.writes_go_on(50)?;
        demand_rule_and_fail_over(stage)?;
        stage.demand_epochs(epoch, 1..=1)?;
        for (path, before) in kept {
            fs::write(&path, before).map_err(HostError::io("restoring a configuration file"))?;
        }
    }
    Ok(())
}

/// The same with `ALTER SYSTEM`, which no file can override before PostgreSQL 17: it is put back within a look or two,
/// and from then on the rule holds.
pub(super) fn alter_system(stage: &mut Stage) -> Told {
    let (primary, epoch) = (stage.primary()?, stage.epoch()?);
    for node in stage.world.cluster.nodes.iter().map(|node| node.id).collect::<Vec<_>>() {
        for (name, value) in SPOILT {
            statement(stage, node, &format!("ALTER SYSTEM SET {name} = '{value}'"))?;
        }
        stage.note("ALTER SYSTEM of everything", &format!("host {node}"), false);
        reload(stage, node)?;
    }
    stage.until("the rule to be put back", LIMIT, |stage| {
        let shown = statement(stage, primary, "SHOW synchronous_standby_names");
        Ok(shown.is_ok_and(|names| !names.is_empty()).then_some(()))
    })?;
    stage.writes_go_on(50)?;
    demand_rule_and_fail_over(stage)?;
    stage.demand_epochs(epoch, 1..=1)
}

/// Without a standby nothing is acknowledged; then the primary's host dies, and what was acknowledged is there.
fn demand_rule_and_fail_over(stage: &mut Stage) -> Told {
    let primary = stage.primary()?;
    let ends = |nodes: &[u64]| nodes.iter().map(|id| End::Host(*id)).collect::<Vec<_>>();
    let standbys = stage.others(primary);
    let cut = stage.begin(Fault::ServiceCut(Service::Postgres, ends(&[primary]), ends(&standbys)))?;
    // What was under way at the cut is acknowledged by then, or waits.
    stage.pause(Duration::from_secs(1))?;
    let since = stage.now();
    stage.pause(Duration::from_secs(2))?;
    let alone = stage.acknowledged_by(primary, since, stage.now())?;
    stage.demand(alone == 0, format!("the primary acknowledged {alone} writes that no standby can have"))?;
    stage.begin(Fault::PowerOff(vec![primary]))?;
    stage.end(cut)?;
    stage.writes_resume()?;
    stage.heal()?;
    // One that is restarted obeys none of the lines either.
    let standby = stage.others(stage.world.cluster.node_of(&stage.status()?.primary)?.id)[0];
    stage.begin(Fault::Kill(Part::Postmaster, standby))?;
    stage.heal().map(drop)
}

/// Writes the lines; the file and what was in it before.
fn spoil(stage: &mut Stage, node: u64, way: Way) -> Result<(PathBuf, Vec<u8>), StoryError> {
    let failed = HostError::io;
    let data = stage.world.cluster.node(node)?.dir.join("pgdata");
    let path = data.join("postgresql.conf");
    let before = fs::read(&path).map_err(failed("reading a configuration file"))?;
    let lines: String = SPOILT.iter().map(|(name, value)| format!("{name} = '{value}'\n")).collect();
    let text = match way {
        Way::Appended => [before.as_slice(), b"\n", lines.as_bytes()].concat(),
        Way::Included => {
            fs::write(data.join("tuning.conf"), &lines).map_err(failed("writing a configuration file"))?;
            [before.as_slice(), b"\ninclude 'tuning.conf'\n"].concat()
        }
        Way::Replaced => lines.into_bytes(),
    };
    fs::write(&path, text).map_err(failed("writing a configuration file"))?;
    stage.note(&format!("lines in postgresql.conf: {way:?}"), &format!("host {node}"), false);
    Ok((path, before))
}

fn reload(stage: &mut Stage, node: u64) -> Told {
    let dir = stage.world.cluster.node(node)?.dir.clone();
    let Some(pid) = postmaster(&dir) else { return stage.demand(false, format!("no postmaster on host {node}")) };
    Ok(processes::send(pid, Signal::SIGHUP).map_err(FaultError::from)?)
}

fn statement(stage: &Stage, node: u64, sql: &str) -> Result<String, StoryError> {
    let limit = Instant::now() + Duration::from_secs(10);
    let failed = |why: String| StoryError::Claim(format!("{sql} on host {node}: {why}"));
    let dsn = stage.world.cluster.dsn().pinned(stage.world.cluster.node(node)?.address());
    let mut connection = Connection::connect(&dsn.to_string(), limit).map_err(|e| failed(e.to_string()))?;
    let answer = connection.exec(sql, limit).map_err(|e| failed(e.to_string()))?;
    Ok(answer.rows.into_iter().next().and_then(|row| row.into_iter().next().flatten()).unwrap_or_default())
}
