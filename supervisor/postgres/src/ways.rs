//! The ways in: as which role, to which database and through which slot the agent opens a session.
//!
//! None of the three can be relied on alone. People use up every connection, those reserved for superusers too; they close
//! or drop database `postgres`; they take the superuser its right to log in. So each session is tried by several ways, the
//! one that worked last first:
//!
//! - **Slot.** A session that asks for `replication=database` runs SQL like any other (by the simple protocol, which is all
//!   that [`Link`](crate::Link) speaks), but its process is a walsender: its slot is one of `max_wal_senders`, never one of
//!   `max_connections`. It streams nothing, and no rule counts it.
//! - **Role.** The superuser of the configuration, or [`AGENT_ROLE`].
//! - **Database.** `postgres`; else one of the user's, since a session that stays in `template1` lets nobody create a
//!   database; `template1` last.

use crate::{
    fsio::{FsError, read_text, write_atomic},
    link::QueryError,
};
use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

/// A superuser of pgvigil's own, without a password: only the operating-system user of the agent gets in as this role.
pub const AGENT_ROLE: &str = "pgvigil_agent";
/// The database that is used as long as it can be.
pub const DATABASE: &str = "postgres";
/// Always there, but nobody can copy it while a session is in it.
const LAST_RESORT: &str = "template1";

/// Whose slot a session takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// One of `max_connections`.
    Client,
    /// One of `max_wal_senders`.
    Walsender,
}

impl Slot {
    const fn other(self) -> Self {
        match self {
            Self::Client => Self::Walsender,
            Self::Walsender => Self::Client,
        }
    }
}

/// One way in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// As whom.
    pub role: String,
    /// Where.
    pub database: String,
    /// Through which slot.
    pub slot: Slot,
}

/// What a refusal is about, and so which other way may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No slot is free.
    Slots,
    /// The role does not exist, may not log in, or is no superuser.
    Role,
    /// The database does not exist.
    NoDatabase,
    /// The database accepts nobody.
    Database,
    /// Something else that may hold for this role and database only.
    Session,
    /// The server starts, stops, hangs or is not there: no other way helps.
    Server,
}

impl Refused {
    /// Reads it off the error.
    #[must_use]
    pub fn of(error: &QueryError) -> Self {
        match error {
            QueryError::NoSuperuser { .. } => Self::Role,
            error => match error.sqlstate() {
                Some("53300") => Self::Slots,
                Some(code) if code.starts_with("28") => Self::Role,
                Some("3D000") => Self::NoDatabase,
                Some("55000") => Self::Database,
                Some(code) if code.starts_with("57P") => Self::Server,
                Some(_) => Self::Session,
                None => Self::Server,
            },
        }
    }
}

/// The usual way is barred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Barred {
    /// The usual way.
    pub way: Way,
    /// What it was about.
    pub refused: Refused,
    /// What PostgreSQL said.
    pub error: String,
    /// Since when, by the wall clock, for people to read.
    pub since: SystemTime,
}

/// What is known of the ways in; all clones of one [`Endpoint`](crate::Endpoint) share it.
#[derive(Debug, Default)]
pub struct Ways {
    known: Mutex<Known>,
    file: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct Known {
    databases: Vec<String>,
    last: Option<Way>,
    barred: Option<Barred>,
}

impl Ways {
    /// Remembers in `file` which databases there are: an agent that starts beside a server that it cannot enter by the
    /// usual way cannot ask.
    pub fn kept_in(file: PathBuf) -> Result<Self, FsError> {
        let text = read_text(&file)?.unwrap_or_default();
        let databases = text.lines().map(str::to_owned).collect();
        let known = Known { databases, ..Known::default() };
        Ok(Self { known: Mutex::new(known), file: Some(file) })
    }

