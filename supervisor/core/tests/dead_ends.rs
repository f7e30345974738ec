//! Goal: histories found by the simulation in which nothing was lost and nothing went on any more stay impossible.
//! Method: the shortest agreed state and observations of each, and what must be decided or done in it.

use pgvigil_core::{
    Outcome, Proposal, State, apply,
    cluster::ClusterState,
    command::{Actor, Command, Proof},
    decide,
    id::{ClusterId, Epoch, MemberId, MemberKey, NodeId, Revision, RuleVersion, TimelineId},
    lease::Right,
    local::{InForce, Local, LocalPostgres, Marker, Promise, RuleDoubt, Running, SealedAt},
    lsn::Lsn,
    member::{MemberSpec, Tier},
    observation::Observations,
    position::Position,
    reconcile::{self, Action},
    reign::{CatchUp, ElectionKind, Promotion, Seal, SealKind, Start},
    report::{
        Adoptable, CanaryReport, PostgresReport, PrimaryReport, Receiver, Report, SealReport, SenderReport,
        StandbyReport,
    },
    rule::Setting,
    settings::Settings,
    time::{Time, WallTime},
};
use std::collections::BTreeSet;

const NOW: Time = Time(100_000);

fn id() -> ClusterId {
    ClusterId::from("c")
}

/// An agreed state, made by entries that must all be agreed.
struct Agreed(State);

impl Agreed {
    /// Members a, b, c (and d of tier backup); a reigns since initdb, open, under `any 1 of b`.
    fn founded() -> Self {
        let mut agreed = Self(State::default());
        agreed.entry(Command::CreateCluster { settings: Settings::default(), expect: BTreeSet::new() });
        for (number, name) in (1..).zip(["a", "b", "c", "d"]) {
            agreed.entry(Command::RegisterMember { spec: spec(number, name) });
        }
        let found = Command::Found {
            primary: agreed.key("a"),
            start: Start::Initdb,
            timeline: TimelineId(1),
            system_identifier: None,
            setting: Setting::new(1, []),
        };
        agreed.entry(found);
        agreed.entry(promoted(1, 100));
        agreed.entry(Command::Open { epoch: Epoch(1) });
        agreed.change(&["b"]);
        agreed
    }

    fn entry(&mut self, command: Command) {
        let name = command.name();
        let proposal = Proposal {
            cluster: id(),
            based_on: None,
            at: WallTime(1),
            by: Actor::Controller(NodeId(1)),
            reason: String::new(),
            evidence: Vec::new(),
            command,
        };
        let outcome = apply(&mut self.0, &proposal);
        assert!(matches!(outcome, Outcome::Agreed { .. }), "{name}: {outcome:?}");
    }

    fn cluster(&self) -> &ClusterState {
        &self.0.clusters[&id()]
    }

    fn key(&self, name: &str) -> MemberKey {
        self.cluster().key_of(&MemberId::from(name)).unwrap()
    }

    fn keys(&self, names: &[&str]) -> Vec<MemberKey> {
        names.iter().map(|name| self.key(name)).collect()
    }

    /// The rule becomes `any 1 of names`, proven.
    fn change(&mut self, names: &[&str]) {
        let epoch = self.cluster().reign().unwrap().epoch;
        self.entry(Command::BeginChange { epoch, to: Setting::new(1, self.keys(names)) });
        if self.cluster().change.is_some() {
            let version = self.cluster().newest_rule().unwrap().version;
            let flushed = self.keys(names).into_iter().collect();
            self.entry(Command::FinishChange { epoch, proof: Proof { version, marker: Lsn(200), flushed } });
        }
    }

    fn begin(&mut self, kind: ElectionKind) {
        let epoch = self.cluster().epoch.next();
        self.entry(Command::BeginElection { epoch, kind, noticed_at: WallTime(1) });
    }

    fn seal(&self, name: &str, lsn: u64) -> Seal {
        let epoch = self.cluster().election.as_ref().unwrap().epoch;
        Seal { epoch, key: self.key(name), position: Position::new(Epoch(1), Lsn(lsn)), kind: SealKind::Sealed }
    }

