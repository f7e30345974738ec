//! The copy of the project with the bugs in it.

use crate::mutate::{Mutant, mutate};
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What is looked at: folders and files. Tests and what tests are made of are left out.
const TARGETS: &[&str] = &[
    "supervisor/core/src/apply",
    "supervisor/core/src/reconcile",
    "supervisor/core/src/guard",
    "supervisor/core/src/rule.rs",
    "supervisor/core/src/quorum.rs",
    "supervisor/core/src/lease.rs",
    "supervisor/core/src/keeper.rs",
    "supervisor/core/src/beats.rs",
    "supervisor/core/src/session.rs",
    "supervisor/core/src/proof.rs",
    "supervisor/core/src/decide/rules.rs",
    "supervisor/agent/src",
    "supervisor/controller/src",
    "supervisor/postgres/src/seal.rs",
    "supervisor/postgres/src/position.rs",
    "supervisor/postgres/src/fsio.rs",
    "supervisor/postgres/src/history_files.rs",
    "raft-store/src",
];

/// The list of a copy.
const LIST: &str = "mutants.json";

/// Answers the question of each bug.
const QUESTION: &str = r#"//! Which bug is put in. This copy is never shipped.

use std::sync::OnceLock;

static CHOSEN: OnceLock<u32> = OnceLock::new();

/// Whether it is this one.
pub fn on(mutant: u32) -> bool {
    let chosen = || std::env::var("PGVIGIL_MUTANT").ok().and_then(|text| text.parse().ok()).unwrap_or(u32::MAX);
    *CHOSEN.get_or_init(chosen) == mutant
}
"#;

