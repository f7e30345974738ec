//! What an idle node costs: memory, processor time and disk writes of pgvigil and of its guard.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::BenchError;
use crate::cluster::Cluster;
use crate::interrupt;
use crate::processes;

/// The figures of one node over the time it was watched.
#[derive(Debug, Clone, Serialize)]
pub struct Idle {
    /// The node.
    pub node: u64,
    /// Whether the Raft leader was on it.
    pub leader: bool,
    /// Whether its PostgreSQL was the primary.
    pub primary: bool,
    /// Resident memory of pgvigil at the end, KiB.
    pub pgvigil_rss_kib: u64,
    /// Resident memory of its guard at the end, KiB.
    pub guard_rss_kib: u64,
    /// Processor time of both, per cent of one core.
    pub cpu_percent: f64,
    /// Bytes that pgvigil caused to be written to disk.
    pub written_bytes: u64,
}

/// Counters of one process since it began.
#[derive(Debug, Clone, Copy)]
struct Counters {
    rss_kib: u64,
    cpu: Duration,
    written: u64,
}

/// What was flushed last is agreed so much later, and then nothing is any more.
const SETTLES: Duration = Duration::from_secs(12);

/// Watches an idle cluster for `length`.
pub(super) fn measure(cluster: &Cluster, length: Duration) -> Result<Vec<Idle>, BenchError> {
    let status = cluster.status()?;
    let watched = |dir: &Path| -> Vec<(i32, bool)> {
        // The guard is pgvigil's own program run as "pgvigil guard …".
        let of = |command: &str| {
            let mut words = command.split(' ');
            let ours = words.next().is_some_and(|w| w.rsplit('/').next().is_some_and(|n| n.starts_with("pgvigil")));
            ours.then(|| words.next().is_some_and(|word| word == "guard"))
        };
        processes::of_host(dir).iter().filter_map(|p| Some((p.pid, of(&p.command)?))).collect()
    };
    interrupt::pause(SETTLES)?;
    let mut before = Vec::new();
    for node in &cluster.nodes {
        for (pid, guard) in watched(&node.dir) {
            before.push((node, pid, guard, read(pid)?));
        }
    }
    let began = Instant::now();
    interrupt::pause(length)?;
    let mut rows: Vec<Idle> = Vec::new();
    for node in &cluster.nodes {
        let primary = status.primary == node.member;
        let mut row = Idle {
            node: node.id,
            leader: status.leader == node.id,
            primary,
            pgvigil_rss_kib: 0,
            guard_rss_kib: 0,
            cpu_percent: 0.0,
            written_bytes: 0,
        };
        let mut cpu = Duration::ZERO;
        for (_, pid, guard, first) in before.iter().filter(|entry| entry.0.id == node.id) {
            let last = read(*pid)?;
            cpu += last.cpu.saturating_sub(first.cpu);
            if *guard {
                row.guard_rss_kib += last.rss_kib;
            } else {
                row.pgvigil_rss_kib += last.rss_kib;
                row.written_bytes += last.written.saturating_sub(first.written);
            }
        }
        row.cpu_percent = 100.0 * cpu.as_secs_f64() / began.elapsed().as_secs_f64();
        rows.push(row);
    }
    Ok(rows)
}

fn read(pid: i32) -> Result<Counters, BenchError> {
    let file = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        std::fs::read_to_string(&path).map_err(|source| BenchError::Io { what: format!("reading {path}"), source })
    };
    let malformed = |name: &str| BenchError::Malformed(format!("/proc/{pid}/{name}"));
    let line = |text: &str, label: &str| -> Option<u64> {
        text.lines().find_map(|l| l.strip_prefix(label))?.split_whitespace().next()?.parse().ok()
    };
    let rss_kib = line(&file("status")?, "VmRSS:").ok_or_else(|| malformed("status"))?;
    let written = line(&file("io")?, "write_bytes:").ok_or_else(|| malformed("io"))?;
    let stat = file("stat")?;
    // Fields 14 and 15, counted from after the name in parentheses: user and system time in ticks.
    let ticks = || -> Option<u64> {
        let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().skip(11);
        Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
    };
    let ticks = ticks().ok_or_else(|| malformed("stat"))?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64;
    Ok(Counters { rss_kib, cpu: Duration::from_secs_f64(ticks as f64 / per_second), written })
}