    /// What a leader has seen: the reports, just now.
    fn seen(&self, reports: Vec<Report>) -> Observations {
        let mut seen = Observations::new(NodeId(1), Time(0));
        for report in reports {
            seen.receive(Some(self.cluster()), report, NOW);
        }
        seen.notice(self.cluster(), Time(0));
        seen
    }

    fn report(&self, name: &str, postgres: PostgresReport) -> Report {
        let member = &self.cluster().members[&MemberId::from(name)];
        Report {
            cluster: id(),
            spec: member.spec.clone(),
            seq: 1,
            incarnation: Some(member.incarnation),
            revision: self.cluster().revision,
            promised: self.cluster().epoch,
            postgres,
            seal: None,
            fenced: None,
            starved_ms: 0,
            guard_armed: true,
            probe: None,
            disk_full: false,
            activity: None,
            problems: Vec::new(),
            needs_new_incarnation: None,
            restarted: 0,
            was_member: true,
            discarded_wal: None,
            unproven: Vec::new(),
            shown_to_leader: None,
            echo: None,
            timelines: pgvigil_core::report::TimelinesReport::default(),
        }
    }

    fn sealed(&self, name: &str, lsn: u64) -> Report {
        let seal = SealReport { seal: self.seal(name, lsn), quiet_ms: 0, can_stream: true, incomplete: false };
        Report { seal: Some(seal), ..self.report(name, PostgresReport::Stopped { crashed: true }) }
    }

    /// `name` runs as the primary of the last reign, promoted at `end`; `standbys` stream.
    fn primary(&self, name: &str, end: u64, standbys: &[&str]) -> PostgresReport {
        let reign = self.cluster().reign().unwrap();
        let sender = |key: MemberKey| SenderReport {
            key,
            flush_lsn: Lsn(500),
            flushed_record: None,
            named: 0,
            walsenders: Vec::new(),
            streaming: true,
            counted: false,
            encrypted: None,
        };
        assert_eq!(reign.primary, self.key(name));
        PostgresReport::Primary(Box::new(PrimaryReport {
            checkpoint_age_ms: Some(0),
            epoch: reign.epoch,
            timeline: reign.timeline,
            flush_lsn: Lsn(500),
            promotion: Some(Promotion { fork: Lsn(end), end: Lsn(end), marked: true }),
            system_identifier: 7,
            door_open: reign.open,
            setting_in_force: Some(reign.version),
            proof: None,
            canary: CanaryReport::default(),
            standbys: self.keys(standbys).into_iter().map(sender).collect(),
            weakened: Vec::new(),
            shown_ago_ms: None,
            right_ms: 1_000,
            unasked_ms: None,
            written_by_others: 0,
        }))
    }

    /// A standby that streams from the primary of the last reign.
    fn streams(&self) -> PostgresReport {
        let reign = self.cluster().reign().unwrap();
        PostgresReport::Standby(StandbyReport {
            timeline: reign.timeline,
            following: Some(reign.epoch),
            flush_lsn: Lsn(500),
            replay_lsn: Lsn(500),
            streaming: true,
            wal_age_ms: 0,
            replay_held: false,
            receiver: Receiver::default(),
        })
    }

    fn decided(&self, seen: &Observations) -> Option<Command> {
        decide(self.cluster(), seen, NOW).command.map(|wanted| wanted.command)
    }
}

fn spec(number: u64, name: &str) -> MemberSpec {
    MemberSpec {
        member: MemberId::from(name),
        tier: if name == "d" { Tier::Backup } else { Tier::Replica },
        priority: 1,
        host: name.to_owned(),
        port: 5432,
        node: NodeId(number),
    }
}

fn promoted(epoch: u64, end: u64) -> Command {
    Command::RecordPromotion {
        epoch: Epoch(epoch),
        timeline: TimelineId(u32::try_from(epoch).unwrap()),
        promotion: Promotion { fork: Lsn(end), end: Lsn(end), marked: true },
        system_identifier: 7,
    }
}

