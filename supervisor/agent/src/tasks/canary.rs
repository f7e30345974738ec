//! The canary's task: a small commit under the rule, several times a second, while this member is a primary.

use super::{Event, Tasks, counts_from};
use crate::{known::ServerId, ports::Wake};
use pgvigil_core::{
    id::Epoch,
    local::LocalPostgres,
    lsn::Lsn,
    pace::{self, Company, Writers},
    time::Time,
};

/// Between two canaries while nothing agreed is known, in milliseconds.
const FIRST_MS: u64 = 250;
/// Ends of canary records remembered, to measure standbys by: a few seconds' worth.
const RECORDS: usize = 64;
/// A sample that is older says nothing of what the canary waits for now, in milliseconds.
const FRESH_MS: u64 = 2_000;

/// What one look at the canary found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// A commit was acknowledged under the rule, without a warning.
    Acknowledged {
        /// Before its statement was sent: a right counts from here.
        began: Time,
        /// A record's end, at or past the commit's.
        lsn: Lsn,
        /// Its transaction id.
        xid: u64,
        /// From sending to acknowledgement, in microseconds.
        took_us: u64,
    },
    /// The commit that began then is still waiting.
    Pending {
        /// Before its statement was sent.
        began: Time,
    },
}

/// The canary's session.
#[expect(async_fn_in_trait, reason = "as for the ports of acts")]
pub trait Canary {
    /// Another server is asked from now on.
    fn ask(&mut self, server: ServerId);
    /// Sends a commit unless one is under way, and waits for it up to `wait_ms`. An error is none that succeeded.
    async fn beat(&mut self, wait_ms: u64) -> Result<Beat, String>;
    /// No canary is wanted now. The session is kept where it is idle: with every slot used it would not get in again.
    fn rest(&mut self);
    /// Drops the session and the commit under way.
    fn reset(&mut self);
}

/// The task.
pub async fn run<M: Tasks>(m: &M, mut canary: impl Canary) {
    let mut asked: Option<ServerId> = None;
    let mut company = Company::default();
    loop {
        let pause = m.agreed().map_or(FIRST_MS, |agreed| agreed.settings.canary_ms);
        let due = m.about(pause);
        match serving(m) {
            Some((server, epoch)) => {
                if asked.replace(server) != Some(server) {
                    canary.ask(server);
                    company.unknown();
                }
                if rests(m, &company) {
                    m.pause(pace::LOOK_MS * 1_000).await;
                    continue;
                }
                beat(m, &mut canary, pause, epoch, &mut company).await;
            }
            // While the server lives its session is kept.
            None if asked.is_some() && m.known().server == asked => canary.rest(),
            None => {
                asked = None;
                canary.reset();
            }
        }
        m.until(due).await;
    }
}

/// The server and the epoch, when this member is the primary of a reign whose setting is in force. With k = 0 a
/// canary proves nothing (history B6): there is none.
fn serving<M: Tasks>(m: &M) -> Option<(ServerId, Epoch)> {
    let agreed = m.agreed()?;
    let reign = agreed.reign()?;
    let known = m.known();
    let LocalPostgres::Running(running) = &known.local.postgres else { return None };
    let reigns =
        !running.in_recovery && known.local.promise.reigned == reign.epoch && reign.primary.member == known.local.me;
    let in_force = known.local.in_force.as_ref().is_some_and(|f| f.epoch == reign.epoch && f.version.is_some());
    if known.stopping {
        // A row that no standby takes any more would make its WAL diverge for nothing.
        return None;
    }
    let k = agreed.newest_rule().map_or(0, |rule| rule.setting.k);
    let server = known.server?;
    (reigns && in_force && k >= 1 && known.local.promise.promotion.is_some()).then_some((server, reign.epoch))
}

/// Whether the canary may rest now (see [`pace`]).
fn rests<M: Tasks>(m: &M, company: &Company) -> bool {
    let Some(agreed) = m.agreed() else { return false };
    let settled =
        agreed.election.is_none() && agreed.change.is_none() && agreed.reign().is_some_and(|r| r.open && r.complete);
    let now = m.now();
    let known = m.known();
    let writers = known.sample.as_ref().and_then(|(sample, at)| {
        let (next_xid, under_way) = (sample.next_xid?, sample.writers);
        Some(Writers { at: *at, next_xid, under_way, archives_by_time: sample.archives_by_time })
    });
    pace::rests(company, writers.as_ref(), known.local.right.renewed_sent_at, settled, &agreed.settings, now)
}

async fn beat<M: Tasks>(m: &M, canary: &mut impl Canary, wait_ms: u64, epoch: Epoch, company: &mut Company) {
    match canary.beat(wait_ms).await {
        Ok(Beat::Acknowledged { began, lsn, xid, took_us }) => {
            company.committed(began, xid);
            let (from, now) = (counts_from(m, began), m.now());
            let mut known = m.known();
            known.canary_ok_at = Some(began);
            known.canary_waiting_since = None;
            known.local.canary_waiting_ms = 0;
            known.canary_took_us = took_us;
            known.records.push(lsn);
            known.written.note(lsn);
            if known.records.len() > RECORDS {
                known.records.remove(0);
            }
            known.canaries.acknowledged(epoch, from, lsn, now);
            drop(known);
            m.problem("canary", None);
            m.happens(Event::Canary(true));
        }
        Ok(Beat::Pending { began }) => {
            company.waiting();
            let now = m.now();
            let mut known = m.known();
            let seen = known.sample.as_ref().filter(|(_, at)| now.since(*at) <= FRESH_MS);
            let lock = seen.and_then(|(sample, at)| sample.canary_lock.clone().map(|of| (of, *at)));
            if let Some((_, at)) = &lock {
                known.canary_locked_at = Some(*at);
            }
            // A wait for a lock accuses neither a standby nor the disk: what hangs is counted from its end.
            let since = began.max(known.canary_locked_at.unwrap_or_default());
            known.canary_waiting_since = lock.is_none().then_some(since);
            known.local.canary_waiting_ms = if lock.is_some() { 0 } else { now.since(since) };
            drop(known);
            if let Some((of, _)) = lock {
                let text = format!("the canary waits for a lock ({of}); that does not count as a hang");
                m.problem("canary", Some(text));
            }
            m.wake(Wake::Worker);
        }
        Err(error) => {
            company.unknown();
            let mut known = m.known();
            known.canary_waiting_since = None;
            known.local.canary_waiting_ms = 0;
            let runs = known.server.is_some();
            drop(known);
            if runs {
                m.problem("canary", Some(format!("the canary failed: {error}")));
            }
            m.happens(Event::Canary(false));
            canary.reset();
        }
    }
}
