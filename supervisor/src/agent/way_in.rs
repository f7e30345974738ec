//! Whether the agent still gets in by the usual way: looked at before it matters, since the sessions that it holds go on
//! when new ones are refused. And what other ways need: a role of its own, the names of databases.

use super::shared::Shared;
use pgvigil_core::local::LocalPostgres;
use pgvigil_postgres::{
    Link, QueryError,
    admin::AgentRole,
    ways::{AGENT_ROLE, Barred, Refused, Slot, Way},
};
use std::{sync::Arc, time::Duration};

const LIMIT: Duration = Duration::from_millis(1_500);

/// Looks through a new session, and says what was found.
pub async fn look(shared: Arc<Shared>) {
    let endpoint = shared.server().endpoint.clone();
    let usual = Link::connect_as_usual(&endpoint, "look", LIMIT).await;
    let link = match usual {
        Ok(link) => Ok(link),
        Err(_) => Link::connect(&endpoint, "look", "", LIMIT).await,
    };
    match link {
        Ok(link) => {
            let connections = match endpoint.ways.barred() {
                Some(Barred { refused: Refused::Slots, .. }) => link.connections(LIMIT).await.ok(),
                _ => None,
            };
            let text = endpoint.ways.barred().map(|barred| words(&barred, connections, Some(link.way())));
            shared.problem("connect", text);
            if let Err(error) = prepare(&shared, &link).await {
                tracing::debug!(member = %shared.me(), "other ways in are not prepared: {error:#}");
            }
        }
        Err(error) => shut_out(&shared, &error),
    }
}

/// No way in works.
pub fn shut_out(shared: &Shared, error: &QueryError) {
    let barred = shared.server().endpoint.ways.barred();
    let text = match barred.filter(|_| Refused::of(error) != Refused::Server) {
        Some(barred) => words(&barred, None, None),
        None => format!("no connection to PostgreSQL: {error}"),
    };
    shared.problem("connect", Some(text));
}

/// Keeps what the other ways need.
async fn prepare(shared: &Shared, link: &Link) -> anyhow::Result<()> {
    let databases = link.databases(LIMIT).await?;
    let endpoint = shared.server().endpoint.clone();
    let kept = tokio::task::spawn_blocking(move || endpoint.ways.learn(databases)).await?;
    kept?;
    let reigns = {
        let inner = shared.lock();
        let primary = matches!(&inner.local.postgres, LocalPostgres::Running(running) if !running.in_recovery);
        primary && inner.local.marker.is_some() && inner.local.promise.promotion.is_some() && !inner.stopping
    };
    let found = match link.agent_role(LIMIT).await? {
        AgentRole::Missing | AgentRole::NoLogin if reigns => {
            let endpoint = shared.server().endpoint.clone();
            // Nobody waits for standbys on account of it.
            let link = Link::connect(&endpoint, "role", "-c synchronous_commit=local", LIMIT).await?;
            link.ensure_agent_role(LIMIT).await?
        }
        found => found,
    };
    let text = format!(
        "a role {AGENT_ROLE} is there that is no superuser: pgvigil leaves it alone and has no role of its own to fall back \
         on; drop it, then it is made anew"
    );
    shared.problem("own-role", (found == AgentRole::Another && reigns).then_some(text));
    Ok(())
}

/// What keeps the agent out, since when, what it does meanwhile and what a person can do.
fn words(barred: &Barred, connections: Option<(u32, u32)>, works: Option<&Way>) -> String {
    let since = humantime::format_rfc3339_seconds(barred.since).to_string().replace('T', " ");
    let Barred { way, error, refused, .. } = barred;
    let (what, cure) = match refused {
        Refused::Slots => {
            let used = match connections {
                Some((used, all)) => format!("{used} of {all} used"),
                None => "all of max_connections used".to_owned(),
            };
            (
                format!("too many connections since {since}: {used}, those reserved for superusers too"),
                "end some of them, or raise max_connections".to_owned(),
            )
        }
        Refused::Role => (
            format!("role {} cannot be used since {since}: {error}", way.role),
            match works {
                Some(_) => format!("let it log in as a superuser again: ALTER ROLE \"{}\" LOGIN SUPERUSER", way.role),
                // Its own role does not get in either.
                None => "undo what keeps it out (the role's rights, pg_hba.conf, pg_ident.conf)".to_owned(),
            },
        ),
        Refused::NoDatabase | Refused::Database => (
            format!("database {} cannot be used since {since}: {error}", way.database),
            match refused {
                Refused::NoDatabase => format!("create it: CREATE DATABASE \"{}\" TEMPLATE template0", way.database),
                _ => format!("let it accept connections: ALTER DATABASE \"{}\" ALLOW_CONNECTIONS true", way.database),
            },
        ),
        Refused::Session | Refused::Server => {
            (format!("role {} gets no session since {since}: {error}", way.role), "undo what keeps it out".to_owned())
        }
    };
    let meanwhile = match works {
        None => "pgvigil cannot ask this PostgreSQL anything meanwhile".to_owned(),
        Some(other) => {
            let mut by = Vec::new();
            if other.role != way.role {
                by.push(format!("as role {}", other.role));
            }
            if other.database != way.database {
                by.push(format!("in database {} (which nobody can drop, rename or copy as long)", other.database));
            }
            if other.slot == Slot::Walsender {
                by.push("through a slot of max_wal_senders".to_owned());
            }
            format!("pgvigil works meanwhile {}", by.join(", "))
        }
    };
    format!("{what}; {meanwhile}; {cure}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgvigil_postgres::ways::usual;
    use std::time::{Duration, UNIX_EPOCH};

    fn barred(refused: Refused) -> Barred {
        let since = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        Barred { way: usual("postgres"), refused, error: "refused".to_owned(), since }
    }

    #[test]
    fn the_cause_its_beginning_and_the_other_way_are_named() {
        let other = Way { slot: Slot::Walsender, ..usual("postgres") };
        assert_eq!(
            words(&barred(Refused::Slots), Some((30, 30)), Some(&other)),
            "too many connections since 2023-11-14 22:13:20Z: 30 of 30 used, those reserved for superusers too; pgvigil \
             works meanwhile through a slot of max_wal_senders; end some of them, or raise max_connections"
        );
        let other = Way { database: "app".to_owned(), ..usual(AGENT_ROLE) };
        assert_eq!(
            words(&barred(Refused::Database), None, Some(&other)),
            "database postgres cannot be used since 2023-11-14 22:13:20Z: refused; pgvigil works meanwhile as role pgvigil_agent, \
             in database app (which nobody can drop, rename or copy as long); let it accept connections: ALTER DATABASE \"postgres\" ALLOW_CONNECTIONS true"
        );
        let missing = words(&barred(Refused::NoDatabase), None, None);
        assert!(missing.ends_with("create it: CREATE DATABASE \"postgres\" TEMPLATE template0"), "{missing}");
        assert!(words(&barred(Refused::Role), None, None).contains("cannot ask this PostgreSQL anything"));
    }
}
