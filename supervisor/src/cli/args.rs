//! The arguments, with help that teaches.

use crate::telemetry::LogFormat;
use clap::{Args, Parser};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  pgvigil demo                            three nodes on this machine, a killed primary, nothing lost
  pgvigil run --config /etc/pgvigil.toml  one node; started by systemd on each host
  pgvigil status                          members, roles, lag, who may take over, whether RPO 0 holds
  pgvigil watch                           what is seen, decided and done, as it happens
  pgvigil switchover --to pg2             a planned change of primary
  psql \"$(pgvigil dsn)\"                   connect to whichever member is the primary
Client commands talk to any node and are led to the Raft leader:
  pgvigil --connect db1:7400,db2:7400,db3:7400 status
Exit codes: 0 done; 1 the world did not cooperate; 2 bad usage or configuration; 3 the rules say no.";

/// A build with fault points cannot be taken for another one.
const VERSION: &str = if pgvigil_postgres::fault::COMPILED_IN {
    concat!(env!("CARGO_PKG_VERSION"), " (with fault points, for the chaos suite)")
} else {
    env!("CARGO_PKG_VERSION")
};

/// PostgreSQL failover that never loses an acknowledged commit.
#[derive(Debug, Parser)]
#[command(name = "pgvigil", version = VERSION, after_help = EXAMPLES, disable_help_subcommand = true)]
pub struct Arguments {
    #[command(flatten)]
    pub connection: Connection,
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Subcommand,
}

/// Whom the client commands ask.
#[derive(Clone, Debug, Args)]
pub struct Connection {
    /// gRPC address of any node, or several: the first that answers leads to the Raft leader
    #[arg(
        long,
        global = true,
        env = "PGVIGIL_CONNECT",
        default_value = "127.0.0.1:7400",
        value_name = "HOST:PORT,..."
    )]
    pub connect: String,
    /// Which cluster, where there are several
    #[arg(long, global = true, env = "PGVIGIL_CLUSTER", value_name = "NAME")]
    pub cluster: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
pub enum Subcommand {
    /// Run one node: Raft voter, agent and controller beside a PostgreSQL
    #[command(
        after_help = "Refuses to run as root: PostgreSQL would refuse too. PGVIGIL_LOG filters the log, such as \
                            PGVIGIL_LOG=warn,pgvigil=debug."
    )]
    Run(RunArguments),
    /// The guard process of a node; started by 'pgvigil run'
    #[command(hide = true)]
    Guard(crate::guard::GuardArgs),
    /// The cluster on one screen
    #[command(after_help = "RPO 0: no acknowledged commit can be lost, because each was flushed by enough standbys. \
                            TAKE OVER: who could be promoted right now, and why not the others.")]
    Status,
    /// Print events as they happen
    #[command(after_help = "Ends with Ctrl-C. With --json: one object per line, events and statuses.")]
    Watch(WatchArguments),
    /// Make another member the primary, with nothing lost and writes stopped for a moment
    #[command(after_help = "Examples:\n  pgvigil switchover           the best standby takes over\n  \
                            pgvigil switchover --to pg2\nRefused when no standby has everything.")]
    Switchover(SwitchoverArguments),
    /// Force a change of primary when pgvigil refuses to decide
    #[command(after_help = "\
pgvigil fails over by itself whenever it can prove that nothing acknowledged is lost. When too few members answer it
waits, and 'pgvigil status' says for whom. If those members are gone for good:
  pgvigil failover --give-up pg1,pg3 --old-primary-is-off
gives up their data directories (they are void from then on), on your recorded word that the old primary is off and
stays off. Acknowledged commits may be lost; the incident says so.")]
    Failover(FailoverArguments),
    /// Watch but decide nothing, until 'resume'
    Pause(PauseArguments),
    /// Decide again
    Resume,
    /// Make the data directory of a standby anew, from the primary
    Reinit(ReinitArguments),
    /// Restart PostgreSQL on one member
    Restart(RestartArguments),
    /// Show or change the agreed settings
    #[command(after_help = "Examples:\n  pgvigil settings                      all, with what is allowed\n  \
                            pgvigil settings get lease_ms\n  pgvigil settings set lease_ms=2000 suspect_ms=1000")]
    Settings(SettingsArguments),
    /// The changes of primary: why, each phase in milliseconds, outcome
    #[command(
        after_help = "Examples:\n  pgvigil incidents         the newest\n  pgvigil incidents show 4  one of them whole"
    )]
    Incidents(IncidentsArguments),
    /// List the members, or let one leave
    #[command(after_help = "A member joins by starting 'pgvigil run' with its configuration on its host.")]
    Members(MembersArguments),
    /// The Raft group: list, add, remove, move its leadership
    #[command(after_help = "Moving the Raft leadership never moves a PostgreSQL primary.")]
    Voters(VotersArguments),
    /// Print the agreed log of one node, from its files
    #[command(after_help = "\
Reads, changes nothing, and works beside a running node as well as after its end. With --json: one object per line, for
pgvigil-trace, which repeats every step with the code that was proven.")]
    Log(LogArguments),
    /// Print a libpq connection string that finds the primary
    #[command(
        after_help = "Examples:\n  psql \"$(pgvigil dsn)\"\n  psql \"$(pgvigil dsn --ro --dbname shop)\"\nIt names \
                            every member; libpq tries them and stays with the one that fits."
    )]
    Dsn(DsnArguments),
    /// Try pgvigil on this machine: three nodes, a write load, a killed primary, nothing lost
    #[command(after_help = "\
