//! The canary's task: a small commit under the rule, several times a second, while this member is a primary.

use super::shared::Shared;
use crate::clock;
use pgvigil_agent::known::ServerId;
use pgvigil_consensus::grid;
use pgvigil_core::{
    id::Epoch,
    local::LocalPostgres,
    pace::{self, Company, Writers},
    time::Time,
};
use pgvigil_postgres::{Beat, Canary};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Ends of canary records remembered, to measure standbys by: a few seconds' worth.
const RECORDS: usize = 64;
/// A sample that is older says nothing of what the canary waits for now.
const FRESH_MS: u64 = 2_000;

/// Starts the task.
pub fn start(shared: Arc<Shared>) {
    tokio::spawn(async move {
        let mut canary: Option<(ServerId, Canary)> = None;
        let mut company = Company::default();
        loop {
            let pause = shared.agreed().map_or(250, |agreed| agreed.settings.canary_ms);
            let pause = Duration::from_millis(pause);
            let due = grid::nearest(Instant::now() + pause, pause);
            match serving(&shared) {
                Some((pid, epoch)) => {
                    if canary.as_ref().is_none_or(|(of, _)| *of != pid) {
                        let endpoint = shared.server().endpoint.clone();
                        canary = Some((pid, Canary::new(endpoint, shared.me().as_str())));
                        company.unknown();
                    }
                    if rests(&shared, &company) {
                        tokio::time::sleep(Duration::from_millis(pace::LOOK_MS)).await;
                        continue;
                    }
                    if let Some((_, canary)) = canary.as_mut() {
                        beat(&shared, canary, pause, epoch, &mut company).await;
                    }
                }
                // While the server lives its session is kept: with every slot used it would not get in again.
                None => match canary.as_mut().filter(|(of, _)| shared.lock().server == Some(*of)) {
                    Some((_, canary)) => canary.rest(),
                    None => canary = None,
                },
            }
            tokio::time::sleep_until(due).await;
        }
    });
}

/// The postmaster and the epoch, when this member is the primary of a reign whose setting is in force. With k = 0 a
/// canary proves nothing (history B6): there is none.
fn serving(shared: &Shared) -> Option<(ServerId, Epoch)> {
    let agreed = shared.agreed()?;
    let reign = agreed.reign()?;
    let inner = shared.lock();
    let LocalPostgres::Running(running) = &inner.local.postgres else { return None };
    let reigns =
        !running.in_recovery && inner.local.promise.reigned == reign.epoch && reign.primary.member == *shared.me();
    let in_force = inner.local.in_force.as_ref().is_some_and(|f| f.epoch == reign.epoch && f.version.is_some());
    if inner.stopping {
        // A row that no standby takes any more would make its WAL diverge for nothing.
        return None;
    }
    let k = agreed.newest_rule().map_or(0, |rule| rule.setting.k);
    let pid = inner.server?;
    (reigns && in_force && k >= 1 && inner.local.promise.promotion.is_some()).then_some((pid, reign.epoch))
}

/// Whether the canary may rest now (see [`pace`]).
fn rests(shared: &Shared, company: &Company) -> bool {
    let Some(agreed) = shared.agreed() else { return false };
    let settled =
        agreed.election.is_none() && agreed.change.is_none() && agreed.reign().is_some_and(|r| r.open && r.complete);
    let inner = shared.lock();
    let writers = inner.sample.as_ref().and_then(|(sample, at)| {
        let (next_xid, under_way) = (sample.next_xid?, sample.writers);
        Some(Writers { at: *at, next_xid, under_way, archives_by_time: sample.archives_by_time })
    });
    let renewed = inner.local.right.renewed_sent_at;
    pace::rests(company, writers.as_ref(), renewed, settled, &agreed.settings, clock::now())
}

async fn beat(shared: &Shared, canary: &mut Canary, wait: Duration, epoch: Epoch, company: &mut Company) {
    match canary.beat(wait).await {
        Ok(Beat::Acknowledged { began_ms, lsn, xid, took }) => {
            company.committed(Time(began_ms), xid);
            let mut inner = shared.lock();
            inner.canary_ok_at = Some(Time(began_ms));
            inner.canary_waiting_since = None;
            inner.local.canary_waiting_ms = 0;
            inner.canary_took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            inner.records.push(lsn);
            inner.written.note(lsn);
            if inner.records.len() > RECORDS {
                inner.records.remove(0);
            }
            inner.canaries.acknowledged(epoch, Time(began_ms), lsn, clock::now());
            drop(inner);
            shared.problem("canary", None);
        }
        Ok(Beat::Pending { began_ms }) => {
            company.waiting();
            let mut inner = shared.lock();
            let seen = inner.sample.as_ref().filter(|(_, at)| clock::now().since(*at) <= FRESH_MS);
            let lock = seen.and_then(|(sample, at)| sample.canary_lock.clone().map(|of| (of, *at)));
            if let Some((_, at)) = &lock {
                inner.canary_locked_at = Some(*at);
            }
            // A wait for a lock accuses neither a standby nor the disk: what hangs is counted from its end.
            let since = Time(began_ms).max(inner.canary_locked_at.unwrap_or_default());
            inner.canary_waiting_since = lock.is_none().then_some(since);
            inner.local.canary_waiting_ms = if lock.is_some() { 0 } else { clock::now().since(since) };
            drop(inner);
            let text = lock.map(|(of, _)| format!("the canary waits for a lock ({of}); that does not count as a hang"));
            if text.is_some() {
                shared.problem("canary", text);
            }
            shared.work.notify_one();
        }
        Err(error) => {
            company.unknown();
            let mut inner = shared.lock();
            inner.canary_waiting_since = None;
            inner.local.canary_waiting_ms = 0;
            let runs = inner.server.is_some();
            drop(inner);
            if runs {
                shared.problem("canary", Some(format!("the canary failed: {error}")));
            }
            canary.reset();
        }
    }
}
