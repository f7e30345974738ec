//! The commands `run`, `list` and `soak`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use pgvigil_chaos::history::clock;
use pgvigil_chaos::host::{self, Entered, Ground};
use pgvigil_chaos::report::{Report, RunRecord};
use pgvigil_chaos::scenario::{self, Needs, Options, Plan, Scenario};
use pgvigil_chaos::{bare, cluster};

/// Wrong usage, or something is missing that everything needs.
const REFUSED: u8 = 2;

#[derive(Args)]
pub struct RunArguments {
    /// Which scenarios (see 'pgvigil-chaos list')
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "ci"])]
    names: Vec<String>,
    /// Every scenario
    #[arg(long, conflicts_with_all = ["names", "ci"])]
    all: bool,
    /// The set that runs on every change
    #[arg(long, conflicts_with = "names")]
    ci: bool,
    /// How many seconds scenarios that only wait (busy-cores, weather, packet-loss) wait
    #[arg(long, value_name = "SECONDS")]
    length: Option<u64>,
    #[command(flatten)]
    place: PlaceArguments,
}

#[derive(Args)]
pub struct PlaceArguments {
    /// The pgvigil program [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    pgvigil: Option<PathBuf>,
    /// The seed of the choices [default: a new one, which is printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Where the run's folder (with the hosts' disks) is made, and removed at the end
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Where logs, histories and data directories of failed runs are kept
    #[arg(long, value_name = "DIR", default_value = "pgvigil-chaos-kept")]
    keep: PathBuf,
    /// Play on loopback, without hosts of their own: what needs them is left out
    #[arg(long)]
    loopback: bool,
    /// Also write the report to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The same as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// The same as a page with plots that needs nothing beside it
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Args)]
pub struct SoakArguments {
    /// Until so many faults were done
    #[arg(long, value_name = "N", required_unless_present = "hours")]
    faults: Option<usize>,
    /// Until so many hours have passed
    #[arg(long, value_name = "H")]
    hours: Option<f64>,
    /// The round to begin with
    #[arg(long, value_name = "ROUND", default_value_t = 1)]
    from: u64,
    #[command(flatten)]
    place: PlaceArguments,
}

/// Plays random faults.
pub fn soak(arguments: SoakArguments) -> anyhow::Result<ExitCode> {
    let plan = Plan {
        faults: arguments.faults.unwrap_or(usize::MAX),
        length: arguments.hours.map_or(Duration::MAX, |hours| Duration::from_secs_f64(hours * 3600.0)),
        from: arguments.from,
    };
    let (ground, options) = match go(&arguments.place, false, None)? {
        Start::Play(ground, options) => (ground, options),
        Start::Over(code) => return Ok(code),
    };
    let (began, began_at_ms) = (Instant::now(), clock::wall_us() / 1000);
    let mut say = |line: String| println!("[{:7.1} s] {line}", began.elapsed().as_secs_f64());
    let mut done = |record: &RunRecord| println!("{}", verdict_line(record));
    let records = scenario::soak(&ground, plan, &options, &mut say, &mut done);
    tidy(&ground);
    let records = records?;
    let faults: usize = records.iter().map(|record| record.faults.len()).sum();
    println!("{faults} faults in {} rounds", records.len());
    conclude(&arguments.place, "soak", began_at_ms, records, false)
}

/// Prints every scenario.
pub fn list() {
    for Scenario { number, name, story, needs, ci, .. } in scenario::scenarios() {
        let number = number.map_or_else(String::new, |number| number.to_string());
        let needs = match needs {
            Needs::Processes => "",
            Needs::Hosts => "  [hosts]",
            Needs::Unbuilt(_) => "  [not yet]",
        };
        println!("{number:>3}  {}  {name:<30} {story}{needs}", if ci { "ci" } else { "  " });
    }
}

/// Plays scenarios.
pub fn run(arguments: RunArguments) -> anyhow::Result<ExitCode> {
    let chosen: Vec<Scenario> = if arguments.all || arguments.ci {
        scenario::scenarios().into_iter().filter(|scenario| arguments.all || scenario.ci).collect()
    } else {
        let mut chosen = Vec::new();
        for name in &arguments.names {
            match scenario::find(name) {
                Some(scenario) => chosen.push(scenario),
                None => {
                    let names = scenario::names().join(", ");
                    return Ok(refuse(&format!("there is no scenario {name:?}; the scenarios are: {names}")));
                }
            }
        }
        chosen
    };
    let needs_hosts = chosen.iter().all(|scenario| scenario.needs == Needs::Hosts);
    let (ground, options) = match go(&arguments.place, needs_hosts, arguments.length)? {
        Start::Play(ground, options) => (ground, options),
        Start::Over(code) => return Ok(code),
    };
    let (began, began_at_ms) = (Instant::now(), clock::wall_us() / 1000);
    let mut say = |line: String| println!("[{:7.1} s] {line}", began.elapsed().as_secs_f64());
    let mut done = |record: &RunRecord| println!("{}", verdict_line(record));
    let records = scenario::run(&ground, &chosen, &options, &mut say, &mut done);
    tidy(&ground);
    let title = if arguments.ci { "scenarios of every change" } else { "scenarios" };
    // Bars are figures of a quiet machine; a set that runs on every change must not fail because it was busy.
    conclude(&arguments.place, title, began_at_ms, records?, !arguments.ci)
}