Needs PostgreSQL's programs (Debian: apt-get install postgresql). Started as root, everything runs as the user
'postgres', or 'nobody'. Only loopback addresses are used, and free ports. Exit code 0: nothing lost, and healed.
Examples:
  pgvigil demo                       watch it, about a minute, then everything is removed
  pgvigil demo --keep                stay up afterwards, with the connection string printed
  pgvigil demo --keep --write-load   stay up with the write load on, to break things yourself")]
    Demo(DemoArguments),
    /// Ends what a killed demo has left; started by 'pgvigil demo'
    #[command(hide = true)]
    DemoEnd(DemoEndArguments),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  pgvigil completion bash > /etc/bash_completion.d/pgvigil")]
    Completion(CompletionArguments),
}

#[derive(Debug, Args)]
pub struct RunArguments {
    /// The node's configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// How log lines on standard error look
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// Only check the configuration and what it names on this host; nothing is started or changed
    #[arg(long)]
    pub check: bool,
}

/// For commands that are done only some time after they were agreed.
#[derive(Clone, Copy, Debug, Args)]
pub struct Waiting {
    /// Return as soon as it is agreed
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait for it to be done, in seconds
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub timeout: u64,
}

#[derive(Debug, Args)]
pub struct WatchArguments {
    /// Also print the status table after every change
    #[arg(long)]
    pub status: bool,
}

#[derive(Debug, Args)]
pub struct SwitchoverArguments {
    /// Whom to make the primary; the best standby if none is named
    #[arg(long, value_name = "MEMBER")]
    pub to: Option<String>,
    #[command(flatten)]
    pub waiting: Waiting,
}

#[derive(Debug, Args)]
pub struct FailoverArguments {
    /// Whom to make the primary; the best placed if none is named
    #[arg(long, value_name = "MEMBER")]
    pub to: Option<String>,
    /// Members that are given up: their data directories are void from then on
    #[arg(long, value_delimiter = ',', value_name = "MEMBER,...", requires = "old_primary_is_off")]
    pub give_up: Vec<String>,
    /// Your recorded word that the old primary is off and stays off
    #[arg(long)]
    pub old_primary_is_off: bool,
    #[command(flatten)]
    pub waiting: Waiting,
}

#[derive(Debug, Args)]
pub struct PauseArguments {
    /// Why, for the others
    #[arg(long, default_value = "no reason given")]
    pub reason: String,
}

#[derive(Debug, Args)]
pub struct ReinitArguments {
    /// Whose data directory
    pub member: String,
    #[command(flatten)]
    pub waiting: Waiting,
}

#[derive(Debug, Args)]
pub struct RestartArguments {
    /// Which member; the primary if none is named
    pub member: Option<String>,
    #[command(flatten)]
    pub waiting: Waiting,
}

#[derive(Debug, Args)]
pub struct SettingsArguments {
    #[command(subcommand)]
    pub what: Option<SettingsCommand>,
}

#[derive(Debug, clap::Subcommand)]
pub enum SettingsCommand {
    /// Show all settings, or one
    Get {
        /// Which
        key: Option<String>,
    },
    /// Change settings, all or none
    Set {
        /// Such as lease_ms=2000
        #[arg(required = true, value_name = "KEY=VALUE")]
        changes: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct IncidentsArguments {
    #[command(subcommand)]
    pub what: Option<IncidentsCommand>,
}

#[derive(Debug, clap::Subcommand)]
pub enum IncidentsCommand {
    /// List them
    List,
    /// Show one: evidence, phases, notes
    Show {
        /// Its number (an epoch)
        number: u64,
    },
}

#[derive(Debug, Args)]
pub struct MembersArguments {
    #[command(subcommand)]
    pub what: Option<MembersCommand>,
}

#[derive(Debug, clap::Subcommand)]
pub enum MembersCommand {
    /// List them
    List,
    /// How to add one
    Add,
    /// Let one leave: out of the durability rule, then forgotten
    Remove {
        /// Who
        member: String,
        #[command(flatten)]
        waiting: Waiting,
    },
}

#[derive(Debug, Args)]
pub struct VotersArguments {
    #[command(subcommand)]
    pub what: Option<VotersCommand>,
}

#[derive(Debug, clap::Subcommand)]
pub enum VotersCommand {
    /// List them
    List,
    /// Take a running node into the group
    Add {
        /// Its node id
        node: u64,
        /// HOST:PORT of its gRPC face
        address: String,
    },
    /// Take a node out of the group
    Remove {
        /// Its node id
        node: u64,
    },
    /// Move the group's leadership to a node
    Lead {
        /// Its node id
        node: u64,
    },
}

#[derive(Debug, Args)]
pub struct LogArguments {
    /// The node's state_dir
    pub state_dir: PathBuf,
}

#[derive(Debug, Args)]
pub struct DsnArguments {
    /// For reading: a standby if there is one
    #[arg(long)]
    pub ro: bool,
    /// The user's name
    #[arg(long)]
    pub user: Option<String>,
    /// The database
    #[arg(long, default_value = "postgres")]
    pub dbname: String,
    /// host=... port=... instead of postgresql://...
    #[arg(long)]
    pub keywords: bool,
}

#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Stay up afterwards until Ctrl-C, with the connection string printed
    #[arg(long)]
    pub keep: bool,
    /// Where the three nodes live; kept afterwards. Otherwise a temporary directory, removed at the end
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// With --keep: let the write load go on, and report each time writes stop
    #[arg(long, requires = "keep")]
    pub write_load: bool,
}

#[derive(Debug, Args)]
pub struct DemoEndArguments {
    /// The demo's directory
    pub dir: PathBuf,
    /// Remove it as well
    #[arg(long)]
    pub remove: bool,
}

#[derive(Debug, Args)]
pub struct CompletionArguments {
    /// Which shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}
