//! Clients' server processes, found and ended without a session: where every slot is used, the agent gets none.

use crate::{
    process::{Postmaster, ProcessError},
    procfs,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Whether a process title is that of a client's server process: `postgres: [cluster_name: ]role database client …`, where
/// the client is `[local]` or `host(port)`. Walsenders name their client too and are none; neither are workers.
#[must_use]
pub fn is_client_title(title: &str) -> bool {
    let Some(rest) = title.strip_prefix("postgres: ") else { return false };
    let client = |word: &str| {
        let port = word.strip_suffix(')').and_then(|word| word.rsplit_once('(')).map(|(_, port)| port);
        word == "[local]" || port.is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
    };
    let walsender = rest.starts_with("walsender ") || rest.contains(": walsender ");
    !walsender && rest.split(' ').skip(1).any(client)
}

/// Asks every client's server process to end, as `pg_terminate_backend` does: the agent's own in clients' slots too. Returns
/// how many were asked. One that waits for standbys commits locally with a warning: never do this on a primary that may
/// survive without its door being closed for good.
pub fn end_clients(postmaster: &Postmaster) -> Result<u32, ProcessError> {
    let pid = postmaster.pid();
    let system = |source| ProcessError::System { op: "list the children", pid, source };
    let mut asked = 0;
    for child in procfs::children_of(pid).map_err(system)? {
        if procfs::title(child).map_err(system)?.is_some_and(|title| is_client_title(&title)) {
            // A child of the living postmaster keeps its pid until that reaps it.
            let _ = kill(Pid::from_raw(child), Signal::SIGTERM);
            asked += 1;
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_known_by_where_they_come_from() {
        for title in [
            "postgres: boss app [local] idle",
            "postgres: main: boss app 127.0.0.1(54321) INSERT waiting for 0/3000148",
            "postgres: boss app ::1(54321) authentication",
            "postgres: some one my app host.example(1) SELECT",
        ] {
            assert!(is_client_title(title), "{title}");
        }
        for title in [
            "postgres: checkpointer",
            "postgres: main: walwriter",
            "postgres: autovacuum worker app",
            "postgres: logical replication launcher",
            "postgres: walsender repl 127.0.0.1(54321) streaming 0/3000148",
            "postgres: main: walsender repl [local] idle",
            "postgres: parallel worker for PID 12",
            "/usr/bin/postgres -D [local] x(1)",
        ] {
            assert!(!is_client_title(title), "{title}");
        }
    }
}
