//! What a seed decides before the first moment: the hosts, the settings, and the list of faults with their times.
//!
//! The list is data, so that a failing one can be shrunk: faults are dropped from it while it still fails.

mod hands;
mod standbys;
mod storm;

pub use hands::hands;
pub use standbys::standbys;
pub use storm::storm;

use crate::{
    fault::{Ambush, Fault, STEPS, Strike, Target},
    planted::Planted,
    rng::Rng,
};
use pgvigil_core::{
    id::{MemberId, NodeId},
    member::{MemberSpec, Tier},
    settings::{CrashPolicy, Settings},
};

/// A host as planned.
#[derive(Clone, Debug)]
pub struct HostPlan {
    /// The member on it.
    pub spec: MemberSpec,
    /// Whether its pgvigil is a voter.
    pub voter: bool,
    /// How fast its clock runs, in millionths more or less than true time: up to 1 %.
    pub clock_ppm: i64,
}

/// A fault and when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Timed {
    /// True milliseconds.
    pub at_ms: u64,
    /// What.
    pub fault: Fault,
}

/// Everything that a seed decides in advance.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// The hosts.
    pub hosts: Vec<HostPlan>,
    /// The operator's settings.
    pub settings: Settings,
    /// Operators may ask for more than one, too.
    pub more_than_one: bool,
    /// A cluster that runs already is adopted, with this many standbys.
    pub adopt: Option<usize>,
    /// The faults, in order.
    pub faults: Vec<Timed>,
    /// When all faults end, in true milliseconds.
    pub active_ms: u64,
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// The scenario of a seed.
#[must_use]
pub fn plan(seed: u64) -> Scenario {
    let rng = Rng::new(seed, 1);
    let count = rng.pick(&[3, 3, 3, 3, 4, 4, 5]);
    let all_vote = count == 5 && rng.chance(50);
    let mut settings = Settings::default();
    if count >= 4 && rng.chance(25) {
        settings.sync_standbys = 2;
    }
    if rng.chance(25) {
        settings.crash_policy = CrashPolicy::Restart;
    }
    if rng.chance(20) {
        settings.lease_ms = 1_000;
        settings.lease_margin_ms = 50;
        settings.suspect_ms = 500;
    }
    if rng.chance(20) {
        settings.hang_timeout_ms = 1_500.max(settings.lease_ms);
    }
    if rng.chance(30) {
        settings.restart_timeout_ms = 6_000;
    }
    let hosts = (0..count).map(|host| host_plan(&rng, host, all_vote)).collect();
    let active_ms = rng.range(20_000, 45_000);
    let mut faults = faults(&rng, count, active_ms);
    let adopt = rng.chance(12).then(|| rng.index(count));
    if adopt.is_some() && rng.chance(40) {
        let strike = rng.pick(&[Strike::Agent, Strike::Postgres, Strike::Host]);
        faults.insert(0, Timed { at_ms: 0, fault: Fault::Lie(Ambush { step: "adopt:promised", strike }) });
    }
    Scenario { seed, hosts, settings, more_than_one: false, adopt, faults, active_ms }
}

/// The scenario of a seed in which a planted bug is looked for: some of them need faults that chance seldom puts together.
#[must_use]
pub fn plan_for(seed: u64, planted: Option<Planted>) -> Scenario {
    let mut scenario = plan(seed);
    let rng = Rng::new(seed, 3);
    let script = match planted {
        Some(Planted::SealNotDurable) => forgotten_seal,
        Some(Planted::PasswordForEveryHost) => unheard_election,
        Some(Planted::RightFromReceipt) => late_answers,
        Some(Planted::DeadTimelineUnseen | Planted::DeadTimelineKept) => cut_off_promotion,
        Some(Planted::ProofOfMarkerOnly | Planted::ProofInvented) => return rising_rule(scenario, &rng),
        Some(Planted::QuietFromBeginning) => return late_looks(scenario, &rng),
        _ => return scenario,
    };
    scenario.adopt = None;
    scenario.faults.clear();
    let count = scenario.hosts.len();
    let mut at_ms = rng.range(6_000, 8_000);
    while at_ms < scenario.active_ms {
        script(&rng, count, at_ms, &mut scenario.faults);
        at_ms += rng.range(7_000, 10_000);
    }
    scenario
}

/// The old primary does not hear of an election; a member that sealed loses power, and its PostgreSQL is started at boot.
fn forgotten_seal(rng: &Rng, count: usize, at_ms: u64, faults: &mut Vec<Timed>) {
    let host = Target::Host(rng.index(count));
    let off = rng.range(50, 250);
    let mut push = |after: u64, fault: Fault| faults.push(Timed { at_ms: at_ms + after, fault });
    push(0, Fault::FreezeAgent(Target::Primary, 3_000));
    push(5, Fault::Force(None));
    push(off, Fault::PowerOff(host, 400));
    push(off + 402, Fault::StrangerStarts(host));
}

/// The old primary does not hear of an election and takes commits on.
fn unheard_election(rng: &Rng, _count: usize, at_ms: u64, faults: &mut Vec<Timed>) {
    faults.push(Timed { at_ms, fault: Fault::FreezeAgent(Target::Primary, 1_300) });
    faults.push(Timed { at_ms: at_ms + rng.range(50, 300), fault: Fault::Force(None) });
}

