//! Renders what the agent knows into a report. Ages are made here, on this host's clock, at the moment of sending.

use crate::known::Known;
use pgvigil_core::{
    cluster::ClusterState,
    id::{ClusterId, Epoch, MemberKey},
    lineage,
    local::{Local, LocalPostgres, Running},
    member::{Member, MemberSpec},
    position::Position,
    reign::{ElectionKind, Reign, Seal, SealKind},
    report::{
        CanaryReport, PostgresReport, PrimaryReport, Report, SealReport, SenderReport, StandbyReport, TimelinesReport,
    },
    sample::{Sample, Walsender},
    time::Time,
};

/// The report of this moment; `None` until PostgreSQL was looked at once, and while a fence does not get done.
pub fn make(
    inner: &mut Known,
    cluster: &ClusterId,
    spec: &MemberSpec,
    agreed: Option<&ClusterState>,
    seq: u64,
    now: Time,
) -> Option<Report> {
    if matches!(inner.local.postgres, LocalPostgres::Unknown) || inner.fence_due.is_some_and(|due| due <= now) {
        return None;
    }
    let starved_ms = std::mem::take(&mut inner.starved_ms);
    let inner = &*inner;
    Some(Report {
        cluster: cluster.clone(),
        spec: spec.clone(),
        seq,
        incarnation: inner.local.marker.as_ref().filter(|m| m.member == inner.local.me).map(|m| m.incarnation),
        revision: agreed.map(|a| a.revision).unwrap_or_default(),
        promised: inner.local.promise.epoch,
        postgres: postgres(agreed, inner, now),
        seal: agreed.and_then(|agreed| seal(agreed, inner, now)),
        fenced: fenced(agreed, &inner.local),
        starved_ms,
        guard_armed: inner.guarded.would_kill_in_time(),
        probe: inner.probe.as_ref().map(|(probe, at)| {
            let mut probe = probe.clone();
            probe.age_ms = now.since(*at);
            probe
        }),
        disk_full: inner.disk_full,
        activity: inner.activity.clone(),
        problems: problems(inner, now),
        needs_new_incarnation: inner.needs_new_incarnation.clone(),
        was_member: inner.was_member,
        restarted: inner.local.promise.restarted,
        discarded_wal: inner.discarded.clone(),
        unproven: inner.unproven.reports(agreed, now),
        echo: inner.leader.clock.map(|(clock, at)| (clock, now.since(at))),
        shown_to_leader: inner.leader.shown.map(|(epoch, at)| (epoch, now.since(at))),
        timelines: TimelinesReport {
            newest: inner.newest_timeline,
            by_hand: agreed.and_then(|a| lineage::by_hand(a, &inner.local, inner.own_end_at)),
        },
    })
}

/// What went wrong and is not known to be over. An act that fails is told from its first failure until it is done.
fn problems(inner: &Known, now: Time) -> Vec<String> {
    let failing = inner.worker.brake.failing().map(|held| format!("{}: {}", held.what.name(), held.in_words(now)));
    inner.problems.values().cloned().chain(failing).collect()
}

/// The newest epoch as whose primary nothing serves here, nor ever will: the fence is on disk, and an epoch older than the
/// promise is obeyed no more. A member that was re-appointed and died before it could carry on never reigned in that epoch;
/// what it promised since speaks for it.
fn fenced(agreed: Option<&ClusterState>, local: &Local) -> Option<Epoch> {
    let promised = local.promise.epoch;
    // The epoch for which it sealed may still become its own.
    let of_another =
        agreed.is_some_and(|agreed| agreed.reigns.iter().any(|r| r.epoch == promised && r.primary.member != local.me));
    let obeyed = if of_another { promised } else { Epoch(promised.0.saturating_sub(1)) };
    let gone = local.promise.reigned.max(obeyed);
    match &local.postgres {
        LocalPostgres::NoData => {
            let founding = agreed.is_some_and(|agreed| agreed.reigns.len() == 1 && agreed.reign_in_force().is_some());
            if founding { Some(local.promise.reigned) } else { agreed.map(|agreed| agreed.epoch) }
        }
        LocalPostgres::Stopped { .. } if local.fence_on_disk => Some(gone),
        LocalPostgres::Running(running) if running.in_recovery => {
            // Running as a standby: whatever it reigned before ended with that start. An appointee on its way has not
            // begun its own reign, unless its promotion is under way.
            let mine = |r: &&Reign| r.epoch == local.promise.reigned && r.primary.member == local.me;
            let promoting = agreed.and_then(ClusterState::reign).filter(mine).is_some();
            (!promoting).then_some(gone)
        }
        _ => None,
    }
}

