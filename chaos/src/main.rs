//! The program `pgvigil-chaos`: faults and figures for clusters that pgvigil runs.

mod play;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use pgvigil_chaos::bench::{self, BenchOptions, Fault};
use pgvigil_chaos::cluster::ClusterOptions;
use pgvigil_chaos::interrupt;
use pgvigil_chaos::planted::{self, Bug, PlantedOptions};
use pgvigil_chaos::report::Report;
use pgvigil_chaos::storm::{self, StormOptions};
use pgvigil_chaos::workload;

/// Faults, workloads and figures for PostgreSQL clusters that pgvigil runs.
///
/// 'run' and 'soak' give every node a host of its own where that is permitted (network namespaces and loop devices:
/// root); 'bench' and 'storm' run on loopback. Everything is ended and removed at the end, also after a crash. Started
/// as root, the servers run as an unprivileged user.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures for how long writes stop: each fault a number of times, with default settings, beside the floor that
    /// PostgreSQL itself sets on this machine. Exit code 0 only if nothing was lost and every bar is met.
    Bench(BenchArguments),
    /// Strikes at random processes of a running cluster (kill -9 of anything, whole hosts, freezes, several at once) and
    /// demands after each round that it heals by itself and that nothing acknowledged is lost.
    Storm(StormArguments),
    /// Plays scenarios: faults of processes, networks, disks and clocks, after each of which the cluster must heal
    /// unaided and the history of every client must be in order. Exit code 0 only if every one passed.
    Run(play::RunArguments),
    /// Plays random faults, alone and combined, until a number of faults or hours is reached. Every round goes from full
    /// health to full health, and the history of every client is checked each time.
    Soak(play::SoakArguments),
    /// Lists the scenarios, with their number in the list of thirty
    List,
    /// Puts bugs back into the real program, one at a time, and demands that the checkers catch each of them, and nothing
    /// without it. Needs a pgvigil that was built with its fault points (cargo build --workspace).
    Planted(PlantedArguments),
    /// Lets the host of whoever first reaches a named point on the way to the next primary die there, point after point,
    /// and demands that somebody takes over and nothing is lost. Needs a pgvigil with fault points.
    Points(PointsArguments),
    /// Runs the clients of a load; started by this program itself.
    #[command(hide = true)]
    Load(LoadArguments),
}

#[derive(Args)]
struct PointsArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Which points, separated by commas [default: all]
    #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(planted::POINTS))]
    point: Vec<String>,
    /// Also write the page with plots to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Args)]
struct PlantedArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// Which bugs, separated by commas [default: all]
    #[arg(long, value_delimiter = ',')]
    bug: Vec<Bug>,
    /// Also write the page with plots to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Args)]
struct LoadArguments {
    /// `LoadOptions` as JSON
    #[arg(long)]
    options: String,
    /// When the run began, on CLOCK_MONOTONIC
    #[arg(long)]
    origin_us: u64,
    /// Where the history is written to
    #[arg(long, value_name = "FILE")]
    history: PathBuf,
}

#[derive(Args)]
struct ClusterArguments {
    /// The pgvigil program [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    pgvigil: Option<PathBuf>,
    /// Make the cluster's folders here and leave them (with the logs) at the end
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Args)]
struct BenchArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// How often each fault is done
    #[arg(long, default_value_t = 20)]
    runs: usize,
    /// Which faults, separated by commas [default: all]
    #[arg(long, value_delimiter = ',', default_value = "all")]
    fault: Vec<FaultChoice>,
    /// How often the floor is measured
    #[arg(long, default_value_t = 5)]
    floor_runs: usize,
    /// For how many seconds the idle cluster is watched (0: not at all)
    #[arg(long, default_value_t = 30)]
    idle: u64,
    /// Also write every figure to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct StormArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
    /// How many rounds, each from full health to full health
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// The seed of the choices [default: a new one, which is printed]
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Clone, Copy)]
enum FaultChoice {
    All,
    One(Fault),
}

