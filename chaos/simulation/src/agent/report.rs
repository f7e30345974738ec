//! Renders what the agent knows into a report, as `agent/report.rs` of the program does.

use super::shared::{Ctx, Inner};
use crate::{postgres::data::Name, world::World};
use pgvigil_core::{
    cluster::ClusterState,
    id::{Epoch, MemberKey, TimelineId},
    lineage,
    local::{Local, LocalPostgres, Running},
    lsn::Lsn,
    position::Position,
    reign::{ElectionKind, Seal, SealKind},
    report::{
        CanaryReport, PostgresReport, PrimaryReport, Receiver, Report, SealReport, SenderReport, StandbyReport,
        TimelinesReport,
    },
    time::Time,
};

/// The cluster's system identifier.
pub const SYSTEM: u64 = 7_777;

impl World {
    /// The name of `key` in `epoch`. Nobody copies a simulated standby, so that no member gets another name.
    #[must_use]
    pub fn name(&self, key: &MemberKey, epoch: Epoch) -> Name {
        Name { host: self.host_of(&key.member).unwrap_or(usize::MAX), incarnation: key.incarnation.0, epoch: epoch.0 }
    }
}

/// The report of this moment; `None` until PostgreSQL was looked at once.
#[must_use]
pub fn make(c: &Ctx, seq: u64) -> Option<Report> {
    let agreed = c.agreed();
    let agreed = agreed.as_deref();
    let now = c.now();
    let mut inner = c.a.inner.borrow_mut();
    if matches!(inner.local.postgres, LocalPostgres::Unknown) {
        return None;
    }
    let starved_ms = std::mem::take(&mut inner.starved_ms);
    let inner = &*inner;
    Some(Report {
        cluster: World::cluster(),
        spec: c.w.hosts[c.h].spec.clone(),
        seq,
        incarnation: inner.local.marker.as_ref().filter(|m| m.member == inner.local.me).map(|m| m.incarnation),
        revision: agreed.map(|a| a.revision).unwrap_or_default(),
        promised: inner.local.promise.epoch,
        postgres: postgres(c, agreed, inner, now),
        seal: agreed.and_then(|agreed| seal(agreed, inner, now)),
        fenced: fenced(agreed, &inner.local),
        starved_ms,
        guard_armed: inner.guarded.would_kill_in_time(),
        probe: inner.probe.as_ref().map(|(probe, at)| {
            let mut probe = probe.clone();
            probe.age_ms = now.since(*at);
            probe
        }),
        disk_full: false,
        activity: None,
        problems: Vec::new(),
        needs_new_incarnation: inner.needs_new_incarnation.clone(),
        // Members of a simulated cluster never leave it.
        was_member: false,
        restarted: inner.local.promise.restarted,
        discarded_wal: inner.discarded.clone(),
        unproven: inner.unproven.reports(agreed, now),
        echo: inner.leader.clock.map(|(clock, at)| (clock, now.since(at))),
        shown_to_leader: inner.leader.shown.map(|(epoch, at)| (epoch, now.since(at))),
        timelines: TimelinesReport {
            newest: TimelineId(c.w.with_data(c.h, |data| data.newest_real()).unwrap_or(0).max(c.w.own_timeline(c.h))),
            by_hand: agreed.and_then(|agreed| lineage::by_hand(agreed, &inner.local, None)),
        },
    })
}

/// The newest epoch as whose primary nothing serves here, nor ever will.
fn fenced(agreed: Option<&ClusterState>, local: &Local) -> Option<Epoch> {
    let appointed = agreed.and_then(ClusterState::reign).filter(|reign| reign.primary.member == local.me);
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
            let promoting = appointed.is_some_and(|r| r.epoch == local.promise.reigned);
            (!promoting).then_some(gone)
        }
        _ => None,
    }
}

fn postgres(c: &Ctx, agreed: Option<&ClusterState>, inner: &Inner, now: Time) -> PostgresReport {
    match &inner.local.postgres {
        LocalPostgres::Unknown | LocalPostgres::Starting => PostgresReport::Starting,
        LocalPostgres::NoData => PostgresReport::NoData,
        LocalPostgres::Unusable { why } => PostgresReport::Unusable { why: why.clone() },
        LocalPostgres::Adoptable(found) => PostgresReport::Adoptable(found.clone()),
        LocalPostgres::Stopped { crashed } => PostgresReport::Stopped { crashed: *crashed },
        LocalPostgres::Running(running) if running.in_recovery => standby(inner, running, now),
        LocalPostgres::Running(running) => primary(c, agreed, inner, running, now),
    }
}

