//! Statements to one server or to whichever is the primary.

use pgvigil_chaos::libpq::{Connection, Dsn};
use std::time::{Duration, Instant};

/// For one statement or one attempt to connect.
const STATEMENT: Duration = Duration::from_secs(20);

/// Connects and runs one statement; the first column of the first row, empty if there is none.
pub fn try_value(dsn: &Dsn, statement: &str) -> Result<String, String> {
    let mut connection =
        Connection::connect(&dsn.to_string(), Instant::now() + STATEMENT).map_err(|e| e.to_string())?;
    let answer = connection.exec(statement, Instant::now() + STATEMENT).map_err(|e| e.to_string())?;
    if let Some(warning) = answer.warnings.first() {
        return Err(format!("warning: {}", warning.message));
    }
    Ok(answer.rows.into_iter().next().and_then(|row| row.into_iter().next().flatten()).unwrap_or_default())
}

/// The same; a failure fails the test.
#[track_caller]
pub fn value(dsn: &Dsn, statement: &str) -> String {
    try_value(dsn, statement).unwrap_or_else(|error| panic!("{statement}: {error}"))
}
