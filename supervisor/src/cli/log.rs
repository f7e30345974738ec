//! `pgvigil log`: the agreed log of one node, read from its files.

use super::{Failure, args::LogArguments, format};
use pgvigil_core::{command::Proposal, trace::Line};

/// Prints the log: a line for people, or one of `pgvigil-trace`'s for programs.
pub(super) fn show(arguments: &LogArguments, json: bool) -> Result<(), Failure> {
    let path = arguments.state_dir.join("raft");
    if !path.is_dir() {
        return Err(Failure::Usage(format!("{}: there is no Raft store", path.display())));
    }
    let lines = pgvigil_raft_store::export(&path).map_err(|error| Failure::Failed(error.full()))?;
    for line in &lines {
        let text = if json {
            serde_json::to_string(line).map_err(|error| Failure::Failed(error.to_string()))?
        } else {
            words(line)
        };
        format::print_line(&text)?;
    }
    Ok(())
}

fn words(line: &Line) -> String {
    match line {
        Line::Store { node, store } => format!("node {node}, store {store}"),
        Line::Base { index, .. } => format!("{index:>6}  snapshot; older entries are purged"),
        Line::Entry { index, proposal: None, .. } => format!("{index:>6}  Raft's own"),
        Line::Entry { index, proposal: Some(proposal), .. } => format!("{index:>6}  {}", of(proposal)),
        Line::Applied { index, .. } => format!("{index:>6}  applied up to here"),
        Line::Began { .. } | Line::Decided(_) | Line::Acted(_) => String::new(),
    }
}

fn of(proposal: &Proposal) -> String {
    let at = format::local_time(proposal.at.0);
    format!("{at}  {:<17} {}: {}", proposal.command.name(), proposal.by, proposal.reason)
}
