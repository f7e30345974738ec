//! The load's tables: made before the clients start, read when they have ended.

use std::time::{Duration, Instant};

use crate::check::Tables;
use crate::libpq::{Connection, Dsn};

use super::session::{PLACE, lsn};

/// Lists there are. Clients move on to the next ones when some are long enough, so that rows stay short.
pub(super) const LISTS: u64 = 2_000;
/// Registers there are.
pub(super) const REGISTERS: u64 = 12;
/// Accounts there are.
pub(super) const ACCOUNTS: u64 = 10;
/// What each of them holds at first.
pub(super) const OPENING_BALANCE: i64 = 100;
/// Between two attempts.
const PACE: Duration = Duration::from_millis(200);

/// Makes the tables in a new schema. Tried again until the deadline: the primary may not be there yet.
pub(super) fn make(dsn: &Dsn, schema: &str, limit: Duration) -> Result<(), String> {
    let sql = format!(
        "BEGIN; CREATE SCHEMA {schema}; SET LOCAL search_path = {schema}; \
         CREATE TABLE ledger (seq bigint NOT NULL, client bigint NOT NULL); CREATE INDEX ON ledger (seq); \
         CREATE TABLE lists (key bigint PRIMARY KEY, list bigint[] NOT NULL) WITH (fillfactor = 50); \
         INSERT INTO lists SELECT key, '{{}}' FROM generate_series(1, {LISTS}) key; \
         CREATE TABLE registers (key bigint PRIMARY KEY, value bigint NOT NULL, version bigint NOT NULL); \
         INSERT INTO registers SELECT key, 0, 0 FROM generate_series(1, {REGISTERS}) key; \
         CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL); \
         INSERT INTO accounts SELECT id, {OPENING_BALANCE} FROM generate_series(1, {ACCOUNTS}) id; \
         CREATE TABLE transfers (id bigint NOT NULL, debited bigint NOT NULL, credited bigint NOT NULL, amount bigint NOT NULL); \
         COMMIT"
    );
    let deadline = Instant::now() + limit;
    loop {
        let made = attempt(dsn, deadline, |connection, until| {
            let answer = connection.exec(&sql, until).map_err(|e| e.to_string())?;
            answer.warnings.first().map_or(Ok(()), |warning| Err(warning.message.clone()))
        });
        match made {
            Err(why) if Instant::now() > deadline => return Err(why),
            // Committed by an attempt of ours whose answer was lost, or confirmed by nobody: then what follows waits.
            Err(why) if why.contains("already exists") => return Ok(()),
            Err(_) => std::thread::sleep(PACE),
            Ok(()) => return Ok(()),
        }
    }
}

/// Reads the tables on the present primary, all at one moment.
pub(super) fn read(dsn: &Dsn, schema: &str, limit: Duration) -> Result<Tables, String> {
    let deadline = Instant::now() + limit;
    loop {
        match attempt(dsn, deadline, |connection, until| read_once(connection, schema, until)) {
            Err(why) if Instant::now() > deadline => return Err(why),
            Err(_) => std::thread::sleep(PACE),
            read => return read,
        }
    }
}

fn attempt<T>(
    dsn: &Dsn,
    deadline: Instant,
    act: impl FnOnce(&mut Connection, Instant) -> Result<T, String>,
) -> Result<T, String> {
    let connect_by = Instant::now() + Duration::from_secs(2);
    let mut connection = Connection::connect(&dsn.to_string(), connect_by).map_err(|e| e.to_string())?;
    act(&mut connection, deadline.max(connect_by))
}

fn read_once(connection: &mut Connection, schema: &str, until: Instant) -> Result<Tables, String> {
    let mut rows = |sql: &str| connection.exec(sql, until).map(|answer| answer.rows).map_err(|e| format!("{sql}: {e}"));
    rows("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
    rows(&format!("SET LOCAL search_path = {schema}, pg_catalog"))?;
    let ledger = rows("SELECT seq FROM ledger")?.iter().map(|row| number(row, 0)).collect::<Result<_, _>>()?;
    let lists = rows("SELECT key, list FROM lists")?;
    let lists = lists.iter().map(|row| Ok((number(row, 0)?, list(cell(row, 1)?)?))).collect::<Result<_, String>>()?;
    let registers = rows("SELECT key, value, version FROM registers")?;
    let registers = registers.iter().map(|row| Ok((number(row, 0)?, (number(row, 1)?, number(row, 2)?))));
    let registers = registers.collect::<Result<_, String>>()?;
    let accounts = rows("SELECT id, balance FROM accounts")?;
    let accounts = accounts.iter().map(|row| Ok((number(row, 0)?, number(row, 1)?))).collect::<Result<_, String>>()?;
    let transfers = rows("SELECT id FROM transfers")?.iter().map(|row| number(row, 0)).collect::<Result<_, _>>()?;
    let place = rows(&format!("SELECT {PLACE}"))?;
    let place = place.first().ok_or("the server does not say where it is")?;
    let hex = cell(place, 0)?;
    let timeline = u32::from_str_radix(hex, 16).map_err(|e| format!("timeline {hex}: {e}"))?;
    let file = rows(&format!("SELECT pg_read_file('pg_wal/{hex}.history', 0, 10000000, true)"))?;
    let forks = file.first().and_then(|row| row.first()?.as_deref()).map(forks).transpose()?.unwrap_or_default();
    rows("COMMIT")?;
    Ok(Tables { ledger, lists, registers, accounts, transfers, opening_balance: OPENING_BALANCE, timeline, forks })
}

fn cell(row: &[Option<String>], column: usize) -> Result<&str, String> {
    row.get(column).and_then(Option::as_deref).ok_or_else(|| format!("a row without column {column}: {row:?}"))
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(row: &[Option<String>], column: usize) -> Result<T, String> {
    let text = cell(row, column)?;
    text.parse().map_err(|e| format!("{text:?}: {e}"))
}

/// An array of numbers in PostgreSQL's notation.
pub(super) fn list(text: &str) -> Result<Vec<u64>, String> {
    let inner = text
        .strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'))
        .ok_or_else(|| format!("{text:?} is no array"))?;
    let items = inner.split(',').filter(|item| !item.is_empty());
    items.map(|item| item.parse().map_err(|e| format!("{item:?}: {e}"))).collect()
}

/// The lines of a timeline history file: timeline, LSN at which it was left, reason.
fn forks(text: &str) -> Result<Vec<(u32, u64)>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let timeline = words.next().and_then(|word| word.parse().ok());
            timeline.zip(words.next().and_then(lsn)).ok_or_else(|| format!("{line:?} is no line of a history file"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_and_history_files_are_read() {
        assert_eq!(list("{}"), Ok(vec![]));
        assert_eq!(list("{1,22}"), Ok(vec![1, 22]));
        assert!(list("1,2").is_err());
        assert_eq!(
            forks("1\t0/3000158\tno recovery target specified\n\n2\t1/A0\twhy\n"),
            Ok(vec![(1, 0x300_0158), (2, 0x1_0000_00A0)])
        );
        assert!(forks("nonsense").is_err());
    }
}