/// A new primary dies while its standbys, over slow links, have its timeline's history file and none of its WAL.
fn cut_off_promotion(rng: &Rng, count: usize, at_ms: u64, faults: &mut Vec<Timed>) {
    let mut push = |after: u64, fault: Fault| faults.push(Timed { at_ms: at_ms + after, fault });
    for host in 0..count {
        push(0, Fault::Slow(Target::Host(host), rng.range(20_000, 150_000), 4_000));
    }
    let first = rng.range(100, 500);
    push(first, Fault::KillPostgres(Target::Primary));
    push(first + rng.range(300, 2_500), Fault::PowerOff(Target::Primary, rng.range(300, 2_000)));
}

/// Answers take long to come back; then the primary is cut off.
fn late_answers(rng: &Rng, _count: usize, at_ms: u64, faults: &mut Vec<Timed>) {
    faults.push(Timed { at_ms, fault: Fault::Slow(Target::Primary, 700_000, 2_000) });
    faults.push(Timed { at_ms: at_ms + rng.range(1_000, 1_900), fault: Fault::Isolate(Target::Primary, 5_000) });
}

/// The rule rises from one standby to two while walsenders are late and links to most standbys break; its primary dies
/// together with the one standby that has everything.
fn rising_rule(mut scenario: Scenario, rng: &Rng) -> Scenario {
    let hosts: Vec<HostPlan> = (0..5).map(|host| host_plan(rng, host, true)).collect();
    scenario.hosts = hosts;
    for host in &mut scenario.hosts {
        host.spec.tier = if host.spec.node == NodeId(1) { Tier::Primary } else { Tier::Replica };
    }
    scenario.settings = Settings::default();
    (scenario.adopt, scenario.active_ms) = (None, 14_000);
    let at_ms = rng.range(6_000, 8_000);
    let mut faults = Vec::new();
    let mut push = |after: u64, fault: Fault| faults.push(Timed { at_ms: at_ms + after, fault });
    push(0, Fault::StickSenders(Target::Primary, 3_000));
    push(1, Fault::ChangeSettings(3));
    for host in 2..5 {
        push(2 + rng.range(0, 250), Fault::Cut(Target::Host(host), 0, 9_000));
    }
    push(255 + rng.range(0, 2_500), Fault::DieTogether(1, 9_000));
    scenario.faults = faults;
    scenario
}

/// A primary that the leader cannot reach goes on with the one standby that it reaches, whose agent looks late.
fn late_looks(mut scenario: Scenario, rng: &Rng) -> Scenario {
    scenario.hosts.truncate(3);
    scenario.adopt = None;
    scenario.faults.clear();
    let mut at_ms = rng.range(6_000, 8_000);
    while at_ms < scenario.active_ms {
        let mut push = |after: u64, fault: Fault| scenario.faults.push(Timed { at_ms: at_ms + after, fault });
        let leader = rng.index(3);
        push(0, Fault::MoveLeader(leader));
        for host in 0..3 {
            push(150, Fault::LateAnswers(Target::Host(host), 3_000));
        }
        push(200, Fault::Cut(Target::Primary, leader, 4_000));
        push(200 + rng.range(20, 1_000), Fault::Force(None));
        at_ms += rng.range(8_000, 10_000);
    }
    scenario
}

/// Steps that are seldom reached: somebody lies in wait there more often.
const RARE: &[&str] = &[
    "catch-up:begun",
    "carry-on:promised",
    "rewind:begin",
    "rewind:copied",
    "start-primary:promised",
    "start-primary:unfenced",
    "start-primary:ready",
];

fn host_plan(rng: &Rng, host: usize, all_vote: bool) -> HostPlan {
    let tier = match host {
        0 => Tier::Primary,
        1 | 2 => rng.pick(&[Tier::Primary, Tier::Replica]),
        3 => rng.pick(&[Tier::Replica, Tier::Emergency, Tier::Backup]),
        _ => rng.pick(&[Tier::Replica, Tier::Emergency]),
    };
    let drift = i64::try_from(rng.range(0, 20_000)).unwrap_or(0) - 10_000;
    let spec = MemberSpec {
        member: MemberId::from(NAMES[host]),
        tier,
        priority: u32::try_from(rng.range(1, 3)).unwrap_or(1),
        host: NAMES[host].to_owned(),
        port: 5432,
        node: NodeId(host as u64 + 1),
    };
    HostPlan { spec, voter: host < 3 || all_vote, clock_ppm: drift }
}

fn faults(rng: &Rng, count: usize, active_ms: u64) -> Vec<Timed> {
    let mut faults = Vec::new();
    let mut at_ms = if rng.chance(10) { rng.range(0, 3_000) } else { rng.range(3_000, 7_000) };
    let pace = rng.pick(&[1_000, 2_500, 2_500, 5_000]);
    while at_ms < active_ms {
        if rng.chance(12) {
            at_ms = together(rng, count, at_ms, &mut faults);
        } else {
            faults.push(Timed { at_ms, fault: fault(rng, count) });
        }
        // Often two at once.
        at_ms += if rng.chance(30) { rng.range(0, 400) } else { rng.range(200, 2 * pace) };
    }
    faults
}