fn standby(inner: &Inner, running: &Running, now: Time) -> PostgresReport {
    let sample = inner.sample.as_ref().map(|(sample, _)| sample);
    PostgresReport::Standby(StandbyReport {
        timeline: running.timeline,
        following: inner.local.in_force.as_ref().filter(|f| f.upstream.is_some()).map(|f| f.epoch),
        flush_lsn: running.flush_lsn,
        replay_lsn: Lsn(sample.map_or(0, |s| s.replay)),
        streaming: running.streaming,
        wal_age_ms: now.since(running.wal_moved_at),
        replay_held: sample.is_some_and(|s| s.replay_paused),
        receiver: Receiver::Unknown,
    })
}

fn primary(c: &Ctx, agreed: Option<&ClusterState>, inner: &Inner, running: &Running, now: Time) -> PostgresReport {
    let epoch = inner.local.promise.reigned;
    let standbys = agreed.map(|agreed| senders(c, agreed, epoch, inner)).unwrap_or_default();
    let right_ms = agreed.map_or(0, |agreed| inner.local.right.left(&agreed.settings, now));
    PostgresReport::Primary(Box::new(PrimaryReport {
        epoch,
        timeline: running.timeline,
        flush_lsn: running.flush_lsn,
        promotion: inner.local.promise.promotion.filter(|_| inner.slow),
        system_identifier: if inner.slow { SYSTEM } else { 0 },
        door_open: inner.local.in_force.as_ref().is_some_and(|f| f.door_open),
        checkpoint_age_ms: inner.local.checkpointed_at.map(|at| now.since(at)),
        setting_in_force: inner.local.in_force.as_ref().and_then(|f| f.version),
        proof: inner.proof.clone(),
        canary: CanaryReport {
            ok_age_ms: inner.canary_ok_at.map(|at| now.since(at)),
            confirmed_age_ms: inner.canaries.confirmed_at().map(|at| now.since(at)),
            waiting_ms: inner.canary_waiting_since.map_or(0, |at| now.since(at)),
            took_us: 0,
        },
        standbys,
        weakened: Vec::new(),
        right_ms,
        shown_ago_ms: inner.unproven.shown_ago(now),
        unasked_ms: None,
        written_by_others: inner.written.by_others(),
    }))
}

fn senders(c: &Ctx, agreed: &ClusterState, epoch: Epoch, inner: &Inner) -> Vec<SenderReport> {
    let Some((sample, _)) = &inner.sample else { return Vec::new() };
    let keys = agreed.members.values().map(pgvigil_core::member::Member::key);
    keys.filter_map(|key| {
        let name = c.w.name(&key, epoch);
        let rows: Vec<_> = sample.senders.iter().filter(|s| s.name == name).collect();
        let flush_lsn = Lsn(rows.iter().map(|row| row.flushed.unwrap_or_default()).min()?);
        Some(SenderReport {
            flushed_record: inner.records.iter().rev().find(|record| **record <= flush_lsn).copied(),
            key,
            flush_lsn,
            streaming: true,
            counted: rows.iter().all(|row| row.counted),
            encrypted: None,
            named: 0,
            walsenders: Vec::new(),
        })
    })
    .collect()
}

fn seal(agreed: &ClusterState, inner: &Inner, now: Time) -> Option<SealReport> {
    let election = agreed.election.as_ref()?;
    let marker = inner.local.marker.as_ref()?;
    let key = MemberKey::new(marker.member.clone(), marker.incarnation);
    if let Some(sealed) = inner.local.sealed.as_ref().filter(|sealed| sealed.epoch == election.epoch) {
        let seal = Seal { epoch: election.epoch, key, position: sealed.position, kind: SealKind::Sealed };
        let quiet_ms = inner.quiet_since.map_or(0, |at| now.since(at));
        return Some(SealReport { seal, quiet_ms, can_stream: inner.can_stream, incomplete: false });
    }
    let LocalPostgres::Running(running) = &inner.local.postgres else { return None };
    let stands = matches!(election.kind, ElectionKind::Failover | ElectionKind::Renewal)
        && !running.in_recovery
        && agreed.reign().is_some_and(|reign| reign.epoch == inner.local.promise.reigned && reign.primary == key);
    let position = Position::new(agreed.epoch_of_timeline(running.timeline)?, running.flush_lsn);
    stands.then_some(SealReport {
        seal: Seal { epoch: election.epoch, key, position, kind: SealKind::Standing },
        quiet_ms: 0,
        can_stream: true,
        incomplete: false,
    })
}
