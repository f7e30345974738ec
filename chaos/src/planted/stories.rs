//! The stories: each the shortest real course of events in which its bugs do harm.

use std::process::Stdio;
use std::time::Duration;

use clap::ValueEnum;

use super::stage::Scene;
use super::{Bug, PlantedError};
use crate::bare;
use crate::cluster::{Cluster, postmaster};
use crate::interrupt::wait_for;
use crate::processes;
use crate::workload::{LoadOptions, Mix};

/// A story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Story {
    /// The primary's pgvigil is frozen, its guard and its PostgreSQL are not; an operator has another member take over.
    FrozenAgent,
    /// The same, while a backend of the old primary is busy with one long statement.
    BusyBackend,
    /// The primary's host dies while one standby lags, and the operator wishes for that one.
    LaggingCandidate,
    /// A standby leaves the durability rule while it still streams; then the other one lags, and the primary's host dies.
    NarrowedRule,
    /// A sealed standby loses its power, and its PostgreSQL is started by hand while the old primary still runs.
    PowerLossOfSealed,
    /// The primary's postmaster is killed, and the host of whoever first reaches a named point on the way to the next
    /// primary dies there.
    CrashAtPoint,
}

impl Story {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Story::FrozenAgent => "frozen-agent",
            Story::BusyBackend => "busy-backend",
            Story::LaggingCandidate => "lagging-candidate",
            Story::NarrowedRule => "narrowed-rule",
            Story::PowerLossOfSealed => "power-loss-of-sealed",
            Story::CrashAtPoint => "crash-at-point",
        }
    }

    /// What happens.
    pub fn sentence(self) -> &'static str {
        match self {
            Story::FrozenAgent => "the primary's pgvigil is frozen, and an operator has another member take over",
            Story::BusyBackend => "the same while a backend of the old primary is busy with one endless statement",
            Story::LaggingCandidate => "the primary's host dies while the member that the operator wishes for lags",
            Story::NarrowedRule => {
                "a standby leaves the rule while it still streams, the other one lags, and the primary's host dies"
            }
            Story::PowerLossOfSealed => {
                "a sealed standby loses its power and is started by hand while the old primary still runs"
            }
            Story::CrashAtPoint => "the primary's postmaster is killed, and whoever first reaches the point dies there",
        }
    }

    /// The load that it needs.
    pub(super) fn load(self, options: LoadOptions) -> LoadOptions {
        match self {
            // Nothing but inserts, as many as there may be, where what is lost is lost within milliseconds.
            Story::PowerLossOfSealed | Story::NarrowedRule | Story::LaggingCandidate => LoadOptions {
                mix: Mix { insert: 1, lookup: 0, append: 0, register: 0, bank: 0 },
                interval: Duration::from_millis(10),
                ..options
            },
            Story::FrozenAgent | Story::BusyBackend | Story::CrashAtPoint => options,
        }
    }

    pub(super) fn play(self, scene: &mut Scene<'_>) -> Result<(), PlantedError> {
        match self {
            Story::FrozenAgent | Story::BusyBackend => frozen_agent(scene),
            Story::LaggingCandidate => lagging_candidate(scene),
            Story::NarrowedRule => narrowed_rule(scene),
            Story::PowerLossOfSealed => power_loss_of_sealed(scene),
            Story::CrashAtPoint => crash_at_point(scene),
        }
    }

    /// What must be put right before the cluster can be well again: what an operator did.
    pub(super) fn undo(self, cluster: &mut Cluster) -> Result<(), PlantedError> {
        if self == Story::NarrowedRule {
            // A member that was removed joins again when its pgvigil starts anew.
            let known: Vec<String> =
                cluster.status().map(|s| s.members.into_iter().map(|m| m.name).collect()).unwrap_or_default();
            let gone: Vec<u64> =
                cluster.nodes.iter().filter(|node| !known.contains(&node.member)).map(|node| node.id).collect();
            for id in gone {
                cluster.stop_node(id, Duration::from_secs(20))?;
                cluster.start_node(id)?;
            }
        }
        Ok(())
    }
}

/// The old primary can only be made harmless by the seals (its commits hang from then on) and by its guard (its reads
/// end with its right): nobody else can reach it.
fn frozen_agent(scene: &mut Scene<'_>) -> Result<(), PlantedError> {
    let [heir, other] = scene.standbys;
    scene.lead(heir)?;
    scene.arm_all()?;
    match scene.bug {
        // The other standby goes on streaming from the old primary for a while: what it confirms, the heir does not have.
        Some(Bug::SealSkipped) => scene.arm(other, "follow:begin=delay:2500")?,
        Some(Bug::SealNotAwaited) => scene.arm(other, "seal:claimed=delay:1000")?,
        _ => {}
    }
    scene.fault("SIGSTOP pgvigil", scene.primary);
    scene.freeze_agent(scene.primary)?;
    let to = scene.cluster.node(heir)?.member.clone();
    scene.ask(heir, &["failover", "--to", &to, "--timeout", "60"])?;
    if let Some(Bug::SealSkipped | Bug::SealNotAwaited) = scene.bug {
        // The other standby has WAL that the heir lacks, so nobody may be there to confirm what is written next.
        return scene.pause(2_500);
    }
    scene.moved()?;
    // Whatever the old primary still serves is to be seen.
    scene.pause(1_500)
}