/// The only member of the rule was made anew; the change to a rule of nobody can never be proven, and c streams.
#[test]
fn a_change_to_a_rule_that_is_too_small_gives_way_once_somebody_streams() {
    let mut agreed = Agreed::founded();
    let replaces = agreed.key("b").incarnation;
    agreed.entry(Command::NewIncarnation { member: MemberId::from("b"), replaces });
    agreed.entry(Command::BeginChange { epoch: Epoch(1), to: Setting::new(1, []) });
    assert!(agreed.cluster().change.is_some());
    let nobody = agreed.seen(vec![agreed.report("a", agreed.primary("a", 100, &[]))]);
    assert_eq!(agreed.decided(&nobody), None);
    let one =
        agreed.seen(vec![agreed.report("c", agreed.streams()), agreed.report("a", agreed.primary("a", 100, &["c"]))]);
    let to = Setting::new(1, agreed.keys(&["c"]));
    assert_eq!(agreed.decided(&one), Some(Command::BeginChange { epoch: Epoch(1), to }));
}

/// The promotion ends just as another election begins: without its record nobody could ever be appointed.
#[test]
fn a_promotion_that_ends_during_an_election_is_recorded() {
    let mut agreed = Agreed::founded();
    agreed.begin(ElectionKind::Failover);
    let seals = vec![agreed.seal("a", 300)];
    let appoint = Command::Appoint {
        epoch: Epoch(2),
        primary: agreed.key("a"),
        start: Start::Continue,
        timeline: TimelineId(1),
        setting: Setting::new(1, agreed.keys(&["c"])),
        seals,
    };
    agreed.entry(appoint);
    agreed.begin(ElectionKind::Failover);
    let seen = agreed.seen(vec![agreed.report("a", agreed.primary("a", 300, &[])), agreed.sealed("c", 200)]);
    let command = agreed.decided(&seen);
    assert!(matches!(command, Some(Command::RecordPromotion { epoch: Epoch(2), .. })), "{command:?}");
}

/// A restart in place loses power before PostgreSQL is up: the member that has everything may begin it again.
#[test]
fn a_restart_in_place_that_was_cut_short_can_be_begun_again() {
    let mut agreed = Agreed::founded();
    agreed.begin(ElectionKind::Renewal);
    let appoint = |agreed: &Agreed| Command::Appoint {
        epoch: agreed.cluster().epoch,
        primary: agreed.key("a"),
        start: Start::Continue,
        timeline: TimelineId(1),
        setting: Setting::new(1, agreed.keys(&["b", "c"])),
        seals: vec![agreed.seal("a", 300), agreed.seal("c", 200)],
    };
    agreed.entry(appoint(&agreed));
    agreed.begin(ElectionKind::Failover);
    let mut seen = agreed.seen(vec![agreed.sealed("a", 300), agreed.sealed("c", 200)]);
    // b, which alone could close the older rule beside a, is waited for no longer.
    seen.election_seen = Some((Epoch(3), Time(0)));
    let command = agreed.decided(&seen);
    assert!(matches!(command, Some(Command::Appoint { start: Start::Continue, .. })), "{command:?}");
    agreed.entry(appoint(&agreed));
}

/// Only a backup streams, which no rule may count: an election would be followed by the next one, for ever.
#[test]
fn a_rule_is_not_formed_anew_for_members_that_it_cannot_count() {
    let mut agreed = Agreed::founded();
    agreed.begin(ElectionKind::Failover);
    let appoint = Command::Appoint {
        epoch: Epoch(2),
        primary: agreed.key("a"),
        start: Start::Continue,
        timeline: TimelineId(1),
        setting: Setting::new(1, agreed.keys(&["b"])),
        seals: vec![agreed.seal("a", 300)],
    };
    agreed.entry(appoint);
    agreed.entry(Command::RecordPromotion {
        epoch: Epoch(2),
        timeline: TimelineId(1),
        promotion: Promotion { fork: Lsn(300), end: Lsn(300), marked: true },
        system_identifier: 7,
    });
    let seen = |standbys: &[&str]| {
        let mut seen = agreed.seen(vec![agreed.report("a", agreed.primary("a", 300, standbys))]);
        seen.incomplete_since = Some((Epoch(2), Time(0)));
        seen
    };
    assert_eq!(agreed.decided(&seen(&["d"])), None);
    let command = agreed.decided(&seen(&["c"]));
    assert!(matches!(command, Some(Command::BeginElection { kind: ElectionKind::Renewal, .. })), "{command:?}");
}

