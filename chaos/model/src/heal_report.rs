//! What the leader sees in the fair run: every member's report, as `supervisor/src/agent/report.rs` makes it.

use crate::{
    agreed::{inc, name},
    durability::Durability,
    heal::NOW,
    local::{last_timeline, position},
    postgres::contains,
    state::{Member, Run, Server, World},
};
use pgvigil_core::{
    cluster::ClusterState,
    command::Proof,
    id::{Epoch, Incarnation, MemberKey, NodeId, Revision, RuleVersion, TimelineId},
    lsn::Lsn,
    observation::Observations,
    reign::{ElectionKind, Promotion, Seal, SealKind},
    report::{CanaryReport, PostgresReport, PrimaryReport, Receiver, Report, SealReport, SenderReport, StandbyReport},
    time::Time,
};

/// What a leader has seen: everything a moment ago, and, if it is impatient, all of it for long.
pub(crate) fn observations(model: &Durability, world: &World, agreed: &ClusterState, impatient: bool) -> Observations {
    let mut seen = Observations::new(NodeId(1), Time(0));
    let since = if impatient { Time(0) } else { NOW };
    for member in 0..model.size.members {
        if world.servers[member as usize].up
            && let Some(report) = report(model, world, agreed, member)
        {
            seen.receive(Some(agreed), report, NOW);
        }
    }
    seen.election_seen = agreed.election.as_ref().map(|election| (election.epoch, since));
    seen.appointed_seen = agreed.reign_in_force().map(|reign| (reign.epoch, since));
    seen.incomplete_since = agreed
        .reign_in_force()
        .filter(|reign| reign.promotion.is_some() && !reign.complete)
        .map(|reign| (reign.epoch, since));
    // The right of every former primary has run out.
    seen.seals_quiet = agreed.reign().map(|reign| (reign.epoch, Time(0)));
    if !impatient {
        // Nobody has been away for long.
        seen.streaming_ok_at.extend(agreed.members.keys().map(|member| (member.clone(), NOW)));
    }
    seen
}

fn report(model: &Durability, world: &World, agreed: &ClusterState, member: Member) -> Option<Report> {
    let server = &world.servers[member as usize];
    let of = agreed.members.get(&name(member))?;
    let wish = model.wishes.ask(&model.book, world, member, world.agreed, model.size.planted);
    Some(Report {
        cluster: agreed.id.clone(),
        spec: of.spec.clone(),
        seq: 1,
        incarnation: (server.marker != 0).then(|| Incarnation(u64::from(server.marker))),
        revision: Revision(1),
        promised: Epoch(u64::from(server.promised)),
        postgres: postgres(model, world, agreed, member),
        seal: seal(model, world, agreed, member),
        fenced: fenced(agreed, server),
        starved_ms: 0,
        guard_armed: true,
        probe: None,
        disk_full: false,
        activity: None,
        problems: Vec::new(),
        needs_new_incarnation: wish.remake.then(|| "it must be made anew".to_owned()),
        was_member: false,
        restarted: 0,
        discarded_wal: None,
        unproven: Vec::new(),
        shown_to_leader: None,
        echo: None,
        timelines: pgvigil_core::report::TimelinesReport::default(),
    })
}

