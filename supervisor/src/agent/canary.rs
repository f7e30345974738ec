//! The canary's task: a small commit under the rule, several times a second, while this member is a primary.

use super::{right::Renewal, shared::Shared};
use crate::clock;
use pgvigil_consensus::grid;
use pgvigil_core::{id::Epoch, local::LocalPostgres, time::Time};
use pgvigil_postgres::{Beat, Canary};
use std::{sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// Ends of canary records remembered, to measure standbys by: a few seconds' worth.
const RECORDS: usize = 64;

/// Starts the task.
pub fn start(shared: Arc<Shared>, renewals: mpsc::UnboundedSender<Renewal>) {
    tokio::spawn(async move {
        let mut canary: Option<(i32, Canary)> = None;
        loop {
            let pause = shared.agreed().map_or(250, |agreed| agreed.settings.canary_ms);
            let pause = Duration::from_millis(pause);
            let due = grid::nearest(Instant::now() + pause, pause);
            match serving(&shared) {
                Some((pid, epoch)) => {
                    if canary.as_ref().is_none_or(|(of, _)| *of != pid) {
                        let endpoint = shared.lock().endpoint.clone();
                        canary = Some((pid, Canary::new(endpoint, shared.me().as_str())));
                    }
                    if let Some((_, canary)) = canary.as_mut() {
                        beat(&shared, canary, pause, epoch, &renewals).await;
                    }
                }
                None => canary = None,
            }
            tokio::time::sleep_until(due).await;
        }
    });
}

/// The postmaster and the epoch, when this member is the primary of a reign whose setting is in force. With k = 0 a
/// canary proves nothing (history B6): there is none.
fn serving(shared: &Shared) -> Option<(i32, Epoch)> {
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
    let pid = inner.postmaster.as_ref()?.pid();
    (reigns && in_force && k >= 1 && inner.local.promise.promotion.is_some()).then_some((pid, reign.epoch))
}

async fn beat(
    shared: &Shared,
    canary: &mut Canary,
    wait: Duration,
    epoch: Epoch,
    renewals: &mpsc::UnboundedSender<Renewal>,
) {
    match canary.beat(wait).await {
        Ok(Beat::Acknowledged { began_ms, lsn, took }) => {
            let mut inner = shared.lock();
            inner.canary_ok_at = Some(Time(began_ms));
            inner.canary_waiting_since = None;
            inner.local.canary_waiting_ms = 0;
            inner.canary_took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            inner.records.push(lsn);
            if inner.records.len() > RECORDS {
                inner.records.remove(0);
            }
            drop(inner);
            shared.problem("canary", None);
            renewals.send(Renewal::Canary { epoch, began_at: Time(began_ms) }).ok();
        }
        Ok(Beat::Pending { began_ms }) => {
            let waiting = clock::now().since(Time(began_ms));
            let mut inner = shared.lock();
            inner.canary_waiting_since = Some(Time(began_ms));
            inner.local.canary_waiting_ms = waiting;
            drop(inner);
            shared.work.notify_one();
        }
        Err(error) => {
            let mut inner = shared.lock();
            inner.canary_waiting_since = None;
            inner.local.canary_waiting_ms = 0;
            let runs = inner.postmaster.is_some();
            drop(inner);
            if runs {
                shared.problem("canary", Some(format!("the canary failed: {error}")));
            }
            canary.reset();
        }
    }
}
