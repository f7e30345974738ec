//! What is astray is named with its file and line, counted as evidence, and put back.

use super::{Tasks, sampler::Looker};
use crate::{acts, in_force, ports::Wake};
use pgvigil_core::{local::LocalPostgres, time::Time};

/// How long it is told that something was put back, in milliseconds.
pub const NOTICE_MS: u64 = 60_000;
/// These decide from whom a standby receives.
const UPSTREAM: [&str; 3] = ["primary_conninfo", "primary_slot_name", "restore_command"];

/// Where what is astray comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    /// Set for the agent's own role or for its database, and to what: that is reported with the other roles and databases.
    pub of_session: Vec<(String, String)>,
    /// All the rest, in words: what is shown, and who sets it where.
    pub of_server: Vec<String>,
}

/// Asks PostgreSQL where what is astray comes from, says it, and has it put back.
pub(super) async fn settle<M: Tasks, L: Looker>(m: &M, looker: &mut L) {
    let (names, at, since, closed) = {
        let known = m.known();
        let closed = known.local.in_force.as_ref().is_some_and(|f| !f.door_open);
        (known.drifted.names.clone(), known.drifted.at, known.drifted.since, closed)
    };
    if names.is_empty() {
        return mended(m);
    }
    let Some(Origins { of_session, of_server }) = looker.origins(&names).await else { return };
    m.known().drifted.of_session.extend(of_session);
    if of_server.is_empty() {
        let mut known = m.known();
        known.drifted.names.clear();
        known.drifted.since = None;
        known.local.rule_astray_since = None;
        return;
    }
    let blocking = looker.blocking_errors().await;
    let primary = matches!(&m.known().local.postgres, LocalPostgres::Running(r) if !r.in_recovery);
    let now = m.now();
    let what = of_server.join(", ");
    m.problem("drift", Some(say(&what, since.map_or(0, |at| now.since(at)), &blocking, closed && primary)));
    if primary {
        doubt(m, what, at, now);
        return;
    }
    m.known().drifted.told = Some((what.clone(), now.plus(NOTICE_MS)));
    let upstream = names.iter().any(|name| UPSTREAM.contains(&name.as_str()));
    if upstream && blocking.is_empty() {
        // From where it received meanwhile is not known: where its WAL ends is read again before it follows.
        if let Some(in_force) = m.known().local.in_force.as_mut() {
            in_force.upstream = None;
        }
        m.wake(Wake::Worker);
    } else if let Err(error) = put_back(m).await {
        m.problem("drift", Some(format!("{what}; it cannot be put back: {error:#}")));
    }
}

/// The rule of a primary counts no more until Configure has put it back.
fn doubt<M: Tasks>(m: &M, what: String, at: Time, now: Time) {
    let mut known = m.known();
    if !in_force::put_in_doubt(&mut known, at) {
        return;
    }
    known.drifted.told = Some((what, now.plus(NOTICE_MS)));
    drop(known);
    m.wake(Wake::Worker);
}

/// Takes lines that override ours out of the files and has PostgreSQL read them.
async fn put_back<M: Tasks>(m: &M) -> anyhow::Result<()> {
    acts::clear_overrides(m).await?;
    if m.known().server.is_some() {
        m.reload()?;
    }
    Ok(())
}

fn say(what: &str, for_ms: u64, blocking: &[String], kept_out: bool) -> String {
    let mut text = format!("{what} and not as pgvigil set it, for {:.1} s now", for_ms as f64 / 1_000.0);
    if blocking.is_empty() {
        text += "; pgvigil is putting it back";
    } else {
        text += &format!("; PostgreSQL takes up no file because of {}: mend that", blocking.join(", "));
    }
    if kept_out {
        text += "; clients are kept out until then (setting serve_without_rule)";
    }
    text
}

/// Nothing is astray: what was is told for a while.
fn mended<M: Tasks>(m: &M) {
    let now = m.now();
    let told = {
        let known = m.known();
        known.drifted.told.clone().filter(|_| known.drifted.since.is_none())
    };
    let Some((what, until)) = told else { return };
    let over = now >= until;
    if over {
        m.known().drifted.told = None;
    }
    m.problem("drift", (!over).then(|| format!("{what} was not as pgvigil set it and was put back")));
}
