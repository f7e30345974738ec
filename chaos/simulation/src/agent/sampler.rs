//! Looks at PostgreSQL a few times a second and notices its end at once. After `agent/sampler.rs` of the program.

use super::shared::Ctx;
use crate::planted::Planted;
use pgvigil_agent::{
    acts,
    in_force::{self, Look},
    sampler::{self, Taken},
};
use pgvigil_core::{id::TimelineId, keeper::Renewal, local::LocalPostgres, sample::Sample, time::Time};

const LIMIT_MS: u64 = 1_500;
/// Between two slow samples, in fast ones.
const SLOW_EVERY: u64 = 40;

/// The task.
pub async fn run(c: Ctx) {
    let mut count = 0;
    loop {
        round(&c, count).await;
        count += 1;
        let pause = c.agreed().map_or(200, |agreed| agreed.settings.heartbeat_ms * 4 / 5);
        let at = c.now().plus(pause);
        c.w.until_or_told(c.h, at, &c.a.look).await;
    }
}

async fn round(c: &Ctx, count: u64) {
    let postmaster = c.a.inner.borrow().server;
    let Some(pid) = postmaster else {
        let busy = c.a.inner.borrow().local.busy;
        if !busy {
            find(c);
        }
        return;
    };
    let began = c.now();
    let Some(sample) = c.sample(LIMIT_MS).await else { return };
    take(c, &sample, began, pid);
    let unknown = c.a.inner.borrow().slow.is_none();
    if (unknown || count.is_multiple_of(SLOW_EVERY)) && c.query(LIMIT_MS).await.is_some() {
        c.a.inner.borrow_mut().slow = c.w.slow_sample(c.h);
        let own = TimelineId(c.w.own_timeline(c.h));
        acts::look_at_timelines(c, own).await;
    }
}

/// Nothing is known to run: what is in the data directory, and does something run in it?
fn find(c: &Ctx) {
    let (data, clean) = {
        let disk = c.w.hosts[c.h].disk.borrow();
        (disk.data.is_some(), disk.data.as_ref().is_some_and(|data| data.clean))
    };
    let postgres = if !data {
        LocalPostgres::NoData
    } else if c.w.server_runs(c.h) {
        adopt(c);
        return;
    } else {
        sampler::stopped(&c.a.inner.borrow(), || clean)
    };
    let mut inner = c.a.inner.borrow_mut();
    if inner.server.is_none() && inner.local.postgres != postgres && !inner.local.busy {
        inner.local.postgres = postgres;
        if inner.local.marker.is_none() {
            let disk = c.w.hosts[c.h].disk.borrow();
            inner.local.marker = disk.data.as_ref().and_then(|data| data.marker.clone());
        }
        drop(inner);
        c.wake_work();
        c.wake_report();
    }
}

/// A PostgreSQL that runs already: it is never restarted for our sake.
fn adopt(c: &Ctx) {
    let (signal, door) = {
        let disk = c.w.hosts[c.h].disk.borrow();
        (disk.data.as_ref().is_some_and(|data| data.signal), disk.door_noted != Some(false))
    };
    // In a primary's directory the fence lies for the next start only; a server that starts has found it there.
    let primary = {
        let pg = c.w.hosts[c.h].pg.borrow();
        pg.ready && !pg.in_recovery
    };
    let pid = c.w.hosts[c.h].pg.borrow().pid;
    sampler::adopt(&mut c.a.inner.borrow_mut(), pid, signal && !primary, door);
    c.w.log_host(c.h, || "found PostgreSQL running".to_owned());
    watch(c);
}

/// Keeps the server that runs now.
pub fn watch(c: &Ctx) {
    let pid = c.w.hosts[c.h].pg.borrow().pid;
    c.a.inner.borrow_mut().found_running(pid);
    c.wake_look();
    // It may have ended already.
    c.a.exited.notify(&c.w.exec);
}

/// The task that notices a server's end.
pub async fn watch_exit(c: Ctx) {
    loop {
        c.w.told(&c.a.exited).await;
        c.w.pause(100, 2_000).await;
        let Some(pid) = c.a.inner.borrow().server else { continue };
        if c.w.server_runs(c.h) && c.w.hosts[c.h].pg.borrow().pid == pid {
            continue;
        }
        let crashed = !c.a.inner.borrow().stopping;
        if crashed {
            c.w.log_host(c.h, || "PostgreSQL has ended".to_owned());
        }
        c.forget_running(crashed);
        c.wake_work();
        c.wake_report();
    }
}

fn take(c: &Ctx, sample: &Sample, began: Time, pid: u64) {
    let agreed = c.agreed();
    let (touched, written) = {
        let disk = c.w.hosts[c.h].disk.borrow();
        let names = disk.names_written.as_ref().map(|names| names.value.as_ref().to_owned());
        (disk.data.as_ref().map(|data| (0, 0, i64::from(data.conf.touched), 0)), names)
    };
    let answered = if c.w.planted == Some(Planted::QuietFromBeginning) { began } else { c.now() };
    let (now, files, written) = ((answered, c.w.wall()), [touched], || written.clone());
    let look = Look { sample, began, now, agreed: agreed.as_deref(), files: &files, written: &written };
    let mut taken = Taken::default();
    c.evidence(|known, _| {
        taken = sampler::take(known, look, pid, 17);
        taken.evidence
    });
    if let Some((epoch, at)) = taken.canary {
        c.renew(Renewal::Canary { epoch, began_at: at });
    }
    if taken.changed {
        c.wake_work();
        c.wake_report();
    }
    settle(c, sample.in_recovery);
}

/// What is astray on a primary is put back.
fn settle(c: &Ctx, in_recovery: bool) {
    let mut known = c.a.inner.borrow_mut();
    let at = known.drifted.at;
    if !in_recovery && !known.drifted.names.is_empty() && in_force::put_in_doubt(&mut known, at) {
        drop(known);
        c.wake_work();
    }
}
