//! A leader that proposes at any moment whatever `apply` lets through, on what it was told: more than `decide` does.

use crate::{
    actions::Step,
    agreed::{name, number},
    durability::Durability,
    local::position,
    planted::Planted,
    sizes::Cohorts,
    state::{MEMBERS_MAX, Member, MemberMask, Run, World},
};
use pgvigil_core::{
    cluster::ClusterState,
    command::{Command, Proof},
    id::{Epoch, Incarnation, MemberKey, RuleVersion, TimelineId},
    lsn::Lsn,
    position::Position,
    reign::{CatchUp, ElectionKind, Promotion, Seal, SealKind, Start},
    rule::Setting,
    time::WallTime,
};

pub(super) fn steps(model: &Durability, world: &World, steps: &mut Vec<Step>) {
    let agreed = model.book.get(world.agreed);
    let size = &model.size;
    if world.budget.elections > 0 {
        steps.push(Step::Begin(false));
        if size.renewals {
            steps.push(Step::Begin(true));
        }
    }
    if agreed.election.is_some() {
        elections(model, world, &agreed, steps);
    }
    for member in 0..size.members {
        let server = &world.servers[member as usize];
        if server.up && server.run == Run::Primary {
            if server.promotion.is_some() {
                steps.push(Step::Record(member));
            }
            if server.proof.is_some() || size.planted == Planted::CompleteWithoutProof {
                steps.push(Step::Complete(member));
            }
            if agreed.change.is_some() && (server.proof.is_some() || size.planted == Planted::NoProof) {
                steps.push(Step::Finish(member));
            }
            if size.doors {
                steps.push(Step::Open(member));
            }
        }
        if server.up && agreed.reign().is_some_and(|reign| reign.primary.member != name(member)) {
            let wish = model.wishes.ask(&model.book, world, member, server.view, size.planted);
            if wish.remake {
                steps.push(Step::NewIncarnation(member));
            }
        }
    }
    if world.budget.changes > 0 && agreed.election.is_none() {
        for cohort in 1..(1_u8 << size.members) {
            for k in 1..=u8::try_from(cohort.count_ones()).unwrap_or(1) {
                steps.push(Step::Change { cohort, k });
            }
        }
    }
}

fn elections(model: &Durability, world: &World, agreed: &ClusterState, steps: &mut Vec<Step>) {
    let size = &model.size;
    let told = (0..size.members).filter(|m| world.told[*m as usize].is_some());
    let sealed: MemberMask = told.fold(0, |mask, m| mask | 1 << m);
    let others = |primary: Member| -> Vec<MemberMask> {
        match size.cohorts {
            Cohorts::Sealed => vec![sealed & !(1 << primary)],
            Cohorts::Any => (1..(1_u8 << size.members)).filter(|mask| mask & (1 << primary) == 0).collect(),
        }
    };
    let last = agreed.reign().map_or(0, |reign| number(&reign.primary.member));
    for primary in 0..size.members {
        for cohort in others(primary) {
            if sealed & (1 << primary) != 0 && primary != last {
                steps.push(Step::Appoint { primary, goes_on: false, cohort, k: size.k });
            }
            if primary == last {
                steps.push(Step::Appoint { primary, goes_on: true, cohort, k: size.k });
            }
        }
    }
    if size.catch_up {
        for member in 0..size.members {
            for source in 0..size.members {
                if let (Some(behind), Some(ahead)) = (world.told[member as usize], world.told[source as usize])
                    && behind.position < ahead.position
                {
                    steps.push(Step::OrderCatchUp(member, source));
                }
            }
        }
    }
}

pub(super) fn next(model: &Durability, world: &mut World, step: Step) -> bool {
    let agreed = model.book.get(world.agreed);
    let Some(command) = command(model, world, &agreed, step) else { return false };
    let Some(after) = model.book.apply(world.agreed, &command, model.size.planted) else { return false };
    world.agreed = after;
    match step {
        Step::Begin(_) => {
            world.budget.elections -= 1;
            world.told = [None; MEMBERS_MAX];
        }
        Step::Appoint { .. } => world.told = [None; MEMBERS_MAX],
        Step::Change { .. } => world.budget.changes -= 1,
        _ => {}
    }
    true
}

fn epoch(number: u8) -> Epoch {
    Epoch(u64::from(number))
}