/// Faults that are worst together: an election that the old primary does not hear of, and a second failover before the
/// first one is complete. Returns when the last one begins.
fn together(rng: &Rng, count: usize, at_ms: u64, faults: &mut Vec<Timed>) -> u64 {
    let mut push = |after: u64, fault: Fault| {
        faults.push(Timed { at_ms: at_ms + after, fault });
        at_ms + after
    };
    let host = rng.index(count);
    if rng.chance(50) {
        let unaware = match rng.index(3) {
            0 => Fault::FreezeAgent(Target::Primary, rng.range(500, 4_000)),
            1 => Fault::Cut(Target::Primary, host, rng.range(500, 4_000)),
            _ => Fault::CutOneWay(Target::Primary, host, rng.range(500, 4_000)),
        };
        push(0, unaware);
        if rng.chance(40) {
            let step = rng.pick(&["seal:promised", "seal:on-disk", "seal:receivers-gone", "seal:read"]);
            push(1, Fault::Lie(Ambush { step, strike: Strike::Host }));
        }
        let forced = rng.range(5, 300);
        push(forced, Fault::Force(None));
        let off = if rng.chance(40) { rng.range(40, 300) } else { 0 };
        if off > 0 {
            push(forced + off, Fault::PowerOff(Target::Host(rng.index(count)), 500));
        }
        return at_ms + forced + off;
    }
    match rng.index(4) {
        0 => push(0, Fault::Cut(Target::Primary, host, rng.range(300, 4_000))),
        1 => push(0, Fault::Slow(Target::Host(host), rng.range(10_000, 900_000), rng.range(500, 4_000))),
        2 => push(0, Fault::SlowReplay(Target::Host(host), rng.range(500, 4_000))),
        _ => push(0, Fault::StallDisk(Target::Host(host), rng.range(300, 3_000))),
    };
    let first = rng.range(50, 1_500);
    push(first, Fault::KillPostgres(Target::Primary));
    let second = first + rng.range(20, 600);
    if rng.chance(50) {
        push(second, Fault::KillPostgres(Target::Primary))
    } else {
        push(second, Fault::PowerOff(Target::Primary, rng.range(500, 5_000)))
    }
}

fn span(rng: &Rng) -> u64 {
    match rng.index(4) {
        0 => rng.range(50, 700),
        1 | 2 => rng.range(700, 4_000),
        _ => rng.range(4_000, 12_000),
    }
}

fn fault(rng: &Rng, count: usize) -> Fault {
    let host = rng.index(count);
    let target = if rng.chance(45) { Target::Primary } else { Target::Host(host) };
    let other = rng.index(count);
    let ms = span(rng);
    match rng.index(46) {
        0..=2 => Fault::KillPostgres(target),
        3 | 4 => Fault::FreezePostgres(target, ms),
        5 => Fault::KillAgent(target, ms),
        6 | 7 => Fault::FreezeAgent(target, ms),
        8 => Fault::KillGuard(target),
        9 => Fault::FreezeGuard(target, ms),
        10 | 11 => Fault::PowerOff(target, ms.max(500)),
        12 | 13 => Fault::FreezeHost(target, ms),
        14 => Fault::Cut(target, other, ms),
        15 | 16 => Fault::CutOneWay(target, other, ms),
        17..=19 => Fault::Isolate(target, ms),
        20 => Fault::Deaf(target, ms),
        21 => Fault::Mute(target, ms),
        22 => Fault::Flap(target, ms),
        23 => Fault::Slow(target, rng.range(1_000, 400_000), ms),
        24 => Fault::Lossy(target, rng.range(10, 90), ms),
        25 | 26 => Fault::StallDisk(target, ms),
        27 => Fault::CancelWaits(target),
        28 => Fault::PauseReplay(Target::Host(host), ms),
        29 => Fault::SlowReplay(Target::Host(host), ms),
        30 => Fault::StrangerStarts(Target::Host(host)),
        31 => Fault::ChangeByHand(target),
        32 => Fault::Wipe(target),
        33 | 34 => Fault::Switchover(rng.chance(50).then_some(other)),
        35 => Fault::Force(rng.chance(50).then_some(other)),
        36 => {
            if rng.chance(50) {
                Fault::GiveUp(other)
            } else {
                Fault::Pause(ms)
            }
        }
        37 => Fault::ChangeSettings(rng.range(0, 5)),
        38 => Fault::Reinit(Target::Host(host)),
        39 => Fault::Restart(target),
        40 => {
            if rng.chance(40) {
                Fault::Leave(host)
            } else {
                Fault::MoveLeader(other)
            }
        }
        41 => Fault::MoveLeader(other),
        _ => {
            let strike = rng.pick(&[Strike::Agent, Strike::Agent, Strike::Postgres, Strike::Host]);
            let step = if rng.chance(35) { rng.pick(RARE) } else { rng.pick(STEPS) };
            Fault::Lie(Ambush { step, strike })
        }
    }
}
