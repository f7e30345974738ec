//! Goal: whatever is agreed and whatever an agent finds, `reconcile` has an answer, and never a dangerous one. Method:
//! random logs of `apply_props` bring the agreed state; dice bring a `Local` near it, often as it should be with one
//! thing wrong. Each rule below is stated anew from the design. A counter shows that every kind of action is reached.

mod common;

use common::{Dice, Roll, name, roll, step};
use pgvigil_core::{
    State,
    cluster::ClusterState,
    id::{ClusterId, Epoch, Incarnation, MemberKey, RuleVersion, TimelineId},
    lease::Right,
    local::{InForce, Local, LocalPostgres, Marker, Promise, RuleDoubt, Running, SealedAt},
    lsn::Lsn,
    position::Position,
    reconcile::{Action, Plan, reconcile},
    reign::{Promotion, Reign, Start},
    report::Adoptable,
    time::Time,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

const NOW: Time = Time(100_000);

/// An agent's situation as dice, one number for each thing.
type Situation = [u8; 16];

fn local(agreed: &ClusterState, dice: &Situation) -> Local {
    let mut next = dice.iter().copied();
    let mut roll = |below: u8| next.next().unwrap_or_default() % below;
    let reign = agreed.reign();
    let reigning = reign.and_then(|r| (0..4).find(|n| name(*n) == r.primary.member));
    let me = match (roll(9), reigning) {
        (0..4, Some(primary)) => name(primary),
        (n, _) => name(n.saturating_sub(4)),
    };
    let counted = agreed.members.get(&me).map_or(Incarnation(1), |member| member.incarnation);
    let mark = |cluster: &str, member, incarnation| {
        Some(Marker { cluster: ClusterId::from(cluster), member, incarnation: Incarnation(incarnation) })
    };
    let marker = match roll(16) {
        0 => None,
        1..=4 => mark("c", me.clone(), counted.0.saturating_sub(1)),
        5 => mark("c", name(1), 2),
        6 => mark("other", me.clone(), counted.0),
        _ => mark("c", me.clone(), counted.0),
    };
    let newest = reign.map_or(Epoch(0), |r| r.epoch);
    let reigned = match roll(4) {
        0 => Epoch(0),
        1 => Epoch(newest.0.saturating_sub(1)),
        _ => newest,
    };
    let lsn = Lsn(u64::from(roll(200)) * 2);
    let timeline = TimelineId(reign.map_or(1, |r| r.timeline.0).saturating_sub(u32::from(roll(3))));
    let postgres = match roll(14) {
        0 => LocalPostgres::Unknown,
        1 => LocalPostgres::NoData,
        2 => LocalPostgres::Unusable { why: "?".to_owned() },
        3 => LocalPostgres::Adoptable(Adoptable {
            system_identifier: 7,
            in_recovery: lsn.0 & 2 == 0,
            timeline,
            major: 17,
        }),
        4 | 5 => LocalPostgres::Stopped { crashed: true },
        6 => LocalPostgres::Starting,
        n => LocalPostgres::Running(Running {
            in_recovery: n < 11,
            timeline,
            flush_lsn: lsn,
            streaming: n & 1 == 0,
            wal_moved_at: NOW,
        }),
    };
    let in_force = match (roll(6), reign) {
        (0, _) | (_, None) => None,
        (1, Some(r)) => Some(InForce {
            epoch: r.epoch,
            version: None,
            door_open: true,
            upstream: Some(r.primary.clone()),
            named: 0,
        }),
        (2, Some(r)) => {
            Some(InForce { epoch: Epoch(1), version: Some(r.version), door_open: true, upstream: None, named: 0 })
        }
        (n, Some(r)) => {
            Some(InForce { epoch: r.epoch, version: Some(r.version), door_open: n == 3, upstream: None, named: 0 })
        }
    };
    let election = agreed.election.as_ref().map_or(newest, |e| e.epoch);
    let sealed = (roll(3) > 0).then(|| SealedAt { epoch: election, position: Position::new(Epoch(1), lsn) });
    let wal_end = (roll(3) > 0).then(|| (Position::new(newest, lsn), timeline));
    let rights = [None, Some(NOW), Some(NOW.minus(900)), Some(NOW.minus(1_200)), Some(NOW.minus(5_000))];
    let mut rule_doubt = RuleDoubt::default();
    if lsn.0.is_multiple_of(17) {
        rule_doubt.raise();
    }
    Local {
        marker,
        promise: Promise {
            epoch: Epoch(agreed.epoch.0.saturating_sub(u64::from(roll(2)))).max(reigned),
            sealed: None,
            reigned,
            promotion: (roll(2) == 0).then_some(Promotion { fork: lsn, end: lsn, marked: true }),
            restarted: 0,
        },
        postgres,
        wal_end,
        directory: pgvigil_core::local::Directory::default(),
        own_end: None,
        sealed,
        fence_on_disk: roll(2) == 0,
        in_force,
        right: Right { renewed_sent_at: rights[usize::from(roll(5))], canary_began_at: None },
        starting_since: (roll(2) == 0).then(|| NOW.minus(u64::from(roll(255)) * 200)),
        election_since: Some(NOW.minus(u64::from(roll(255)) * 20)),
        canary_waiting_ms: if lsn.0.is_multiple_of(11) { 6_000 } else { 0 },
        standbys_enough_since: (lsn.0.is_multiple_of(3)).then_some(NOW.minus(8_000)),
        proven: (lsn.0.is_multiple_of(5)).then_some(reign.map_or(RuleVersion(1), |r| r.version)),
        busy: lsn.0.is_multiple_of(13),
        checkpointed_at: None,
        restart_due: None,
        rule_astray_since: None,
        rule_doubt,
        unasked_since: (lsn.0.is_multiple_of(7)).then_some(NOW.minus(3_000)),
        me,
    }
}

/// Whether WAL of timeline `owner` that ends at `end` lies in the history of `reign`: followed from promotion to
/// promotion by where each appointee stood when it sealed.
fn belongs(agreed: &ClusterState, reign: &Reign, owner: TimelineId, end: Lsn) -> bool {
    let mut timeline = reign.timeline;
    if owner == timeline || owner < agreed.reigns[0].timeline {
        return true;
    }
    for _ in 0..agreed.reigns.len() {
        let promoted = agreed.reigns.iter().find(|r| r.timeline == timeline && r.start == Start::Promote);
        let Some((r, promotion)) = promoted.and_then(|r| r.promotion.map(|promotion| (r, promotion))) else {
            return false;
        };
        let Some(seal) = r.seals.iter().find(|seal| seal.key == r.primary) else { return false };
        let Some(parent) = agreed.reigns.iter().find(|r| r.epoch == seal.position.epoch) else { return false };
        timeline = parent.timeline;
        if owner == timeline {
            return end <= promotion.fork;
        }
    }
    false
}

fn epoch_of(action: &Action) -> Option<Epoch> {
    match action {
        // A fence names the reign that it ends; the others are about no reign.
        Action::Fence { .. } | Action::AdoptStandby { .. } | Action::Restart { .. } => None,
        Action::Seal { epoch }
        | Action::CatchUp { epoch, .. }
        | Action::Initdb { epoch, .. }
        | Action::AdoptPrimary { epoch, .. }
        | Action::StartPrimary { epoch, .. }
        | Action::StartStandby { epoch, .. }
        | Action::Configure { epoch, .. }
        | Action::Promote { epoch, .. }
        | Action::CarryOn { epoch }
        | Action::Prove { epoch, .. }
        | Action::Checkpoint { epoch }
        | Action::Follow { epoch, .. }
        | Action::Rewind { epoch, .. }
        | Action::Clone { epoch, .. }
        | Action::ReadWalEnd { epoch } => Some(*epoch),
    }
}

/// What is known of one answer, for the rules.
struct Case<'a> {
    agreed: &'a ClusterState,
    local: &'a Local,
    action: &'a Action,
}