/// The heir that the operator wishes for must first fetch what it lacks.
fn lagging_candidate(scene: &mut Scene<'_>) -> Result<(), PlantedError> {
    let [heir, other] = scene.standbys;
    scene.lead(other)?;
    scene.arm(heir, "")?;
    let walreceiver = scene.walreceiver(heir)?;
    scene.fault("SIGSTOP walreceiver", heir);
    scene.freeze(walreceiver)?;
    scene.pause(700)?;
    scene.fault("kill -9 host", scene.primary);
    scene.cluster.leave_dead(scene.primary);
    processes::kill_host(&scene.cluster.node(scene.primary)?.dir.clone())?;
    let to = scene.cluster.node(heir)?.member.clone();
    // Whoever is wished for lacks WAL: as it is another one becomes primary, which the command would call a failure.
    scene.ask(other, &["failover", "--to", &to, "--no-wait"])?;
    scene.moved()
}

/// Commits that only the standby outside the rule confirms must not be acknowledged.
fn narrowed_rule(scene: &mut Scene<'_>) -> Result<(), PlantedError> {
    let [stays, leaves] = scene.standbys;
    scene.lead(stays)?;
    scene.arm(scene.primary, "")?;
    let name = scene.cluster.node(leaves)?.member.clone();
    scene.fault("members remove", leaves);
    scene.ask(stays, &["members", "remove", &name])?;
    scene.until("it to have left the rule", |status| status.member(&name).is_none_or(|member| !member.in_rule))?;
    let walreceiver = scene.walreceiver(stays)?;
    scene.fault("SIGSTOP walreceiver", stays);
    scene.freeze(walreceiver)?;
    scene.pause(700)?;
    scene.fault("kill -9 host", scene.primary);
    scene.cluster.leave_dead(scene.primary);
    processes::kill_host(&scene.cluster.node(scene.primary)?.dir.clone())?;
    scene.moved_or_alone()
}

/// Whoever dies, at whichever step: somebody takes over, and nothing is lost.
fn crash_at_point(scene: &mut Scene<'_>) -> Result<(), PlantedError> {
    let point = scene.point.unwrap_or("promote:promoted");
    for standby in scene.standbys {
        scene.arm(standby, &format!("{point}=crash-host"))?;
    }
    scene.fault("kill -9 postmaster", scene.primary);
    let dir = scene.cluster.node(scene.primary)?.dir.clone();
    let pid = postmaster(&dir).ok_or_else(|| PlantedError::Missing("the primary has no postmaster".to_owned()))?;
    processes::send(pid, nix::sys::signal::Signal::SIGKILL)?;
    scene.one_has_crashed()?;
    scene.fault(&format!("crash at {point}"), scene.primary);
    scene.writes_go_on()
}

/// What was sealed must still be sealed after a loss of power, whoever starts PostgreSQL then.
fn power_loss_of_sealed(scene: &mut Scene<'_>) -> Result<(), PlantedError> {
    let [heir, sealed] = scene.standbys;
    scene.lead(heir)?;
    scene.arm(sealed, "seal:promised=power-loss:100")?;
    scene.fault("SIGSTOP pgvigil", scene.primary);
    scene.freeze_agent(scene.primary)?;
    scene.cluster.leave_dead(sealed);
    scene.fault("power loss", sealed);
    let node = scene.cluster.node(sealed)?;
    let (pid, data_dir, dir) = (scene.cluster.pgvigil_pid(sealed), node.data_dir.clone(), node.dir.clone());
    let to = scene.cluster.node(heir)?.member.clone();
    // Only asked for: it is to be seen while it goes on.
    scene.ask(heir, &["failover", "--to", &to, "--no-wait"])?;
    wait_for("the power to go", Duration::from_secs(20), Duration::from_millis(5), || {
        Ok::<_, PlantedError>(pid.is_none_or(|pid| !processes::is_alive(pid)).then_some(()))
    })?;
    let log = std::fs::File::create(dir.join("by-hand.log"));
    let log = log.map_err(|source| PlantedError::Io { what: "making a log".to_owned(), source })?;
    let mut by_hand = scene.cluster.account.command(&bare::bin_dir()?.join("postgres"), &dir);
    by_hand.arg("-D").arg(&data_dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut child =
        by_hand.spawn().map_err(|source| PlantedError::Io { what: "starting postgres by hand".to_owned(), source })?;
    std::thread::spawn(move || child.wait());
    scene.moved_or_alone()
}