/// The bugs of the copy in `dir`.
pub fn mutants(dir: &Path) -> Result<Vec<Mutant>> {
    let path = dir.join(LIST);
    let text = fs::read(&path).with_context(|| format!("{}: prepare a copy first", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

/// Copies `from` to `into`, puts the bugs in, and leaves out those that do not compile.
pub fn prepare(from: &Path, into: &Path) -> Result<()> {
    let files = tracked(from)?;
    let sources: Vec<(PathBuf, String)> = files
        .iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "rs"))
        .map(|file| Ok((file.clone(), fs::read_to_string(from.join(file))?)))
        .collect::<Result<_>>()?;
    let constant = called_in_constants(&sources);
    let mut without = BTreeSet::new();
    for round in 1.. {
        for file in &files {
            let to = into.join(file);
            fs::create_dir_all(to.parent().context("a file without a folder")?)?;
            if file.extension().is_none_or(|extension| extension != "rs") {
                fs::copy(from.join(file), &to)?;
            }
        }
        let mutants = write(into, &sources, &constant, &without)?;
        eprintln!("round {round}: {} bugs, {} left out", mutants.len(), without.len());
        let wrong = that_do_not_compile(into, &mutants)?;
        if wrong.is_empty() {
            fs::write(into.join(LIST), serde_json::to_vec_pretty(&mutants)?)?;
            return Ok(());
        }
        without.extend(wrong);
    }
    Ok(())
}

fn tracked(from: &Path) -> Result<Vec<PathBuf>> {
    let listed = Command::new("git").arg("-C").arg(from).args(["ls-files", "-co", "--exclude-standard"]).output()?;
    if !listed.status.success() {
        bail!("git ls-files failed in {}", from.display());
    }
    let text = String::from_utf8(listed.stdout)?;
    Ok(text.lines().map(PathBuf::from).filter(|file| from.join(file).is_file()).collect())
}

fn is_target(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let test =
        name.ends_with("_test.rs") || name == "testing.rs" || file.components().any(|c| c.as_os_str() == "testing");
    let below = |target: &&str| file.starts_with(target) || file == Path::new(&format!("{target}.rs"));
    !test && TARGETS.iter().any(below)
}

fn write(
    into: &Path,
    sources: &[(PathBuf, String)],
    constant: &BTreeSet<String>,
    without: &BTreeSet<u32>,
) -> Result<Vec<Mutant>> {
    let mut next = 0;
    let mut all = Vec::new();
    for (file, text) in sources {
        let mut text = no_constants(text, constant);
        if is_target(file) {
            let in_core = file.starts_with("supervisor/core");
            let name = file.to_string_lossy();
            let (mutated, found) =
                mutate(&text, &name, in_core, &mut next, without).with_context(|| name.clone().into_owned())?;
            text = mutated;
            all.extend(found);
        }
        if file == Path::new("supervisor/core/src/lib.rs") {
            text += "\npub mod mutation;\n";
        }
        let to = into.join(file);
        // What stays the same is not compiled again.
        if fs::read_to_string(&to).ok().as_ref() != Some(&text) {
            fs::write(&to, text)?;
        }
    }
    let question = into.join("supervisor/core/src/mutation.rs");
    if !question.is_file() {
        fs::write(question, QUESTION)?;
    }
    Ok(all)
}

/// Names of functions that are called where only constants are, and those that they may call.
fn called_in_constants(sources: &[(PathBuf, String)]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut bodies = Vec::new();
    for (_, text) in sources {
        let mut rest = text.as_str();
        while let Some(at) = rest.find("const ") {
            rest = &rest[at + 6..];
            if let Some(function) = rest.strip_prefix("fn ") {
                let name: String = function.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let end = function.find("\n    }\n").or_else(|| function.find("\n}\n")).unwrap_or(function.len());
                bodies.push((name, called(&function[..end])));
            } else if rest.starts_with(|c: char| c.is_ascii_uppercase() || c == '_') {
                let end = rest.find(";\n").unwrap_or(rest.len().min(400));
                names.extend(called(rest.get(..end).unwrap_or_default()));
            }
        }
    }
    loop {
        let before = names.len();
        for (name, calls) in &bodies {
            if names.contains(name) {
                names.extend(calls.iter().cloned());
            }
        }
        if names.len() == before {
            return names;
        }
    }
}

/// Words before a parenthesis.
fn called(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices('(')
        .map(|(at, _)| {
            text[..at].chars().rev().take_while(|c| word(*c)).collect::<Vec<_>>().into_iter().rev().collect()
        })
        .filter(|name: &String| !name.is_empty())
        .collect()
}

/// Functions need not be constant in the copy, except where a constant needs them.
fn no_constants(text: &str, constant: &BTreeSet<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("const fn ") {
        let name: String = rest[at + 9..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        out.push_str(&rest[..at]);
        out.push_str(if constant.contains(&name) { "const fn " } else { "fn " });
        rest = &rest[at + 9..];
    }
    out + rest
}

/// Those to which the compiler objects.
fn that_do_not_compile(dir: &Path, mutants: &[Mutant]) -> Result<BTreeSet<u32>> {
    let checked = Command::new("cargo")
        .current_dir(dir)
        .args(["check", "--quiet", "--keep-going", "--message-format=short"])
        .args(["-p", "pgvigil-core", "-p", "pgvigil-agent", "-p", "pgvigil-controller", "-p", "pgvigil-postgres"])
        .args(["-p", "pgvigil-raft-store"])
        .output()?;
    if checked.status.success() {
        return Ok(BTreeSet::new());
    }
    let text = String::from_utf8_lossy(&checked.stderr).into_owned();
    let known: BTreeSet<u32> = mutants.iter().map(|mutant| mutant.id).collect();
    let mut wrong = BTreeSet::new();
    let mut unexplained = Vec::new();
    for line in text.lines().filter(|line| line.contains(": error")) {
        let mut parts = line.splitn(3, ':');
        let (Some(file), Some(Ok(number))) = (parts.next(), parts.next().map(str::parse::<usize>)) else { continue };
        let source = fs::read_to_string(dir.join(file)).unwrap_or_default();
        let lines: Vec<&str> = source.lines().collect();
        // The question stands in the line, or in one of those just above.
        let near = (0..12).map(|above| number.saturating_sub(1 + above)).filter_map(|at| lines.get(at));
        let asked = near.map(|line| asked_in(line)).find(|ids| !ids.is_empty());
        match asked {
            Some(ids) => wrong.extend(ids.into_iter().filter(|id| known.contains(id))),
            None => unexplained.push(line.to_owned()),
        }
    }
    if wrong.is_empty() {
        bail!("the copy does not compile:\n{}", unexplained.join("\n"));
    }
    Ok(wrong)
}

fn asked_in(line: &str) -> Vec<u32> {
    let numbers = line.split("mutation::on(").skip(1);
    numbers.filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()).collect()
}
