//! Mutants: small bugs, put into the shipped code by the hundred. All of them are compiled into one copy of the program, each
//! behind a question that an environment variable answers (`PGVIGIL_MUTANT`), so that trying one costs a run of the tests
//! and no build. The copy is never shipped.

mod copy;
mod judge;
mod mutate;
mod sample;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Small bugs put into the shipped code, and which of them the tests catch.
#[derive(Parser)]
#[command(name = "pgvigil-mutants", version)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Copies the project and puts the bugs into the copy. Those that do not compile are left out.
    Prepare {
        /// The project.
        #[arg(long, default_value = ".")]
        from: PathBuf,
        /// The copy. What is there is replaced.
        #[arg(long)]
        into: PathBuf,
    },
    /// The bugs of a copy, or a sample of them.
    List {
        /// The copy.
        #[arg(long)]
        copy: PathBuf,
        /// How many, drawn by the seed; all when it is left out.
        #[arg(long)]
        sample: Option<usize>,
        /// The seed.
        #[arg(long, default_value_t = sample::SEED)]
        seed: u64,
    },
    /// Tries a sample: each bug by the tests that are for it. Exit code 0 only if enough of them are caught.
    Run {
        /// The copy.
        #[arg(long)]
        copy: PathBuf,
        /// How many, drawn by the seed.
        #[arg(long, default_value_t = 150)]
        sample: usize,
        /// The seed.
        #[arg(long, default_value_t = sample::SEED)]
        seed: u64,
        /// Only these.
        #[arg(long, value_delimiter = ',')]
        only: Vec<u32>,
        /// The least share that has to be caught, in percent.
        #[arg(long, default_value_t = 95.0)]
        least: f64,
        /// Every verdict, as JSON lines.
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

fn main() -> Result<()> {
    match Args::parse().verb {
        Verb::Prepare { from, into } => {
            let from = from.canonicalize().with_context(|| format!("{}", from.display()))?;
            copy::prepare(&from, &into)
        }
        Verb::List { copy, sample, seed } => {
            let all = copy::mutants(&copy)?;
            let count = sample.unwrap_or(all.len());
            for mutant in sample::draw(all, count, seed) {
                println!("{mutant}");
            }
            Ok(())
        }
        Verb::Run { copy, sample, seed, only, least, json } => {
            let all = copy::mutants(&copy)?;
            let chosen = if only.is_empty() {
                sample::draw(all, sample, seed)
            } else {
                all.into_iter().filter(|mutant| only.contains(&mutant.id)).collect()
            };
            judge::run(&copy, &chosen, least, json.as_deref())
        }
    }
}
