//! `pgvigil-trace FILE…`: checks what the nodes of one group tell of their past.

use anyhow::Context;
use clap::Parser;
use pgvigil_trace::{check, read};
use std::{fs::File, io::BufReader, path::PathBuf, process::ExitCode};

/// Holds what real nodes did against what the shipped core would have done.
#[derive(Parser)]
#[command(
    name = "pgvigil-trace",
    after_help = "Files: what 'pgvigil log STATE_DIR' printed for each node, and the journals that nodes with node.journal \
                  wrote. All of one group at once. Exit code 0: every step was allowed."
)]
struct Arguments {
    /// The files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut pasts = Vec::new();
    for path in &arguments.files {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| name.clone())?;
        pasts.push(read(&name, BufReader::new(file))?);
    }
    let verdict = check(&pasts);
    println!("{verdict}");
    Ok(if verdict.findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
