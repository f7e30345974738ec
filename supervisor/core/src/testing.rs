//! A small cluster for the core's own tests: driven by commands by name, watched by a leader whose reports are given
//! by hand, with what an agent would know of each member. Members are m0, m1, …; m0 is the first primary.

pub(crate) mod agent;
mod leader;

pub(crate) use leader::{remote, walsender};

use crate::{
    apply,
    cluster::{ClusterState, State},
    command::{Actor, Command, Outcome, Proof, Proposal, RefusalCode},
    id::{ClusterId, Epoch, MemberId, MemberKey, NodeId, RuleVersion, TimelineId},
    invariant,
    lsn::Lsn,
    member::{MemberSpec, Tier},
    observation::Observations,
    position::Position,
    reign::{ElectionKind, Promotion, Seal, SealKind, Start},
    rule::Setting,
    settings::Settings,
    time::{Time, WallTime},
};

/// The cluster, what its leader has seen, and the time on the one clock of these tests.
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) seen: Observations,
    pub(crate) now: Time,
}

impl World {
    /// Members of tier replica, registered; nothing founded.
    pub(crate) fn new(members: usize) -> Self {
        Self::of_tiers(&vec![Tier::Replica; members])
    }

    /// The same with a tier for each.
    pub(crate) fn of_tiers(tiers: &[Tier]) -> Self {
        let seen = Observations { wall: WallTime(50_000), ..Observations::new(NodeId(1), Time(0)) };
        let mut world = Self { state: State::default(), seen, now: Time(100_000) };
        let expect = (0..tiers.len()).map(name).collect();
        // The tests' arithmetic is that of a lease of 1300 ms, whatever the default.
        let settings = Settings { lease_ms: 1_300, ..Settings::default() };
        world.must(Command::CreateCluster { settings, expect });
        for (number, tier) in tiers.iter().enumerate() {
            world.must(Command::RegisterMember { spec: spec(number, *tier) });
        }
        world
    }

    /// Member 0 is the open primary of epoch 1; members 1.. are in the rule.
    pub(crate) fn serving(members: usize, k: u32) -> Self {
        let cohort: Vec<usize> = (1..members).collect();
        Self::new(members).found(k, &cohort)
    }

    /// Member 0 is the open primary of epoch 1; of the others, those of `cohort` are in the rule.
    pub(crate) fn found(mut self, k: u32, cohort: &[usize]) -> Self {
        let primary = self.key(0);
        self.must(Command::Found {
            primary,
            start: Start::Initdb,
            timeline: TimelineId(1),
            system_identifier: None,
            setting: Setting::new(1, []),
        });
        self.promoted(1, 1, 100);
        self.must(Command::Open { epoch: Epoch(1) });
        let cohort = self.keys(cohort);
        if !cohort.is_empty() {
            self.change(Setting::new(1, cohort.clone()));
        }
        if k > 1 {
            self.change(Setting::new(k, cohort));
            self.set(|settings| settings.sync_standbys = k);
        }
        self
    }

    /// Changes the operator's settings.
    pub(crate) fn set(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.cluster().settings.clone();
        change(&mut settings);
        self.must(Command::ChangeSettings { settings });
    }

    /// Changes the rule of the present reign, with its proof.
    pub(crate) fn change(&mut self, to: Setting) {
        let epoch = self.cluster().reign().unwrap().epoch;
        self.must(Command::BeginChange { epoch, to: to.clone() });
        if self.cluster().change.is_some() {
            let version = self.cluster().newest_rule().unwrap().version;
            let proof = Proof { version, marker: Lsn(200), flushed: to.cohort };
            self.must(Command::FinishChange { epoch, proof });
        }
    }

    pub(crate) fn promoted(&mut self, epoch: u64, timeline: u32, at: u64) {
        self.must(Command::RecordPromotion {
            epoch: Epoch(epoch),
            timeline: TimelineId(timeline),
            promotion: Promotion { fork: Lsn(at), end: Lsn(at), marked: true },
            system_identifier: 7,
        });
    }

    pub(crate) fn begin(&mut self, epoch: u64) {
        self.must(begin(epoch, ElectionKind::Failover));
    }