/// The operator lowered k after an appointment whose rule is too small for the k of that moment.
#[test]
fn a_rule_is_judged_by_its_own_k_when_the_settings_have_changed() {
    let mut agreed = Agreed::founded();
    agreed.begin(ElectionKind::Failover);
    let appoint = Command::Appoint {
        epoch: Epoch(2),
        primary: agreed.key("a"),
        start: Start::Continue,
        timeline: TimelineId(1),
        setting: Setting::new(2, agreed.keys(&["b"])),
        seals: vec![agreed.seal("a", 300)],
    };
    agreed.entry(appoint);
    agreed.entry(Command::RecordPromotion {
        epoch: Epoch(2),
        timeline: TimelineId(1),
        promotion: Promotion { fork: Lsn(300), end: Lsn(300), marked: true },
        system_identifier: 7,
    });
    let mut seen = agreed.seen(vec![agreed.report("a", agreed.primary("a", 300, &["b"]))]);
    seen.incomplete_since = Some((Epoch(2), Time(0)));
    let decision = decide(agreed.cluster(), &seen, NOW);
    let command = decision.command.map(|wanted| wanted.command);
    assert!(matches!(command, Some(Command::BeginElection { kind: ElectionKind::Renewal, .. })), "{command:?}");
    // And nothing asks to be woken in the past, which would be at once, again and again.
    let seen = agreed.seen(vec![agreed.report("a", agreed.primary("a", 300, &[]))]);
    let seen = Observations { incomplete_since: Some((Epoch(2), Time(0))), ..seen };
    let decision = decide(agreed.cluster(), &seen, NOW);
    assert!(decision.command.is_none() && decision.wake_at.is_none_or(|at| at > NOW), "{decision:?}");
}

/// A seal stopped PostgreSQL at both ends of a catch-up: both are started, following nobody, before anything is fetched.
#[test]
fn whoever_an_election_orders_to_send_or_fetch_runs() {
    let mut agreed = Agreed::founded();
    agreed.begin(ElectionKind::Failover);
    let order = CatchUp { member: agreed.key("b"), source: agreed.key("c"), target: Position::new(Epoch(1), Lsn(400)) };
    agreed.entry(Command::CatchUp { epoch: Epoch(2), order });
    for name in ["b", "c"] {
        let mut local = local(&agreed, name, true);
        let position = Position::new(Epoch(1), Lsn(if name == "c" { 400 } else { 300 }));
        local.postgres = LocalPostgres::Stopped { crashed: false };
        local.wal_end = Some((position, TimelineId(1)));
        local.sealed = Some(SealedAt { epoch: Epoch(2), position });
        let start = Some(Action::StartStandby { epoch: Epoch(2), following: None });
        assert_eq!(reconcile::reconcile(agreed.cluster(), &local, NOW).action, start, "{name}");
    }
}

