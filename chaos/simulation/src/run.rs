//! One seed from its first moment to its last: faults, then none, then everything must be whole again.

use crate::{
    agent,
    check::Violation,
    coverage::Counts,
    fault::{self, Fault, operator},
    plan::{Scenario, hands, plan_for, standbys, storm},
    planted::Planted,
    raft::{self, Entered},
    world::{Event, W, World},
};
use pgvigil_core::{
    cluster::ClusterState,
    command::Command,
    reign::{ElectionKind, Start},
    trace::Line,
};
use serde::Serialize;
use std::{collections::BTreeSet, rc::Rc};

/// How long a cluster may take to be whole again after the last fault, in true milliseconds: a rule that cannot be
/// satisfied waits twice `standby_timeout`, a clone some seconds, and an election may be needed before each.
pub const HEAL_MS: u64 = 120_000;
/// How long it must stay whole.
const STABLE_MS: u64 = 2_000;

/// What came of a seed.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The hash of everything that happened.
    pub hash: u64,
    /// What did not hold.
    pub violation: Option<Violation>,
    /// Simulated milliseconds.
    pub simulated_ms: u64,
    /// How long healing took, in simulated milliseconds.
    pub healed_ms: Option<u64>,
    /// Events.
    pub events: u64,
    /// Acknowledged commits of clients.
    pub commits: u64,
    /// Primaries that were promoted or started.
    pub reigns: u64,
    /// Failovers: promotions under a new epoch, planned ones and forced ones among them.
    pub failovers: u64,
    /// Faults that took place.
    pub faults: u64,
    /// What was reached.
    #[serde(skip)]
    pub coverage: Counts,
    /// What the nodes could tell of their past, if it was wanted: the log and its end first.
    #[serde(skip)]
    pub lines: Vec<Line>,
}

/// How to run a seed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The bug put back on purpose.
    pub planted: Option<Planted>,
    /// The faults of the plan in which this bug is looked for, without the bug: these must hold.
    pub without: Option<Planted>,
    /// Only the faults of these numbers in the plan; all when `None`.
    pub keep: Option<BTreeSet<usize>>,
    /// A storm instead of the ordinary plan.
    pub storm: bool,
    /// People's hands beside the ordinary plan; see [`crate::plan::hands`].
    pub hands: bool,
    /// What people do to standbys, instead of the ordinary plan; see [`crate::plan::standbys`].
    pub standbys: bool,
    /// What agrees on the log.
    pub raft: raft::Kind,
    /// Print the trace.
    pub trace: bool,
    /// Keep what the nodes could tell of their past.
    pub record: bool,
}

/// What `seed` decides under `options`, with all its faults.
#[must_use]
pub fn scenario(seed: u64, options: &Options) -> Scenario {
    // A stale leader that is believed does harm where leaders and primaries change all the time.
    let bug = options.planted.or(options.without);
    let storms = options.storm || bug == Some(Planted::NoConfirmation);
    let mut scenario = match () {
        () if options.hands => hands(seed),
        () if options.standbys => standbys(seed),
        () if storms => storm(seed),
        () => plan_for(seed, bug),
    };
    scenario.more_than_one = bug.is_some_and(Planted::needs_two_sync_standbys);
    if !scenario.more_than_one {
        // More is refused by the program's faces.
        scenario.settings.sync_standbys = 1;
    }
    scenario
}

/// Runs `seed`.
#[must_use]
pub fn run(seed: u64, options: &Options) -> Outcome {
    let mut scenario = scenario(seed, options);
    if let Some(keep) = &options.keep {
        let kept = scenario.faults.iter().enumerate().filter(|(number, _)| keep.contains(number));
        scenario.faults = kept.map(|(_, fault)| *fault).collect();
    }
    run_scenario(scenario, options)
}

/// Runs `scenario`.
#[must_use]
pub fn run_scenario(scenario: Scenario, options: &Options) -> Outcome {
    let seed = scenario.seed;
    let w = World::new(scenario, options);
    let _entered = Entered::new(&w);
    begin(&w);
    let faults = w.scenario.faults.clone();
    let mut begun = 0;
    let active = w.scenario.active_ms * 1_000;
    for (number, timed) in faults.iter().enumerate() {
        w.exec.at(timed.at_ms * 1_000, None, Event::Fault(number));
    }
    step_until(&w, active, &mut begun);
    let mut healed_ms = None;
    if w.check.borrow().violation.is_none() {
        healed_ms = heal(&w, &mut begun);
    }
    if w.check.borrow().violation.is_none() {
        w.check.borrow_mut().verdicts(&w);
    }
    let check = w.check.borrow();
    let outcome = Outcome {
        seed,
        hash: w.exec.hash.get(),
        violation: check.violation.clone(),
        simulated_ms: w.exec.now() / 1_000,
        healed_ms,
        events: w.exec.handled.get(),
        commits: check.commits,
        reigns: check.reigns,
        failovers: check.failovers,
        faults: begun,
        coverage: w.cover.take(),
        lines: past(&w),
    };
    drop(check);
    end(&w);
    outcome
}

