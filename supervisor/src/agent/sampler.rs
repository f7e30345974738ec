//! The sampler: looks at PostgreSQL a few times a second, notices its end at once, and repairs drift of settings.

use super::{
    confirmed::confirmed,
    door, evidence, in_force, released,
    shared::{Inner, Shared},
    twin, unproven, way_in,
};
use crate::clock;
use pgvigil_consensus::grid;
use pgvigil_core::{
    id::TimelineId,
    keeper::Renewal,
    local::{InForce, LocalPostgres, Running},
    reign::ElectionKind,
    report::Adoptable,
    rpo,
    time::Time,
};
use pgvigil_postgres::{
    ClusterState, ControlFile, Endpoint, Link, Postmaster, Sample,
    datadir::{self, Content, PostmasterStatus},
    process::{LOG_BYTES, bound_log},
    rewind,
};
use std::{sync::Arc, time::Duration};
use tokio::{task::JoinHandle, time::Instant};

/// A sample's own limit. Its lateness is no verdict on PostgreSQL: the canary is.
pub(super) const LIMIT: Duration = Duration::from_millis(1_500);
/// Between two slow samples, in fast ones.
const SLOW_EVERY: u64 = 40;

/// Between two looks at the ways in, in samples: while the usual one works, and while it does not.
const LOOK_EVERY: (u64, u64) = (SLOW_EVERY, 5);

/// Between two samples while a primary drains, in milliseconds.
const DRAINING_MS: u64 = 5;

/// Between two attempts while PostgreSQL refuses every session, in milliseconds.
const SHUT_OUT_MS: u64 = 500;

/// Starts the sampler.
pub fn start(shared: Arc<Shared>) {
    tokio::spawn(async move {
        let mut link: Option<(i32, Link)> = None;
        let mut looking: Option<JoinHandle<()>> = None;
        let mut count = 0_u64;
        let mut role = super::role::Keeper::default();
        loop {
            round(&shared, &mut link, count).await;
            role.round(&shared);
            count += 1;
            let (rarely, often) = LOOK_EVERY;
            let every = if shared.lock().endpoint.ways.barred().is_some() { often } else { rarely };
            if shared.lock().sample.is_some()
                && count % every == 1
                && looking.as_ref().is_none_or(JoinHandle::is_finished)
            {
                looking = Some(tokio::spawn(way_in::look(Arc::clone(&shared))));
            }
            let pause = Duration::from_millis(pause(&shared));
            tokio::select! {
                () = tokio::time::sleep_until(grid::nearest(Instant::now() + pause, pause)) => {}
                () = shared.look.notified() => {}
            }
        }
    });
}

/// Milliseconds to the next look: short while a standby waits for the last WAL of a primary that stops, since writes
/// stand still meanwhile.
fn pause(shared: &Shared) -> u64 {
    let Some(agreed) = shared.agreed() else { return 200 };
    let planned = agreed.election.as_ref().is_some_and(|e| matches!(e.kind, ElectionKind::Switchover { .. }));
    let inner = shared.lock();
    if inner.local.unasked_since.is_some() {
        // Each refusal is a line in its log.
        return SHUT_OUT_MS;
    }
    let receives = matches!(&inner.local.postgres, LocalPostgres::Running(running) if running.streaming);
    if planned && receives { DRAINING_MS } else { agreed.settings.heartbeat_ms * 4 / 5 }
}