/// A member given up by a forced failover comes back: made anew it counts again, as it is it never would.
#[test]
fn a_member_that_was_given_up_is_made_anew() {
    let mut agreed = Agreed::founded();
    let give_up = BTreeSet::from([MemberId::from("c")]);
    agreed.begin(ElectionKind::Forced { to: None, old_primary_is_off: false, give_up });
    let appoint = Command::Appoint {
        epoch: Epoch(2),
        primary: agreed.key("b"),
        start: Start::Promote,
        timeline: TimelineId(2),
        setting: Setting::new(1, []),
        seals: vec![agreed.seal("b", 300)],
    };
    agreed.entry(appoint);
    agreed.entry(promoted(2, 300));
    agreed.entry(Command::Open { epoch: Epoch(2) });
    let mut local = local(&agreed, "c", true);
    local.wal_end = Some((Position::new(Epoch(1), Lsn(300)), TimelineId(1)));
    let plan = reconcile::reconcile(agreed.cluster(), &local, NOW);
    assert!(plan.action.is_none(), "{plan:?}");
    // The leader sees to it, whatever the member's agent says, or if it says nothing.
    let seen = agreed.seen(vec![agreed.report("b", agreed.primary("b", 300, &[]))]);
    let replaces = agreed.key("c").incarnation;
    let wanted = Command::NewIncarnation { member: MemberId::from("c"), replaces };
    assert_eq!(agreed.decided(&seen), Some(wanted.clone()));
    agreed.entry(wanted);
    assert!(matches!(
        reconcile::reconcile(agreed.cluster(), &local, NOW).action,
        Some(Action::Clone { .. } | Action::Rewind { .. })
    ));
}

/// An operator's word before the first primary ever ran would leave a cluster that nobody can be promoted in.
#[test]
fn nothing_is_forced_before_the_first_primary_ran() {
    let mut agreed = Agreed(State::default());
    agreed.entry(Command::CreateCluster { settings: Settings::default(), expect: BTreeSet::new() });
    agreed.entry(Command::RegisterMember { spec: spec(1, "a") });
    let found = |agreed: &Agreed| Command::Found {
        primary: agreed.key("a"),
        start: Start::Initdb,
        timeline: TimelineId(1),
        system_identifier: None,
        setting: Setting::new(1, []),
    };
    agreed.entry(found(&agreed));
    let kind = ElectionKind::Forced { to: None, old_primary_is_off: false, give_up: BTreeSet::new() };
    let ask = |agreed: &mut Agreed| {
        let proposal = Proposal {
            cluster: id(),
            based_on: None,
            at: WallTime(1),
            by: Actor::Operator("op".to_owned()),
            reason: String::new(),
            evidence: Vec::new(),
            command: Command::RequestElection { kind: kind.clone() },
        };
        apply(&mut agreed.0, &proposal)
    };
    assert!(matches!(ask(&mut agreed), Outcome::Refused(_)));
    agreed.entry(promoted(1, 100));
    assert!(matches!(ask(&mut agreed), Outcome::Agreed { .. }));
}

fn local(agreed: &Agreed, name: &str, in_recovery: bool) -> Local {
    let key = agreed.key(name);
    Local {
        me: key.member.clone(),
        marker: Some(Marker { cluster: id(), member: key.member, incarnation: key.incarnation }),
        promise: Promise::default(),
        postgres: LocalPostgres::Running(Running {
            in_recovery,
            timeline: TimelineId(1),
            flush_lsn: Lsn(300),
            streaming: false,
            wal_moved_at: Time(0),
        }),
        wal_end: None,
        directory: pgvigil_core::local::Directory::default(),
        own_end: None,
        sealed: None,
        fence_on_disk: true,
        in_force: None,
        right: Right::default(),
        starting_since: None,
        election_since: None,
        canary_waiting_ms: 0,
        standbys_enough_since: None,
        proven: None,
        busy: false,
        checkpointed_at: None,
        restart_due: None,
        rule_astray_since: None,
        rule_doubt: RuleDoubt::default(),
        unasked_since: None,
    }
}

/// The appointee lost power before it left recovery, and nobody else has everything: it may be appointed again.
#[test]
fn an_appointee_that_was_never_promoted_is_a_candidate_like_any_other() {
    let mut agreed = Agreed::founded();
    agreed.change(&["b", "c"]);
    agreed.begin(ElectionKind::Failover);
    let appoint = Command::Appoint {
        epoch: Epoch(2),
        primary: agreed.key("b"),
        start: Start::Promote,
        timeline: TimelineId(2),
        setting: Setting::new(1, agreed.keys(&["c"])),
        seals: vec![agreed.seal("b", 300), agreed.seal("c", 250)],
    };
    agreed.entry(appoint);
    agreed.begin(ElectionKind::Failover);
    let mut seen = agreed.seen(vec![agreed.sealed("b", 300), agreed.sealed("c", 250)]);
    seen.election_seen = Some((Epoch(3), Time(0)));
    let command = agreed.decided(&seen);
    let b = agreed.key("b");
    assert!(matches!(command, Some(Command::Appoint { primary, start: Start::Promote, .. }) if primary == b));
}