fn postgres(agreed: Option<&ClusterState>, inner: &Known, now: Time) -> PostgresReport {
    match &inner.local.postgres {
        LocalPostgres::Unknown | LocalPostgres::Starting => PostgresReport::Starting,
        LocalPostgres::NoData => PostgresReport::NoData,
        LocalPostgres::Unusable { why } => PostgresReport::Unusable { why: why.clone() },
        LocalPostgres::Adoptable(found) => PostgresReport::Adoptable(found.clone()),
        LocalPostgres::Stopped { crashed } => PostgresReport::Stopped { crashed: *crashed },
        LocalPostgres::Running(running) if running.in_recovery => standby(inner, running, now),
        LocalPostgres::Running(running) => primary(agreed, inner, running, now),
    }
}

fn standby(inner: &Known, running: &Running, now: Time) -> PostgresReport {
    let sample = inner.sample.as_ref().map(|(sample, _)| sample);
    PostgresReport::Standby(StandbyReport {
        timeline: running.timeline,
        following: inner.local.in_force.as_ref().filter(|f| f.upstream.is_some()).map(|f| f.epoch),
        flush_lsn: running.flush_lsn,
        replay_lsn: sample.and_then(|s| s.replay_lsn).unwrap_or_default(),
        streaming: running.streaming,
        wal_age_ms: now.since(running.wal_moved_at),
        replay_held: sample.is_some_and(|s| s.replay_paused),
        receiver: inner.receiver.clone(),
    })
}

fn primary(agreed: Option<&ClusterState>, inner: &Known, running: &Running, now: Time) -> PostgresReport {
    let epoch = inner.local.promise.reigned;
    let sample = inner.sample.as_ref().map(|(sample, _)| sample);
    let standbys = agreed.map(|agreed| senders(agreed, epoch, inner, now)).unwrap_or_default();
    let settings = agreed.map(|agreed| agreed.settings.clone()).unwrap_or_default();
    PostgresReport::Primary(Box::new(PrimaryReport {
        epoch,
        timeline: running.timeline,
        flush_lsn: running.flush_lsn,
        // Told together with the identifier that belongs to it.
        promotion: inner.slow.as_ref().and(inner.local.promise.promotion),
        system_identifier: inner.slow.as_ref().map(|slow| slow.system_identifier).unwrap_or_default(),
        door_open: inner.local.in_force.as_ref().is_some_and(|f| f.door_open),
        checkpoint_age_ms: inner.local.checkpointed_at.map(|at| now.since(at)),
        setting_in_force: inner.local.in_force.as_ref().and_then(|f| f.version),
        proof: inner.proof.clone(),
        canary: CanaryReport {
            ok_age_ms: inner.canary_ok_at.map(|at| now.since(at)),
            confirmed_age_ms: inner.canaries.confirmed_at().map(|at| now.since(at)),
            waiting_ms: inner.canary_waiting_since.map_or(0, |at| now.since(at)),
            took_us: inner.canary_took_us,
        },
        standbys,
        weakened: sample.map(weakened).unwrap_or_default(),
        right_ms: inner.local.right.left(&settings, now),
        shown_ago_ms: inner.unproven.shown_ago(now),
        unasked_ms: inner.local.unasked_since.map(|since| now.since(since)),
        written_by_others: inner.written.by_others(),
    }))
}

