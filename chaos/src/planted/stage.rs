//! A cluster on which stories are played, with a load from before the story to after it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{Bug, PlantedError, Story};
use crate::check::{self, Final, Kind};
use crate::cluster::{Cluster, ClusterError, ClusterOptions};
use crate::history::clock;
use crate::interrupt::{self, WaitError, wait_for};
use crate::processes::{self, Process};
use crate::report::{self, EpochSpan, FaultSpan, IncidentRecord, RunRecord};
use crate::status::Status;
use crate::workload::{Load, LoadOptions, plain};

/// How long a cluster may take to be well.
const HEAL_LIMIT: Duration = Duration::from_secs(120);
/// How long one with a planted bug may take after the bug was taken out again. What it broke may need a person.
const MEND_LIMIT: Duration = Duration::from_secs(30);
/// The lease: long enough for an old primary that still serves to be seen doing so, on a machine with other work.
const LEASE_MS: u64 = 4_000;
/// How long writes may be stopped.
const RESUME_LIMIT: Duration = Duration::from_secs(60);
/// Acknowledged writes before a story begins, and after the new primary has begun to serve.
const ENOUGH: usize = 50;

/// See the module.
pub(super) struct Stage {
    options: ClusterOptions,
    /// `None`: the last play left it in a state that only a person could mend, so the next one begins anew.
    cluster: Option<Cluster>,
    /// Where histories are written and clusters are made, if the user named a place; they stay there.
    folder: Option<PathBuf>,
    temporary: tempfile::TempDir,
    plays: usize,
}

/// One play while it goes on.
pub(super) struct Scene<'a> {
    pub cluster: &'a mut Cluster,
    pub load: &'a mut Load,
    pub faults: Vec<FaultSpan>,
    /// The primary at the beginning, by node, and its two standbys.
    pub primary: u64,
    pub standbys: [u64; 2],
    pub bug: Option<Bug>,
    pub point: Option<&'static str>,
    /// Who is to be woken at the end.
    stopped: Vec<i32>,
}

impl Stage {
    pub fn set(options: &ClusterOptions) -> Result<Stage, PlantedError> {
        let temporary = tempfile::Builder::new().prefix("pgvigil-planted-").tempdir();
        let temporary = temporary.map_err(|source| PlantedError::Io { what: "making a folder".to_owned(), source })?;
        let mut settings = options.settings.clone();
        settings.insert("lease_ms".to_owned(), LEASE_MS.to_string());
        let folder = options.dir.clone();
        let options = ClusterOptions { fault_points: true, settings, dir: None, ..options.clone() };
        Ok(Stage { options, cluster: None, folder, temporary, plays: 0 })
    }

