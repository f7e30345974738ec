//! The program `pgvigil-chaos`: faults and figures for clusters that pgvigil runs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use pgvigil_chaos::bench::{self, BenchOptions, Fault};
use pgvigil_chaos::cluster::ClusterOptions;
use pgvigil_chaos::interrupt;
use pgvigil_chaos::storm::{self, StormOptions};
use pgvigil_chaos::workload;

/// Faults, workloads and figures for PostgreSQL clusters that pgvigil runs.
///
/// Everything runs on loopback, in a temporary folder, and is ended and removed at the end. Started as root, the
/// servers run as an unprivileged user.
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
    /// Runs the clients of a load; started by this program itself.
    #[command(hide = true)]
    Load(LoadArguments),
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
    let result = match cli.command {
        Command::Bench(arguments) => run_bench(arguments),
        Command::Storm(arguments) => run_storm(arguments),
        Command::Load(arguments) => run_load(&arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
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

fn run_load(arguments: &LoadArguments) -> anyhow::Result<bool> {
    let options = serde_json::from_str(&arguments.options).context("reading --options")?;
    workload::serve(options, arguments.origin_us, &arguments.history)?;
    Ok(true)
}

fn cluster_options(arguments: ClusterArguments) -> ClusterOptions {
    ClusterOptions { pgvigil: arguments.pgvigil, dir: arguments.dir, ..ClusterOptions::default() }
}
