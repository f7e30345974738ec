//! Plays scenarios one after the other, on one cluster as long as that comes back to full health each time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::clients;
use super::stage::{HEAL_LIMIT, Stage, StoryError, Told};
use super::{Needs, Scenario};
use crate::check::{self, Final, Tables};
use crate::cluster::{Cluster, ClusterError};
use crate::history::{History, Operation, clock};
use crate::host::{Ground, HostError, World, WorldError};
use crate::interrupt::{self, WaitError};
use crate::libpq::Address;
use crate::report::{self, IncidentRecord, RunRecord};
use crate::workload::Load;

/// How scenarios are played.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program; `None`: the `pgvigil` beside the calling program.
    pub pgvigil: Option<PathBuf>,
    /// The seed of the choices.
    pub seed: u64,
    /// How long scenarios that only wait are to wait.
    pub length: Option<Duration>,
    /// Where logs, histories and data directories of failed runs are kept.
    pub keep: PathBuf,
}

/// Why playing ended early.
#[derive(Debug, Error)]
pub enum RunError {
    /// No cluster could be made.
    #[error("no cluster could be started")]
    World(#[from] WorldError),
    /// It never came to full health.
    #[error("the new cluster did not form")]
    NotFormed(#[source] ClusterError),
    /// Ctrl-C.
    #[error(transparent)]
    Interrupted(#[from] WaitError),
}

/// Plays them. `say` gets a line for everything that happens, `done` each record when its run is over.
pub fn run(
    ground: &Ground,
    scenarios: &[Scenario],
    options: &Options,
    say: &mut dyn FnMut(String),
    done: &mut dyn FnMut(&RunRecord),
) -> Result<Vec<RunRecord>, RunError> {
    let mut records = Vec::new();
    let mut theatre = Theatre::new(ground, options);
    for scenario in scenarios {
        interrupt::check()?;
        let record = match unfit(scenario, ground) {
            Some(why) => RunRecord { skipped: Some(why), ..blank(scenario, options) },
            None => {
                let tell = &mut |stage: &mut Stage| (scenario.tell)(stage);
                theatre.play(blank(scenario, options), scenario.plain, tell, say)?
            }
        };
        done(&record);
        records.push(record);
    }
    Ok(records)
}

/// Why a scenario cannot be played on that ground; `None`: it can.
pub fn unfit(scenario: &Scenario, ground: &Ground) -> Option<String> {
    match (scenario.needs, ground) {
        (Needs::Unbuilt(why), _) => Some(why.to_owned()),
        (Needs::Hosts, Ground::Loopback(_)) => Some("needs hosts of their own (cables, disks, clocks)".to_owned()),
        _ => None,
    }
}

fn blank(scenario: &Scenario, options: &Options) -> RunRecord {
    RunRecord {
        scenario: scenario.name.to_owned(),
        number: scenario.number,
        story: scenario.story.to_owned(),
        seed: options.seed,
        began_at_ms: clock::wall_us() / 1000,
        bar: scenario.bar,
        repeat: format!("pgvigil-chaos run {} --seed {}", scenario.name, options.seed),
        ..RunRecord::default()
    }
}

/// Keeps a cluster over several scenarios.
pub(super) struct Theatre<'a> {
    ground: &'a Ground,
    options: &'a Options,
    world: Option<World>,
    /// How many worlds there were.
    worlds: usize,
}

impl<'a> Theatre<'a> {
    pub(super) fn new(ground: &'a Ground, options: &'a Options) -> Theatre<'a> {
        Theatre { ground, options, world: None, worlds: 0 }
    }

    /// Plays one story, on the cluster of the one before if that was well, else on a new one.
    pub(super) fn play(
        &mut self,
        mut record: RunRecord,
        plain: bool,
        tell: &mut dyn FnMut(&mut Stage) -> Told,
        say: &mut dyn FnMut(String),
    ) -> Result<RunRecord, RunError> {
        let mut world = match self.world.take() {
            Some(world) => world,
            None => {
                say(format!("{:>8}  starting three nodes", ""));
                self.worlds += 1;
                let mut world = World::start(self.ground, self.worlds, self.options.pgvigil.clone())?;
                world.cluster.wait_healthy(HEAL_LIMIT).map_err(RunError::NotFormed)?;
                world
            }
        };
        record.members = world.cluster.nodes.iter().map(|node| node.member.clone()).collect();
        say(format!("{}: {}", record.scenario, record.story));
        let epoch = world.cluster.status().map_err(RunError::NotFormed)?.epoch;
        let mut history = History::default();
        match clients::start(&world, record.seed, plain, &world.dir().join("history.jsonl")) {
            Err(error) => record.failures.push(format!("the clients could not be started: {error}")),
            Ok(load) => (record, history) = self.tell(tell, &mut world, load, record, say)?,
        }
        record.incidents = incidents(&world.cluster, epoch);
        if record.is_good() {
            self.world = Some(world);
        } else {
            record.kept = Some(self.keep(&mut world, &record, &history));
        }
        Ok(record)
    }

    fn tell(
        &self,
        tell: &mut dyn FnMut(&mut Stage) -> Told,
        world: &mut World,
        load: Load,
        record: RunRecord,
        say: &mut dyn FnMut(String),
    ) -> Result<(RunRecord, History), RunError> {
        let mut stage = Stage::new(world, load, record, self.options.length, say);
        let told = stage.writes_go_on(30).and_then(|()| tell(&mut stage));
        let mut failures: Vec<String> = Vec::new();
        let mut note = |error: StoryError| match error.is_interrupt() {
            true => Err(WaitError::Interrupted),
            false => {
                failures.push(error.to_string());
                Ok(())
            }
        };
        told.or_else(&mut note)?;
        let mut unhealed = Vec::new();
        if let Err(error) = stage.heal() {
            unhealed.push(error.to_string());
            note(error)?;
        }
        let (mut record, mut load, by_hand) = stage.close();
        let mut history = load.stop().unwrap_or_else(|error| {
            failures.push(error.to_string());
            load.so_far()
        });
        history.operations.retain(|operation| !is_excused(operation, &by_hand));
        let tables = load.tables().unwrap_or_else(|error| {
            unhealed.push(error.to_string());
            Tables::default()
        });
        let end = Final { tables, epochs: record.epochs.clone(), faults: record.faults.clone(), unhealed };
        record.verdict = check::check(&history, &end);
        record.gaps = check::gaps(&history, &record.faults, record.length_us);
        record.rates = report::rates(&history, record.length_us);
        record.failures = failures;
        Ok((record, history))
    }

    /// Copies everything that tells what happened to where it is kept; says where.
    fn keep(&self, world: &mut World, record: &RunRecord, history: &History) -> String {
        let to = self.options.keep.join(format!("{}-{}-{}", record.scenario, record.seed, record.began_at_ms));
        match keep(world, record, history, &to) {
            Ok(()) => to.display().to_string(),
            Err(error) => format!("{} (not everything: {error})", to.display()),
        }
    }
}

fn keep(world: &mut World, record: &RunRecord, history: &History, to: &Path) -> Result<(), HostError> {
    std::fs::create_dir_all(to).map_err(HostError::io(format!("making {}", to.display())))?;
    let written = history.write(&to.join("history.jsonl")).map_err(std::io::Error::other);
    written.map_err(HostError::io("writing the history"))?;
    let text = serde_json::to_string_pretty(record).map_err(std::io::Error::other);
    let text = text.map_err(HostError::io("writing the record"))?;
    std::fs::write(to.join("record.json"), text).map_err(HostError::io("writing the record"))?;
    // Data directories are copied as they are when nothing runs in them any more.
    if let Err(error) = world.cluster.stop() {
        eprintln!("not everything that was started could be ended: {error}");
    }
    for node in &world.cluster.nodes {
        let (from, log) = (node.dir.display().to_string(), node.log().display().to_string());
        crate::host::tool("cp", &["-a", "--sparse=always", &from, &log, &to.to_string_lossy()], None)?;
    }
    Ok(())
}

/// The changes of primary since that epoch. None, where nobody answers any more.
fn incidents(cluster: &Cluster, since: u64) -> Vec<IncidentRecord> {
    let Ok(text) = cluster.command(&["incidents", "--json"]) else { return Vec::new() };
    let all: Vec<IncidentRecord> = serde_json::from_str(&text).unwrap_or_default();
    all.into_iter().filter(|incident| incident.number > since).collect()
}

/// For so long a server that a person promoted may answer readers: until its agent has looked and its processes are gone.
const BY_HAND_US: u64 = 2_000_000;

/// A read that a server answered just after somebody had promoted it by hand. It was a standby, open to readers, and nobody
/// can keep it from calling itself a primary before anybody has looked. What it acknowledges is held against pgvigil.
fn is_excused(operation: &Operation, by_hand: &[(Address, u64)]) -> bool {
    let Some(server) = operation.server.as_ref().filter(|_| !operation.work.writes()) else { return false };
    by_hand
        .iter()
        .any(|(address, at)| server.address == *address && operation.ended >= *at && operation.began <= at + BY_HAND_US)
}
