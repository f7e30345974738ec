//! How a fault begins, goes on and ends.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use thiserror::Error;

use super::{Fault, Part, pids};
use crate::cluster::ClusterError;
use crate::host::{CutId, End, HostError, Link, Trouble, World, WorldError};
use crate::libpq::Connection;
use crate::processes::{self, SignalError};

/// How long a statement of ours may take.
const STATEMENT: Duration = Duration::from_secs(5);
/// Between two looks for commits to cancel.
const CANCEL: Duration = Duration::from_millis(50);
/// Between two jumps of a strobing clock.
const STROBE: Duration = Duration::from_millis(300);

/// The canary's table of earlier versions, where it is not there, and every other table in a schema of pgvigil's, are
/// locked for a transaction that does not end.
const LOCK: &str = "CREATE SCHEMA IF NOT EXISTS pgvigil; CREATE TABLE IF NOT EXISTS pgvigil.canary \
    (key text PRIMARY KEY, beat bigint NOT NULL, at timestamptz NOT NULL); BEGIN; \
    DO $$ DECLARE kept regclass; BEGIN \
      FOR kept IN SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
        WHERE n.nspname = 'pgvigil' AND c.relkind = 'r' \
      LOOP EXECUTE format('LOCK TABLE %s', kept); END LOOP; END $$";

/// Why a fault could not be done, or not be taken back.
#[derive(Debug, Error)]
pub enum FaultError {
    /// What it strikes is not there.
    #[error("{0}: there is no such process now")]
    NoTarget(String),
    /// A statement that is part of it failed.
    #[error("{what}: {why}")]
    Statement {
        /// What was tried.
        what: String,
        /// Why it failed.
        why: String,
    },
    /// See there.
    #[error(transparent)]
    World(#[from] WorldError),
}

impl From<HostError> for FaultError {
    fn from(error: HostError) -> FaultError {
        FaultError::World(error.into())
    }
}

impl From<ClusterError> for FaultError {
    fn from(error: ClusterError) -> FaultError {
        FaultError::World(error.into())
    }
}

impl From<SignalError> for FaultError {
    fn from(error: SignalError) -> FaultError {
        FaultError::World(error.into())
    }
}

/// What takes a fault back, and what keeps it going.
#[derive(Debug)]
pub enum Undo {
    /// It is over already.
    Nothing,
    /// Processes are to be woken.
    Wake(Vec<i32>),
    /// Nodes are to be started, after their cables are plugged in again.
    PowerOn(Vec<u64>, Option<CutId>),
    /// The network is to be mended.
    Mend(CutId),
    /// A partition that comes and goes: now, and when it changes next.
    Flap(Option<CutId>, Instant),
    /// A clock that jumps to and fro: whether it is ahead, and when it jumps next.
    Strobe(bool, Instant),
    /// Commits are cancelled again and again.
    Cancel(Option<Connection>, Instant),
    /// A session holds something until it ends.
    Hold(Connection),
    /// Other work.
    Load(Vec<Child>),
    /// The opposite of the fault is done to its host.
    Opposite,
}

/// Begins the fault.
pub fn strike(world: &mut World, fault: &Fault) -> Result<Undo, FaultError> {
    let now = Instant::now();
    match fault {
        Fault::Kill(part, id) => {
            for pid in victims(world, *part, *id)? {
                processes::send(pid, Signal::SIGKILL)?;
            }
        }
        Fault::AgentGone(id) => {
            world.cluster.leave_dead(*id);
            for pid in victims(world, Part::Agent, *id)? {
                processes::send(pid, Signal::SIGKILL)?;
            }
            return Ok(Undo::PowerOn(vec![*id], None));
        }
        Fault::Freeze(part, id) => return freeze(world, *part, *id),
        Fault::PowerOff(hosts) => return power_off(world, hosts),
        Fault::PowerLoss(hosts) => {
            let undo = power_off(world, hosts)?;
            for id in hosts {
                world.disk(*id, "a power loss")?.lose_power()?;
            }
            return Ok(undo);
        }
        Fault::Partition(a, b) => return cut(world, &Link::between(a, b), Trouble::Cut),
        Fault::OneWay(a, b) => return cut(world, &Link::from_to(a, b), Trouble::Cut),
        Fault::ServiceCut(service, a, b) => return cut(world, &Link::between(a, b), Trouble::CutService(*service)),
        Fault::Flapping(..) => return Ok(Undo::Flap(None, now)),
        Fault::Loss(percent) => {
            let ends: Vec<End> =
                world.cluster.nodes.iter().map(|node| End::Host(node.id)).chain([End::Clients]).collect();
            return cut(world, &Link::from_to(&ends, &ends), Trouble::Loss(*percent));
        }
        Fault::Weather(id, weather) => world.weather(*id, Some(*weather))?,
        Fault::DiskFull(id) => world.disk(*id, "a full disk")?.fill()?,
        Fault::NoInodes(id) => world.disk(*id, "a full disk")?.exhaust_inodes()?,
        Fault::DiskStall(id) => world.disk(*id, "a stalled disk")?.stall()?,
        Fault::SyncError(id, pattern) => world.control(*id, "a failing fsync")?.fail_sync(pattern)?,
        Fault::WallClock(id, ms) => world.control(*id, "a jumping clock")?.wall_clock(*ms)?,
        Fault::Strobe(..) => return Ok(Undo::Strobe(false, now)),
        Fault::CancelWaits(_) => return Ok(Undo::Cancel(None, now)),
        Fault::ReplayPaused(id) => statement(world, *id, "SELECT pg_wal_replay_pause()")?,
        Fault::Locked(id) => {
            let mut holder = connect(world, *id)?;
            let locked = holder.exec(LOCK, Instant::now() + STATEMENT);
            let failed =
                |e: crate::libpq::ExecError| FaultError::Statement { what: "locking".to_owned(), why: e.to_string() };
            locked.map_err(failed)?;
            return Ok(Undo::Hold(holder));
        }
        Fault::PromotedByHand(id) => statement(world, *id, "SELECT pg_promote(false)")?,
        Fault::Lead(id) => {
            // One that just moved by itself may refuse: the leader is not where it was.
            let _moved_already = world.cluster.run(&["voters", "lead", &id.to_string()])?;
        }
        Fault::Switchover(to) => {
            let mut arguments = vec!["switchover", "--no-wait"];
            if let Some(to) = to {
                arguments.extend(["--to", to]);
            }
            // The rules may say no at this moment, and the status says so.
            let _refused = world.cluster.run(&arguments)?;
        }
        Fault::RestartAgent(id) => {
            world.cluster.stop_node(*id, Duration::from_secs(20))?;
            world.cluster.start_node(*id)?;
        }
        Fault::BusyCores(cores) => return busy(*cores),
    }
    let ends = matches!(
        fault,
        Fault::Weather(..)
            | Fault::DiskFull(_)
            | Fault::NoInodes(_)
            | Fault::DiskStall(_)
            | Fault::SyncError(..)
            | Fault::WallClock(..)
            | Fault::ReplayPaused(_)
    );
    Ok(if ends { Undo::Opposite } else { Undo::Nothing })
}

impl Undo {
    /// Whether there is something to take back.
    pub fn is_under_way(&self) -> bool {
        !matches!(self, Undo::Nothing)
    }

