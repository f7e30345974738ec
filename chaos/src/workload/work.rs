//! What clients do: each kind of work, from choosing it to its end in the history.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::client::Shared;
use super::session::{End, LSN, PLACE, Session, TIMELINE, Undone, judge};
use super::tables::{ACCOUNTS, LISTS, REGISTERS, list};
use crate::history::{Level, Outcome, Server, Step, Work, clock};

/// Appends that a list gets before clients move on to the next one.
const APPENDS_PER_LIST: u64 = 40;
/// Lists that are appended to at the same time.
const LISTS_AT_ONCE: u64 = 3;

/// Work that is done: for the history, and whether the connection may be used again.
#[derive(Debug)]
pub(super) struct Done {
    pub work: Work,
    pub server: Server,
    pub end: End,
}

/// Chooses one kind of work and does it.
pub(super) fn any(shared: &Shared, session: &mut Session<'_>, random: &mut StdRng) -> Done {
    let mix = shared.options.mix;
    let kinds = [(0, mix.insert), (1, mix.lookup), (2, mix.append), (3, mix.register), (4, mix.bank)];
    // A mix of nothing is one of inserts.
    let kind = kinds.choose_weighted(random, |(_, weight)| *weight).map_or(0, |(kind, _)| *kind);
    match kind {
        0 => insert(shared, session, random),
        1 => lookup(shared, session, random).unwrap_or_else(|| insert(shared, session, random)),
        2 => transaction(shared, session, random, lists),
        3 => transaction(shared, session, random, registers),
        _ if random.random_ratio(1, 4) => total(shared, session),
        _ => transfer(shared, session, random),
    }
}

/// One INSERT that commits by itself.
pub(super) fn insert(shared: &Shared, session: &mut Session<'_>, _: &mut StdRng) -> Done {
    let seq = shared.number();
    let sql = format!("INSERT INTO {}.ledger VALUES ({seq}, {}) RETURNING {PLACE}", shared.schema, std::process::id());
    let answer = session.exec(&sql);
    let server = session.server(answer.as_ref().ok().and_then(|answer| answer.rows.first()));
    let end = judge(&answer);
    if end.outcome == Outcome::Ok {
        shared.remember(seq);
    }
    Done { work: Work::Insert { seq }, server, end }
}

/// A look for a row that some client was told of before, mostly a recent one; `None` while there is none.
pub(super) fn lookup(shared: &Shared, session: &mut Session<'_>, random: &mut StdRng) -> Option<Done> {
    let seq = shared.recall(random)?;
    let place = format!(
        "CASE WHEN NOT pg_is_in_recovery() THEN {TIMELINE} END, CASE WHEN NOT pg_is_in_recovery() THEN {LSN} END"
    );
    let sql = format!("SELECT {place}, EXISTS (SELECT FROM {}.ledger WHERE seq = {seq})", shared.schema);
    let answer = session.exec(&sql);
    let row = answer.as_ref().ok().and_then(|answer| answer.rows.first());
    let found = row.and_then(|row| row.get(2)?.as_deref()).map(|text| text == "t");
    Some(Done { work: Work::Lookup { seq, found }, server: session.server(row), end: judge(&answer) })
}

/// What the words of the endless statement begin with.
const SAID: &str = "pgvigil-chaos";

/// A statement that reads a row again and again, each time with a new snapshot, and never ends by itself. It does not
/// wait for anything, so nothing but a signal ends it. (On a standby it ends at once.)
pub(super) fn endless(shared: &Shared, seq: u64) -> String {
    format!(
        "DO $$ DECLARE began timestamptz; found boolean; timeline text; lsn text; BEGIN WHILE NOT pg_is_in_recovery() LOOP \
         began := clock_timestamp(); \
         found := EXISTS (SELECT FROM {schema}.ledger WHERE seq = {seq}); \
         SELECT {PLACE} INTO timeline, lsn; \
         RAISE INFO '{SAID} % % % %', (extract(epoch FROM began) * 1000000)::bigint, timeline, lsn, found; \
         PERFORM sum(g) FROM generate_series(1, 60000) g; \
         END LOOP; END $$",
        schema = shared.schema,
    )
}

/// What one turn of it says: when it began, on `history::clock`, and what it read.
pub(super) fn said(session: &Session<'_>, seq: u64, message: &str) -> Option<(u64, Done)> {
    let mut words = message.strip_prefix(SAID)?.split_whitespace().map(|word| Some(word.to_owned()));
    let began: u64 = words.next()??.parse().ok()?;
    let place: Vec<Option<String>> = words.by_ref().take(2).collect();
    let found = words.next()?.map(|word| word == "t");
    let server = session.server(Some(&place));
    let end = End { outcome: Outcome::Ok, why: None, go_on: true, read_only: false };
    Some((clock::of_wall_us(began), Done { work: Work::Lookup { seq, found }, server, end }))
}

fn total(shared: &Shared, session: &mut Session<'_>) -> Done {
    let answer = session.exec(&format!("SELECT {PLACE}, sum(balance) FROM {}.accounts", shared.schema));
    let row = answer.as_ref().ok().and_then(|answer| answer.rows.first());
    let sum = row.and_then(|row| row.get(2)?.as_deref()?.parse().ok());
    Done { work: Work::Total { sum }, server: session.server(row), end: judge(&answer) }
}

