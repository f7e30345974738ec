//! kill -9 of anything at any moment: random blows at a running cluster, which must heal by itself and lose nothing.
//!
//! A pgvigil that dies is restarted at once, as systemd would; a host that dies comes back after a while. The choice
//! of blows follows from the seed alone, their effect of course does not.

use std::fmt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use thiserror::Error;

use crate::cluster::{Cluster, ClusterError, ClusterOptions, NODES, postmaster};
use crate::interrupt::{self, WaitError};
use crate::ledger::{LedgerError, Verdict, Workload, WorkloadOptions};
use crate::processes::{self, SignalError};

/// How long the cluster may take to be in full health again after the last blow of a round.
const HEAL_LIMIT: Duration = Duration::from_secs(240);

/// Why a storm ended early.
#[derive(Debug, Error)]
pub enum StormError {
    /// Acknowledged commits are gone, or refused ones are there.
    #[error("round {round} ({blows}): lost {lost:?}, resurrected {resurrected:?}")]
    Unclean {
        /// The round.
        round: usize,
        /// What was done in it.
        blows: String,
        /// Acknowledged and absent.
        lost: Vec<u64>,
        /// Refused and present.
        resurrected: Vec<u64>,
    },
    /// It did not heal.
    #[error("round {round} ({blows}) did not heal: {source}")]
    NotHealed {
        /// The round.
        round: usize,
        /// What was done in it.
        blows: String,
        /// What was still wrong.
        #[source]
        source: ClusterError,
    },
    /// See there.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// See there.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// See there.
    #[error(transparent)]
    Signal(#[from] SignalError),
    /// See there.
    #[error(transparent)]
    Wait(#[from] WaitError),
}

/// What a blow hits. On a host where there is no such process at that moment it hits nothing.
#[derive(Debug, Clone, Copy)]
enum Target {
    Pgvigil,
    Guard,
    Postmaster,
    /// One of PostgreSQL's children.
    Child,
    /// Every process; pgvigil is started again after a while.
    Host,
    /// pgvigil and its guard are stopped for a while, PostgreSQL is not.
    FrozenAgent,
    /// Every process is stopped for a while.
    FrozenHost,
}

/// One blow.
#[derive(Debug, Clone, Copy)]
struct Blow {
    target: Target,
    node: u64,
    /// Waited before it.
    after: Duration,
    /// For how long a dead host stays dead, or a frozen one frozen.
    lasts: Duration,
    /// Which of several processes, as a share of their number.
    which: f64,
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of node {} after {} ms", self.target, self.node, self.after.as_millis())?;
        match self.target {
            Target::Host | Target::FrozenAgent | Target::FrozenHost => write!(f, " for {} ms", self.lasts.as_millis()),
            _ => Ok(()),
        }
    }
}

/// What to do.
#[derive(Debug, Clone)]
pub struct StormOptions {
    /// How the cluster is started.
    pub cluster: ClusterOptions,
    /// How many rounds, each from full health to full health.
    pub rounds: usize,
    /// The seed of the choices.
    pub seed: u64,
}

/// Runs it; returns the last comparison of books and table.
pub fn storm(options: StormOptions, say: &mut dyn FnMut(String)) -> Result<Verdict, StormError> {
    let mut random = StdRng::seed_from_u64(options.seed);
    let mut cluster = Cluster::start(options.cluster)?;
    cluster.wait_healthy(HEAL_LIMIT)?;
    let workload = Workload::start(WorkloadOptions::new(cluster.dsn()))?;
    let mut last = Verdict::default();
    for round in 1..=options.rounds {
        // Often a second or third blow falls while the cluster still deals with the one before.
        let count = *[1, 1, 1, 2, 2, 3].get(random.random_range(0..6)).expect("six entries");
        let blows: Vec<Blow> = (0..count).map(|_| choose(&mut random)).collect();
        let words = blows.iter().map(Blow::to_string).collect::<Vec<_>>().join(", then ");
        say(format!("round {round}/{}: {words}", options.rounds));
        let began = Instant::now();
        strike(&mut cluster, &blows)?;
        let status = match cluster.wait_healthy(HEAL_LIMIT) {
            Ok(status) => status,
            Err(ClusterError::Wait(WaitError::Interrupted)) => return Err(WaitError::Interrupted.into()),
            Err(source) => return Err(StormError::NotHealed { round, blows: words, source }),
        };
        last = workload.check()?;
        if !last.is_clean() {
            let Verdict { lost, resurrected, .. } = last;
            return Err(StormError::Unclean { round, blows: words, lost, resurrected });
        }
        say(format!(
            "round {round}/{}: in full health after {:.1} s, epoch {}, {} commits acknowledged, none lost",
            options.rounds,
            began.elapsed().as_secs_f64(),
            status.epoch,
            last.acknowledged
        ));
    }
    Ok(last)
}

fn choose(random: &mut StdRng) -> Blow {
    use Target::{Child, FrozenAgent, FrozenHost, Guard, Host, Pgvigil, Postmaster};
    let target = [Pgvigil, Pgvigil, Guard, Postmaster, Postmaster, Child, Host, Host, FrozenAgent, FrozenHost]
        [random.random_range(0..10)];
    Blow {
        target,
        node: random.random_range(1..=NODES as u64),
        after: Duration::from_millis(random.random_range(0..2500)),
        lasts: Duration::from_millis(random.random_range(200..6000)),
        which: random.random(),
    }
}

/// Deals the blows in order, and sees to what ends after a while.
fn strike(cluster: &mut Cluster, blows: &[Blow]) -> Result<(), StormError> {
    let mut dead: Vec<(Instant, u64)> = Vec::new();
    let mut frozen: Vec<(Instant, i32)> = Vec::new();
    for blow in blows {
        let until = Instant::now() + blow.after;
        attend(cluster, &mut dead, &mut frozen, Some(until))?;
        let dir = cluster.node(blow.node)?.dir.clone();
        let all = processes::of_host(&dir);
        let program = |command: &str, name: &str| {
            let first = command.split(' ').next().unwrap_or_default();
            first.rsplit('/').next().unwrap_or_default().starts_with(name)
        };
        let pgvigils = || all.iter().filter(|p| program(&p.command, "pgvigil"));
        let is_guard = |command: &str| command.split(' ').nth(1) == Some("guard");
        let ends = Instant::now() + blow.lasts;
        let victim = match blow.target {
            Target::Pgvigil => pgvigils().find(|p| !is_guard(&p.command)).map(|p| p.pid),
            Target::Guard => pgvigils().find(|p| is_guard(&p.command)).map(|p| p.pid),
            Target::Postmaster => postmaster(&dir),
            Target::Child => {
                let children: Vec<i32> =
                    all.iter().filter(|p| p.command.starts_with("postgres:")).map(|p| p.pid).collect();
                children.get((blow.which * children.len() as f64) as usize).copied()
            }
            Target::Host => {
                cluster.leave_dead(blow.node);
                processes::kill_host(&dir)?;
                dead.push((ends, blow.node));
                None
            }
            Target::FrozenAgent | Target::FrozenHost => {
                let pids: Vec<i32> = match blow.target {
                    Target::FrozenAgent => pgvigils().map(|p| p.pid).collect(),
                    _ => all.iter().map(|p| p.pid).collect(),
                };
                for pid in pids {
                    processes::send(pid, Signal::SIGSTOP)?;
                    frozen.push((ends, pid));
                }
                None
            }
        };
        if let Some(pid) = victim {
            processes::send(pid, Signal::SIGKILL)?;
        }
    }
    attend(cluster, &mut dead, &mut frozen, None)
}

/// Restarts what has died, wakes what has slept long enough and brings back hosts whose time has come; until the time
/// given, or until nothing is left to do.
fn attend(
    cluster: &mut Cluster,
    dead: &mut Vec<(Instant, u64)>,
    frozen: &mut Vec<(Instant, i32)>,
    until: Option<Instant>,
) -> Result<(), StormError> {
    loop {
        let now = Instant::now();
        // On an interrupt everything is killed soon, stopped or not.
        interrupt::check()?;
        for (_, pid) in frozen.extract_if(.., |(ends, _)| *ends <= now) {
            processes::send(pid, Signal::SIGCONT)?;
        }
        for (_, node) in dead.extract_if(.., |(ends, _)| *ends <= now) {
            cluster.start_node(node)?;
        }
        cluster.tend()?;
        let over = until.map_or(dead.is_empty() && frozen.is_empty(), |until| until <= now);
        if over {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