impl Case<'_> {
    fn counted(&self) -> bool {
        let key = self.local.marker.as_ref().map(|m| MemberKey::new(m.member.clone(), m.incarnation));
        let ours = self.local.marker.as_ref().is_some_and(|m| m.cluster == self.agreed.id);
        ours && key.is_some() && key == self.agreed.key_of(&self.local.me)
    }

    fn runs_open_to_be_primary(&self) -> bool {
        match &self.local.postgres {
            LocalPostgres::Running(running) => !running.in_recovery,
            LocalPostgres::Starting => !self.local.fence_on_disk,
            _ => false,
        }
    }

    /// S2, S3: only the primary of the reign is made, started, promoted, opened or carried on, for that reign.
    fn only_the_reigning_primary_is_served(&self) -> Result<(), String> {
        let (made, epoch) = match self.action {
            Action::Initdb { epoch, .. } | Action::AdoptPrimary { epoch, .. } => (true, epoch),
            Action::StartPrimary { epoch, .. }
            | Action::Promote { epoch, .. }
            | Action::Configure { epoch, .. }
            | Action::CarryOn { epoch }
            | Action::Prove { epoch, .. } => (false, epoch),
            _ => return Ok(()),
        };
        let reign = self.agreed.reign_in_force().ok_or("no reign is in force")?;
        ensure(reign.primary.member == self.local.me && reign.epoch == *epoch, "of another member's reign")?;
        ensure(made || self.counted(), "in a data directory that does not count")?;
        match self.action {
            Action::Promote { timeline, .. } => {
                ensure(*timeline == reign.timeline, "onto another timeline")?;
                let closed =
                    InForce { epoch: *epoch, version: Some(reign.version), door_open: false, upstream: None, named: 0 };
                let there = matches!(&self.local.postgres, LocalPostgres::Running(r) if !r.in_recovery);
                ensure(there || self.local.in_force.as_ref() == Some(&closed), "before its setting is in force")
            }
            Action::Configure { door_open: true, .. } => {
                let right = self.local.right.left(&self.agreed.settings, NOW) > self.agreed.settings.lease_ms / 3;
                let was_open = self.local.in_force.as_ref().is_some_and(|f| f.door_open);
                // The clients of an adopted server stay in.
                let adopted = reign.start == Start::Adopt && was_open;
                ensure(reign.open || adopted, "the door, without Open")?;
                ensure(right || was_open || self.agreed.paused.is_some(), "the door, without a right")
            }
            _ => Ok(()),
        }
    }

    /// S1, history A6: a member takes a name of the epoch only when its WAL is known to belong.
    fn only_wal_that_belongs_follows(&self) -> Result<(), String> {
        let upstream = match self.action {
            Action::Follow { upstream, .. } | Action::StartStandby { following: Some((upstream, _)), .. } => upstream,
            _ => return Ok(()),
        };
        let reign = self.agreed.reign_in_force().ok_or("no reign is in force")?;
        ensure(reign.primary == upstream.key && reign.primary.member != self.local.me, "somebody else")?;
        ensure(reign.promotion.is_some() && self.counted(), "too early, or with a directory that does not count")?;
        let (position, owner) = self.local.wal_end.ok_or("with WAL that was not read")?;
        ensure(belongs(self.agreed, reign, owner, position.lsn), "with WAL that diverged")
    }

    /// S1, history A9: what counts, or is not ours, is never overwritten, and never a primary.
    fn only_what_does_not_count_is_made_anew(&self) -> Result<(), String> {
        let (Action::Rewind { incarnation, .. } | Action::Clone { incarnation, .. }) = self.action else {
            return Ok(());
        };
        let reign = self.agreed.reign_in_force().ok_or("no reign is in force")?;
        let member = &self.agreed.members[&self.local.me];
        let empty = matches!(self.local.postgres, LocalPostgres::NoData);
        ensure(reign.promotion.is_some() && reign.primary.member != self.local.me, "of the primary")?;
        ensure(*incarnation == member.incarnation, "under another incarnation than agreed")?;
        ensure(empty || !self.counted(), "over the directory that counts")?;
        ensure(!(empty && member.used), "over a loss that nobody was told of")?;
        let foreign = self.local.marker.as_ref().is_some_and(|m| m.cluster != self.agreed.id);
        ensure(empty || !foreign, "over another cluster's directory")?;
        let older = self.agreed.rules.iter().any(|rule| rule.epoch < reign.epoch);
        ensure(!(older && matches!(self.action, Action::Rewind { .. })), "over evidence of an open rule")
    }

    /// During an election a member does nothing but fence, seal, and fetch what the election orders.
    fn an_election_orders_everything(&self) -> Result<(), String> {
        let Some(election) = &self.agreed.election else {
            return ensure(!matches!(self.action, Action::Seal { .. } | Action::CatchUp { .. }), "without an election");
        };
        match self.action {
            Action::Fence { .. } => Ok(()),
            Action::Seal { epoch } => {
                ensure(*epoch == election.epoch && self.counted(), "for another election or directory")?;
                ensure(!self.runs_open_to_be_primary(), "of a primary")
            }
            Action::CatchUp { source, .. } => {
                let order = election.catch_up.as_ref().ok_or("without an order")?;
                let sealed = self.local.sealed.as_ref().is_some_and(|sealed| sealed.epoch == election.epoch);
                ensure(sealed && order.member.member == self.local.me && order.source == source.key, "not as ordered")
            }
            // A seal may have stopped PostgreSQL: whoever is to send or to fetch WAL runs again, following nobody.
            Action::StartStandby { following: None, .. } => {
                let order = election.catch_up.as_ref().ok_or("during an election")?;
                let sealed = self.local.sealed.as_ref().is_some_and(|sealed| sealed.epoch == election.epoch);
                let ordered = order.member.member == self.local.me || order.source.member == self.local.me;
                ensure(sealed && ordered, "not as ordered")
            }
            _ => Err("during an election".to_owned()),
        }
    }

    /// S3: who runs as a primary and is not the agreed one is fenced before anything else.
    fn a_false_primary_is_fenced(&self) -> Result<(), String> {
        let Some(reign) = self.agreed.reign() else { return Ok(()) };
        let marked = self.local.marker.is_some();
        if !marked || !self.runs_open_to_be_primary() || matches!(self.action, Action::Fence { .. }) {
            return Ok(());
        }
        let mine = reign.primary.member == self.local.me && self.counted();
        let current = reign.epoch == self.local.promise.reigned || reign.start == Start::Continue;
        ensure(mine && current, "instead of a fence")
    }

    fn check(&self) -> Result<(), String> {
        let old = epoch_of(self.action).is_some_and(|epoch| epoch < self.local.promise.epoch);
        ensure(!old, "of an older epoch than the promise")?;
        self.only_the_reigning_primary_is_served()?;
        self.only_wal_that_belongs_follows()?;
        self.only_what_does_not_count_is_made_anew()?;
        self.an_election_orders_everything()?;
        self.a_false_primary_is_fenced()
    }
}

