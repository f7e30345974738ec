//! The steps of the service model.

use super::{Clocked, Heartbeat, LEASE, Leader, NOW, Phase, STANDBYS, Service, Standby, Tick, Unguarded};
use crate::agreed::name;
use pgvigil_core::{
    cluster::ClusterState,
    command::Command,
    id::{Epoch, NodeId, TimelineId},
    lease::{Fenced, Right, fenced, may_renew},
    lsn::Lsn,
    observation::Observations,
    position::Position,
    reign::{ElectionKind, Promotion, Seal, SealKind, Start},
    report::{CanaryReport, PostgresReport, PrimaryReport, Report},
    rule::Setting,
    settings::Settings,
    time::{Time, WallTime},
};

const SUCCESSION: Epoch = Epoch(2);

fn settings() -> Settings {
    Settings { lease_ms: u64::from(LEASE), lease_margin_ms: 0, ..Settings::default() }
}

fn time(tick: u8) -> Time {
    Time(u64::from(tick))
}

/// Whether the old primary serves clients at this moment: the guard ends it in the tick in which its right ends.
pub(super) fn serves(model: &Service, state: &Clocked) -> bool {
    let right = Right { renewed_sent_at: Some(time(state.right)), canary_began_at: None };
    let guarded = model.planted != Unguarded::NoGuard;
    state.running && (!guarded || right.left(&settings(), time(NOW)) > 0)
}

pub(super) fn steps(state: &Clocked, steps: &mut Vec<Tick>) {
    if state.phase == Phase::Opened && !state.running {
        // Nothing can turn bad any more.
        return;
    }
    steps.push(Tick::Time);
    match state.heartbeat {
        None => steps.push(Tick::Heartbeat),
        Some(Heartbeat::Sent { .. }) => steps.push(Tick::Receive),
        Some(Heartbeat::Received { .. }) => steps.push(Tick::Confirm),
        Some(Heartbeat::Renewed { .. }) => steps.push(Tick::Renewed),
    }
    steps.push(if state.canary.is_none() { Tick::Canary } else { Tick::CanaryDone });
    for number in 0..STANDBYS as u8 {
        let standby = &state.standbys[number as usize];
        if standby.sealed.is_none() {
            steps.push(Tick::Flush(number));
            steps.push(if standby.sampling.is_none() { Tick::SampleBegins(number) } else { Tick::SampleEnds(number) });
            if state.phase == Phase::Election {
                steps.push(Tick::Seal(number));
            }
        }
    }
    if state.leaders_left > 0 {
        steps.push(Tick::NewLeader);
    }
    steps.push(match state.phase {
        Phase::Reigns => Tick::Begin,
        Phase::Election => Tick::Appoint,
        Phase::Appointed => Tick::Open,
        Phase::Opened => Tick::Time,
    });
    if state.running && state.phase != Phase::Opened {
        steps.push(Tick::Fence);
    }
}