    /// Member `number` was appointed for `epoch` on the seals of `sealed` (itself among them), all at one position.
    pub(crate) fn succeed(&mut self, epoch: u64, number: usize, sealed: &[usize], at: (u64, u64)) {
        self.begin(epoch);
        let timeline = self.cluster().last_timeline.next().0;
        let seals = sealed.iter().map(|n| self.seal(epoch, *n, at)).collect();
        let command = self.appoint(epoch, number, timeline, seals);
        self.must(command);
    }

    /// The reign of `epoch`, promoted before, has its k standbys: the older rules are closed.
    pub(crate) fn completed(&mut self, epoch: u64, by: &[usize]) {
        let end = self.cluster().reign().unwrap().promotion.unwrap().end;
        let proof =
            Proof { version: RuleVersion(1), marker: Lsn(end.0 + 1), flushed: self.keys(by).into_iter().collect() };
        self.must(Command::CompleteRule { epoch: Epoch(epoch), proof });
    }

    pub(crate) fn cluster(&self) -> &ClusterState {
        &self.state.clusters[&ClusterId::from("c")]
    }

    pub(crate) fn key(&self, number: usize) -> MemberKey {
        self.cluster().key_of(&name(number)).unwrap()
    }

    pub(crate) fn keys(&self, numbers: &[usize]) -> Vec<MemberKey> {
        numbers.iter().map(|number| self.key(*number)).collect()
    }

    pub(crate) fn seal(&self, epoch: u64, number: usize, at: (u64, u64)) -> Seal {
        let position = Position::new(Epoch(at.0), Lsn(at.1));
        Seal { epoch: Epoch(epoch), key: self.key(number), position, kind: SealKind::Sealed }
    }

    pub(crate) fn appoint(&self, epoch: u64, number: usize, timeline: u32, seals: Vec<Seal>) -> Command {
        let primary = self.key(number);
        let at = seals.iter().find(|seal| seal.key == primary).map(|seal| seal.position);
        let follows = |seal: &&Seal| seal.key != primary && Some(seal.position) <= at;
        let cohort: Vec<_> = seals.iter().filter(follows).map(|seal| seal.key.clone()).collect();
        Command::Appoint {
            epoch: Epoch(epoch),
            primary,
            start: Start::Promote,
            timeline: TimelineId(timeline),
            setting: Setting::new(1, cohort),
            seals,
        }
    }

    pub(crate) fn try_it(&mut self, command: Command) -> Outcome {
        let before = self.state.clone();
        let proposal = Proposal {
            cluster: ClusterId::from("c"),
            based_on: None,
            at: WallTime(60_000),
            by: Actor::Controller(NodeId(1)),
            reason: "test".to_owned(),
            evidence: Vec::new(),
            command,
        };
        self.propose(&proposal, &before)
    }

    fn propose(&mut self, proposal: &Proposal, before: &State) -> Outcome {
        let outcome = apply(&mut self.state, proposal);
        if matches!(outcome, Outcome::Refused(_)) {
            assert_eq!(*before, self.state, "a refused command changed something");
        }
        invariant::check(self.cluster()).unwrap();
        outcome
    }

    pub(crate) fn must(&mut self, command: Command) {
        let outcome = self.try_it(command);
        assert!(matches!(outcome, Outcome::Agreed { .. }), "{outcome:?}");
    }

    pub(crate) fn refused(&mut self, command: Command) -> RefusalCode {
        match self.try_it(command) {
            Outcome::Refused(refusal) => refusal.code,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }
}

pub(crate) fn name(number: usize) -> MemberId {
    MemberId(format!("m{number}"))
}

pub(crate) fn spec(number: usize, tier: Tier) -> MemberSpec {
    let port = 5000 + u16::try_from(number).unwrap();
    let node = NodeId(number as u64 + 1);
    MemberSpec { member: name(number), tier, priority: 100, host: "h".to_owned(), port, node }
}

pub(crate) fn begin(epoch: u64, kind: ElectionKind) -> Command {
    Command::BeginElection { epoch: Epoch(epoch), kind, noticed_at: WallTime(0) }
}
