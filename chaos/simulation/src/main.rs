//! The command line of the simulation.

use clap::{Parser, Subcommand};
use pgvigil_simulation::{
    coverage::{self, Counts},
    planted::{ALL, Planted},
    raft,
    run::{Options, Outcome, replay_command, run, scenario},
    shrink::shrink,
};
use std::{collections::BTreeSet, process::ExitCode, time::Instant};

/// Deterministic simulation of whole pgvigil clusters.
#[derive(Parser)]
#[command(name = "pgvigil-simulation")]
struct Arguments {
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// What agrees on the log: a fast model of Raft, or openraft itself.
    #[arg(long, global = true, value_enum, default_value = "model")]
    raft: raft::Kind,
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run many seeds and say which fail.
    Run {
        /// How many.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// The first one.
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// A bug put back on purpose.
        #[arg(long)]
        planted: Option<Planted>,
        /// The primary is struck every second or two.
        #[arg(long)]
        storm: bool,
        /// People take the rule out of force, beside the ordinary plan.
        #[arg(long)]
        hands: bool,
        /// What people do to standbys, instead of the ordinary plan.
        #[arg(long)]
        standbys: bool,
        /// Also print what was reached.
        #[arg(long)]
        coverage: bool,
        /// Go on after failing seeds.
        #[arg(long)]
        all: bool,
    },
    /// Run one seed.
    Seed {
        /// Which.
        seed: u64,
        /// Print what happens.
        #[arg(long)]
        trace: bool,
        /// Only the faults of these numbers in the plan, or `none`.
        #[arg(long)]
        keep: Option<String>,
        /// A bug put back on purpose.
        #[arg(long)]
        planted: Option<Planted>,
        /// The primary is struck every second or two.
        #[arg(long)]
        storm: bool,
        /// People take the rule out of force, beside the ordinary plan.
        #[arg(long)]
        hands: bool,
        /// What people do to standbys, instead of the ordinary plan.
        #[arg(long)]
        standbys: bool,
    },
    /// Drop faults from a failing seed while it still fails.
    Shrink {
        /// Which.
        seed: u64,
        /// A bug put back on purpose.
        #[arg(long)]
        planted: Option<Planted>,
        /// The primary is struck every second or two.
        #[arg(long)]
        storm: bool,
        /// People take the rule out of force, beside the ordinary plan.
        #[arg(long)]
        hands: bool,
        /// What people do to standbys, instead of the ordinary plan.
        #[arg(long)]
        standbys: bool,
    },
    /// Put every bug back on purpose, and say how many seeds it takes to find it.
    Planted {
        /// At most so many seeds for each.
        #[arg(long, default_value_t = 400)]
        seeds: u64,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (json, raft) = (arguments.json, arguments.raft);
    match arguments.command {
        Verb::Run { seeds, first, planted, storm, hands, standbys, coverage, all } => many(
            first,
            seeds,
            &Options { planted, storm, hands, standbys, raft, ..Options::default() },
            coverage,
            all,
            json,
        ),
        Verb::Seed { seed, trace, keep, planted, storm, hands, standbys } => {
            match keep.as_deref().map(numbers).transpose() {
                Ok(keep) => {
                    let outcome = run(
                        seed,
                        &Options { planted, without: None, keep, storm, hands, standbys, raft, trace, record: false },
                    );
                    show(&outcome, json);
                    code(outcome.violation.is_none())
                }
                Err(error) => {
                    eprintln!("--keep: {error}; expected numbers such as 3,7,9 or none");
                    ExitCode::from(2)
                }
            }
        }
        Verb::Shrink { seed, planted, storm, hands, standbys } => {
            shrunk(seed, &Options { planted, storm, hands, standbys, raft, ..Options::default() }, json)
        }
        Verb::Planted { seeds } => bugs(seeds, raft, json),
    }
}

fn code(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn numbers(text: &str) -> Result<BTreeSet<usize>, std::num::ParseIntError> {
    if text == "none" {
        return Ok(BTreeSet::new());
    }
    text.split(',').map(|number| number.trim().parse()).collect()
}

fn show(outcome: &Outcome, json: bool) {
    if json {
        println!("{}", serde_json::to_string(outcome).unwrap_or_default());
        return;
    }
    println!(
        "seed {}: {:.1} s simulated, {} events, {} commits, {} reigns, {} failovers, {} faults, healed in {:?} ms, hash {:016x}",
        outcome.seed,
        outcome.simulated_ms as f64 / 1e3,
        outcome.events,
        outcome.commits,
        outcome.reigns,
        outcome.failovers,
        outcome.faults,
        outcome.healed_ms,
        outcome.hash
    );
    if let Some(violation) = &outcome.violation {
        println!("  {} at {:.6} s: {}", violation.property, violation.at as f64 / 1e6, violation.detail);
    }
}

/// How long this thread has had a processor, in seconds: what a busy machine does not change.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|word| word.parse::<u64>().ok());
    nanos.map_or(f64::NAN, |nanos| nanos as f64 / 1e9)
}

/// Sums over many seeds.
#[derive(Default)]
struct Sums {
    seeds: u64,
    failed: u64,
    simulated_ms: u64,
    reigns: u64,
    failovers: u64,
    commits: u64,
}

impl Sums {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.failed += u64::from(outcome.violation.is_some());
        self.simulated_ms += outcome.simulated_ms;
        self.reigns += outcome.reigns;
        self.failovers += outcome.failovers;
        self.commits += outcome.commits;
    }
}