async fn round(shared: &Arc<Shared>, link: &mut Option<(i32, Link)>, count: u64) {
    let postmaster = shared.lock().postmaster.clone();
    let Some(postmaster) = postmaster else {
        *link = None;
        let busy = shared.lock().local.busy;
        if !busy {
            if let Err(why) = end_recovery(shared).await {
                shared.problem("recovery", Some(why));
                return;
            }
            shared.problem("recovery", None);
            find(shared);
        }
        return;
    };
    let pid = postmaster.pid();
    let endpoint = shared.lock().endpoint.clone();
    if link.as_ref().is_none_or(|(of, link)| *of != pid || link.is_closed() || !endpoint.keeps(link)) {
        *link = None;
        match Link::connect(&endpoint, "pgvigil sampler", "", LIMIT).await {
            Ok(fresh) => *link = Some((pid, fresh)),
            Err(error) if error.is_starting() => {
                shared.lock().local.starting_since.get_or_insert_with(clock::now);
                return;
            }
            Err(error) => {
                twin::look_at_receiver(shared, None);
                way_in::shut_out(shared, &error);
                if error.is_refusal() {
                    evidence::look(shared, postmaster).await;
                }
                return;
            }
        }
    }
    let Some((_, open)) = link.as_ref() else { return };
    let began = clock::now();
    match open.sample(LIMIT).await {
        Ok(sample) => {
            if endpoint.ways.barred().is_none() {
                shared.problem("connect", None);
            }
            let held = sample.in_recovery && sample.replay_paused;
            twin::look_at_receiver(shared, Some(&sample));
            shared.problem("copied standby", copies(shared, &sample));
            take(shared, sample, began, pid);
            if held {
                undercut(shared, open).await;
            }
            in_force::settle(shared, open).await;
            released::look(shared, open).await;
        }
        Err(error) => {
            *link = None;
            twin::look_at_receiver(shared, None);
            tracing::debug!(member = %shared.me(), "no sample: {error}");
            return;
        }
    }
    if count.is_multiple_of(SLOW_EVERY) || shared.lock().slow.is_none() {
        if let Some((_, open)) = link.as_ref()
            && let Ok(slow) = open.slow_sample(LIMIT).await
        {
            let lost: Vec<_> = slow
                .slots
                .iter()
                .filter(|slot| matches!(slot.wal_status.as_deref(), Some("lost" | "unreserved")))
                .map(|slot| format!("{} ({})", slot.name, slot.wal_status.clone().unwrap_or_default()))
                .collect();
            let own = slow.checkpoint_timeline;
            shared.lock().slow = Some(slow);
            super::execute::seal::look_at_timelines(shared, own).await;
            let text = format!("replication slots that lost WAL or are about to: {}", lost.join(", "));
            shared.problem("slots", (!lost.is_empty()).then_some(text));
        }
        let newest = shared.lock().sample.as_ref().map(|(sample, _)| sample.clone());
        if let (Some((_, open)), Some(sample)) = (link.as_ref(), newest) {
            in_force::files(shared, open, &sample).await;
        }
        let log = shared.layout.log_file();
        // A server that runs for a year, or one that complains twenty times a second, must not fill the disk.
        let bounded = tokio::task::spawn_blocking(move || bound_log(&log, LOG_BYTES)).await;
        let failed = bounded.ok().and_then(Result::err);
        shared.problem("log", failed.map(|error| format!("PostgreSQL's log cannot be kept small: {error}")));
    }
    if shared.lock().problems.contains_key("files") {
        // A session reads the files anew by itself, and keeps what it had where it cannot: what is in force for clients only
        // a new one shows. Keeps S1.
        *link = None;
    }
}

fn copies(shared: &Shared, sample: &Sample) -> Option<String> {
    let agreed = shared.agreed()?;
    let epoch = shared.lock().local.promise.reigned;
    twin::copies(&agreed, epoch, sample).filter(|_| !sample.in_recovery)
}

/// Replay stands still: because somebody paused it, or because the primary was restarted with larger settings than this
/// standby runs with (an adopted one, or one whose configuration was changed before its restart).
async fn undercut(shared: &Arc<Shared>, link: &Link) {
    let (binaries, dir) = (shared.binaries.clone(), shared.layout.data_dir.clone());
    let Ok(Ok(control)) = tokio::task::spawn_blocking(move || ControlFile::read(&binaries, &dir)).await else { return };
    for (name, floor) in control.floors.by_name() {
        let Ok(runs_with) = link.setting(name, LIMIT).await else { return };
        if runs_with.parse::<u32>().is_ok_and(|value| value < floor) {
            let why = format!("its replay stands still: it runs with {name} = {runs_with}, its primary with {floor}");
            let fresh = shared.lock().local.restart_due.replace(why.clone()).is_none();
            if fresh {
                tracing::warn!(member = %shared.me(), "{why}; it is restarted");
                shared.work.notify_one();
            }
            return;
        }
    }
}

/// A server that an agent before this one started to finish recovery before a rewind is no server to adopt: it is ended,
/// and the rewind begins anew.
async fn end_recovery(shared: &Arc<Shared>) -> Result<(), String> {
    let instance = super::execute::instance(shared);
    if !rewind::is_recovery(&instance.layout) || !matches!(instance.adopt(), Ok(Some(_))) {
        return Ok(());
    }
    tracing::info!(member = %shared.me(), "ending the recovery that a rewind had begun before pgvigil was restarted");
    let ended = instance.fence().await;
    ended.map(drop).map_err(|error| format!("the recovery before a rewind cannot be ended: {error}"))
}