/// The walsenders of this epoch's names: a connection under any other name counts for nothing. Of several under one name
/// the least is said: any of them may be a copy's.
#[must_use]
pub fn senders(agreed: &ClusterState, epoch: Epoch, inner: &Known, now: Time) -> Vec<SenderReport> {
    let Some((sample, began)) = &inner.sample else { return Vec::new() };
    let of = |member: &Member| {
        let key = member.key();
        let name = agreed.sync_name(&key, epoch);
        let rows: Vec<_> =
            sample.walsenders.iter().filter(|s| s.application_name.eq_ignore_ascii_case(&name)).collect();
        let flush_lsn = rows.iter().map(|row| row.flush_lsn.unwrap_or_default()).min()?;
        let all = |is: fn(&Walsender) -> bool| rows.iter().all(|row| is(row));
        Some(SenderReport {
            flushed_record: inner.records.iter().rev().find(|record| **record <= flush_lsn).copied(),
            key,
            flush_lsn,
            streaming: all(|row| row.state.as_deref() == Some("streaming")),
            counted: all(|row| matches!(row.sync_state.as_deref(), Some("quorum" | "sync"))),
            encrypted: rows.iter().map(|row| row.encrypted).min().flatten(),
            named: member.named,
            walsenders: rows.iter().map(|row| inner.replies.walsender(row, now.since(*began), now)).collect(),
        })
    };
    agreed.members.values().filter_map(of).collect()
}

/// What lowers the promise of a commit: `synchronous_commit` for all, or for a role or database.
#[must_use]
pub fn weakened(sample: &Sample) -> Vec<String> {
    let mut found = Vec::new();
    if !matches!(sample.sync_commit.as_str(), "on" | "remote_apply") {
        found.push(format!("synchronous_commit is {}", sample.sync_commit));
    }
    for weak in &sample.commit_overrides {
        let of = match (&weak.database, &weak.role) {
            (Some(database), Some(role)) => format!("role {role} in database {database}"),
            (Some(database), None) => format!("database {database}"),
            (None, Some(role)) => format!("role {role}"),
            (None, None) => "some sessions".to_owned(),
        };
        found.push(format!("synchronous_commit is {} for {of}", weak.value));
    }
    found
}

fn seal(agreed: &ClusterState, inner: &Known, now: Time) -> Option<SealReport> {
    let election = agreed.election.as_ref()?;
    let marker = inner.local.marker.as_ref()?;
    let key = MemberKey::new(marker.member.clone(), marker.incarnation);
    if let Some(sealed) = inner.local.sealed.as_ref().filter(|sealed| sealed.epoch == election.epoch) {
        let seal = Seal { epoch: election.epoch, key, position: sealed.position, kind: SealKind::Sealed };
        let quiet_ms = inner.quiet_since.map_or(0, |at| now.since(at));
        let incomplete = inner.local.directory.needs.is_some();
        return Some(SealReport { seal, quiet_ms, can_stream: inner.can_stream, incomplete });
    }
    // The primary of the last reign still runs: it stands, and says how far it has flushed.
    let LocalPostgres::Running(running) = &inner.local.postgres else { return None };
    let stands = matches!(election.kind, ElectionKind::Failover | ElectionKind::Renewal)
        && !running.in_recovery
        // How far it has flushed is not known unless it can be asked.
        && inner.local.unasked_since.is_none()
        && agreed.reign().is_some_and(|reign| reign.epoch == inner.local.promise.reigned && reign.primary == key);
    let position = Position::new(agreed.epoch_of_timeline(running.timeline)?, running.flush_lsn);
    stands.then_some(SealReport {
        seal: Seal { epoch: election.epoch, key, position, kind: SealKind::Standing },
        quiet_ms: 0,
        can_stream: true,
        incomplete: false,
    })
}