/// The appointee's agent died between the end of the promotion and its record.
#[test]
fn a_promotion_that_was_not_recorded_is_read_again() {
    let mut agreed = Agreed::founded();
    agreed.begin(ElectionKind::Failover);
    let appoint = Command::Appoint {
        epoch: Epoch(2),
        primary: agreed.key("b"),
        start: Start::Promote,
        timeline: TimelineId(2),
        setting: Setting::new(1, agreed.keys(&["c"])),
        seals: vec![agreed.seal("b", 300), agreed.seal("c", 300)],
    };
    agreed.entry(appoint);
    let mut local = local(&agreed, "b", false);
    local.promise =
        Promise { epoch: Epoch(2), sealed: Some(Epoch(2)), reigned: Epoch(2), promotion: None, restarted: 0 };
    let again = Some(Action::Promote { epoch: Epoch(2), timeline: TimelineId(2) });
    assert_eq!(reconcile::reconcile(agreed.cluster(), &local, NOW).action, again);
    local.promise.promotion = Some(Promotion { fork: Lsn(300), end: Lsn(300), marked: true });
    assert_ne!(reconcile::reconcile(agreed.cluster(), &local, NOW).action, again);
}

/// Standbys seal faster than the primary learns of the election that is to form its rule anew.
#[test]
fn a_renewal_waits_for_the_primary_that_is_there() {
    let mut agreed = Agreed::founded();
    agreed.begin(ElectionKind::Renewal);
    let primary = agreed.report("a", agreed.primary("a", 100, &[]));
    let mut seen = agreed.seen(vec![primary, agreed.sealed("b", 300), agreed.sealed("c", 300)]);
    seen.election_seen = Some((Epoch(2), NOW));
    assert_eq!(agreed.decided(&seen), None);
    seen.election_seen = Some((Epoch(2), Time(0)));
    let command = agreed.decided(&seen);
    assert!(matches!(command, Some(Command::Appoint { start: Start::Promote, .. })), "{command:?}");
}

/// The host of the first primary loses power before PostgreSQL ever ran: it is started again.
#[test]
fn the_first_start_that_was_cut_short_is_begun_again() {
    let mut agreed = Agreed(State::default());
    agreed.entry(Command::CreateCluster { settings: Settings::default(), expect: BTreeSet::new() });
    agreed.entry(Command::RegisterMember { spec: spec(1, "a") });
    let found = |agreed: &Agreed| Command::Found {
        primary: agreed.key("a"),
        start: Start::Initdb,
        timeline: TimelineId(1),
        system_identifier: None,
        setting: Setting::new(1, []),
    };
    agreed.entry(found(&agreed));
    let mut local = local(&agreed, "a", false);
    local.promise.reigned = Epoch(1);
    local.postgres = LocalPostgres::Stopped { crashed: true };
    let plan = reconcile::reconcile(agreed.cluster(), &local, NOW);
    assert!(matches!(plan.action, Some(Action::StartPrimary { .. })), "{plan:?}");
    // Started by somebody else meanwhile, as a standby: not for long.
    let standby = self::local(&agreed, "a", true);
    let plan = reconcile::reconcile(agreed.cluster(), &Local { promise: local.promise.clone(), ..standby }, NOW);
    assert!(matches!(plan.action, Some(Action::Fence { .. })), "{plan:?}");
    // Once it was promoted, what is gone is gone: the leader decides.
    agreed.entry(promoted(1, 100));
    let plan = reconcile::reconcile(agreed.cluster(), &local, NOW);
    assert!(plan.action.is_none(), "{plan:?}");
}

