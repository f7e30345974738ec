//! The figures: each fault a number of times on one running cluster, with writes going on all the time.

mod idle;
mod report;
mod run;

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use thiserror::Error;

use crate::account::{Account, AccountError};
use crate::bare::BareError;
use crate::cluster::{Cluster, ClusterError, ClusterOptions};
use crate::floor;
use crate::interrupt::WaitError;
use crate::ledger::{LedgerError, Verdict, Workload, WorkloadOptions};
use crate::processes::SignalError;

pub use idle::Idle;
pub use report::{Report, Run, Series, percentile};

/// How long a cluster may take to be in full health, at first and after each fault.
const HEAL_LIMIT: Duration = Duration::from_secs(180);

/// Why a bench could not go on.
#[derive(Debug, Error)]
pub enum BenchError {
    /// Writes did not resume.
    #[error("writes had not resumed after {0:?}; the status then: {1}")]
    NotResumed(Duration, String),
    /// PostgreSQL was not found where it should run.
    #[error("no postmaster runs on node {0}")]
    NoPostmaster(u64),
    /// A file could not be read.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A file of `/proc` is not as expected.
    #[error("{0} is not as expected")]
    Malformed(String),
    /// See there.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// See there.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// See there.
    #[error(transparent)]
    Bare(#[from] BareError),
    /// See there.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// See there.
    #[error(transparent)]
    Signal(#[from] SignalError),
    /// See there.
    #[error(transparent)]
    Wait(#[from] WaitError),
}

/// What is done to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// kill -9 of the postmaster.
    Crash,
    /// kill -9 of pgvigil, its guard, the postmaster and all children at once; the Raft leader is elsewhere.
    HostLoss,
    /// The same, with the Raft leader on that host.
    HostLossLeader,
    /// SIGSTOP of all these processes, SIGCONT later; the Raft leader is elsewhere.
    Freeze,
    /// The same, with the Raft leader on that host.
    FreezeLeader,
    /// A planned switchover.
    Switchover,
}

impl Fault {
    /// The bars of the median and of the maximum.
    pub fn bar(self) -> (Duration, Duration) {
        let ms = Duration::from_millis;
        match self {
            Fault::Crash => (ms(300), ms(1000)),
            Fault::Switchover => (ms(500), ms(1000)),
            _ => (ms(2000), ms(3500)),
        }
    }

    /// Whether the Raft leader is to be on the primary's host when it strikes.
    fn leader_on_primary(self) -> bool {
        matches!(self, Fault::HostLossLeader | Fault::FreezeLeader)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Crash => "crash",
            Fault::HostLoss => "host-loss",
            Fault::HostLossLeader => "host-loss-leader",
            Fault::Freeze => "freeze",
            Fault::FreezeLeader => "freeze-leader",
            Fault::Switchover => "switchover",
        })
    }
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// How the cluster is started.
    pub cluster: ClusterOptions,
    /// Which faults.
    pub faults: Vec<Fault>,
    /// How often each.
    pub runs: usize,
    /// How often the floor is measured.
    pub floor_runs: usize,
    /// For how long the idle cluster is watched; zero: not at all.
    pub idle: Duration,
}

/// Measures it all. `say` gets a line for each thing that happens.
pub fn bench(options: BenchOptions, say: &mut dyn FnMut(String)) -> Result<Report, BenchError> {
    let mut report = Report::default();
    let account = Account::unprivileged()?;
    let dir = tempfile::Builder::new()
        .prefix("pgvigil-floor-")
        .tempdir()
        .map_err(|source| BenchError::Io { what: "making a folder".to_owned(), source })?;
    account.make_dir(dir.path())?;
    say(format!("the floor: PostgreSQL alone, {} times", options.floor_runs));
    report.floor = floor::measure(&account, dir.path(), options.floor_runs, |_| {})?;

    say("starting three nodes".to_owned());
    let mut cluster = Cluster::start(options.cluster)?;
    let status = cluster.wait_healthy(HEAL_LIMIT)?;
    say(format!("the cluster is healthy; the primary is {}", status.primary));
    if !options.idle.is_zero() {
        say(format!("watching it idle for {} s", options.idle.as_secs()));
        report.idle = idle::measure(&cluster, options.idle)?;
    }
    for fault in options.faults {
        let series = measure_fault(&mut cluster, fault, options.runs, say)?;
        let failed = !series.failed.is_empty();
        report.series.push(series);
        if failed {
            // What comes next would start from an unhealthy cluster: what is known is reported, the rest is not run.
            say(format!("the rest is not run, because a run of {fault} failed"));
            break;
        }
    }
    cluster.stop()?;
    Ok(report)
}

fn measure_fault(
    cluster: &mut Cluster,
    fault: Fault,
    runs: usize,
    say: &mut dyn FnMut(String),
) -> Result<Series, BenchError> {
    let mut series = Series { fault, runs: Vec::new(), verdict: Verdict::default(), failed: Vec::new() };
    // By default the leader moves away from the primary's host; a series that wants it there says so.
    let wanted = format!("leader_away_from_primary={}", !fault.leader_on_primary());
    cluster.command(&["settings", "set", &wanted])?;
    let workload = Workload::start(WorkloadOptions::new(cluster.dsn()))?;
    for number in 1..=runs {
        let result = run::one(cluster, &workload, fault);
        if let Err(BenchError::Wait(WaitError::Interrupted)) = result {
            return Err(WaitError::Interrupted.into());
        }
        let failed = result.is_err();
        match result {
            Ok(run) => {
                say(format!(
                    "{fault} {number}/{runs}: writes stopped for {:.0} ms, full health {:.1} s later",
                    run.stopped_ms,
                    run.healed_ms / 1e3
                ));
                series.runs.push(run);
            }
            Err(error) => {
                say(format!("{fault} {number}/{runs}: FAILED: {error}"));
                series.failed.push(error.to_string());
            }
        }
        match workload.check() {
            Ok(verdict) => series.verdict = verdict,
            // After a failed run nobody may be there to be asked.
            Err(error) if failed => series.failed.push(error.to_string()),
            Err(error) => return Err(error.into()),
        }
        let Verdict { lost, resurrected, .. } = &series.verdict;
        if !series.verdict.is_clean() {
            say(format!("{fault} {number}/{runs}: LOST {lost:?}, RESURRECTED {resurrected:?}"));
        }
        if failed {
            break;
        }
    }
    Ok(series)
}