/// What the nodes could tell of their past, as one store and one journal.
fn past(w: &W) -> Vec<Line> {
    let (Some(lines), Some(newest)) = (&w.lines, w.raft.newest()) else { return Vec::new() };
    let (mut past, rest): (Vec<Line>, Vec<Line>) =
        lines.take().into_iter().partition(|line| matches!(line, Line::Entry { .. }));
    let index = past.len() as u64;
    past.insert(0, Line::Store { node: World::node(0), store: "simulated".to_owned() });
    past.push(Line::Applied { index, state: newest.state.clone() });
    past.extend(rest);
    past
}

fn begin(w: &W) {
    w.raft.begin(w);
    if let Some(standbys) = w.scenario.adopt {
        found_by_hand(w, standbys);
    }
    for host in 0..w.hosts.len() {
        agent::start(w, host);
        w.exec.at(w.rng.range(10_000, 50_000), None, Event::Clients(host));
    }
}

/// A cluster that somebody set up without pgvigil: one primary with its door open and a few standbys.
fn found_by_hand(w: &W, standbys: usize) {
    use crate::postgres::data::{Names, Upstream};
    let data = agent::directory::fresh(w);
    for host in 0..=standbys.min(w.hosts.len() - 1) {
        let mut mine = data.clone();
        let mut conf = (*mine.conf).clone();
        conf.names = Names::none();
        mine.signal = host != 0;
        mine.door = true;
        if host != 0 {
            mine.pass = Some(0);
            conf.upstream = Some(Upstream { host: 0, name: format!("by_hand_{host}").into() });
        }
        mine.conf = Rc::new(conf);
        w.hosts[host].disk.borrow_mut().data = Some(mine);
        w.start_server(host);
    }
}

fn end(w: &W) {
    w.exec.clear();
    for host in &w.hosts {
        host.agent.borrow_mut().take();
        host.controller.borrow_mut().take();
    }
}

/// Handles events until `until`, or the first violation.
fn step_until(w: &W, until: u64, begun: &mut u64) {
    while let Some(event) = w.exec.next(until) {
        match event {
            Event::Pg { host, pid, what } => w.pg_event(host, pid, what),
            Event::Guard(host, what) => w.guard_event(host, what),
            Event::Raft(what) => w.raft.event(w, what),
            Event::Wake(waker) => waker.wake(),
            Event::Call(call) => (call.0)(w),
            Event::Clients(host) => w.clients(host),
            Event::Fault(number) => {
                let timed = w.scenario.faults[number];
                if !w.quiet.get() && fault::begin(w, timed.fault) {
                    *begun += 1;
                    w.cover.hit("fault", timed.fault.name());
                    w.log("fault", || format!("#{number} {:?}", timed.fault));
                }
            }
            Event::Over(what) => {
                w.log("fault", || format!("over: {what:?}"));
                fault::over(w, what);
                if matches!(what, Fault::FreezePostgres(..) | Fault::FreezeHost(..)) {
                    // After whatever the guard had to do first.
                    w.exec.at(w.exec.now(), None, Event::Call(crate::world::Call(Box::new(|w: &W| w.check_service()))));
                }
            }
        }
        if w.check.borrow().violation.is_some() {
            return;
        }
    }
}

/// Who was removed joins again once his pgvigil is started anew.
fn let_join_again(w: &W, cluster: &ClusterState) {
    for (host, place) in w.hosts.iter().enumerate() {
        let removed = !cluster.members.contains_key(w.member(host));
        let refused = place.agent.borrow().as_ref().is_some_and(|agent| agent.inner.borrow().was_member);
        if removed && refused {
            w.cover.hit("operator", "let-join-again");
            agent::kill(w, host);
            agent::start(w, host);
        }
    }
}

