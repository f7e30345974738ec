//! The clients of the workload: what they do between two statements, and what each answer counts as.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::{Op, Outcome, Shared};
use crate::libpq::{Address, Answer, ConnectError, Connection, ExecError};

/// Between two attempts to connect. Each asks every server, which costs each of them a process.
const BACKOFF: Duration = Duration::from_millis(10);
/// How often a client that waits without a deadline looks whether it is to stop.
const SLICE: Duration = Duration::from_millis(100);
/// SQLSTATE of a write on a server that only reads.
const READ_ONLY: &str = "25006";

/// A client as an application has it: every host named, a new connection as soon as the old one is of no use.
pub(super) fn roaming(shared: &Shared, number: u32) {
    let options = &shared.options;
    let mut dsn = options.dsn.clone();
    while !shared.stopped() {
        // Uneven, so that clients do not fall into step.
        let patience = options.connect_deadline.mul_f64(rand::random_range(0.5..1.0));
        match Connection::connect(&dsn.to_string(), Instant::now() + patience) {
            Ok(mut connection) => {
                let connected = shared.now();
                while !shared.stopped() {
                    let began = Instant::now();
                    let deadline = began + options.statement_deadline;
                    let go_on = one_write(shared, &mut connection, number, connected, false, |c| c.receive(deadline));
                    if !go_on {
                        break;
                    }
                    std::thread::sleep(options.interval.saturating_sub(began.elapsed()));
                }
            }
            // While it is silent, the others are asked before it.
            Err(ConnectError::Deadline(silent)) => dsn.ask_last(&silent),
            Err(_) => std::thread::sleep(BACKOFF),
        }
    }
}

/// A client of one server, which waits for an answer as long as it takes.
pub(super) fn pinned(shared: &Shared, address: Address, stop: &AtomicBool, ready: &Sender<()>) {
    let conninfo = shared.options.dsn.pinned(address).to_string();
    let stopped = || stop.load(Ordering::Acquire) || shared.stopped();
    while !stopped() {
        let Ok(mut connection) = Connection::connect(&conninfo, Instant::now() + Duration::from_secs(1)) else {
            std::thread::sleep(BACKOFF);
            continue;
        };
        let connected = shared.now();
        // Nobody may be waiting for this any more.
        let _ = ready.send(());
        while !stopped() {
            let patient = |connection: &mut Connection| {
                loop {
                    match connection.receive(Instant::now() + SLICE) {
                        Err(ExecError::Deadline) if !stopped() => {}
                        end => return end,
                    }
                }
            };
            if !one_write(shared, &mut connection, u32::MAX >> 1, connected, true, patient) {
                break;
            }
            std::thread::sleep(shared.options.interval);
        }
        std::thread::sleep(BACKOFF);
    }
}

/// Writes one row and records how that ended; false if the connection is of no further use.
fn one_write(
    shared: &Shared,
    connection: &mut Connection,
    client: u32,
    connected: Duration,
    pinned: bool,
    receive: impl FnOnce(&mut Connection) -> Result<Answer, ExecError>,
) -> bool {
    let seq = shared.next_seq.fetch_add(1, Ordering::Relaxed);
    let sql = format!("INSERT INTO {} (seq, client) VALUES ({seq}, {client})", shared.table);
    let port = connection.port();
    let sent = shared.now();
    let end = match connection.send(&sql) {
        Ok(()) => receive(connection),
        Err(e) => Err(e),
    };
    let ended = shared.now();
    let (outcome, go_on) = judge(&end);
    shared.books().push(Op { seq, sent, ended, connected, port, outcome, pinned });
    go_on && connection.is_up()
}

/// What an answer counts as, and whether the connection may be used again.
fn judge(end: &Result<Answer, ExecError>) -> (Outcome, bool) {
    match end {
        Ok(answer) if answer.warnings.is_empty() => (Outcome::Ok, true),
        // "canceling wait for synchronous replication": committed locally, replicated or not.
        Ok(_) => (Outcome::Unknown, false),
        // A plain error rolls the statement back. FATAL and PANIC can also strike after the commit.
        Err(ExecError::Server { severity, sqlstate, .. }) if severity == "ERROR" => {
            (Outcome::Fail, sqlstate != READ_ONLY)
        }
        Err(ExecError::Nul) => unreachable!("the statement is made of digits and the table's name"),
        Err(_) => (Outcome::Unknown, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libpq::Notice;

    fn server(severity: &str, sqlstate: &str) -> Result<Answer, ExecError> {
        Err(ExecError::Server { severity: severity.into(), sqlstate: sqlstate.into(), message: String::new() })
    }

    #[test]
    fn only_an_answer_without_a_warning_is_an_acknowledgement() {
        assert_eq!(judge(&Ok(Answer::default())), (Outcome::Ok, true));
        let warning = Notice {
            severity: "WARNING".into(),
            sqlstate: "01000".into(),
            message: "canceling wait for synchronous replication due to user request".into(),
        };
        let warned = Answer { rows: Vec::new(), warnings: vec![warning] };
        assert_eq!(judge(&Ok(warned)), (Outcome::Unknown, false));
    }

    #[test]
    fn only_a_plain_error_is_a_definite_failure() {
        assert_eq!(judge(&server("ERROR", "53100")), (Outcome::Fail, true));
        assert_eq!(judge(&server("ERROR", READ_ONLY)), (Outcome::Fail, false));
        assert_eq!(judge(&server("FATAL", "57P01")), (Outcome::Unknown, false));
        assert_eq!(judge(&server("PANIC", "XX000")), (Outcome::Unknown, false));
        assert_eq!(judge(&Err(ExecError::Lost("reset".into()))), (Outcome::Unknown, false));
        assert_eq!(judge(&Err(ExecError::Deadline)), (Outcome::Unknown, false));
    }
}
