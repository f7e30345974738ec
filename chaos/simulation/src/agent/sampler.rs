//! Looks at PostgreSQL a few times a second and notices its end at once. After `agent/sampler.rs` of the program.

use super::{
    report::SYSTEM,
    shared::{Ctx, Inner},
};
use crate::postgres::server::Sample;
use pgvigil_core::{
    cluster::ClusterState,
    id::TimelineId,
    keeper::Renewal,
    local::{InForce, Local, LocalPostgres, Running},
    lsn::Lsn,
    report::Adoptable,
    rpo::{self, Cause},
    time::Time,
};

const LIMIT_MS: u64 = 1_500;

/// The task.
pub async fn run(c: Ctx) {
    loop {
        round(&c).await;
        let pause = c.agreed().map_or(200, |agreed| agreed.settings.heartbeat_ms * 4 / 5);
        let at = c.now().plus(pause);
        c.w.until_or_told(c.h, at, &c.a.look).await;
    }
}

async fn round(c: &Ctx) {
    let postmaster = c.a.inner.borrow().postmaster;
    let Some(pid) = postmaster else {
        let busy = c.a.inner.borrow().local.busy;
        if !busy {
            find(c);
        }
        return;
    };
    let began = c.now();
    let Some(sample) = c.sample(LIMIT_MS).await else { return };
    take(c, sample, began, pid);
    let slow = c.a.inner.borrow().slow;
    if !slow && c.query(LIMIT_MS).await.is_some() {
        c.a.inner.borrow_mut().slow = true;
        c.wake_look();
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
        stopped(c, clean)
    };
    let mut inner = c.a.inner.borrow_mut();
    if inner.postmaster.is_none() && inner.local.postgres != postgres && !inner.local.busy {
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

fn stopped(c: &Ctx, clean: bool) -> LocalPostgres {
    let inner = c.a.inner.borrow();
    match &inner.local.postgres {
        already @ LocalPostgres::Stopped { .. } => already.clone(),
        _ if inner.local.marker.is_none() => {
            LocalPostgres::Unusable { why: "a stopped PostgreSQL without pgvigil's mark".to_owned() }
        }
        _ => LocalPostgres::Stopped { crashed: !clean },
    }
}

/// A PostgreSQL that runs already: it is never restarted for our sake.
fn adopt(c: &Ctx) {
    let (signal, door) = {
        let disk = c.w.hosts[c.h].disk.borrow();
        disk.data.as_ref().map_or((false, false), |data| (data.signal, data.door))
    };
    // In a primary's directory the fence lies for the next start only; a server that starts has found it there.
    let primary = {
        let pg = c.w.hosts[c.h].pg.borrow();
        pg.ready && !pg.in_recovery
    };
    {
        let mut inner = c.a.inner.borrow_mut();
        inner.local.fence_on_disk = signal && !primary;
        if inner.local.marker.is_some() && inner.local.in_force.is_none() {
            let epoch = inner.local.promise.reigned;
            inner.local.in_force = Some(InForce { epoch, door_open: door, ..InForce::default() });
        }
    }
    c.w.log_host(c.h, || "found PostgreSQL running".to_owned());
    watch(c);
}

/// Keeps the server that runs now.
pub fn watch(c: &Ctx) {
    let pid = c.w.hosts[c.h].pg.borrow().pid;
    {
        let mut inner = c.a.inner.borrow_mut();
        inner.local.postgres = LocalPostgres::Starting;
        inner.stopping = false;
        inner.postmaster = Some(pid);
    }
    c.wake_look();
    // It may have ended already.
    c.a.exited.notify(&c.w.exec);
}

/// The task that notices a server's end.
pub async fn watch_exit(c: Ctx) {
    loop {
        c.w.told(&c.a.exited).await;
        c.w.pause(100, 2_000).await;
        let Some(pid) = c.a.inner.borrow().postmaster else { continue };
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

fn take(c: &Ctx, sample: Sample, began: Time, pid: u64) {
    let agreed = c.agreed();
    let mut guard = c.a.inner.borrow_mut();
    let inner = &mut *guard;
    if inner.postmaster != Some(pid) {
        return;
    }
    if inner.local.marker.is_none() {
        let changed = unmarked(inner, &sample);
        drop(guard);
        if changed {
            c.wake_work();
            c.wake_report();
        }
        return;
    }
    let before = match &inner.local.postgres {
        LocalPostgres::Running(running) => Some(running.clone()),
        _ => None,
    };
    let running = running(&sample, before.as_ref(), began);
    if sample.in_recovery {
        if inner.flush_seen.is_none_or(|(lsn, _)| lsn != running.flush_lsn) {
            inner.flush_seen = Some((running.flush_lsn, began));
        }
    } else if let Some(agreed) = &agreed
        && let Some(rule) = agreed.newest_rule()
    {
        let streams = |name: crate::postgres::data::Name| sample.senders.iter().any(|s| s.name == name);
        let count = rule.setting.cohort.iter().filter(|key| streams(c.w.name(key, rule.epoch))).count();
        inner.local.standbys_enough_since = match inner.local.standbys_enough_since {
            _ if rule.setting.k == 0 || count < rule.setting.k as usize => None,
            None => Some(began),
            since => since,
        };
    }
    let changed = before.as_ref().is_none_or(|b| {
        (b.in_recovery, b.timeline, b.streaming) != (running.in_recovery, running.timeline, running.streaming)
    });
    let senders_changed = !sample.in_recovery
        && inner
            .sample
            .as_ref()
            .is_none_or(|(old, _)| old.senders.iter().map(|s| s.name).ne(sample.senders.iter().map(|s| s.name)));
    if !running.in_recovery {
        inner.local.fence_on_disk = false;
    }
    inner.local.postgres = LocalPostgres::Running(running);
    let astray = check_names(inner, &sample);
    let epoch = inner.local.promise.reigned;
    let in_force = inner.local.in_force.as_ref().is_some_and(|f| f.epoch == epoch && f.version.is_some());
    let shows = in_force && inner.names_in_force.as_ref() == Some(&sample.names);
    // Found at the start beside a primary that runs: no agent looked until now.
    let written = c.w.hosts[c.h].disk.borrow().names_written.clone();
    let found = inner.names_in_force.is_none() && written.is_some_and(|written| written != sample.names);
    let primary = !sample.in_recovery;
    let unseen = inner.touched.replace(sample.touched).is_some_and(|before| before != sample.touched) && in_force;
    if primary && (astray || found || unseen) {
        inner.local.rule_doubt.raise();
    }
    let rule = shows && !inner.local.rule_doubt.is_open();
    let confirmed = agreed.as_deref().and_then(|agreed| confirmed(c, agreed, &inner.local, &sample));
    inner.sample = Some((sample, began));
    drop(guard);
    let stamp = c.w.wall().0;
    c.evidence(|ledger, now| match primary {
        true if astray || found => ledger.begins(epoch, Cause::RuleNotInForce, "changed by hand", now, stamp),
        true if unseen => ledger.begins(epoch, Cause::ReloadByOthers, "changed and loaded unseen", now, stamp),
        true => {
            let ended = rule && ledger.ends(Cause::ReloadByOthers, now);
            ledger.looked(epoch, rule, None, began, stamp) || ended
        }
        false => ledger.end_all(now),
    });
    let reign = agreed.as_deref().and_then(|agreed| agreed.reign());
    let taken = reign.is_some_and(|reign| rpo::name_taken(&reign.unproven));
    let canary = c.a.inner.borrow_mut().canaries.looked(shows && !taken, confirmed, began);
    if let Some((epoch, at)) = canary {
        c.renew(Renewal::Canary { epoch, began_at: at });
    }
    if changed || senders_changed {
        c.wake_work();
        c.wake_report();
    }
}

/// Up to where k standbys of the rule in force have WAL.
fn confirmed(c: &Ctx, agreed: &ClusterState, local: &Local, sample: &Sample) -> Option<Lsn> {
    let rule = local.rule_in_force(agreed)?;
    rule.setting.confirmed(|key| {
        let name = c.w.name(key, rule.epoch);
        sample.senders.iter().filter(|sender| sender.name == name).map(|sender| sender.flushed).min().flatten().map(Lsn)
    })
}

/// The setting in force, changed under our feet, is put back; `true` if it was.
fn check_names(inner: &mut Inner, sample: &Sample) -> bool {
    let Some(in_force) = inner.local.in_force.as_mut() else { return false };
    if sample.in_recovery || in_force.version.is_none() {
        return false;
    }
    let astray = inner.names_in_force.as_ref().is_some_and(|names| *names != sample.names);
    if astray {
        in_force.version = None;
        inner.local.proven = None;
    }
    astray
}

fn running(sample: &Sample, before: Option<&Running>, now: Time) -> Running {
    let flush = if sample.in_recovery { sample.receive.unwrap_or(0).max(sample.replay) } else { sample.flush };
    let flush_lsn = Lsn(flush);
    let moved = before.is_none_or(|b| b.flush_lsn != flush_lsn || b.in_recovery != sample.in_recovery);
    Running {
        in_recovery: sample.in_recovery,
        timeline: TimelineId(sample.timeline),
        flush_lsn,
        streaming: sample.streaming,
        wal_moved_at: if moved { now } else { before.map_or(now, |b| b.wal_moved_at) },
    }
}

/// A server that pgvigil did not set up.
fn unmarked(inner: &mut Inner, sample: &Sample) -> bool {
    if !inner.slow {
        return false;
    }
    let found = LocalPostgres::Adoptable(Adoptable {
        system_identifier: SYSTEM,
        in_recovery: sample.in_recovery,
        timeline: TimelineId(sample.timeline),
        major: 17,
    });
    let changed = inner.local.postgres != found;
    inner.local.postgres = found;
    changed
}
