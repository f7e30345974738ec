//! Which bugs are caught, and by what.

use crate::mutate::Mutant;
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// A test that takes longer has found something: a loop that does not end.
const LIMIT: Duration = Duration::from_secs(240);

/// A program whose failure catches a bug.
struct Test {
    name: String,
    program: PathBuf,
    /// Its crate's folder.
    dir: PathBuf,
    arguments: Vec<String>,
}

/// What came of one bug.
#[derive(Serialize)]
struct Verdict<'a> {
    #[serde(flatten)]
    mutant: &'a Mutant,
    caught_by: Option<String>,
    seconds: u64,
}

/// Tries `mutants` in the copy, one after the other.
pub fn run(copy: &Path, mutants: &[Mutant], least: f64, json: Option<&Path>) -> Result<()> {
    let mut file = json.map(File::create).transpose()?;
    let built = build(copy)?;
    if let Some(name) = caught_by(&built, None)? {
        bail!("{name} fails without any bug");
    }
    let mut survivors = Vec::new();
    for (number, mutant) in mutants.iter().enumerate() {
        let began = Instant::now();
        let caught_by = caught_by(&built, Some(mutant))?;
        let verdict = Verdict { mutant, caught_by, seconds: began.elapsed().as_secs() };
        let by = verdict.caught_by.as_deref().unwrap_or("NOT CAUGHT");
        println!("{}/{} {mutant}: {by} ({} s)", number + 1, mutants.len(), verdict.seconds);
        if let Some(file) = &mut file {
            writeln!(file, "{}", serde_json::to_string(&verdict)?)?;
        }
        if verdict.caught_by.is_none() {
            survivors.push(mutant);
        }
    }
    let caught = mutants.len() - survivors.len();
    let share = 100.0 * caught as f64 / mutants.len().max(1) as f64;
    println!("{caught} of {} caught: {share:.1} %", mutants.len());
    for mutant in survivors {
        println!("  not caught: {mutant}");
    }
    if share < least {
        bail!("less than {least} %");
    }
    Ok(())
}

/// Every test program of the crates with bugs in them, and the simulation.
fn build(copy: &Path) -> Result<Vec<Test>> {
    let crates = ["core", "agent", "controller", "postgres", "raft-store"].map(|name| format!("pgvigil-{name}"));
    let built = Command::new("cargo")
        .current_dir(copy)
        .args(["test", "--no-run", "--message-format=json"])
        .args(crates.iter().flat_map(|name| ["-p", name]))
        .stderr(Stdio::inherit())
        .output()?;
    if !built.status.success() {
        bail!("the tests of the copy cannot be built");
    }
    let mut tests = Vec::new();
    for line in String::from_utf8_lossy(&built.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let (Some(program), Some(name)) = (message["executable"].as_str(), message["target"]["name"].as_str()) else {
            continue;
        };
        if message["profile"]["test"] == true {
            let manifest = Path::new(message["manifest_path"].as_str().unwrap_or_default());
            let dir = manifest.parent().unwrap_or(copy).to_owned();
            tests.push(Test { name: name.to_owned(), program: program.into(), dir, arguments: Vec::new() });
        }
    }
    let simulation =
        Command::new("cargo").current_dir(copy).args(["build", "-q", "-p", "pgvigil-simulation"]).status()?;
    if !simulation.success() {
        bail!("the simulation of the copy cannot be built");
    }
    let seeds = [
        &["--seeds", "120"][..],
        &["--seeds", "80", "--hands"],
        &["--seeds", "40", "--standbys"],
        &["--seeds", "15", "--storm"],
    ];
    for seeds in seeds {
        let arguments: Vec<String> = ["run"].iter().chain(seeds).map(|&text| text.to_owned()).collect();
        let program = copy.join("target/debug/pgvigil-simulation");
        let name = format!("simulation {}", seeds.join(" "));
        tests.push(Test { name, program, dir: copy.to_owned(), arguments });
    }
    Ok(tests)
}

/// Whether `test` is for a bug in `file`: PostgreSQL's and the store's crates have tests of their own, all else has those of
/// its crates and the simulation.
fn is_for(test: &Test, file: &str) -> bool {
    let own = ["supervisor/postgres", "raft-store"];
    let of = |folder: &&str| test.dir.ends_with(folder);
    match own.iter().find(|folder| file.starts_with(**folder)) {
        Some(folder) => of(folder),
        None => !own.iter().any(of),
    }
}

fn caught_by(tests: &[Test], mutant: Option<&Mutant>) -> Result<Option<String>> {
    for test in tests {
        if mutant.is_some_and(|mutant| !is_for(test, &mutant.file)) {
            continue;
        }
        let mut command = Command::new(&test.program);
        command.args(&test.arguments).stdout(Stdio::null()).stderr(Stdio::null()).current_dir(&test.dir);
        if let Some(mutant) = mutant {
            command.env("PGVIGIL_MUTANT", mutant.id.to_string());
        }
        let mut child = command.spawn().with_context(|| test.program.display().to_string())?;
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if began.elapsed() > LIMIT {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        if !status.is_some_and(|status| status.success()) {
            return Ok(Some(test.name.clone()));
        }
    }
    Ok(None)
}
