//! Random faults, alone and combined, round after round, each from full health to full health.
//!
//! The choices follow from the seed and the round alone (and from who is the primary then); their effect does not.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::run::{Options, RunError, Theatre};
use super::stage::{Stage, StoryError, Told};
use crate::fault::{Fault, FaultError, Part};
use crate::history::clock;
use crate::host::{End, Ground, Service, Weather};
use crate::interrupt;
use crate::report::RunRecord;

/// When a soak ends: at the first of these.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// So many faults were done.
    pub faults: usize,
    /// So much time has passed.
    pub length: Duration,
    /// The round that it begins with.
    pub from: u64,
}

/// One fault of a round.
#[derive(Debug, Clone)]
struct Blow {
    /// Waited before it.
    after: Duration,
    fault: Fault,
    /// How long it lasts, if it is one that lasts.
    lasts: Duration,
}

/// Plays rounds until the plan's end, or a round that is not good.
pub fn soak(
    ground: &Ground,
    plan: Plan,
    options: &Options,
    say: &mut dyn FnMut(String),
    done: &mut dyn FnMut(&RunRecord),
) -> Result<Vec<RunRecord>, RunError> {
    let mut theatre = Theatre::new(ground, options);
    let mut records: Vec<RunRecord> = Vec::new();
    let began = Instant::now();
    let mut faults = 0;
    for round in plan.from.. {
        if faults >= plan.faults || began.elapsed() >= plan.length {
            break;
        }
        interrupt::check()?;
        let record = RunRecord {
            scenario: format!("soak-{round}"),
            story: "random faults".to_owned(),
            seed: options.seed,
            began_at_ms: clock::wall_us() / 1000,
            repeat: format!("pgvigil-chaos soak --seed {} --from {round} --faults 1", options.seed),
            ..RunRecord::default()
        };
        let mut random = StdRng::seed_from_u64(options.seed.wrapping_mul(1_000_003).wrapping_add(round));
        let record = theatre.play(record, false, &mut |stage| one_round(stage, &mut random), say)?;
        faults += record.faults.len();
        let good = record.is_good();
        done(&record);
        records.push(record);
        say(format!("{faults} faults in {} rounds", records.len()));
        if !good {
            break;
        }
    }
    Ok(records)
}