pub(super) fn next(model: &Service, state: &Clocked, tick: Tick) -> Option<Clocked> {
    let mut after = *state;
    let live = serves(model, state);
    match tick {
        Tick::Time => pass(&mut after),
        Tick::Heartbeat if live => after.heartbeat = Some(Heartbeat::Sent { at: NOW }),
        Tick::Receive => {
            let Some(Heartbeat::Sent { at }) = state.heartbeat else { return None };
            after.heartbeat = Some(Heartbeat::Received { sent: at, at: NOW, deposed: false });
        }
        Tick::Confirm => confirm(model, state, &mut after)?,
        Tick::Renewed => {
            let Some(Heartbeat::Renewed { sent }) = state.heartbeat else { return None };
            let from = if model.planted == Unguarded::CountedFromArrival { NOW } else { sent };
            after.heartbeat = None;
            if state.running {
                after.right = state.right.max(from);
            }
        }
        Tick::Canary if live => {
            after.canary = Some(NOW);
            after.standbys.iter_mut().for_each(|standby| standby.flushed = false);
        }
        Tick::CanaryDone => {
            let began = state.canary?;
            let there = state.standbys.iter().any(|standby| standby.flushed);
            if !there || !state.running {
                return None;
            }
            let from = if model.planted == Unguarded::CanaryFromAcknowledgement { NOW } else { began };
            after.canary = None;
            after.right = state.right.max(from);
        }
        Tick::Flush(number) => {
            let standby = &mut after.standbys[number as usize];
            if standby.flushed || state.canary.is_none() {
                return None;
            }
            standby.flushed = true;
            standby.seen = None;
        }
        Tick::SampleBegins(number) => {
            // Only the planted bug looks at when it began.
            let began = if model.planted == Unguarded::QuietFromBeginning { NOW } else { 0 };
            after.standbys[number as usize].sampling = Some(began);
        }
        Tick::SampleEnds(number) => sample(model, NOW, &mut after.standbys[number as usize])?,
        Tick::Seal(number) => {
            let standby = &mut after.standbys[number as usize];
            let quiet = standby.seen.unwrap_or(NOW);
            standby.sealed = Some(quiet);
            standby.sampling = None;
            standby.seen = None;
        }
        Tick::NewLeader => {
            after.leaders_left -= 1;
            let since = if model.planted == Unguarded::NewLeaderTrusted { 0 } else { NOW };
            let appointed = (state.phase >= Phase::Appointed).then_some(since);
            after.leader = Leader { since, renewal: None, quiet: None, appointed };
            if let Some(Heartbeat::Received { deposed, .. }) = &mut after.heartbeat {
                *deposed = true;
            }
        }
        Tick::Begin => {
            let kind = ElectionKind::Failover;
            let command = Command::BeginElection { epoch: SUCCESSION, kind, noticed_at: WallTime(0) };
            agree(model, &mut after, &command)?;
            after.phase = Phase::Election;
        }
        Tick::Appoint => appoint(model, state, &mut after)?,
        Tick::Fence => {
            after.fenced = true;
            after.running = model.planted == Unguarded::FencedTooEarly;
        }
        Tick::Open => {
            if !may_open(model, state) {
                return None;
            }
            agree(model, &mut after, &Command::Open { epoch: SUCCESSION })?;
            after.phase = Phase::Opened;
        }
        Tick::Heartbeat | Tick::Canary => return None,
    }
    if after.leader.renewal <= Some(after.leader.since) {
        // The wait of a new leader covers what was renewed before it.
        after.leader.renewal = None;
    }
    (after != *state).then_some(after)
}

/// Everything lies one tick further back.
fn pass(state: &mut Clocked) {
    let back = |at: &mut u8| *at = at.saturating_sub(1);
    back(&mut state.leader.since);
    back(&mut state.right);
    let leader = &mut state.leader;
    for at in [&mut leader.renewal, &mut leader.quiet, &mut leader.appointed, &mut state.canary] {
        at.iter_mut().for_each(back);
    }
    match &mut state.heartbeat {
        Some(Heartbeat::Received { sent, at, .. }) => {
            back(sent);
            back(at);
        }
        Some(Heartbeat::Sent { at } | Heartbeat::Renewed { sent: at }) => back(at),
        None => {}
    }
    for standby in &mut state.standbys {
        for at in [&mut standby.sampling, &mut standby.seen, &mut standby.sealed] {
            at.iter_mut().for_each(back);
        }
    }
}

fn agree(model: &Service, after: &mut Clocked, command: &Command) -> Option<()> {
    after.agreed = model.book.apply(after.agreed, command, crate::planted::Planted::Nothing)?;
    Some(())
}

/// A quorum confirms after the heartbeat came in, then the leader looks at what is agreed: in that order.
fn confirm(model: &Service, state: &Clocked, after: &mut Clocked) -> Option<()> {
    let Some(Heartbeat::Received { sent, at, deposed }) = state.heartbeat else { return None };
    if deposed && model.planted != Unguarded::UnconfirmedRenewal {
        after.heartbeat = None;
        return Some(());
    }
    // A deposed leader does not hear of what its successor has agreed.
    let agreed = model.book.get(if deposed { model.book.founded(2, 0, 1) } else { state.agreed });
    if may_renew(&agreed, &report(&agreed)) {
        if !deposed {
            after.leader.renewal = state.leader.renewal.max(Some(at));
        }
        after.heartbeat = Some(Heartbeat::Renewed { sent });
    } else {
        after.heartbeat = None;
    }
    Some(())
}

