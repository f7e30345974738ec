//! Who was what, when: the status, asked all the time by a thread of its own.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::history::clock::now_us;
use crate::report::{EpochSpan, RoleSpan, SpanRole};
use crate::status::{MemberStatus, Status};

/// Between two questions.
const PACE: Duration = Duration::from_millis(300);
/// A question that takes longer is given up.
const LIMIT: Duration = Duration::from_secs(3);

/// What was seen so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Roles by member, in order of time.
    pub(super) roles: Vec<RoleSpan>,
    /// Epochs, in order.
    pub(super) epochs: Vec<EpochSpan>,
}

/// The thread that asks. Dropping it stops it.
#[derive(Debug)]
pub(super) struct Watch {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins to ask. `origin`: what `now_us` was when the run began.
    pub(super) fn start(cluster: &Cluster, origin: u64) -> Watch {
        let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let (program, connect) = (cluster.program().to_owned(), cluster.connect());
        let (to, flag) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !flag.load(Ordering::Acquire) {
                let status = ask(&program, &connect, &flag);
                let now = now_us().saturating_sub(origin);
                to.lock().unwrap_or_else(PoisonError::into_inner).add(now, status.as_ref());
                std::thread::sleep(PACE);
            }
        });
        Watch { seen, stop, thread: Some(thread) }
    }

    /// What was seen so far.
    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so; what it saw is kept.
            let _ = thread.join();
        }
    }
}

fn ask(program: &PathBuf, connect: &str, stop: &AtomicBool) -> Option<Status> {
    let mut child = Command::new(program)
        .args(["status", "--json"])
        .env("PGVIGIL_CONNECT", connect)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut stdout = child.stdout.take()?;
    // A status fits in the pipe, or is read here while the child writes.
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stdout, &mut text).map(|_| text)
    });
    let began = Instant::now();
    while let Ok(None) = child.try_wait() {
        if began.elapsed() > LIMIT || stop.load(Ordering::Acquire) {
            // It may have ended just now.
            let _ended = child.kill();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let text = reader.join().ok()?.ok()?;
    let status: Status = serde_json::from_str(&text).ok()?;
    status.from_leader.then_some(status)
}

impl Seen {
    fn add(&mut self, now: u64, status: Option<&Status>) {
        let Some(status) = status else {
            let open: Vec<String> =
                self.roles.iter().filter(|span| span.until_us.is_none()).map(|span| span.member.clone()).collect();
            for member in open {
                self.role(now, &member, SpanRole::Unseen);
            }
            return;
        };
        for member in &status.members {
            self.role(now, &member.name, role_of(member));
        }
        match self.epochs.last_mut() {
            Some(last) if last.epoch == status.epoch => last.primary.clone_from(&status.primary),
            Some(last) if last.epoch > status.epoch => {}
            _ => self.epochs.push(EpochSpan { epoch: status.epoch, from_us: now, primary: status.primary.clone() }),
        }
    }

    fn role(&mut self, now: u64, member: &str, role: SpanRole) {
        let last = self.roles.iter_mut().rev().find(|span| span.member == member);
        if let Some(last) = last {
            if last.role == role {
                return;
            }
            last.until_us = Some(now);
        }
        self.roles.push(RoleSpan { member: member.to_owned(), from_us: now, until_us: None, role });
    }
}

fn role_of(member: &MemberStatus) -> SpanRole {
    match (member.role.as_str(), member.state.as_str()) {
        (_, "silent") => SpanRole::Unseen,
        ("primary", "open") => SpanRole::Primary,
        ("primary" | "appointed", _) => SpanRole::Appointed,
        ("standby", "streaming") => SpanRole::Standby,
        _ => SpanRole::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(epoch: u64, primary: &str) -> Status {
        let member = |name: &str| MemberStatus {
            name: name.to_owned(),
            role: if name == primary { "primary" } else { "standby" }.to_owned(),
            state: if name == primary { "open" } else { "streaming" }.to_owned(),
            ..MemberStatus::default()
        };
        Status { epoch, primary: primary.to_owned(), members: vec![member("a"), member("b")], ..Status::default() }
    }

    #[test]
    fn spans_are_closed_when_a_role_changes() {
        let mut seen = Seen::default();
        seen.add(10, Some(&status(1, "a")));
        seen.add(20, Some(&status(1, "a")));
        seen.add(30, None);
        seen.add(40, Some(&status(2, "b")));
        let of_a: Vec<_> =
            seen.roles.iter().filter(|s| s.member == "a").map(|s| (s.from_us, s.until_us, s.role)).collect();
        let expected =
            [(10, Some(30), SpanRole::Primary), (30, Some(40), SpanRole::Unseen), (40, None, SpanRole::Standby)];
        assert_eq!(of_a, expected);
        assert_eq!(seen.epochs.iter().map(|e| (e.epoch, e.from_us)).collect::<Vec<_>>(), [(1, 10), (2, 40)]);
    }
}