fn transfer(shared: &Shared, session: &mut Session<'_>, random: &mut StdRng) -> Done {
    let (from, to) = (random.random_range(1..=ACCOUNTS), random.random_range(1..ACCOUNTS));
    let to = if to >= from { to + 1 } else { to };
    let (id, amount) = (shared.number(), random.random_range(1..=5_i64));
    let schema = &shared.schema;
    let add = |account: u64, amount: i64| {
        format!("UPDATE {schema}.accounts SET balance = balance + {amount} WHERE id = {account}")
    };
    // In one order for everybody, so that two transfers never wait for each other.
    let mut updates = [(from, -amount), (to, amount)];
    updates.sort_unstable();
    let statements = [
        add(updates[0].0, updates[0].1),
        add(updates[1].0, updates[1].1),
        format!("INSERT INTO {schema}.transfers VALUES ({id}, {from}, {to}, {amount})"),
    ];
    let level = *[Level::RepeatableRead, Level::Serializable].choose(random).expect("two");
    let (server, end) = block(session, level, |session| {
        for sql in &statements {
            session.step(sql)?;
        }
        Ok(())
    });
    Done { work: Work::Transfer { id, from, to, amount }, server, end }
}

fn transaction(
    shared: &Shared,
    session: &mut Session<'_>,
    random: &mut StdRng,
    choose: impl FnOnce(&Shared, &mut StdRng) -> Vec<Step>,
) -> Done {
    let level = *[Level::ReadCommitted, Level::RepeatableRead, Level::Serializable].choose(random).expect("three");
    let mut steps = choose(shared, random);
    let (server, end) = block(session, level, |session| {
        for step in &mut steps {
            take(shared, session, step)?;
        }
        Ok(())
    });
    Done { work: Work::Transaction { level, steps }, server, end }
}

/// Steps on lists, in the order of their keys, so that two transactions never wait for each other.
fn lists(shared: &Shared, random: &mut StdRng) -> Vec<Step> {
    let count = random.random_range(1..=4);
    let mut steps: Vec<(u64, Step)> = (0..count)
        .map(|_| {
            let key = (shared.appends() / APPENDS_PER_LIST + random.random_range(0..LISTS_AT_ONCE)) % LISTS + 1;
            match random.random_bool(0.5) {
                true => (key, Step::Append { key, value: shared.append() }),
                false => (key, Step::ReadList { key, seen: None }),
            }
        })
        .collect();
    steps.sort_by_key(|(key, _)| *key);
    steps.into_iter().map(|(_, step)| step).collect()
}

/// Steps on registers, each a different one, in the order of their keys.
fn registers(shared: &Shared, random: &mut StdRng) -> Vec<Step> {
    let count = random.random_range(1..=3);
    let mut keys: Vec<u64> = (0..count).map(|_| random.random_range(1..=REGISTERS)).collect();
    keys.sort_unstable();
    keys.dedup();
    let step = |key| match random.random_bool(0.5) {
        true => Step::Write { key, value: shared.number(), version: None },
        false => Step::ReadRegister { key, seen: None },
    };
    keys.into_iter().map(step).collect()
}

fn take(shared: &Shared, session: &mut Session<'_>, step: &mut Step) -> Result<(), Undone> {
    let schema = &shared.schema;
    let sql = match step {
        Step::Append { key, value } => {
            format!("UPDATE {schema}.lists SET list = list || {value}::bigint WHERE key = {key}")
        }
        Step::ReadList { key, .. } => format!("SELECT list FROM {schema}.lists WHERE key = {key}"),
        Step::Write { key, value, .. } => format!(
            "UPDATE {schema}.registers SET value = {value}, version = version + 1 WHERE key = {key} RETURNING version"
        ),
        Step::ReadRegister { key, .. } => format!("SELECT value, version FROM {schema}.registers WHERE key = {key}"),
    };
    let answer = session.step(&sql)?;
    let cell = |column: usize| answer.rows.first().and_then(|row| row.get(column)?.as_deref());
    let number = |column: usize| cell(column).and_then(|text| text.parse::<u64>().ok());
    match step {
        Step::Append { .. } => {}
        Step::ReadList { seen, .. } => *seen = cell(0).and_then(|text| list(text).ok()),
        Step::Write { version, .. } => *version = number(0),
        Step::ReadRegister { seen, .. } => *seen = number(0).zip(number(1)),
    }
    Ok(())
}

/// A transaction block: BEGIN, the steps, where the server is, COMMIT. Until COMMIT is sent, any error means that nothing
/// of it will ever be there.
fn block(
    session: &mut Session<'_>,
    level: Level,
    steps: impl FnOnce(&mut Session<'_>) -> Result<(), Undone>,
) -> (Server, End) {
    let level = match level {
        Level::ReadCommitted => "READ COMMITTED",
        Level::RepeatableRead => "REPEATABLE READ",
        Level::Serializable => "SERIALIZABLE",
    };
    let before = |session: &mut Session<'_>| {
        session.step(&format!("BEGIN ISOLATION LEVEL {level}"))?;
        steps(session)?;
        session.step(&format!("SELECT {PLACE}"))
    };
    match before(session) {
        Ok(place) => {
            let server = session.server(place.rows.first());
            let end = session.exec("COMMIT");
            (server, judge(&end))
        }
        Err(Undone { why, go_on }) => {
            let go_on = go_on && session.step("ROLLBACK").is_ok();
            let read_only = why.contains("25006");
            let end = End { outcome: Outcome::Fail, why: Some(why), go_on: go_on && !read_only, read_only };
            (session.server(None), end)
        }
    }
}