fn sample(model: &Service, now: u8, standby: &mut Standby) -> Option<()> {
    let began = standby.sampling.take()?;
    let at = if model.planted == Unguarded::QuietFromBeginning { began } else { now };
    standby.seen = standby.seen.or(Some(at));
    Some(())
}

fn appoint(model: &Service, state: &Clocked, after: &mut Clocked) -> Option<()> {
    let agreed = model.book.get(state.agreed);
    let mut seals = Vec::new();
    for (number, standby) in state.standbys.iter().enumerate() {
        standby.sealed?;
        let key = agreed.key_of(&name(u8::try_from(number).ok()? + 1))?;
        // Where their WAL ends is the business of the other model: here both have the same.
        let position = Position::new(Epoch(1), Lsn(0));
        seals.push(Seal { epoch: SUCCESSION, key, position, kind: SealKind::Sealed });
    }
    let primary = seals.first()?.key.clone();
    let setting = Setting::new(1, seals.get(1).map(|seal| seal.key.clone()));
    let timeline = TimelineId(2);
    let command = Command::Appoint { epoch: SUCCESSION, primary, start: Start::Promote, timeline, setting, seals };
    agree(model, after, &command)?;
    let promotion = Promotion { fork: Lsn(0), end: Lsn(1), marked: true };
    let record = Command::RecordPromotion { epoch: SUCCESSION, timeline, promotion, system_identifier: 1 };
    agree(model, after, &record)?;
    after.phase = Phase::Appointed;
    after.leader.quiet = state.standbys.iter().filter_map(|standby| standby.sealed).max();
    after.leader.appointed = Some(NOW);
    Some(())
}

/// What `decide` asks before it opens, with the shipped arithmetic.
fn may_open(model: &Service, state: &Clocked) -> bool {
    if model.planted == Unguarded::NoWait || state.fenced {
        return true;
    }
    let mut agreed = ClusterState::clone(&model.book.get(state.agreed));
    // `apply` agrees to no lease this short: what it noted of its length is put into the model's time with the settings.
    agreed.settings = settings();
    for debt in &mut agreed.fence_debts {
        debt.lease_ms = agreed.settings.lease_ms;
    }
    let mut seen = Observations::new(NodeId(1), time(state.leader.since));
    seen.last_renewal.extend(state.leader.renewal.map(|at| (Epoch(1), time(at))));
    seen.seals_quiet = state.leader.quiet.map(|at| (SUCCESSION, time(at)));
    seen.appointed_seen = state.leader.appointed.map(|at| (SUCCESSION, time(at)));
    if model.planted == Unguarded::CanaryForgotten {
        seen.seals_quiet = Some((SUCCESSION, Time(0)));
    }
    agreed.fence_debts.iter().all(|debt| match fenced(&agreed, &seen, debt, SUCCESSION) {
        Fenced::Yes(_) => true,
        Fenced::At(at) => time(NOW) >= at,
        Fenced::Never(_) => false,
    })
}

/// What a's agent reports while it serves.
fn report(agreed: &ClusterState) -> Report {
    let member = name(0);
    let of = agreed.members.get(&member);
    Report {
        cluster: agreed.id.clone(),
        spec: of.map_or_else(|| unreachable!("a is a member"), |m| m.spec.clone()),
        seq: 0,
        incarnation: of.map(|m| m.incarnation),
        revision: agreed.revision,
        promised: Epoch(1),
        postgres: PostgresReport::Primary(Box::new(PrimaryReport {
            checkpoint_age_ms: Some(0),
            epoch: Epoch(1),
            timeline: TimelineId(1),
            flush_lsn: Lsn(0),
            promotion: None,
            system_identifier: 1,
            door_open: true,
            setting_in_force: None,
            proof: None,
            canary: CanaryReport::default(),
            standbys: Vec::new(),
            weakened: Vec::new(),
            shown_ago_ms: None,
            right_ms: 0,
            unasked_ms: None,
            written_by_others: 0,
        })),
        seal: None,
        fenced: None,
        starved_ms: 0,
        guard_armed: true,
        probe: None,
        disk_full: false,
        activity: None,
        problems: Vec::new(),
        needs_new_incarnation: None,
        was_member: false,
        restarted: 0,
        discarded_wal: None,
        unproven: Vec::new(),
        shown_to_leader: None,
        echo: None,
        timelines: pgvigil_core::report::TimelinesReport::default(),
    }
}
