//! The canary's task: a small commit under the rule, several times a second, while this member is a primary.

use super::shared::Ctx;
use crate::{
    exec::Done,
    planted::Planted,
    postgres::server::{Ended, Flight},
};
use pgvigil_core::{id::Epoch, local::LocalPostgres, lsn::Lsn, time::Time};
use std::{cell::Cell, rc::Rc};

const RECORDS: usize = 64;

/// A canary under way: in which server, since when.
struct UnderWay {
    pid: u64,
    began: Time,
    flight: Rc<Flight>,
}

/// The task.
pub async fn run(c: Ctx) {
    let mut under_way: Option<UnderWay> = None;
    loop {
        let pause = c.agreed().map_or(250, |agreed| agreed.settings.canary_ms);
        let due = c.now().plus(pause);
        match serving(&c) {
            Some((pid, epoch)) => {
                if under_way.as_ref().is_some_and(|canary| canary.pid != pid) {
                    under_way = None;
                }
                beat(&c, &mut under_way, pid, epoch, pause).await;
            }
            None => under_way = None,
        }
        let left = due.since(c.now());
        c.w.sleep(c.h, left.max(1)).await;
    }
}

/// The server and the epoch, when this member is the primary of a reign whose setting is in force.
fn serving(c: &Ctx) -> Option<(u64, Epoch)> {
    let agreed = c.agreed()?;
    let reign = agreed.reign()?;
    let inner = c.a.inner.borrow();
    let LocalPostgres::Running(running) = &inner.local.postgres else { return None };
    let reigns =
        !running.in_recovery && inner.local.promise.reigned == reign.epoch && reign.primary.member == inner.local.me;
    let in_force = inner.local.in_force.as_ref().is_some_and(|f| f.epoch == reign.epoch && f.version.is_some());
    if inner.stopping {
        return None;
    }
    let k = agreed.newest_rule().map_or(0, |rule| rule.setting.k);
    let pid = inner.server?;
    (reigns && in_force && k >= 1 && inner.local.promise.promotion.is_some()).then_some((pid, reign.epoch))
}

async fn beat(c: &Ctx, under_way: &mut Option<UnderWay>, pid: u64, epoch: Epoch, wait_ms: u64) {
    let (began, flight) = match under_way {
        Some(canary) => (canary.began, Rc::clone(&canary.flight)),
        None => {
            let began = c.now();
            let flight = Rc::new(Flight { ended: Cell::new(Ended::Waiting), lsn: Cell::new(0), done: Done::new() });
            *under_way = Some(UnderWay { pid, began, flight: Rc::clone(&flight) });
            c.w.pause(50, 400).await;
            if !c.w.server_runs(c.h) || c.w.hosts[c.h].pg.borrow().pid != pid || !c.w.commit_canary(c.h, &flight) {
                flight.ended.set(Ended::Failed);
                flight.done.end(&c.w.exec);
            }
            (began, flight)
        }
    };
    let landed = c.w.within(c.h, wait_ms, c.w.ended(&flight.done)).await.is_some();
    if !landed {
        let mut inner = c.a.inner.borrow_mut();
        inner.canary_waiting_since = Some(began);
        inner.local.canary_waiting_ms = c.w.now(c.h).since(began);
        drop(inner);
        c.wake_work();
        return;
    }
    *under_way = None;
    if flight.ended.get() == Ended::Acknowledged {
        c.w.pause(50, 300).await;
        let mut inner = c.a.inner.borrow_mut();
        inner.canary_ok_at = Some(began);
        inner.canary_waiting_since = None;
        inner.local.canary_waiting_ms = 0;
        inner.records.push(Lsn(flight.lsn.get()));
        inner.written.note(Lsn(flight.lsn.get()));
        if inner.records.len() > RECORDS {
            inner.records.remove(0);
        }
        let from = if c.w.planted == Some(Planted::RightFromReceipt) { c.now() } else { began };
        inner.canaries.acknowledged(epoch, from, Lsn(flight.lsn.get()), c.w.now(c.h));
        drop(inner);
        c.w.cover.hit("canary", "acknowledged");
    } else {
        let mut inner = c.a.inner.borrow_mut();
        inner.canary_waiting_since = None;
        inner.local.canary_waiting_ms = 0;
        c.w.cover.hit("canary", "failed");
    }
}