fn ensure(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

/// Nothing is done and nothing is said only where everything is as agreed.
fn at_rest(agreed: &ClusterState, local: &Local) -> bool {
    let (Some(reign), LocalPostgres::Running(running)) = (agreed.reign_in_force(), &local.postgres) else {
        return false;
    };
    let Some(in_force) = local.in_force.as_ref().filter(|f| f.epoch == reign.epoch) else { return false };
    if reign.primary.member == local.me {
        let door = in_force.door_open == reign.open || (in_force.door_open && reign.start == Start::Adopt);
        return !running.in_recovery && in_force.version == Some(reign.version) && door;
    }
    running.in_recovery && in_force.upstream.as_ref() == Some(&reign.primary)
}

/// The name of the action, if there is one.
fn judge(agreed: &ClusterState, local: &Local) -> Result<Option<String>, String> {
    let plan = reconcile(agreed, local, NOW);
    assert!(plan.wake_at.is_none_or(|at| at > NOW), "a moment that has passed wakes it for ever");
    let Plan { action, findings, needs_new_incarnation, .. } = &plan;
    let Some(action) = action else {
        let said = !findings.is_empty();
        ensure(said || at_rest(agreed, local), "nothing is done, and nothing says why not")?;
        ensure(needs_new_incarnation.is_none() || said, "a new incarnation without a reason")?;
        return Ok(None);
    };
    Case { agreed, local, action }.check().map_err(|why| format!("{action:?} {why}"))?;
    let text = format!("{action:?}");
    let name = text.split([' ', '{']).next().unwrap_or_default().to_owned();
    let following = matches!(action, Action::StartStandby { following: Some(_), .. });
    Ok(Some(if following { "StartStandby following".to_owned() } else { name }))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn every_agent_has_a_safe_answer_to_every_agreed_state(
        rolls in prop::collection::vec(roll(), 1..120),
        situations in prop::collection::vec(any::<Situation>(), 4..12),
    ) {
        let mut state = State::default();
        for roll in &rolls {
            step(&mut state, roll);
            let Some(agreed) = state.clusters.values().next() else { continue };
            for situation in &situations {
                let local = local(agreed, situation);
                judge(agreed, &local).map_err(|why| TestCaseError::fail(format!("{why}; {local:?}")))?;
            }
        }
    }
}

/// The dice must reach every kind of action, or the property above says nothing of it.
#[test]
fn the_dice_reach_every_kind_of_action() {
    let mut state = State::default();
    let mut dice = Dice(11);
    let mut seen = BTreeMap::<String, u64>::new();
    for round in 0..80_000 {
        if round % 300 == 0 {
            state = State::default();
        }
        let roll: Roll = dice.roll();
        step(&mut state, &roll);
        let Some(agreed) = state.clusters.values().next() else { continue };
        for _ in 0..6 {
            let situation: Situation = std::array::from_fn(|_| dice.next(256) as u8);
            let local = local(agreed, &situation);
            let action = judge(agreed, &local).unwrap_or_else(|why| panic!("{why}; {local:?}"));
            *seen.entry(action.unwrap_or_else(|| "nothing".to_owned())).or_default() += 1;
        }
    }
    for name in [
        "nothing",
        "Fence",
        "Seal",
        "CatchUp",
        "Initdb",
        "AdoptPrimary",
        "AdoptStandby",
        "StartPrimary",
        "StartStandby",
        "StartStandby following",
        "Configure",
        "Promote",
        "CarryOn",
        "Prove",
        "Checkpoint",
        "Follow",
        "Rewind",
        "Clone",
        "ReadWalEnd",
        "Restart",
    ] {
        assert!(seen.get(name).copied().unwrap_or(0) >= 10, "seldom or never: {name}; {seen:?}");
    }
}