fn command(model: &Durability, world: &World, agreed: &ClusterState, step: Step) -> Option<Command> {
    let current = agreed.reign()?;
    let command = match step {
        Step::Begin(renewal) => Command::BeginElection {
            epoch: agreed.epoch.next(),
            kind: if renewal { ElectionKind::Renewal } else { ElectionKind::Failover },
            noticed_at: WallTime(0),
        },
        Step::OrderCatchUp(member, source) => {
            let order = CatchUp {
                member: told_key(world, member)?,
                source: told_key(world, source)?,
                target: told_position(world, source)?,
            };
            Command::CatchUp { epoch: agreed.election.as_ref()?.epoch, order }
        }
        Step::Appoint { primary, goes_on, cohort, k } => appoint(model, world, agreed, primary, goes_on, cohort, k)?,
        Step::Record(member) => {
            let server = &world.servers[member as usize];
            let (fork, end) = server.promotion?;
            Command::RecordPromotion {
                epoch: epoch(server.reigned),
                timeline: TimelineId(u32::from(world.branches[server.wal.branch as usize].timeline)),
                promotion: Promotion { fork: Lsn(u64::from(fork)), end: Lsn(u64::from(end)), marked: true },
                system_identifier: 1,
            }
        }
        Step::Open(member) => Command::Open { epoch: epoch(world.servers[member as usize].reigned) },
        Step::Complete(member) => {
            let epoch = epoch(world.servers[member as usize].reigned);
            Command::CompleteRule { epoch, proof: proof(model, world, agreed, member)? }
        }
        Step::Finish(member) => {
            let epoch = epoch(world.servers[member as usize].reigned);
            Command::FinishChange { epoch, proof: proof(model, world, agreed, member)? }
        }
        Step::Change { cohort, k } => Command::BeginChange { epoch: current.epoch, to: setting(agreed, cohort, k)? },
        Step::NewIncarnation(member) => {
            let replaces = agreed.members.get(&name(member))?.incarnation;
            let server = &world.servers[member as usize];
            // What an agent wants is about the incarnation it has.
            if server.marker != 0 && u64::from(server.marker) != replaces.0 {
                return None;
            }
            Command::NewIncarnation { member: name(member), replaces }
        }
        _ => return None,
    };
    Some(command)
}

fn setting(agreed: &ClusterState, cohort: MemberMask, k: u8) -> Option<Setting> {
    let members = (0..8).filter(|m| cohort & (1 << m) != 0);
    let keys: Option<Vec<MemberKey>> = members.map(|m| agreed.key_of(&name(m))).collect();
    Some(Setting::new(u32::from(k), keys?))
}

fn told_key(world: &World, member: Member) -> Option<MemberKey> {
    let told = world.told[member as usize]?;
    Some(MemberKey::new(name(member), Incarnation(u64::from(told.inc))))
}

fn told_position(world: &World, member: Member) -> Option<Position> {
    let (began, len) = world.told[member as usize]?.position;
    Some(Position::new(epoch(began), Lsn(u64::from(len))))
}

/// Every seal the leader was told of, and the old primary's standing if it still runs.
fn appoint(
    model: &Durability,
    world: &World,
    agreed: &ClusterState,
    primary: Member,
    goes_on: bool,
    cohort: MemberMask,
    k: u8,
) -> Option<Command> {
    let election = agreed.election.as_ref()?.epoch;
    let last = agreed.reign()?;
    let mut seals = Vec::new();
    for member in 0..model.size.members {
        if let (Some(key), Some(position)) = (told_key(world, member), told_position(world, member)) {
            seals.push(Seal { epoch: election, key, position, kind: SealKind::Sealed });
        }
    }
    let server = &world.servers[primary as usize];
    let mut key = told_key(world, primary);
    if goes_on && server.up && server.run == Run::Primary && epoch(server.reigned) == last.epoch {
        let position = position(agreed, &world.branches, server, model.size.planted)?;
        let own = MemberKey::new(name(primary), Incarnation(u64::from(server.marker)));
        seals.retain(|seal| seal.key != own);
        seals.push(Seal { epoch: election, key: own.clone(), position, kind: SealKind::Standing });
        key = Some(own);
    }
    let key = key?;
    let timeline = if goes_on {
        last.timeline
    } else if model.size.planted == Planted::TimelineReused {
        // PostgreSQL takes the number after the largest one of which it has a history file.
        TimelineId(u32::from(crate::local::last_timeline(&world.branches, server)) + 1)
    } else {
        agreed.last_timeline.next()
    };
    match model.size.planted {
        Planted::LsnOnly => seals.iter_mut().for_each(|seal| seal.position.epoch = Epoch(1)),
        Planted::NoCatchUp => {
            let top = seals.iter().map(|seal| seal.position).max()?;
            seals.iter_mut().filter(|seal| seal.key == key).for_each(|seal| seal.position = top);
        }
        _ => {}
    }
    let start = if goes_on { Start::Continue } else { Start::Promote };
    let setting = setting(agreed, cohort, k)?;
    Some(Command::Appoint { epoch: election, primary: key, start, timeline, setting, seals })
}

fn proof(model: &Durability, world: &World, agreed: &ClusterState, member: Member) -> Option<Proof> {
    let server = &world.servers[member as usize];
    let planted = model.size.planted;
    if matches!(planted, Planted::CompleteWithoutProof | Planted::NoProof) {
        let rule = agreed.newest_rule()?;
        let flushed = agreed.change.as_ref().map_or(&rule.setting, |change| &change.to).cohort.clone();
        return Some(Proof { version: rule.version, marker: Lsn(u64::from(server.wal.len) + 1), flushed });
    }
    let proven = server.proof?;
    let flushed = super::keys(&proven.flushed);
    // What the core refuses is a marker that ends where the reign began.
    let beyond = u64::from(planted == Planted::ProofOfOlderEpoch);
    let marker = Lsn(u64::from(proven.marker) + beyond);
    Some(Proof { version: RuleVersion(u64::from(proven.version)), marker, flushed })
}