/// Prints and writes the report; the exit code. `bars`: whether a bar that is missed makes it fail.
fn conclude(
    place: &PlaceArguments,
    title: &str,
    began_at_ms: u64,
    runs: Vec<RunRecord>,
    bars: bool,
) -> anyhow::Result<ExitCode> {
    let report = Report { title: title.to_owned(), began_at_ms, about: about(place), runs };
    println!("\n{}", report.table());
    let json = serde_json::to_string_pretty(&report)? + "\n";
    let forms = [(&place.json, json), (&place.junit, report.junit()), (&place.html, report.html())];
    for (path, text) in forms {
        if let Some(path) = path {
            std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        }
    }
    let code = summary(&report.runs);
    if bars && !report.is_good() && code == ExitCode::SUCCESS {
        println!("every run was good, but a bar was missed");
        return Ok(ExitCode::FAILURE);
    }
    Ok(code)
}

/// The machine and the programs.
fn about(place: &PlaceArguments) -> Vec<String> {
    let mut lines = Vec::new();
    if let Ok(cores) = std::thread::available_parallelism() {
        lines.push(format!("{cores} cores"));
    }
    if let Ok(kernel) = std::fs::read_to_string("/proc/sys/kernel/osrelease") {
        lines.push(format!("Linux {}", kernel.trim()));
    }
    let postgres = bare::bin_dir().ok().and_then(|bin| version(&bin.join("postgres")));
    let pgvigil = place.pgvigil.clone().or_else(|| cluster::find_pgvigil().ok()).and_then(|program| version(&program));
    lines.extend(postgres.into_iter().chain(pgvigil));
    lines
}

/// What a program says of its version.
fn version(program: &Path) -> Option<String> {
    let output = std::process::Command::new(program).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A line for each record when it is done.
fn verdict_line(record: &RunRecord) -> String {
    let RunRecord { scenario, skipped, failures, verdict, kept, repeat, .. } = record;
    if let Some(why) = skipped {
        return format!("SKIPPED {scenario}: {why}");
    }
    let seconds = record.length_us as f64 / 1e6;
    if record.is_good() {
        let counts = verdict.counts;
        return format!(
            "PASSED  {scenario} ({seconds:.0} s; {} writes acknowledged, {} unknown, {} refused)",
            counts.acknowledged, counts.unknown, counts.failed
        );
    }
    let mut text = format!("FAILED  {scenario} ({seconds:.0} s)");
    for failure in failures {
        text.push_str(&format!("\n          {failure}"));
    }
    for violation in &verdict.violations {
        text.push_str(&format!("\n          {}: {}", violation.kind, violation.text));
    }
    text.push_str(&format!("\n          again: {repeat}"));
    if let Some(kept) = kept {
        text.push_str(&format!("\n          kept in {kept}"));
    }
    text
}

fn summary(records: &[RunRecord]) -> ExitCode {
    let skipped = records.iter().filter(|record| record.skipped.is_some()).count();
    let passed = records.iter().filter(|record| record.is_good()).count();
    let failed: Vec<&str> = records
        .iter()
        .filter(|record| record.skipped.is_none() && !record.is_good())
        .map(|record| record.scenario.as_str())
        .collect();
    println!("{passed} passed, {} failed, {skipped} skipped", failed.len());
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed: {}", failed.join(", "));
    ExitCode::FAILURE
}

/// Whether this process is to play.
enum Start {
    Play(Ground, Options),
    Over(ExitCode),
}

/// Checks what is here, says what is not, and goes inside.
fn go(place: &PlaceArguments, needs_hosts: bool, length: Option<u64>) -> anyhow::Result<Start> {
    if let Err(error) = bare::bin_dir() {
        return Ok(Start::Over(refuse(&error.to_string())));
    }
    match place.pgvigil.clone().map_or_else(cluster::find_pgvigil, Ok) {
        Err(error) => return Ok(Start::Over(refuse(&error.to_string()))),
        Ok(program) if !program.is_file() => {
            return Ok(Start::Over(refuse(&format!("there is no program {}", program.display()))));
        }
        Ok(_) => {}
    }
    let missing: Vec<String> = host::missing().into_iter().map(|missing| missing.0).collect();
    if !missing.is_empty() && !place.loopback {
        let missing = missing.join("; ");
        if needs_hosts {
            return Ok(Start::Over(refuse(&format!("hosts of their own need what is not here: {missing}"))));
        }
        eprintln!("hosts of their own need what is not here: {missing}");
        eprintln!(
            "playing on loopback, where links can be cut; faults of frames, disks and clocks, and power losses, are left out"
        );
    }
    let ground = match host::enter(&place.dir, missing.is_empty() && !place.loopback)? {
        Entered::Inside(ground) => ground,
        Entered::Over(code) => return Ok(Start::Over(code)),
    };
    let seed = place.seed.unwrap_or_else(|| rand::random::<u32>().into());
    println!("seed {seed}");
    let options = Options {
        pgvigil: place.pgvigil.clone(),
        seed,
        length: length.map(Duration::from_secs),
        keep: std::path::absolute(&place.keep)?,
    };
    Ok(Start::Play(ground, options))
}

/// On loopback nobody else removes the run's folder.
fn tidy(ground: &Ground) {
    if let Ground::Loopback(dir) = ground
        && let Err(error) = std::fs::remove_dir_all(dir)
    {
        eprintln!("{} could not be removed: {error}", dir.display());
    }
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("error: {why}");
    ExitCode::from(REFUSED)
}