/// The appointee's agent was restarted before it promoted: it reads the end of its WAL again, which the promotion needs.
#[test]
fn an_appointee_that_does_not_know_its_end_reads_it_first() {
    let mut agreed = Agreed::founded();
    agreed.begin(ElectionKind::Failover);
    let appoint = Command::Appoint {
        epoch: Epoch(2),
        primary: agreed.key("b"),
        start: Start::Promote,
        timeline: TimelineId(2),
        setting: Setting::new(1, agreed.keys(&["c"])),
        seals: vec![agreed.seal("b", 300), agreed.seal("c", 300)],
    };
    agreed.entry(appoint);
    let mut local = local(&agreed, "b", true);
    local.in_force = Some(InForce { epoch: Epoch(2), version: Some(RuleVersion(1)), ..InForce::default() });
    let read = Some(Action::ReadWalEnd { epoch: Epoch(2) });
    assert_eq!(reconcile::reconcile(agreed.cluster(), &local, NOW).action, read);
    local.postgres = LocalPostgres::Stopped { crashed: false };
    assert_eq!(reconcile::reconcile(agreed.cluster(), &local, NOW).action, read);
    local.wal_end = Some((Position::new(Epoch(1), Lsn(300)), TimelineId(1)));
    let start = Some(Action::StartStandby { epoch: Epoch(2), following: None });
    assert_eq!(reconcile::reconcile(agreed.cluster(), &local, NOW).action, start);
}

/// A primary stood, was re-appointed open as it was, and died before it knew: its restart shows what nobody
/// acknowledged, so its door stays closed until k standbys have it.
#[test]
fn a_restart_in_an_open_reign_keeps_its_door_closed_until_the_rule_is_complete() {
    let mut agreed = Agreed::founded();
    agreed.begin(ElectionKind::Renewal);
    let seals = vec![Seal { kind: SealKind::Standing, ..agreed.seal("a", 300) }];
    let appoint = Command::Appoint {
        epoch: Epoch(2),
        primary: agreed.key("a"),
        start: Start::Continue,
        timeline: TimelineId(1),
        setting: Setting::new(1, agreed.keys(&["b"])),
        seals,
    };
    agreed.entry(appoint);
    agreed.entry(Command::RecordPromotion {
        epoch: Epoch(2),
        timeline: TimelineId(1),
        promotion: Promotion { fork: Lsn(300), end: Lsn(300), marked: true },
        system_identifier: 7,
    });
    assert!(agreed.cluster().reign().unwrap().open);
    let mut local = local(&agreed, "a", false);
    local.promise.reigned = Epoch(2);
    local.right = Right { renewed_sent_at: Some(NOW), canary_began_at: None };
    let closed = InForce { epoch: Epoch(2), version: Some(RuleVersion(1)), door_open: false, upstream: None, named: 0 };
    local.in_force = Some(closed.clone());
    let plan = reconcile::reconcile(agreed.cluster(), &local, NOW);
    assert!(matches!(plan.action, Some(Action::Prove { .. })), "{plan:?}");
    // A server that never stopped keeps its open door.
    local.in_force = Some(InForce { door_open: true, ..closed.clone() });
    let plan = reconcile::reconcile(agreed.cluster(), &local, NOW);
    assert!(matches!(plan.action, Some(Action::Prove { .. })), "{plan:?}");
    let proof = Proof { version: RuleVersion(1), marker: Lsn(400), flushed: agreed.keys(&["b"]).into_iter().collect() };
    agreed.entry(Command::CompleteRule { epoch: Epoch(2), proof });
    local.in_force = Some(closed);
    let plan = reconcile::reconcile(agreed.cluster(), &local, NOW);
    assert!(matches!(plan.action, Some(Action::Configure { door_open: true, .. })), "{plan:?}");
}