/// All faults off; then it must become whole, and stay so. Returns how long that took.
fn heal(w: &W, begun: &mut u64) -> Option<u64> {
    fault::heal(w);
    let from = w.exec.now();
    let mut whole_since = None;
    let mut missing = String::new();
    while w.exec.now() < from + HEAL_MS * 1_000 {
        tend(w, from);
        let until = w.exec.now() + 250_000;
        step_until(w, until, begun);
        if w.check.borrow().violation.is_some() {
            return None;
        }
        match w.ailing(from) {
            None => {
                let since = *whole_since.get_or_insert(w.exec.now());
                if w.exec.now() >= since + STABLE_MS * 1_000 {
                    return Some((since - from) / 1_000);
                }
            }
            Some(what) => {
                whole_since = None;
                missing = what;
            }
        }
    }
    w.check.borrow_mut().not_healed(w, missing);
    None
}

/// What an operator does once the storm is over: resume, and the settings as they were; and where data directories
/// that were lost block everything, their word that these are given up.
fn tend(w: &W, from: u64) {
    let Some(cluster) = w.raft.newest().and_then(|applied| applied.cluster.clone()) else { return };
    if cluster.paused.is_some() {
        operator::ask(w, Command::Resume);
    }
    if cluster.settings != w.scenario.settings {
        operator::ask(w, Command::ChangeSettings { settings: w.scenario.settings.clone() });
    }
    if let (Some(reign), [_]) = (cluster.reign(), cluster.reigns.as_slice())
        && reign.promotion.is_none()
        && let Some(host) = w.host_of(&reign.primary.member)
        && !w.server_runs(host)
        && w.with_data(host, |data| data.marker.is_none()) == Some(true)
    {
        // pgvigil touches no directory without its mark; it says what people are to do.
        if reign.start == Start::Adopt {
            w.cover.hit("operator", "started-by-hand");
            w.start_server(host);
        } else {
            w.cover.hit("operator", "removed-half-made-directory");
            w.hosts[host].disk.borrow_mut().data = None;
        }
    }
    start_standbys_found_by_hand(w);
    let_join_again(w, &cluster);
    let waited = w.exec.now() - from;
    let stuck = cluster.election.is_some() && waited > 40_000_000 && (waited / 250_000).is_multiple_of(40);
    if stuck {
        let lost = lost_keys(w, &cluster);
        if !lost.is_empty() {
            w.cover.hit("operator", "gave-up-lost-directories");
            let kind = ElectionKind::Forced { to: None, old_primary_is_off: false, give_up: lost };
            operator::ask(w, Command::RequestElection { kind });
        }
    }
}

/// A standby that was found running and went down before it was adopted: only people may start it.
fn start_standbys_found_by_hand(w: &W) {
    for host in 1..=w.scenario.adopt.unwrap_or(0).min(w.hosts.len() - 1) {
        if !w.server_runs(host) && w.with_data(host, |data| data.marker.is_none() && data.signal) == Some(true) {
            w.cover.hit("operator", "started-standby-by-hand");
            w.start_server(host);
        }
    }
}

/// Members whose counted data directory no longer exists.
fn lost_keys(w: &W, cluster: &ClusterState) -> BTreeSet<pgvigil_core::id::MemberId> {
    let gone = |member: &pgvigil_core::member::Member| {
        let host = w.host_of(&member.spec.member)?;
        let disk = w.hosts[host].disk.borrow();
        let marker = disk.data.as_ref().and_then(|data| data.marker.as_ref());
        let here = marker.is_some_and(|m| m.member == member.spec.member && m.incarnation == member.incarnation);
        (!here).then(|| member.spec.member.clone())
    };
    cluster.members.values().filter_map(gone).collect()
}

/// The command that shows a failing seed again.
#[must_use]
pub fn replay_command(seed: u64, options: &Options) -> String {
    use clap::ValueEnum;
    let mut command = format!("cargo run -p pgvigil-simulation -- seed {seed} --trace");
    if let Some(planted) = options.planted.and_then(|planted| planted.to_possible_value()) {
        command += &format!(" --planted {}", planted.get_name());
    }
    if options.storm {
        command += " --storm";
    }
    if options.hands {
        command += " --hands";
    }
    if options.standbys {
        command += " --standbys";
    }
    if options.raft == raft::Kind::Openraft {
        command += " --raft openraft";
    }
    if let Some(keep) = &options.keep {
        let keep: Vec<String> = keep.iter().map(ToString::to_string).collect();
        command += &format!(" --keep {}", if keep.is_empty() { "none".to_owned() } else { keep.join(",") });
    }
    command
}