fn postgres(model: &Durability, world: &World, agreed: &ClusterState, member: Member) -> PostgresReport {
    let server = &world.servers[member as usize];
    let timeline = TimelineId(u32::from(last_timeline(&world.branches, server)));
    let flush_lsn = Lsn(u64::from(server.wal.len));
    match server.run {
        Run::Down if server.marker == 0 => PostgresReport::NoData,
        Run::Down => PostgresReport::Stopped { crashed: server.crashed },
        Run::Standby | Run::Promoting => PostgresReport::Standby(StandbyReport {
            timeline,
            following: server.force.filter(|force| force.upstream.1 != 0).map(|force| Epoch(u64::from(force.epoch))),
            flush_lsn,
            replay_lsn: flush_lsn,
            streaming: streams(world, member),
            wal_age_ms: 0,
            replay_held: false,
            receiver: Receiver::Unknown,
        }),
        Run::Primary => PostgresReport::Primary(Box::new(PrimaryReport {
            checkpoint_age_ms: Some(0),
            epoch: Epoch(u64::from(server.reigned)),
            timeline: TimelineId(u32::from(world.branches[server.wal.branch as usize].timeline)),
            flush_lsn,
            promotion: server.promotion.map(|(fork, end)| Promotion {
                fork: Lsn(u64::from(fork)),
                end: Lsn(u64::from(end)),
                marked: true,
            }),
            system_identifier: 1,
            door_open: server.force.is_some_and(|force| force.door),
            setting_in_force: server.force.map(|force| RuleVersion(u64::from(force.version))),
            proof: server.proof.map(|proof| Proof {
                version: RuleVersion(u64::from(proof.version)),
                marker: Lsn(u64::from(proof.marker)),
                flushed: crate::next::keys(&proof.flushed),
            }),
            canary: CanaryReport { ok_age_ms: Some(0), confirmed_age_ms: Some(0), waiting_ms: 0, took_us: 1 },
            standbys: senders(model, world, agreed, server),
            weakened: Vec::new(),
            shown_ago_ms: None,
            right_ms: 1,
            unasked_ms: None,
            written_by_others: 0,
        })),
    }
}

fn streams(world: &World, member: Member) -> bool {
    let server = &world.servers[member as usize];
    let source = &world.servers[server.follows.0 as usize];
    server.follows.1 != 0
        && source.up
        && source.run == Run::Primary
        && contains(&world.branches, source.wal, server.wal)
}

fn senders(model: &Durability, world: &World, agreed: &ClusterState, server: &Server) -> Vec<SenderReport> {
    let members = (0..model.size.members).filter(|m| streams(world, *m));
    let named = members.filter_map(|m| {
        let sender = &server.senders[m as usize];
        let key = agreed.key_of(&name(m)).filter(|key| inc(key) == sender.inc && sender.epoch == server.reigned)?;
        let flush_lsn = Lsn(u64::from(sender.flush));
        let counted = server.setting.names & (1 << sender.inc) != 0;
        Some(SenderReport {
            key,
            flush_lsn,
            flushed_record: Some(flush_lsn),
            streaming: true,
            counted,
            encrypted: None,
            named: 0,
            walsenders: Vec::new(),
        })
    });
    named.collect()
}

fn seal(model: &Durability, world: &World, agreed: &ClusterState, member: Member) -> Option<SealReport> {
    let server = &world.servers[member as usize];
    let election = agreed.election.as_ref()?;
    let key = MemberKey::new(name(member), Incarnation(u64::from(server.marker)));
    let position = position(agreed, &world.branches, server, model.size.planted)?;
    let kind = if u64::from(server.sealed) == election.epoch.0 {
        SealKind::Sealed
    } else {
        let stands = matches!(election.kind, ElectionKind::Failover | ElectionKind::Renewal)
            && server.run == Run::Primary
            && agreed.reign().is_some_and(|r| r.epoch.0 == u64::from(server.reigned) && r.primary == key);
        if !stands {
            return None;
        }
        SealKind::Standing
    };
    Some(SealReport {
        seal: Seal { epoch: election.epoch, key, position, kind },
        quiet_ms: 0,
        can_stream: true,
        incomplete: false,
    })
}

fn fenced(agreed: &ClusterState, server: &Server) -> Option<Epoch> {
    let reigned = Epoch(u64::from(server.reigned));
    match server.run {
        Run::Down if server.marker == 0 => {
            let founding = agreed.reigns.len() == 1 && agreed.reign_in_force().is_some();
            Some(if founding { reigned } else { agreed.epoch })
        }
        Run::Down => server.fence.then_some(reigned),
        Run::Standby | Run::Promoting => {
            let promoting = agreed.reign().is_some_and(|reign| reign.epoch == reigned);
            (!promoting).then_some(reigned)
        }
        Run::Primary => None,
    }
}
