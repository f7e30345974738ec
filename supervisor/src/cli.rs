//! The command line: what can be said to pgvigil, and its exit codes.

mod args;
mod asks;
mod client;
mod dsn;
mod format;
mod incidents;
mod log;
mod members;
mod outcome;
mod settings;
mod status;
mod wait;
mod watch;

pub use args::{Arguments, Connection, DemoArguments, RunArguments, Subcommand};
pub use client::Client;
pub(crate) use dsn::{Wanted as DsnWanted, uri as dsn_uri};
pub use format::{local_time, milliseconds};
pub(crate) use incidents::whole as incident_text;
pub use outcome::Failure;
pub(crate) use status::render as status_screen;
pub(crate) use wait::{News, follow as follow_news};

use clap::CommandFactory;

/// Carries out a client command.
pub async fn command(connection: &Connection, json: bool, command: Subcommand) -> Result<(), Failure> {
    let mut client = Client::new(connection)?;
    let out = Output { json };
    match command {
        Subcommand::Status => status::show(&mut client, out).await,
        Subcommand::Watch(args) => watch::run(&mut client, out, &args).await,
        Subcommand::Switchover(args) => asks::switchover(&mut client, out, args).await,
        Subcommand::Failover(args) => asks::failover(&mut client, out, args).await,
        Subcommand::Pause(args) => asks::pause(&mut client, out, args).await,
        Subcommand::Resume => asks::resume(&mut client, out).await,
        Subcommand::Reinit(args) => asks::reinit(&mut client, out, args).await,
        Subcommand::Restart(args) => asks::restart(&mut client, out, args).await,
        Subcommand::Settings(args) => settings::run(&mut client, out, args).await,
        Subcommand::Incidents(args) => incidents::run(&mut client, out, args).await,
        Subcommand::Members(args) => members::members(&mut client, out, args).await,
        Subcommand::Voters(args) => members::voters(&mut client, out, args).await,
        Subcommand::Dsn(args) => dsn::run(&mut client, out, args).await,
        Subcommand::Log(args) => log::show(&args, json),
        Subcommand::Completion(args) => {
            let mut arguments = Arguments::command();
            clap_complete::generate(args.shell, &mut arguments, "pgvigil", &mut std::io::stdout());
            Ok(())
        }
        Subcommand::Run(_) | Subcommand::Guard(_) | Subcommand::Demo(_) | Subcommand::DemoEnd(_) => {
            Err(Failure::Usage("this command runs a process of its own".to_owned()))
        }
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// For programs.
    pub(crate) json: bool,
}

impl Output {
    /// Prints a value as JSON, or text for people.
    pub(crate) fn print(self, value: &impl serde::Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        let text = if self.json {
            serde_json::to_string_pretty(value).map_err(|error| Failure::Failed(error.to_string()))?
        } else {
            text()
        };
        format::print_line(text.trim_end())
    }
}

#[cfg(test)]
#[path = "cli/cli_test.rs"]
mod tests;
