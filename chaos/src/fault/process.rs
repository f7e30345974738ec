//! The parts of a host that can be killed or frozen.

use std::path::Path;

use crate::cluster::postmaster;
use crate::processes::{self, Process};

/// A part of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// PostgreSQL's first process.
    Postmaster,
    /// PostgreSQL's first process with all its children.
    Postgres,
    /// One of PostgreSQL's children that serves a client.
    Backend,
    /// The process that sends WAL to a standby, or receives it.
    WalProcess,
    /// pgvigil.
    Agent,
    /// pgvigil's guard.
    Guard,
    /// pgvigil and its guard.
    AgentAndGuard,
    /// pgvigil and the postmaster.
    AgentAndPostmaster,
    /// Everything.
    Host,
}

impl Part {
    /// Its name.
    pub fn word(self) -> &'static str {
        match self {
            Part::Postmaster => "the postmaster",
            Part::Postgres => "all of PostgreSQL",
            Part::Backend => "a backend",
            Part::WalProcess => "a WAL process",
            Part::Agent => "pgvigil",
            Part::Guard => "the guard",
            Part::AgentAndGuard => "pgvigil and its guard",
            Part::AgentAndPostmaster => "pgvigil and the postmaster",
            Part::Host => "the host",
        }
    }
}

/// The processes that are this part of the host in `dir`. None, where there are none at this moment.
pub fn pids(dir: &Path, part: Part) -> Vec<i32> {
    let all = processes::of_host(dir);
    let some = |pick: &dyn Fn(&Process) -> bool| all.iter().filter(|p| pick(p)).map(|p| p.pid).collect::<Vec<_>>();
    let agent = |p: &Process| is_pgvigil(p) && !is_guard(p);
    match part {
        Part::Postmaster => postmaster(dir).into_iter().collect(),
        Part::Postgres => some(&|p| program(p) == "postgres" || p.command.starts_with("postgres:")),
        Part::Backend => some(&|p| is_backend(&p.command)).into_iter().take(1).collect(),
        Part::WalProcess => some(&|p| p.command.starts_with("postgres: wal")).into_iter().take(1).collect(),
        Part::Agent => some(&agent),
        Part::Guard => some(&is_guard),
        Part::AgentAndGuard => some(&is_pgvigil),
        Part::AgentAndPostmaster => some(&agent).into_iter().chain(postmaster(dir)).collect(),
        Part::Host => some(&|_| true),
    }
}

fn program(process: &Process) -> &str {
    process.command.split(' ').next().unwrap_or_default().rsplit('/').next().unwrap_or_default()
}

fn is_pgvigil(process: &Process) -> bool {
    program(process).starts_with("pgvigil")
}

fn is_guard(process: &Process) -> bool {
    is_pgvigil(process) && process.command.split(' ').nth(1) == Some("guard")
}

/// A child with a client: "postgres: user database address(port) what it does". (A WAL sender has no database there.)
fn is_backend(command: &str) -> bool {
    let Some(rest) = command.strip_prefix("postgres: ") else { return false };
    let mut words = rest.split(' ');
    words.next() != Some("walsender") && words.nth(1).is_some_and(|word| word.contains('('))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_has_a_client() {
        assert!(is_backend("postgres: postgres postgres 198.18.7.200(40412) INSERT waiting for 0/5000060"));
        assert!(!is_backend("postgres: checkpointer "));
        assert!(!is_backend("postgres: walsender pgvigil_replication 198.18.7.2(40412) streaming 0/50000A0"));
    }
}
