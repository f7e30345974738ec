//! `pgvigil-model`: checks the failover protocol by hand or in CI, and tells counterexamples.

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use pgvigil_model::{
    clocked, report,
    run::{Outcome, check},
    service::{self, Unguarded},
    sizes::{self, Class, Size},
};
use serde::Serialize;
use std::process::ExitCode;

/// Model checking of pgvigil's failover protocol, on the shipped apply and reconcile.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: What,
    /// Results as JSON, one object a line.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Searches worlds in which nothing is taken out: no counterexample may be found.
    Check {
        /// `small` (within two minutes), `large` (by hand), or the name of one size.
        #[arg(long, default_value = "small")]
        size: String,
    },
    /// The sizes and the protections that can be taken out.
    List,
    /// Takes out one protection, or each in turn: a counterexample must be found.
    Planted {
        /// Which; all of them if none is named.
        name: Option<String>,
    },
    /// Tells the counterexample of a protection taken out, step by step; `all` writes the page of all of them.
    Trace {
        /// Which.
        name: String,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let json = arguments.json;
    match arguments.command {
        What::List => {
            for size in sizes::ALL.iter().chain(sizes::PLANTED) {
                if json {
                    println!("{}", serde_json::to_string(size)?);
                } else {
                    println!("{}", report::row(size));
                }
            }
            for (name, _) in service::PLANTED.iter().filter(|_| !json) {
                println!("planted  {name:32} service: lease, canary and guard");
            }
            Ok(ExitCode::SUCCESS)
        }
        What::Check { size } => {
            if matches!(size.as_str(), "small" | "service") {
                let outcome = clocked(Unguarded::Nothing);
                print(&outcome, json, clocked::lines)?;
                if !outcome.good() {
                    return Ok(ExitCode::FAILURE);
                }
            }
            let sizes: Vec<Size> = match size.as_str() {
                "service" => Vec::new(),
                "small" => of(Class::Small),
                "large" => of(Class::Large),
                name => vec![*named(sizes::ALL, name)?],
            };
            let mut good = true;
            for size in sizes {
                let outcome = run(size);
                print(&outcome, json, report::outcome)?;
                good &= outcome.good();
            }
            Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        What::Planted { name } => {
            let chosen = |this: &str| name.as_deref().is_none_or(|name| name == this);
            let mut missed = Vec::new();
            let mut found = 0;
            for size in sizes::PLANTED.iter().filter(|size| chosen(size.name)) {
                let outcome = run(*size);
                print(&outcome, json, report::planted_line)?;
                found += 1;
                missed.extend(outcome.counterexample().is_none().then_some(size.name));
            }
            for (name, planted) in service::PLANTED.iter().filter(|(name, _)| chosen(name)) {
                let outcome = clocked(*planted);
                print(&outcome, json, clocked::lines)?;
                found += 1;
                missed.extend(outcome.good().then_some(*name));
            }
            if found == 0 {
                bail!("nothing is named {}; see pgvigil-model list", name.unwrap_or_default());
            }
            if !missed.is_empty() {
                bail!("no counterexample for {}: the model does not see these bugs", missed.join(", "));
            }
            Ok(ExitCode::SUCCESS)
        }
        What::Trace { name } if name == "all" => {
            let outcomes: Vec<Outcome> = sizes::PLANTED.iter().map(|size| run(*size)).collect();
            let clocked: Vec<clocked::Outcome> =
                service::PLANTED.iter().map(|(_, planted)| clocked(*planted)).collect();
            print!("{}{}", report::page(&outcomes), clocked::page(&clocked));
            Ok(ExitCode::SUCCESS)
        }
        What::Trace { name } => {
            if let Some((_, planted)) = service::PLANTED.iter().find(|(this, _)| *this == name) {
                let outcome = clocked(*planted);
                print(&outcome, json, |outcome| outcome.story.join("\n") + "\n")?;
                return Ok(ExitCode::SUCCESS);
            }
            let outcome = run(*named(sizes::PLANTED, &name).or_else(|_| named(sizes::ALL, &name))?);
            if json {
                println!("{}", serde_json::to_string(&outcome.story())?);
            } else {
                print!("{}", report::story(&outcome));
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn of(class: Class) -> Vec<Size> {
    sizes::ALL.iter().filter(|size| size.class == class).copied().collect()
}

fn named<'a>(sizes: &'a [Size], name: &str) -> anyhow::Result<&'a Size> {
    let known = || sizes.iter().map(|size| size.name).collect::<Vec<_>>().join(", ");
    sizes
        .iter()
        .find(|size| size.name == name)
        .with_context(|| format!("no size is named {name}; there are {}", known()))
}

fn run(size: Size) -> Outcome {
    check(size, |states, depth, took| {
        eprintln!("{}: {states} states, depth {depth}, {} s", size.name, took.as_secs());
    })
}

fn clocked(planted: Unguarded) -> clocked::Outcome {
    clocked::check(planted, |states, depth, took| {
        eprintln!("service: {states} states, depth {depth}, {} s", took.as_secs());
    })
}

fn print<T: Serialize>(outcome: &T, json: bool, words: impl Fn(&T) -> String) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(outcome)?);
    } else {
        print!("{}", words(outcome));
    }
    Ok(())
}
