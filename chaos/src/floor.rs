//! The floor: how fast PostgreSQL itself can change its primary on this machine, without any supervisor.
//!
//! Each round kills a primary with two standbys and drives the shortest script there is: promote one standby at once,
//! point the other at it, nobody to ask and nothing to prove. What pgvigil needs beyond these times is its own.

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde::Serialize;

use crate::account::Account;
use crate::bare::{BareError, BareServer, free_ports};
use crate::interrupt::{self, wait_for};
use crate::libpq::Connection;
use crate::processes;

/// Between two attempts to write while the floor is measured.
const PACE: Duration = Duration::from_millis(1);
/// More than any of these steps can take on a machine that works.
const LIMIT: Duration = Duration::from_secs(60);

/// What the rounds measured, one entry for each.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Floor {
    /// From asking for the promotion to the first write accepted (not waiting for a standby), milliseconds.
    pub promotion_ms: Vec<f64>,
    /// From the kill of the old primary to the first commit confirmed by a standby, milliseconds.
    pub quorum_ms: Vec<f64>,
}

/// Measures the floor, `rounds` times, in `dir`.
pub fn measure(account: &Account, dir: &Path, rounds: usize, mut say: impl FnMut(usize)) -> Result<Floor, BareError> {
    let mut floor = Floor::default();
    for round in 0..rounds {
        interrupt::check()?;
        let (promotion, quorum) = one_round(account, dir)?;
        floor.promotion_ms.push(promotion.as_secs_f64() * 1e3);
        floor.quorum_ms.push(quorum.as_secs_f64() * 1e3);
        say(round + 1);
    }
    Ok(floor)
}

fn one_round(account: &Account, dir: &Path) -> Result<(Duration, Duration), BareError> {
    let ports = free_ports(3)?;
    let mut primary = BareServer::create(account, dir.join("floor-a"), ports[0])?;
    primary.start()?;
    let mut heir = primary.clone_to(dir.join("floor-b"), ports[1], "b")?;
    let mut other = primary.clone_to(dir.join("floor-c"), ports[2], "c")?;
    heir.follow(ports[0], "b", &[("synchronous_standby_names", "ANY 1 (c)")])?;
    heir.start()?;
    other.start()?;
    primary.configure(&[("synchronous_standby_names", "ANY 1 (b,c)")])?;
    let postmaster = |server: &BareServer| server.postmaster().expect("it was started");
    processes::send(postmaster(&primary), Signal::SIGHUP)?;
    let mut admin = primary.connect()?;
    wait_for("both standbys to stream", LIMIT, Duration::from_millis(20), || {
        let count = one_value(
            &mut admin,
            "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'quorum'",
        )?;
        Ok::<_, BareError>((count == "2").then_some(()))
    })?;
    statement(&mut admin, "CREATE TABLE t (i integer)")?;

    // Connections that are already there when it happens, as a supervisor's would be.
    let (local, quorum) = (mpsc::channel(), mpsc::channel());
    let mut writers = [(heir.connect()?, "local", local.0), (heir.connect()?, "on", quorum.0)];
    for (connection, level, _) in &mut writers {
        statement(connection, &format!("SET synchronous_commit = {level}"))?;
    }
    let heir_pid = postmaster(&heir);
    let other_pid = postmaster(&other);
    let victims: Vec<i32> = processes::of_host(&primary.data_dir).iter().map(|p| p.pid).collect();
    let killed = Instant::now();
    for pid in victims {
        processes::send(pid, Signal::SIGKILL)?;
    }
    let asked = Instant::now();
    heir.touch("promote")?;
    processes::send(heir_pid, Signal::SIGUSR1)?;
    for (mut connection, _, done) in writers {
        std::thread::spawn(move || {
            while killed.elapsed() < LIMIT {
                // Refused until the promotion is through.
                if connection.exec("INSERT INTO t VALUES (1)", Instant::now() + LIMIT).is_ok() {
                    // Nobody listens any more if the round was given up.
                    let _ = done.send(Instant::now());
                    return;
                }
                std::thread::sleep(PACE);
            }
        });
    }
    let never = |_| BareError::Statement("the promoted standby accepted no write".to_owned());
    let accepted = local.1.recv_timeout(LIMIT).map_err(never)?;
    other.follow(ports[1], "c", &[])?;
    processes::send(other_pid, Signal::SIGHUP)?;
    let confirmed = quorum.1.recv_timeout(LIMIT).map_err(never)?;
    primary.destroy()?;
    other.destroy()?;
    heir.destroy()?;
    Ok((accepted - asked, confirmed - killed))
}

fn statement(connection: &mut Connection, sql: &str) -> Result<Vec<Vec<Option<String>>>, BareError> {
    let answer = connection.exec(sql, Instant::now() + LIMIT);
    Ok(answer.map_err(|e| BareError::Statement(format!("{sql}: {e}")))?.rows)
}

fn one_value(connection: &mut Connection, sql: &str) -> Result<String, BareError> {
    statement(connection, sql)?
        .pop()
        .and_then(|mut row| row.pop().flatten())
        .ok_or_else(|| BareError::Statement(format!("{sql}: no value")))
}