/// The adopted primary died before it could report where its reign began: its own seal, the only one that can end a
/// reign of k = 0, counts, and it goes on.
#[test]
fn an_adopted_primary_that_died_at_once_can_go_on() {
    let mut agreed = Agreed(State::default());
    agreed.entry(Command::CreateCluster { settings: Settings::default(), expect: BTreeSet::new() });
    for (number, name) in (1..).zip(["a", "b"]) {
        agreed.entry(Command::RegisterMember { spec: spec(number, name) });
    }
    let found = Command::Found {
        primary: agreed.key("a"),
        start: Start::Adopt,
        timeline: TimelineId(1),
        system_identifier: Some(7),
        setting: Setting::new(0, []),
    };
    agreed.entry(found);
    // Not marked yet, it is still being adopted.
    let unmarked = Report { incarnation: None, revision: Revision(3), ..agreed.report("a", PostgresReport::Starting) };
    assert_eq!(agreed.decided(&agreed.seen(vec![unmarked])), None);
    let dead = agreed.report("a", PostgresReport::Stopped { crashed: true });
    let seen = agreed.seen(vec![Report { fenced: Some(Epoch(1)), ..dead }]);
    let command = agreed.decided(&seen);
    assert!(matches!(command, Some(Command::BeginElection { .. })), "{command:?}");
    agreed.begin(ElectionKind::Failover);
    let mut seen = agreed.seen(vec![agreed.sealed("a", 300)]);
    seen.election_seen = Some((Epoch(2), Time(0)));
    let command = agreed.decided(&seen);
    assert!(matches!(command, Some(Command::Appoint { start: Start::Continue, .. })), "{command:?}");
    agreed.entry(command.unwrap());
}

/// A restart was asked for while PostgreSQL was not pgvigil's yet: it is not stopped for that.
#[test]
fn only_a_server_that_is_ours_is_restarted() {
    let mut agreed = Agreed::founded();
    agreed.entry(Command::RequestRestart { member: MemberId::from("b") });
    let mut local = local(&agreed, "b", true);
    let upstream = Some(agreed.key("a"));
    local.in_force = Some(InForce { epoch: Epoch(1), version: None, door_open: true, upstream, named: 0 });
    let restart = Some(Action::Restart { request: 1 });
    assert_eq!(reconcile::reconcile(agreed.cluster(), &local, NOW).action, restart);
    local.postgres = LocalPostgres::Starting;
    assert_eq!(reconcile::reconcile(agreed.cluster(), &local, NOW).action, None);
}

/// An adopted primary has clients: they stay in while its first reign is being opened.
#[test]
fn adoption_does_not_close_the_door() {
    let mut agreed = Agreed(State::default());
    agreed.entry(Command::CreateCluster { settings: Settings::default(), expect: BTreeSet::new() });
    agreed.entry(Command::RegisterMember { spec: spec(1, "a") });
    let found = Command::Found {
        primary: agreed.key("a"),
        start: Start::Adopt,
        timeline: TimelineId(1),
        system_identifier: Some(7),
        setting: Setting::new(0, []),
    };
    agreed.entry(found);
    let mut local = local(&agreed, "a", false);
    local.promise.reigned = Epoch(1);
    local.promise.promotion = Some(Promotion { fork: Lsn(100), end: Lsn(100), marked: true });
    // Cut short before the mark was written, it goes on with the adoption.
    let found = Adoptable { system_identifier: 7, in_recovery: false, timeline: TimelineId(1), major: 17 };
    let unmarked = Local { marker: None, postgres: LocalPostgres::Adoptable(found), ..local.clone() };
    let plan = reconcile::reconcile(agreed.cluster(), &unmarked, NOW);
    assert!(matches!(plan.action, Some(Action::AdoptPrimary { .. })), "{plan:?}");
    local.in_force = Some(InForce { epoch: Epoch(1), door_open: true, ..InForce::default() });
    let plan = reconcile::reconcile(agreed.cluster(), &local, NOW);
    assert!(matches!(plan.action, Some(Action::Configure { door_open: true, .. })), "{plan:?}");
    assert_eq!(agreed.cluster().revision, Revision(2));
}