fn one_round(stage: &mut Stage, random: &mut StdRng) -> Told {
    let primary = stage.primary()?;
    let nodes: Vec<u64> = stage.world.cluster.nodes.iter().map(|node| node.id).collect();
    let hosts = stage.world.has_hosts();
    // Often a second or third fault falls while the cluster still deals with the one before.
    let count = *[1, 1, 2, 2, 3].choose(random).expect("five entries");
    let mut ends = Vec::new();
    for blow in (0..count).map(|_| choose(random, primary, &nodes, hosts)).collect::<Vec<_>>() {
        let until = Instant::now() + blow.after;
        attend(stage, &mut ends, Some(until))?;
        if collides(&blow.fault, &ends) {
            continue;
        }
        match stage.begin(blow.fault.clone()) {
            Ok(handle) => ends.push((Instant::now() + blow.lasts, handle, blow.fault)),
            // A part that is dead already, or a server that does not answer, cannot be struck.
            Err(StoryError::Fault(FaultError::NoTarget(_) | FaultError::Statement { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    attend(stage, &mut ends, None)?;
    stage.heal()?;
    stage.writes_go_on(20)
}

/// Whether a fault must not be added to those under way: nothing else happens on a host that is off or stalled, and
/// there is one fault of a disk or a clock at a time.
fn collides(fault: &Fault, ends: &[(Instant, super::Handle, Fault)]) -> bool {
    let whole = |fault: &Fault| {
        matches!(
            fault,
            Fault::PowerOff(_)
                | Fault::PowerLoss(_)
                | Fault::DiskStall(_)
                | Fault::DiskFull(_)
                | Fault::NoInodes(_)
                | Fault::SyncError(..)
                | Fault::Freeze(..)
                | Fault::AgentGone(_)
                | Fault::Weather(..)
                | Fault::WallClock(..)
                | Fault::Strobe(..)
        )
    };
    let hit = |fault: &Fault| match fault {
        Fault::PowerOff(hosts) | Fault::PowerLoss(hosts) => hosts.clone(),
        other => other.host().into_iter().collect(),
    };
    let mine = hit(fault);
    ends.iter().any(|(_, _, other)| {
        let shared = hit(other).iter().any(|id| mine.contains(id));
        shared && (whole(fault) || whole(other))
    })
}

/// Ends what has lasted long enough; until the time given, or until nothing is under way.
fn attend(stage: &mut Stage, ends: &mut Vec<(Instant, super::Handle, Fault)>, until: Option<Instant>) -> Told {
    loop {
        stage.tick()?;
        let now = Instant::now();
        for (_, handle, _) in ends.extract_if(.., |(end, ..)| *end <= now) {
            stage.end(handle)?;
        }
        if until.map_or(ends.is_empty(), |until| until <= now) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn choose(random: &mut StdRng, primary: u64, nodes: &[u64], hosts: bool) -> Blow {
    let others: Vec<u64> = nodes.iter().copied().filter(|id| *id != primary).collect();
    // Half of them strike the primary.
    let target = if random.random_bool(0.5) { primary } else { *nodes.choose(random).expect("there are nodes") };
    let other = *others.choose(random).expect("there are standbys");
    let ms = |low: u64, high: u64, random: &mut StdRng| Duration::from_millis(random.random_range(low..high));
    let end = |ids: &[u64]| ids.iter().map(|id| End::Host(*id)).collect::<Vec<_>>();
    // Without hosts there is no power loss (11 and 12), and nothing of what disks, clocks and frames do (from 20 on).
    let kind = random.random_range(0..if hosts { 25 } else { 18 });
    let fault = match if hosts || kind < 11 { kind } else { kind + 2 } {
        0 => Fault::Kill(Part::Postmaster, target),
        1 => Fault::Kill(Part::Agent, target),
        2 => Fault::Kill(Part::Guard, target),
        3 => Fault::Kill(
            *[Part::Backend, Part::WalProcess, Part::AgentAndPostmaster, Part::AgentAndGuard]
                .choose(random)
                .expect("four entries"),
            target,
        ),
        4 => Fault::AgentGone(target),
        5 => Fault::Freeze(Part::Host, target),
        6 => Fault::Freeze(
            *[Part::Postgres, Part::Agent, Part::Guard, Part::AgentAndGuard].choose(random).expect("four entries"),
            target,
        ),
        7 => Fault::PowerOff(vec![target]),
        8 => Fault::PowerOff(vec![primary, other]),
        9 => Fault::Lead(target),
        10 => match random.random_range(0..2) {
            0 => Fault::Switchover(None),
            _ => Fault::RestartAgent(target),
        },
        11 => Fault::PowerLoss(vec![target]),
        12 => Fault::PowerLoss(nodes.to_vec()),
        13 => {
            Fault::Partition(end(&[target]), end(&nodes.iter().copied().filter(|id| *id != target).collect::<Vec<_>>()))
        }
        14 => Fault::Partition([end(&[primary]), vec![End::Clients]].concat(), end(&others)),
        15 => Fault::Partition(end(&[primary]), end(&[other])),
        16 => Fault::OneWay(end(&[primary]), [end(&others), vec![End::Clients]].concat()),
        17 => Fault::OneWay([end(&others), vec![End::Clients]].concat(), end(&[primary])),
        18 => Fault::Flapping(end(&[primary]), end(&[other]), ms(200, 1500, random)),
        19 => Fault::ServiceCut(
            *[Service::Postgres, Service::Pgvigil].choose(random).expect("two entries"),
            end(&[primary]),
            end(&others),
        ),
        20 => Fault::Weather(
            target,
            Weather {
                delay: ms(1, 30, random),
                jitter: ms(0, 20, random),
                loss: random.random_range(0..4),
                duplicate: 3,
            },
        ),
        21 => Fault::DiskStall(target),
        22 => match random.random_range(0..2) {
            0 => Fault::DiskFull(target),
            _ => Fault::SyncError(target, "/pg_wal/"),
        },
        23 => match random.random_range(0..2) {
            0 => Fault::WallClock(target, random.random_range(-3_600_000..3_600_000)),
            _ => Fault::Strobe(target, random.random_range(100..100_000)),
        },
        _ => Fault::ReplayPaused(other),
    };
    Blow { after: ms(0, 2500, random), fault, lasts: ms(300, 7000, random) }
}