    /// What goes on by itself while the fault lasts; to be called often.
    pub fn tick(&mut self, world: &mut World, fault: &Fault) -> Result<(), FaultError> {
        let now = Instant::now();
        match (self, fault) {
            (Undo::Flap(cut, next), Fault::Flapping(a, b, period)) if *next <= now => {
                *cut = match cut.take() {
                    Some(cut) => world.mend(cut).map(|()| None)?,
                    None => Some(world.trouble(&Link::between(a, b), Trouble::Cut)?),
                };
                *next = now + *period;
            }
            (Undo::Strobe(ahead, next), Fault::Strobe(id, ms)) if *next <= now => {
                *ahead = !*ahead;
                world.control(*id, "a strobing clock")?.wall_clock(if *ahead { *ms } else { -*ms })?;
                *next = now + STROBE;
            }
            (Undo::Cancel(connection, next), Fault::CancelWaits(id)) if *next <= now => {
                *next = now + CANCEL;
                cancel_waits(world, *id, connection);
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes it back.
    pub fn end(self, world: &mut World, fault: &Fault) -> Result<(), FaultError> {
        match self {
            Undo::Nothing | Undo::Cancel(..) | Undo::Flap(None, _) => {}
            Undo::Hold(holder) => drop(holder),
            Undo::Wake(pids) => {
                for pid in pids {
                    processes::send(pid, Signal::SIGCONT)?;
                }
            }
            Undo::PowerOn(hosts, cut) => {
                if let Some(cut) = cut {
                    world.mend(cut)?;
                }
                for id in hosts {
                    world.cluster.start_node(id)?;
                }
            }
            Undo::Mend(cut) | Undo::Flap(Some(cut), _) => world.mend(cut)?,
            Undo::Strobe(..) => {
                let id = fault.host().expect("a clock is on a host");
                world.control(id, "a strobing clock")?.wall_clock(0)?;
            }
            Undo::Load(children) => {
                for mut child in children {
                    let ended = child.kill().and_then(|()| child.wait());
                    ended.map_err(|source| HostError::Io { what: "ending other work".to_owned(), source })?;
                }
            }
            Undo::Opposite => opposite(world, fault)?,
        }
        Ok(())
    }
}

fn opposite(world: &mut World, fault: &Fault) -> Result<(), FaultError> {
    match fault {
        Fault::Weather(id, _) => world.weather(*id, None)?,
        Fault::DiskFull(id) => world.disk(*id, "a full disk")?.unfill()?,
        Fault::NoInodes(id) => world.disk(*id, "a full disk")?.free_inodes()?,
        Fault::DiskStall(id) => world.disk(*id, "a stalled disk")?.unstall()?,
        Fault::SyncError(id, _) => world.control(*id, "a failing fsync")?.let_sync()?,
        Fault::WallClock(id, _) => world.control(*id, "a jumping clock")?.wall_clock(0)?,
        // One that was promoted meanwhile replays nothing any more.
        Fault::ReplayPaused(id) => drop(statement(world, *id, "SELECT pg_wal_replay_resume()")),
        _ => unreachable!("{fault} has no opposite"),
    }
    Ok(())
}

fn victims(world: &World, part: Part, id: u64) -> Result<Vec<i32>, FaultError> {
    let found = pids(&world.cluster.node(id)?.dir, part);
    if found.is_empty() {
        return Err(FaultError::NoTarget(format!("{} of host {id}", part.word())));
    }
    Ok(found)
}

fn freeze(world: &World, part: Part, id: u64) -> Result<Undo, FaultError> {
    let dir = world.cluster.node(id)?.dir.clone();
    if part == Part::Host {
        processes::stop_host(&dir)?;
        return Ok(Undo::Wake(pids(&dir, part)));
    }
    let found = victims(world, part, id)?;
    for pid in &found {
        processes::send(*pid, Signal::SIGSTOP)?;
    }
    Ok(Undo::Wake(found))
}

/// Off the network first, then everything is killed: nobody hears of the end of a connection.
fn power_off(world: &mut World, hosts: &[u64]) -> Result<Undo, FaultError> {
    let gone: Vec<End> = hosts.iter().map(|id| End::Host(*id)).collect();
    let all = world.cluster.nodes.iter().map(|node| End::Host(node.id));
    let all: Vec<End> = all.chain([End::Clients, End::Operator]).collect();
    let cut = world.trouble(&Link::between(&gone, &all), Trouble::Cut)?;
    for id in hosts {
        world.cluster.leave_dead(*id);
        processes::stop_host(&world.cluster.node(*id)?.dir)?;
    }
    for id in hosts {
        processes::kill_host(&world.cluster.node(*id)?.dir)?;
    }
    Ok(Undo::PowerOn(hosts.to_vec(), Some(cut)))
}

fn cut(world: &mut World, links: &[Link], trouble: Trouble) -> Result<Undo, FaultError> {
    Ok(Undo::Mend(world.trouble(links, trouble)?))
}

fn connect(world: &World, id: u64) -> Result<Connection, FaultError> {
    let node = world.cluster.node(id)?;
    let dsn = world.cluster.dsn().pinned(node.address());
    Connection::connect(&dsn.to_string(), Instant::now() + STATEMENT)
        .map_err(|e| FaultError::Statement { what: format!("connecting to {}", node.member), why: e.to_string() })
}

fn statement(world: &World, id: u64, sql: &str) -> Result<(), FaultError> {
    let answer = connect(world, id)?.exec(sql, Instant::now() + STATEMENT);
    answer.map(drop).map_err(|e| FaultError::Statement { what: format!("{sql} on host {id}"), why: e.to_string() })
}

/// Cancels what waits for a standby, as its client would. A server that is not there has nothing that waits.
fn cancel_waits(world: &World, id: u64, connection: &mut Option<Connection>) {
    const WAITING: &str = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity \
                           WHERE wait_event = 'SyncRep' AND application_name = 'pgvigil-chaos'";
    if connection.is_none() {
        *connection = connect(world, id).ok();
    }
    if let Some(open) = connection
        && open.exec(WAITING, Instant::now() + Duration::from_millis(500)).is_err()
    {
        *connection = None;
    }
}

fn busy(cores: usize) -> Result<Undo, FaultError> {
    let mut children = Vec::new();
    for _ in 0..cores {
        let child = Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn();
        children.push(child.map_err(HostError::io("starting other work"))?);
    }
    Ok(Undo::Load(children))
}