/// Nothing is known to run: what is in the data directory, and does something run in it?
fn find(shared: &Arc<Shared>) {
    let dir = &shared.layout.data_dir;
    let half_made = shared.lock().local.directory.half_made.is_some();
    let postgres = match datadir::content(dir) {
        // No file in it tells anything; only whether something runs there counts.
        _ if half_made => match Postmaster::adopt(dir) {
            Ok(Some(postmaster)) => {
                adopt(shared, postmaster);
                return;
            }
            _ => LocalPostgres::Stopped { crashed: true },
        },
        Err(error) => LocalPostgres::Unusable { why: error.to_string() },
        Ok(Content::Empty) => LocalPostgres::NoData,
        Ok(Content::Foreign) => LocalPostgres::Unusable {
            why: format!(
                "{} holds files, but no PostgreSQL data; move them away or name another directory",
                dir.display()
            ),
        },
        Ok(Content::Cluster { major }) => {
            if major != shared.binaries.version().major {
                let why = format!(
                    "{} is of PostgreSQL {major}, the programs are of {}; set member.bin_dir to PostgreSQL {major}",
                    dir.display(),
                    shared.binaries.version()
                );
                LocalPostgres::Unusable { why }
            } else {
                match Postmaster::adopt(dir) {
                    Ok(Some(postmaster)) => {
                        adopt(shared, postmaster);
                        return;
                    }
                    Ok(None) => stopped(shared),
                    Err(error) => LocalPostgres::Unusable { why: error.to_string() },
                }
            }
        }
    };
    let mut inner = shared.lock();
    if inner.postmaster.is_none() && inner.local.postgres != postgres && !inner.local.busy {
        inner.local.postgres = postgres;
        if inner.local.marker.is_none() && !half_made {
            inner.local.marker = super::marker::read(dir).ok().flatten();
        }
        drop(inner);
        shared.work.notify_one();
        shared.report.notify_one();
    }
}

fn stopped(shared: &Shared) -> LocalPostgres {
    let inner = shared.lock();
    match &inner.local.postgres {
        _ if inner.local.marker.is_none() => LocalPostgres::Unusable {
            why: "a stopped PostgreSQL without pgvigil's mark: start it to have it adopted, or move its data directory away"
                .to_owned(),
        },
        already @ LocalPostgres::Stopped { .. } => already.clone(),
        _ => {
            // Found stopped by an agent that has just started: how it ended is read from its control file.
            let clean = ControlFile::read(&shared.binaries, &shared.layout.data_dir).is_ok_and(|c| c.state.is_clean());
            LocalPostgres::Stopped { crashed: !clean }
        }
    }
}

/// A PostgreSQL that runs already: it is never restarted for our sake.
fn adopt(shared: &Arc<Shared>, postmaster: Postmaster) {
    let file = datadir::PidFile::read(&shared.layout.data_dir).ok().flatten();
    // A hot standby is as "ready" in its pid file as a primary: only the control file tells them apart.
    let control = ControlFile::read(&shared.binaries, &shared.layout.data_dir);
    let recovers = control.is_ok_and(|control| control.state == ClusterState::InArchiveRecovery);
    // The door as this agent left it: restarting pgvigil closes it to nobody.
    let door_open = door::may_be_open(&shared.layout.agent_dir);
    let mut inner = shared.lock();
    // What it is, the first sample tells. The fence on disk says what it is only of a server that has not become a primary
    // since: there it lies for the next start.
    let status = file.as_ref().and_then(|file| file.status);
    let standby = recovers || matches!(status, Some(PostmasterStatus::Starting | PostmasterStatus::Standby));
    inner.local.fence_on_disk = standby && shared.layout.standby_signal().exists();
    if let Some((port, socket_dir)) = file.and_then(|file| file.port.zip(file.socket_dir)) {
        inner.endpoint = Endpoint { socket_dir, port, ..inner.endpoint.clone() };
    }
    if inner.local.marker.is_some() && inner.local.in_force.is_none() {
        let epoch = inner.local.promise.reigned;
        inner.local.in_force = Some(InForce { epoch, version: None, door_open, ..InForce::default() });
    }
    drop(inner);
    tracing::info!(member = %shared.me(), pid = postmaster.pid(), "found PostgreSQL running");
    watch(shared, postmaster);
}

/// Keeps `postmaster` and notices its end at once.
pub fn watch(shared: &Arc<Shared>, postmaster: Postmaster) {
    let postmaster = Arc::new(postmaster);
    {
        let mut inner = shared.lock();
        inner.local.postgres = LocalPostgres::Starting;
        inner.local.starting_since = None;
        inner.stopping = false;
        inner.postmaster = Some(Arc::clone(&postmaster));
    }
    shared.look.notify_one();
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let exit = postmaster.exited().await;
        let ours = shared.lock().postmaster.as_ref().is_some_and(|p| p.pid() == postmaster.pid());
        if !ours {
            return;
        }
        let crashed = !shared.lock().stopping;
        if crashed {
            tracing::warn!(member = %shared.me(), pid = postmaster.pid(), ?exit, "PostgreSQL has ended");
        }
        shared.forget_running(crashed);
        shared.work.notify_one();
        shared.report.notify_one();
    });
}