fn many(first: u64, seeds: u64, options: &Options, print_coverage: bool, all: bool, json: bool) -> ExitCode {
    let (began, processor) = (Instant::now(), processor_seconds());
    let mut counts = Counts::new();
    let mut sums = Sums::default();
    for seed in first..first + seeds {
        let outcome = run(seed, options);
        coverage::add(&mut counts, &outcome.coverage);
        sums.add(&outcome);
        if json {
            show(&outcome, true);
        } else if outcome.violation.is_some() {
            show(&outcome, false);
            println!("  {}", replay_command(seed, options));
        }
        if outcome.violation.is_some() && !all {
            break;
        }
    }
    if !json {
        let (took, used) = (began.elapsed().as_secs_f64(), processor_seconds() - processor);
        let Sums { seeds, failed, simulated_ms, reigns, failovers, commits } = sums;
        let simulated = simulated_ms as f64 / 1e3;
        println!(
            "{seeds} seeds from {first}: {failed} failed; {failovers} failovers, {reigns} reigns, {commits} commits in \
             {simulated:.0} simulated seconds; {took:.1} s, {used:.1} s of a processor: {:.0} simulated seconds and {:.0} \
             failovers for each of these",
            simulated / used,
            failovers as f64 / used
        );
        if print_coverage {
            for (group, names) in &counts {
                for (name, count) in names {
                    println!("  {group:<14} {name:<28} {count}");
                }
            }
        }
    }
    code(sums.failed == 0)
}

fn shrunk(seed: u64, options: &Options, json: bool) -> ExitCode {
    let Some((keep, outcome)) = shrink(seed, options) else {
        println!("seed {seed} does not fail");
        return ExitCode::SUCCESS;
    };
    show(&outcome, json);
    let scenario = scenario(seed, options);
    for number in &keep {
        println!("  #{number} {:?}", scenario.faults[*number]);
    }
    println!("  {}", replay_command(seed, &Options { keep: Some(keep), ..options.clone() }));
    ExitCode::FAILURE
}

fn bugs(seeds: u64, raft: raft::Kind, json: bool) -> ExitCode {
    let mut good = true;
    for planted in ALL {
        let options = Options { planted: Some(*planted), raft, ..Options::default() };
        let found = (1..=seeds).find_map(|seed| {
            let violation = run(seed, &options).violation?;
            (violation.property != "liveness").then_some((seed, violation))
        });
        good &= found.is_some();
        if json {
            println!("{}", serde_json::json!({ "planted": planted, "seeds": found.as_ref().map(|(seed, _)| seed) }));
            continue;
        }
        match found {
            Some((seed, violation)) => println!("{planted:?}: found by seed {seed} ({})", violation.property),
            None => println!("{planted:?}: not found in {seeds} seeds"),
        }
    }
    code(good)
}