    /// Learns which databases accept sessions, without `postgres` and the templates.
    pub fn learn(&self, databases: Vec<String>) -> Result<(), FsError> {
        let mut known = self.lock();
        if known.databases == databases {
            return Ok(());
        }
        // Whoever had to go to the last resort looks for another place.
        known.databases.clone_from(&databases);
        if !databases.is_empty() {
            known.last.take_if(|last| last.database == LAST_RESORT);
        }
        drop(known);
        let Some(file) = &self.file else { return Ok(()) };
        let lines =
            databases.iter().filter(|name| !name.contains('\n')).fold(String::new(), |text, name| text + name + "\n");
        write_atomic(file, lines.as_bytes(), 0o600).map(drop)
    }

    /// Why the usual way does not work at present; `None` while it does, as far as was tried.
    #[must_use]
    pub fn barred(&self) -> Option<Barred> {
        self.lock().barred.clone()
    }

    /// The way that worked last.
    #[must_use]
    pub fn last(&self) -> Option<Way> {
        self.lock().last.clone()
    }

    /// Whether a session that got in by `way` stays, or gives its place up for that of the way that worked last.
    pub(crate) fn keeps(&self, user: &str, way: &Way) -> bool {
        let last = self.last();
        let better = |last: &Way| {
            (*last == usual(user) && *way != usual(user))
                || (way.database == LAST_RESORT && last.database != LAST_RESORT)
        };
        !last.as_ref().is_some_and(better)
    }

    pub(crate) fn worked(&self, user: &str, way: &Way) {
        let mut known = self.lock();
        known.last = Some(way.clone());
        if *way == usual(user) {
            known.barred = None;
        }
    }

    pub(crate) fn failed(&self, user: &str, way: &Way, error: &QueryError) {
        let refused = Refused::of(error);
        if *way != usual(user) || refused == Refused::Server {
            return;
        }
        let mut known = self.lock();
        let since = known.barred.as_ref().filter(|b| b.refused == refused).map_or_else(SystemTime::now, |b| b.since);
        known.barred = Some(Barred { way: way.clone(), refused, error: error.to_string(), since });
    }

