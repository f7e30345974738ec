//! The program: reads the arguments, does what they say, and ends with the exit code that tells how it went.

use clap::Parser;
use nix::unistd::geteuid;
use pgvigil::{
    cli::{self, Arguments, Failure, RunArguments, Subcommand},
    config, demo, guard, runtime, telemetry,
};
use pgvigil_consensus::grid;
use pgvigil_postgres::{Binaries, datadir::major_version, fault};
use std::{future::Future, process::ExitCode};

/// Raft, agent and faces need little: two threads keep one slow task from holding up the heartbeat.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.json;
    match dispatch(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}

fn dispatch(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { connection, json, command } = arguments;
    match command {
        Subcommand::Run(arguments) => run(&arguments),
        Subcommand::Guard(arguments) => {
            fault::arm().map_err(Failure::Usage)?;
            guard::main(arguments).map_err(|error| Failure::Failed(error.to_string()))
        }
        Subcommand::Demo(arguments) => in_runtime(demo::run(arguments, json)),
        Subcommand::DemoEnd(arguments) => demo::end_of_killed(arguments.dir, arguments.remove),
        command => in_runtime(cli::command(&connection, json, command)),
    }
}

fn run(arguments: &RunArguments) -> Result<(), Failure> {
    if arguments.check {
        return check(arguments);
    }
    if geteuid().is_root() {
        return Err(Failure::Usage(
            "pgvigil does not run as root, because PostgreSQL refuses to: start it as the user that owns the data \
             directory, such as 'postgres' (in a systemd unit: User=postgres)"
                .to_owned(),
        ));
    }
    let config = config::load(&arguments.config).map_err(|error| Failure::Usage(error.to_string()))?;
    telemetry::start(arguments.log_format).map_err(|error| Failure::Usage(error.to_string()))?;
    arm_faults()?;
    in_runtime(async {
        // The whole chain of causes on one line.
        runtime::run(config).await.map_err(|error| Failure::Failed(format!("{error:#}")))
    })
}

/// Only a build for the chaos suite has fault points, and it says so.
fn arm_faults() -> Result<(), Failure> {
    if fault::COMPILED_IN {
        tracing::warn!("this build has fault points: it is for the chaos suite, not for use");
    }
    if let Some(armed) = fault::arm().map_err(Failure::Usage)? {
        tracing::error!("FAULT POINTS ARE ARMED ({armed}): this node misbehaves on purpose");
    }
    Ok(())
}

/// Whether a node with this configuration could be started here.
fn check(arguments: &RunArguments) -> Result<(), Failure> {
    let config = config::load(&arguments.config).map_err(|error| Failure::Usage(error.to_string()))?;
    let mut found =
        vec![format!("{}: node {} of cluster {}", arguments.config.display(), config.node.id, config.cluster)];
    if let Some(member) = &config.member {
        member.replication_password().map_err(|error| Failure::Usage(error.to_string()))?;
        let major = major_version(&member.data_dir).map_err(|error| Failure::Usage(error.to_string()))?;
        let binaries = Binaries::find_major(member.bin_dir.as_deref(), major)
            .map_err(|error| Failure::Usage(format!("{}: {error}", arguments.config.display())))?;
        found.push(format!("member {}: PostgreSQL {}", member.name, binaries.version()));
        found.push(match major {
            Some(major) => format!("{} holds data of PostgreSQL {major}", member.data_dir.display()),
            None => format!("{} holds no data yet", member.data_dir.display()),
        });
    }
    println!("{}: this can be started", found.join("; "));
    Ok(())
}

fn in_runtime(task: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start the threads: {error}")))?;
    grid::begin();
    let result = runtime.block_on(task);
    // Helper threads that wait for a hung disk or peer must not keep the process alive.
    runtime.shutdown_background();
    result
}