    /// A place for something that stays, if the user named one.
    fn place(&self, name: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(name))
    }

    pub fn play(
        &mut self,
        story: Story,
        bug: Option<Bug>,
        point: Option<&'static str>,
    ) -> Result<RunRecord, PlantedError> {
        self.plays += 1;
        let mut cluster = match self.cluster.take() {
            Some(cluster) => cluster,
            None => {
                start(&ClusterOptions { dir: self.place(&format!("cluster{}", self.plays)), ..self.options.clone() })?
            }
        };
        let status = cluster.wait_healthy(HEAL_LIMIT)?;
        let primary = cluster.node_of(&status.primary)?.id;
        let others: Vec<u64> = cluster.nodes.iter().map(|node| node.id).filter(|id| *id != primary).collect();
        let standbys = [others[0], others[1]];

        let origin_us = clock::now_us();
        let began_at_ms = clock::wall_us() / 1000;
        let options =
            LoadOptions { stubborn: story == Story::BusyBackend, ..story.load(LoadOptions::new(cluster.dsn())) };
        let name = format!("history{}.jsonl", self.plays);
        let history = self.place(&name).unwrap_or_else(|| self.temporary.path().join(&name));
        let history_path = history;
        let mut load = Load::start(&options, origin_us, &history_path, plain)?;
        wait_for("the load to be under way", RESUME_LIMIT, Duration::from_millis(20), || {
            Ok::<_, PlantedError>((load.acknowledged_since(0) >= ENOUGH).then_some(()))
        })?;

        let mut scene = Scene {
            cluster: &mut cluster,
            load: &mut load,
            faults: Vec::new(),
            primary,
            standbys,
            bug,
            point,
            stopped: Vec::new(),
        };
        let played = story.play(&mut scene);
        let Scene { faults, stopped, .. } = scene;
        for pid in stopped {
            processes::send(pid, nix::sys::signal::Signal::SIGCONT)?;
        }
        let failures: Vec<String> = match played {
            Ok(()) => Vec::new(),
            Err(error @ PlantedError::Wait(WaitError::Interrupted)) => return Err(error),
            // With a bug that may be its very sign.
            Err(error) => vec![error.to_string()],
        };
        let history = load.stop()?;
        let length_us = load.now_us();

        for id in cluster.nodes.iter().map(|node| node.id).collect::<Vec<_>>() {
            cluster.arm(id, "")?;
            cluster.start_if_dead(id)?;
        }
        story.undo(&mut cluster)?;
        // With a bug, what is lost is lost as soon as the new primary can be asked; whether what the bug has broken heals
        // is not judged.
        let mut end = Final { faults: faults.clone(), ..Final::default() };
        if bug.is_none() {
            end.unhealed.extend(ailing(&mut cluster, HEAL_LIMIT)?);
        }
        let mut verdict = match load.tables() {
            Ok(tables) => {
                end.tables = tables;
                check::check(&history, &end)
            }
            // Nothing can be compared, which is a finding too.
            Err(error) => {
                let mut findings = check::Findings::default();
                findings.add(Kind::NotHealed, error.to_string());
                findings.into_verdict(check::Counts::of(&history))
            }
        };
        verdict.notes.truncate(5);
        let incidents = incidents(&cluster, began_at_ms);
        let well = match bug {
            None => end.unhealed.is_empty(),
            // What was agreed on false positions misleads it for good.
            Some(bug) if bug.signs().contains(&Kind::Lost) => false,
            Some(_) => ailing(&mut cluster, MEND_LIMIT)?.is_none(),
        };
        if well {
            self.cluster = Some(cluster);
        }
        let with = bug.map(Bug::name).or_else(|| point.map(str::to_owned));
        let name = with.map_or_else(|| story.name().to_owned(), |with| format!("{} with {with}", story.name()));
        Ok(RunRecord {
            scenario: name,
            story: story.sentence().to_owned(),
            began_at_ms,
            length_us,
            // Some stories end while nobody can write: that is no stop of writes.
            gaps: check::gaps(&history, &faults, length_us).into_iter().filter(|gap| gap.until_us.is_some()).collect(),
            rates: report::rates(&history, length_us),
            faults,
            epochs: epochs(&incidents, began_at_ms),
            incidents,
            verdict,
            failures,
            kept: self.folder.as_ref().map(|_| history_path.display().to_string()),
            repeat: format!("pgvigil-chaos planted --bug {}", bug.map_or_else(|| "all".to_owned(), Bug::name)),
            ..RunRecord::default()
        })
    }
}

fn start(options: &ClusterOptions) -> Result<Cluster, PlantedError> {
    let mut cluster = Cluster::prepare(options.clone())?;
    let version = Command::new(cluster.program()).arg("--version").output();
    let version =
        version.map_err(|source| PlantedError::Io { what: "asking pgvigil for its version".to_owned(), source })?;
    if !String::from_utf8_lossy(&version.stdout).contains("fault points") {
        return Err(PlantedError::NoFaultPoints(cluster.program().display().to_string()));
    }
    for id in cluster.nodes.iter().map(|node| node.id).collect::<Vec<_>>() {
        cluster.start_node(id)?;
    }
    Ok(cluster)
}

/// What is still wrong with the cluster when the limit is over; `None`: it is well.
fn ailing(cluster: &mut Cluster, limit: Duration) -> Result<Option<String>, PlantedError> {
    match cluster.wait_healthy(limit) {
        Ok(_) => Ok(None),
        Err(ClusterError::Wait(WaitError::Interrupted)) => Err(WaitError::Interrupted.into()),
        Err(error) => Ok(Some(error.to_string())),
    }
}

/// The changes of primary since then; none if nobody can be asked.
fn incidents(cluster: &Cluster, since_ms: u64) -> Vec<IncidentRecord> {
    let told = cluster.command(&["incidents", "--json"]).ok();
    let all: Vec<IncidentRecord> = told.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let recent = |incident: &IncidentRecord| incident.phases.first().is_some_and(|phase| phase.at_ms >= since_ms);
    all.into_iter().filter(recent).collect()
}

/// The epochs that they began.
fn epochs(incidents: &[IncidentRecord], began_at_ms: u64) -> Vec<EpochSpan> {
    let appointed = |incident: &IncidentRecord| {
        let at_ms = incident.phases.iter().find(|phase| phase.name == "appointed")?.at_ms;
        let from_us = at_ms.saturating_sub(began_at_ms) * 1_000;
        Some(EpochSpan { epoch: incident.number, from_us, primary: incident.to.clone() })
    };
    incidents.iter().filter_map(appointed).collect()
}