impl ValueEnum for FaultChoice {
    fn value_variants<'a>() -> &'a [Self] {
        use Fault::{Crash, Freeze, FreezeLeader, HostLoss, HostLossLeader, Switchover};
        &[
            FaultChoice::All,
            FaultChoice::One(Crash),
            FaultChoice::One(HostLoss),
            FaultChoice::One(HostLossLeader),
            FaultChoice::One(Freeze),
            FaultChoice::One(FreezeLeader),
            FaultChoice::One(Switchover),
        ]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        match self {
            FaultChoice::All => Some(clap::builder::PossibleValue::new("all")),
            FaultChoice::One(fault) => fault.to_possible_value(),
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = interrupt::install() {
        eprintln!("error: catching signals: {error}");
        return ExitCode::FAILURE;
    }
    let code = |good: bool| if good { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let result = match cli.command {
        Command::Bench(arguments) => run_bench(arguments).map(code),
        Command::Storm(arguments) => run_storm(arguments).map(code),
        Command::Run(arguments) => play::run(arguments),
        Command::Soak(arguments) => play::soak(arguments),
        Command::List => {
            play::list();
            Ok(ExitCode::SUCCESS)
        }
        Command::Load(arguments) => run_load(&arguments).map(code),
        Command::Planted(arguments) => run_planted(arguments).map(code),
        Command::Points(arguments) => run_points(arguments).map(code),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_bench(arguments: BenchArguments) -> anyhow::Result<bool> {
    let mut faults: Vec<Fault> = Vec::new();
    for choice in &arguments.fault {
        match choice {
            FaultChoice::All => faults.extend(Fault::value_variants()),
            FaultChoice::One(fault) => faults.push(*fault),
        }
    }
    faults.sort();
    faults.dedup();
    let options = BenchOptions {
        cluster: cluster_options(arguments.cluster),
        faults,
        runs: arguments.runs,
        floor_runs: arguments.floor_runs,
        idle: Duration::from_secs(arguments.idle),
    };
    let began = Instant::now();
    let report = bench::bench(options, &mut |line| println!("[{:7.1} s] {line}", began.elapsed().as_secs_f64()))?;
    println!("\n{}", report.table());
    if let Some(path) = arguments.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(report.is_good())
}

fn run_storm(arguments: StormArguments) -> anyhow::Result<bool> {
    let seed = arguments.seed.unwrap_or_else(|| rand::random::<u32>().into());
    println!("seed {seed}");
    let options = StormOptions { cluster: cluster_options(arguments.cluster), rounds: arguments.rounds, seed };
    let began = Instant::now();
    let verdict = storm::storm(options, &mut |line| println!("[{:7.1} s] {line}", began.elapsed().as_secs_f64()))?;
    println!(
        "every round healed; {} commits acknowledged, {} with unknown end, lost 0, resurrected 0",
        verdict.acknowledged, verdict.unknown
    );
    Ok(true)
}

fn run_planted(arguments: PlantedArguments) -> anyhow::Result<bool> {
    let bugs = if arguments.bug.is_empty() { Bug::value_variants().to_vec() } else { arguments.bug };
    let options = PlantedOptions { cluster: cluster_options(arguments.cluster), bugs };
    let began = Instant::now();
    let plays = planted::planted(&options, &mut |line| println!("[{:7.1} s] {line}", began.elapsed().as_secs_f64()))?;
    finish_plays("planted bugs", plays, arguments.html)
}

fn run_points(arguments: PointsArguments) -> anyhow::Result<bool> {
    let wanted = |point: &&&str| arguments.point.is_empty() || arguments.point.iter().any(|name| name == **point);
    let points: Vec<&'static str> = planted::POINTS.iter().filter(wanted).copied().collect();
    let began = Instant::now();
    let mut say = |line: String| println!("[{:7.1} s] {line}", began.elapsed().as_secs_f64());
    let plays = planted::points(&cluster_options(arguments.cluster), &points, &mut say)?;
    finish_plays("crashes at every step", plays, arguments.html)
}

/// Says what was not as it should be, and writes the page.
fn finish_plays(title: &str, plays: Vec<planted::Play>, html: Option<PathBuf>) -> anyhow::Result<bool> {
    for play in plays.iter().filter(|play| !play.is_good()) {
        println!("\n{}:", play.record.scenario);
        let violations = play.record.verdict.violations.iter().map(|v| format!("{}: {}", v.kind, v.text));
        play.record.failures.iter().cloned().chain(violations).for_each(|line| println!("  {line}"));
    }
    let good = plays.iter().all(planted::Play::is_good);
    if let Some(path) = html {
        let runs = plays.into_iter().map(|play| play.record).collect();
        let report = Report { title: title.to_owned(), runs, ..Report::default() };
        std::fs::write(&path, report.html()).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(good)
}

fn run_load(arguments: &LoadArguments) -> anyhow::Result<bool> {
    let options = serde_json::from_str(&arguments.options).context("reading --options")?;
    workload::serve(options, arguments.origin_us, &arguments.history)?;
    Ok(true)
}

fn cluster_options(arguments: ClusterArguments) -> ClusterOptions {
    ClusterOptions { pgvigil: arguments.pgvigil, dir: arguments.dir, ..ClusterOptions::default() }
}
