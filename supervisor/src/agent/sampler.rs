//! The sampler: looks at PostgreSQL a few times a second, notices its end at once, and repairs drift of settings.

use super::{door, evidence, here::Here, in_force, released, shared::Shared, twin, way_in};
use crate::clock;
use pgvigil_agent::{acts, in_force::Look, known::ServerId, sampler, twin::copies as copies_of};
use pgvigil_consensus::grid;
use pgvigil_core::{keeper::Renewal, local::LocalPostgres, reign::ElectionKind, time::Time};
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
        let mut link: Option<(i32, Arc<Link>)> = None;
        let mut looking: Option<JoinHandle<()>> = None;
        let mut count = 0_u64;
        let mut role = super::role::Keeper::default();
        loop {
            round(&shared, &mut link, count).await;
            role.round(&shared);
            count += 1;
            let (rarely, often) = LOOK_EVERY;
            let every = if shared.server().endpoint.ways.barred().is_some() { often } else { rarely };
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

async fn round(shared: &Arc<Shared>, link: &mut Option<(i32, Arc<Link>)>, count: u64) {
    let postmaster = shared.server().postmaster.clone();
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
    let endpoint = shared.server().endpoint.clone();
    if link.as_ref().is_none_or(|(of, link)| *of != pid || link.is_closed() || !endpoint.keeps(link)) {
        *link = None;
        match Link::connect(&endpoint, "pgvigil sampler", "", LIMIT).await {
            Ok(fresh) => {
                let fresh = Arc::new(fresh);
                shared.server().warm_link = Arc::downgrade(&fresh);
                *link = Some((pid, fresh));
            }
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
            take(shared, &sample, began, id(&postmaster));
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
        let slow = match link.as_ref() {
            Some((_, open)) => open.slow_sample(LIMIT).await.ok(),
            None => None,
        };
        if slow.is_none() {
            // What was asked of it may still be under way.
            *link = None;
        }
        if let Some(slow) = slow {
            let lost: Vec<_> = slow
                .slots
                .iter()
                .filter(|slot| matches!(slot.wal_status.as_deref(), Some("lost" | "unreserved")))
                .map(|slot| format!("{} ({})", slot.name, slot.wal_status.clone().unwrap_or_default()))
                .collect();
            let own = slow.checkpoint_timeline;
            shared.lock().slow = Some(slow);
            acts::look_at_timelines(&Here(Arc::clone(shared)), own).await;
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
    copies_of(&agreed, epoch, sample).filter(|_| !sample.in_recovery)
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
    let instance = super::directory::instance(shared);
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
                    Ok(None) => sampler::stopped(&shared.lock(), || {
                        ControlFile::read(&shared.binaries, dir).is_ok_and(|c| c.state.is_clean())
                    }),
                    Err(error) => LocalPostgres::Unusable { why: error.to_string() },
                }
            }
        }
    };
    let mut inner = shared.lock();
    if inner.server.is_none() && inner.local.postgres != postgres && !inner.local.busy {
        inner.local.postgres = postgres;
        if inner.local.marker.is_none() && !half_made {
            inner.local.marker = super::marker::read(dir).ok().flatten();
        }
        drop(inner);
        shared.work.notify_one();
        shared.report.notify_one();
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
    // What it is, the first sample tells. The fence on disk says what it is only of a server that has not become a primary
    // since: there it lies for the next start.
    let status = file.as_ref().and_then(|file| file.status);
    let standby = recovers || matches!(status, Some(PostmasterStatus::Starting | PostmasterStatus::Standby));
    let fenced = standby && shared.layout.standby_signal().exists();
    if let Some((port, socket_dir)) = file.and_then(|file| file.port.zip(file.socket_dir)) {
        let mut server = shared.server();
        server.endpoint = Endpoint { socket_dir, port, ..server.endpoint.clone() };
    }
    sampler::adopt(&mut shared.lock(), id(&postmaster), fenced, door_open);
    tracing::info!(member = %shared.me(), pid = postmaster.pid(), "found PostgreSQL running");
    watch(shared, postmaster);
}

/// How it is known to what is pure.
pub(super) fn id(postmaster: &Postmaster) -> ServerId {
    ServerId::try_from(postmaster.pid()).unwrap_or_default()
}

/// Keeps `postmaster` and notices its end at once.
pub fn watch(shared: &Arc<Shared>, postmaster: Postmaster) {
    let postmaster = Arc::new(postmaster);
    {
        let mut known = shared.lock();
        shared.server().postmaster = Some(Arc::clone(&postmaster));
        known.found_running(id(&postmaster));
    }
    shared.look.notify_one();
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        let exit = postmaster.exited().await;
        let Some(crashed) = shared.has_ended(id(&postmaster)) else { return };
        if crashed {
            tracing::warn!(member = %shared.me(), pid = postmaster.pid(), ?exit, "PostgreSQL has ended");
        }
        shared.work.notify_one();
        shared.report.notify_one();
    });
}

fn take(shared: &Arc<Shared>, sample: &Sample, began: Time, server: ServerId) {
    let (agreed, major) = (shared.agreed(), u32::from(shared.binaries.version().major));
    let taken = {
        let mut inner = shared.lock();
        let now = (clock::now(), clock::wall());
        let written = || shared.unproven_file.rule();
        // Looked at only now: an act that changes them forgets what it saw before.
        let files = in_force::stamps(&shared.layout, sample);
        let look = Look { sample, began, now, agreed: agreed.as_deref(), files: &files, written: &written };
        sampler::take(&mut inner, look, server, major)
    };
    if taken.evidence {
        shared.evidence_changed();
    }
    if let (Some((epoch, began_at)), Some(renewals)) = (taken.canary, shared.renewals.get()) {
        renewals.send(Renewal::Canary { epoch, began_at }).ok();
    }
    if taken.changed {
        shared.work.notify_one();
        shared.report.notify_one();
    }
}