fn take(shared: &Arc<Shared>, sample: Sample, began: Time, pid: i32) {
    let mut guard = shared.lock();
    let inner = &mut *guard;
    if inner.postmaster.as_ref().is_none_or(|postmaster| postmaster.pid() != pid) {
        return;
    }
    if inner.local.marker.is_none() {
        unmarked(shared, inner, &sample);
        return;
    }
    let before = match &inner.local.postgres {
        LocalPostgres::Running(running) => Some(running.clone()),
        _ => None,
    };
    inner.local.unasked_since = None;
    let running = running(&sample, before.as_ref(), began);
    if sample.in_recovery {
        // What a primary complained of is over when it is one no more.
        inner.problems.remove("canary");
        if inner.flush_seen.is_none_or(|(lsn, _)| lsn != running.flush_lsn) {
            // Its answer's time, not its beginning: what came in between may belong to a canary that began in between,
            // and the successor's door must outwait that one too (found by the model, `quiet-from-beginning`). Keeps S3.
            inner.flush_seen = Some((running.flush_lsn, clock::now()));
        }
    } else if let Some(agreed) = shared.agreed.borrow().as_ref()
        && let Some(rule) = agreed.newest_rule()
    {
        let streaming = |name: &String| {
            sample.walsenders.iter().any(|s| s.application_name == *name && s.state.as_deref() == Some("streaming"))
        };
        let names = rule.setting.cohort.iter().map(|key| agreed.sync_name(key, rule.epoch));
        let count = names.filter(streaming).count();
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
        && inner.sample.as_ref().is_none_or(|(old, _)| {
            old.walsenders
                .iter()
                .map(|s| (&s.application_name, &s.state))
                .ne(sample.walsenders.iter().map(|s| (&s.application_name, &s.state)))
        });
    if !running.in_recovery {
        // A primary that ends is fenced anew: its processes must be seen gone, whatever lies on disk.
        inner.local.fence_on_disk = false;
    }
    inner.local.postgres = LocalPostgres::Running(running);
    let evidence = in_force::look(shared, inner, &sample, began) | unproven::look(inner, &sample, began);
    inner.replies.note(&sample.walsenders, began);
    let agreed = shared.agreed();
    let confirmed = agreed.as_deref().and_then(|agreed| confirmed(agreed, &inner.local, &sample.walsenders));
    let taken =
        agreed.as_deref().and_then(|agreed| agreed.reign()).is_some_and(|reign| rpo::name_taken(&reign.unproven));
    let canary = inner.canaries.looked(unproven::shows_rule(inner, &sample) && !taken, confirmed, began);
    inner.sample = Some((sample, began));
    drop(guard);
    if evidence {
        shared.evidence_changed();
    }
    if let (Some((epoch, began_at)), Some(renewals)) = (canary, shared.renewals.get()) {
        renewals.send(Renewal::Canary { epoch, began_at }).ok();
    }
    if changed || senders_changed {
        shared.work.notify_one();
        shared.report.notify_one();
    }
}

fn running(sample: &Sample, before: Option<&Running>, now: Time) -> Running {
    let flush = if sample.in_recovery {
        // The walreceiver's position is forgotten by a restart; what was replayed was received.
        sample.receive_lsn.max(sample.replay_lsn)
    } else {
        sample.flush_lsn
    };
    let flush_lsn = flush.unwrap_or_default();
    let moved = before.is_none_or(|b| b.flush_lsn != flush_lsn || b.in_recovery != sample.in_recovery);
    let streaming = sample.receiver.as_ref().is_some_and(|r| r.status == "streaming");
    let timeline = sample.timeline.or_else(|| sample.receiver.as_ref().and_then(|r| r.timeline));
    Running {
        in_recovery: sample.in_recovery,
        timeline: timeline.or_else(|| before.map(|b| b.timeline)).unwrap_or(TimelineId(0)),
        flush_lsn,
        streaming,
        wal_moved_at: if moved { now } else { before.map_or(now, |b| b.wal_moved_at) },
    }
}

/// A server that pgvigil did not set up.
fn unmarked(shared: &Arc<Shared>, inner: &mut Inner, sample: &Sample) {
    let Some(slow) = &inner.slow else { return };
    let found = LocalPostgres::Adoptable(Adoptable {
        system_identifier: slow.system_identifier,
        in_recovery: sample.in_recovery,
        timeline: sample.timeline.unwrap_or(slow.checkpoint_timeline),
        major: u32::from(shared.binaries.version().major),
    });
    if inner.local.postgres != found {
        inner.local.postgres = found;
        shared.work.notify_one();
        shared.report.notify_one();
    }
}