impl Scene<'_> {
    /// Arms the bug of this play, with more words, on one node.
    pub fn arm(&self, node: u64, more: &str) -> Result<(), PlantedError> {
        let bug = self.bug.map_or_else(String::new, |bug| format!("bug:{}", bug.name()));
        Ok(self.cluster.arm(node, &format!("{bug} {more}"))?)
    }

    /// Arms it on all nodes.
    pub fn arm_all(&self) -> Result<(), PlantedError> {
        self.cluster.nodes.iter().try_for_each(|node| self.arm(node.id, ""))
    }

    /// Notes a fault that happens now.
    pub fn fault(&mut self, kind: &str, node: u64) {
        let from_us = self.load.now_us();
        let target = format!("pg{node}");
        self.faults.push(FaultSpan { kind: kind.to_owned(), target, from_us, until_us: None, may_move: true });
    }

    /// Runs a `pgvigil` command that asks this node: others may be frozen.
    pub fn ask(&self, node: u64, arguments: &[&str]) -> Result<(), PlantedError> {
        let listen = self.cluster.node(node)?.listen.clone();
        Ok(self.cluster.command(&[arguments, &["--connect", &listen]].concat()).map(drop)?)
    }

    /// Freezes a process until the end of the story.
    pub fn freeze(&mut self, pid: i32) -> Result<(), PlantedError> {
        self.stopped.push(pid);
        Ok(processes::send(pid, nix::sys::signal::Signal::SIGSTOP)?)
    }

    /// Freezes the node's pgvigil, not its guard and not PostgreSQL.
    pub fn freeze_agent(&mut self, node: u64) -> Result<(), PlantedError> {
        let pid = self.cluster.pgvigil_pid(node);
        self.freeze(pid.ok_or_else(|| PlantedError::Missing(format!("node {node} has no pgvigil")))?)
    }

    /// The node's walreceiver.
    pub fn walreceiver(&self, node: u64) -> Result<i32, PlantedError> {
        let dir = self.cluster.node(node)?.dir.clone();
        let is = |process: &Process| process.command.starts_with("postgres: walreceiver");
        let found = processes::of_host(&dir).into_iter().find(is).map(|process| process.pid);
        found.ok_or_else(|| PlantedError::Missing(format!("node {node} has no walreceiver")))
    }

    /// Makes a node the Raft leader.
    pub fn lead(&self, node: u64) -> Result<(), PlantedError> {
        Ok(self.cluster.move_leader(node, Duration::from_secs(30))?)
    }

    /// Waits for writes at a primary elsewhere than where it was.
    pub fn moved(&mut self) -> Result<(), PlantedError> {
        let port = self.cluster.node(self.primary)?.port;
        let (load, since) = (&*self.load, self.load.now_us());
        wait_for("writes to go on elsewhere", RESUME_LIMIT, Duration::from_millis(50), || {
            let so_far = load.so_far();
            let elsewhere = so_far.operations.iter().rev().take(400).filter(|operation| {
                let there = operation.server.as_ref().is_some_and(|server| server.address.port != port);
                there
                    && !operation.direct
                    && operation.began > since
                    && operation.outcome == crate::history::Outcome::Ok
            });
            Ok::<_, PlantedError>((elsewhere.count() >= ENOUGH).then_some(()))
        })
    }

    /// Waits until a pgvigil of the cluster has ended, and disarms all of them.
    pub fn one_has_crashed(&mut self) -> Result<(), PlantedError> {
        let cluster = &mut *self.cluster;
        wait_for("the fault point to be reached", RESUME_LIMIT, Duration::from_millis(20), || {
            Ok::<_, PlantedError>((!cluster.tend()?.is_empty()).then_some(()))
        })?;
        self.cluster.nodes.iter().try_for_each(|node| Ok(self.cluster.arm(node.id, "")?))
    }

    /// Waits for writes, wherever they go; what has died is started again meanwhile.
    pub fn writes_go_on(&mut self) -> Result<(), PlantedError> {
        let since = self.load.now_us();
        let (cluster, load) = (&mut *self.cluster, &*self.load);
        wait_for("writes to go on", RESUME_LIMIT, Duration::from_millis(50), || {
            cluster.tend()?;
            Ok::<_, PlantedError>((load.acknowledged_since(since) >= ENOUGH).then_some(()))
        })
    }

    /// Waits until another member is the primary, whether or not anybody is there to confirm commits, and a little longer.
    pub fn moved_or_alone(&mut self) -> Result<(), PlantedError> {
        let old = self.cluster.node(self.primary)?.member.clone();
        self.until("another member to be the primary", |status| status.primary != old)?;
        self.pause(3_000)
    }

    /// Waits until the status is as wished.
    pub fn until(&mut self, what: &str, wish: impl Fn(&Status) -> bool) -> Result<(), PlantedError> {
        let cluster = &*self.cluster;
        wait_for(what, RESUME_LIMIT, Duration::from_millis(100), || match cluster.status() {
            Ok(status) => Ok((wish(&status)).then_some(())),
            // No leader just now.
            Err(ClusterError::Command { .. }) => Ok(None),
            Err(error) => Err(PlantedError::from(error)),
        })
    }

    /// Lets time pass.
    pub fn pause(&self, millis: u64) -> Result<(), PlantedError> {
        Ok(interrupt::pause(Duration::from_millis(millis))?)
    }
}