    /// The ways to try, in order, without those that differ only in the slot.
    pub(crate) fn order(&self, user: &str) -> Vec<Way> {
        let known = self.lock();
        let first = known.last.clone().unwrap_or_else(|| usual(user));
        let mut ways = vec![first];
        let slot = ways[0].slot;
        for role in [user, AGENT_ROLE] {
            let databases =
                [DATABASE].into_iter().chain(known.databases.iter().map(String::as_str)).chain([LAST_RESORT]);
            for database in databases {
                let way = Way { role: role.to_owned(), database: database.to_owned(), slot };
                if !ways.contains(&way) {
                    ways.push(way);
                }
            }
        }
        ways
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way that is used as long as it works.
#[must_use]
pub fn usual(user: &str) -> Way {
    Way { role: user.to_owned(), database: DATABASE.to_owned(), slot: Slot::Client }
}

/// Goes through the ways: which one to try next, after how the ones before were refused.
#[derive(Debug)]
pub(crate) struct Search {
    ways: std::vec::IntoIter<Way>,
    slot: Option<Slot>,
    turned: bool,
    roles: Vec<String>,
    databases: Vec<String>,
}

impl Search {
    pub(crate) fn new(ways: Vec<Way>) -> Self {
        Self { ways: ways.into_iter(), slot: None, turned: false, roles: Vec::new(), databases: Vec::new() }
    }

    /// The first way, or the next one that no refusal so far speaks against.
    pub(crate) fn next(&mut self) -> Option<Way> {
        let way = self
            .ways
            .by_ref()
            .find(|way| !self.roles.contains(&way.role) && !self.databases.contains(&way.database))?;
        Some(Way { slot: self.slot.unwrap_or(way.slot), ..way })
    }

    /// The way to try after `way` was refused.
    pub(crate) fn after(&mut self, way: &Way, refused: Refused) -> Option<Way> {
        match refused {
            Refused::Server => return None,
            // The other kind of slot, once.
            Refused::Slots if !self.turned => {
                self.turned = true;
                self.slot = Some(way.slot.other());
                return Some(Way { slot: way.slot.other(), ..way.clone() });
            }
            Refused::Slots => return None,
            Refused::Role => self.roles.push(way.role.clone()),
            Refused::NoDatabase | Refused::Database => self.databases.push(way.database.clone()),
            Refused::Session => {}
        }
        self.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(ways: &Ways, answer: impl Fn(&Way) -> Option<Refused>) -> Vec<String> {
        let mut search = Search::new(ways.order("boss"));
        let mut next = search.next();
        let mut tried = Vec::new();
        while let Some(way) = next {
            tried.push(format!("{}@{} {:?}", way.role, way.database, way.slot));
            match answer(&way) {
                None => break,
                Some(refused) => next = search.after(&way, refused),
            }
        }
        tried
    }

    #[test]
    fn a_full_server_is_entered_through_a_walsenders_slot_and_a_walsender_full_one_through_a_clients() {
        let ways = Ways::default();
        let full = |way: &Way| (way.slot == Slot::Client).then_some(Refused::Slots);
        assert_eq!(tried(&ways, full), ["boss@postgres Client", "boss@postgres Walsender"]);
        ways.worked("boss", &Way { slot: Slot::Walsender, ..usual("boss") });
        assert_eq!(tried(&ways, full), ["boss@postgres Walsender"]);
        let other = |way: &Way| (way.slot == Slot::Walsender).then_some(Refused::Slots);
        assert_eq!(tried(&ways, other), ["boss@postgres Walsender", "boss@postgres Client"]);
        assert_eq!(tried(&ways, |_| Some(Refused::Slots)).len(), 2);
    }

    #[test]
    fn a_closed_database_is_left_for_the_users_and_template1_comes_last() {
        let ways = Ways::default();
        ways.learn(vec!["app".to_owned()]).unwrap();
        let closed = |way: &Way| (way.database != "template1").then_some(Refused::Database);
        assert_eq!(tried(&ways, closed), ["boss@postgres Client", "boss@app Client", "boss@template1 Client"]);
    }

    #[test]
    fn the_last_resort_is_left_as_soon_as_there_is_another_place_and_everything_for_the_usual_way() {
        let ways = Ways::default();
        let way = |database: &str| Way { database: database.to_owned(), ..usual("boss") };
        ways.worked("boss", &way("template1"));
        assert!(ways.keeps("boss", &way("template1")));
        ways.learn(vec!["app".to_owned()]).unwrap();
        let closed = |way: &Way| (way.database == "postgres").then_some(Refused::Database);
        assert_eq!(tried(&ways, closed), ["boss@postgres Client", "boss@app Client"]);
        ways.worked("boss", &way("app"));
        assert!(!ways.keeps("boss", &way("template1")) && ways.keeps("boss", &way("app")));
        ways.worked("boss", &usual("boss"));
        assert!(!ways.keeps("boss", &way("app")) && ways.keeps("boss", &usual("boss")));
    }

    #[test]
    fn a_role_that_may_not_log_in_is_tried_once_and_pgvigils_own_is_used() {
        let barred = |way: &Way| (way.role == "boss").then_some(Refused::Role);
        assert_eq!(tried(&Ways::default(), barred), ["boss@postgres Client", "pgvigil_agent@postgres Client"]);
        let all = |way: &Way| match (&*way.role, way.slot) {
            ("boss", _) => Some(Refused::Role),
            (_, Slot::Client) => Some(Refused::Slots),
            _ => (way.database == "postgres").then_some(Refused::Database),
        };
        let expected = [
            "boss@postgres Client",
            "pgvigil_agent@postgres Client",
            "pgvigil_agent@postgres Walsender",
            "pgvigil_agent@template1 Walsender",
        ];
        assert_eq!(tried(&Ways::default(), all), expected);
    }

    #[test]
    fn a_server_that_starts_is_asked_once() {
        assert_eq!(tried(&Ways::default(), |_| Some(Refused::Server)), ["boss@postgres Client"]);
    }

    #[test]
    fn databases_are_remembered_across_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("databases");
        Ways::kept_in(file.clone()).unwrap().learn(vec!["app".to_owned(), "shop".to_owned()]).unwrap();
        assert_eq!(Ways::kept_in(file).unwrap().lock().databases, ["app", "shop"]);
    }
}
