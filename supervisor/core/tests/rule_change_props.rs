//! Goal: a change of the durability rule is safe when it is interrupted after any step. Method: the real `apply` takes
//! random changes; a model of PostgreSQL lets each walsender hold any setting that was put in force since the last
//! proof, and count with its own number over names that others wrote (history A1). After every step, whatever set of
//! seals `apply` lets an election end with meets every set of standbys that may have acknowledged a commit.

mod common;

use common::{name, spec};
use pgvigil_core::{
    Outcome, State, apply,
    cluster::ClusterState,
    command::{Command, Proof},
    id::{Epoch, MemberKey, RuleVersion, TimelineId},
    lsn::Lsn,
    position::Position,
    reign::{ElectionKind, Promotion, Seal, SealKind, Start},
    rule::Setting,
    settings::Settings,
    time::WallTime,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// What may happen next.
#[derive(Clone, Debug)]
enum Step {
    /// The leader begins (or redirects) a change to ANY k of these.
    Change { mask: u8, k: u32 },
    /// The agent learns the next version of the setting; it may lag behind by several.
    Learn,
    /// The agent puts the setting it knows in force: each walsender reloads some time.
    Configure,
    /// Every walsender is seen to hold it, and k of S confirm: the leader finishes the change if it agrees.
    Prove,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..16_u8, 1..4_u32).prop_map(|(mask, k)| Step::Change { mask, k }),
        6 => Just(Step::Learn),
        4 => Just(Step::Configure),
        3 => Just(Step::Prove),
    ]
}

/// Member m9 is the primary; m0 to m3 are the standbys.
struct Model {
    state: State,
    /// The settings as agreed, in order; the agent holds the one at `known`.
    agreed: Vec<(RuleVersion, Setting)>,
    known: usize,
    /// What a walsender may hold.
    held: Vec<(RuleVersion, Setting)>,
}

impl Model {
    fn new() -> Self {
        let mut model = Self { state: State::default(), agreed: Vec::new(), known: 0, held: Vec::new() };
        model.must(Command::CreateCluster { settings: Settings::default(), expect: BTreeSet::new() });
        for number in [9, 0, 1, 2, 3] {
            model.must(Command::RegisterMember { spec: spec(number) });
        }
        let primary = model.key(9);
        let timeline = TimelineId(1);
        let setting = Setting::new(1, [model.key(0), model.key(1)]);
        model.must(Command::Found { primary, start: Start::Initdb, timeline, system_identifier: None, setting });
        let promotion = Promotion { fork: Lsn(1), end: Lsn(1), marked: true };
        model.must(Command::RecordPromotion { epoch: Epoch(1), timeline, promotion, system_identifier: 7 });
        model.note();
        model.held = model.agreed.clone();
        model
    }

    fn cluster(&self) -> &ClusterState {
        self.state.clusters.values().next().unwrap()
    }

    fn key(&self, number: u8) -> MemberKey {
        self.cluster().key_of(&name(number)).unwrap()
    }

    fn keys(&self, mask: u8) -> BTreeSet<MemberKey> {
        (0..4).filter(|n| mask >> n & 1 == 1).map(|n| self.key(n)).collect()
    }

    fn propose(&mut self, command: Command) -> bool {
        matches!(apply(&mut self.state, &common::proposed(command)), Outcome::Agreed { .. })
    }

    fn must(&mut self, command: Command) {
        assert!(self.propose(command.clone()), "{command:?}");
    }

    fn note(&mut self) {
        let reign = self.cluster().reign().unwrap();
        let newest = (reign.version, reign.setting.clone());
        if self.agreed.last() != Some(&newest) {
            self.agreed.push(newest);
        }
    }

    /// Whether `apply` agreed to something.
    fn step(&mut self, step: &Step) -> bool {
        match step {
            Step::Change { mask, k } => {
                let to = Setting { cohort: self.keys(*mask), k: *k };
                let agreed = self.propose(Command::BeginChange { epoch: Epoch(1), to });
                self.note();
                return agreed;
            }
            Step::Learn => self.known = (self.known + 1).min(self.agreed.len() - 1),
            Step::Configure => self.held.push(self.agreed[self.known].clone()),
            Step::Prove => {
                let (version, setting) = self.agreed[self.known].clone();
                if self.held.last().is_none_or(|held| held.0 != version) {
                    return false;
                }
                // (a) and (c) of the proof: no walsender holds anything else from here on.
                self.held = vec![(version, setting.clone())];
                let flushed = setting.cohort.iter().take(setting.k as usize).cloned().collect();
                let proof = Proof { version, marker: Lsn(10), flushed };
                return self.propose(Command::FinishChange { epoch: Epoch(1), proof });
            }
        }
        false
    }

    /// The sets of standbys that some walsender may take for enough.
    fn may_acknowledge(&self) -> Vec<BTreeSet<MemberKey>> {
        let names: BTreeSet<MemberKey> = self.held.iter().flat_map(|(_, s)| s.cohort.iter().cloned()).collect();
        let least = self.held.iter().map(|(_, setting)| setting.k as usize).min().unwrap_or_default();
        (0..16).map(|mask| self.keys(mask)).filter(|set| set.is_subset(&names) && set.len() >= least).collect()
    }

    /// An election begun now, with seals of exactly these members: does `apply` let it end?
    fn election_ends_with(&self, sealed: &BTreeSet<MemberKey>) -> bool {
        let Some(appointee) = sealed.first() else { return false };
        let mut later = Self { state: self.state.clone(), agreed: Vec::new(), known: 0, held: Vec::new() };
        let epoch = later.cluster().epoch.next();
        later.must(Command::BeginElection { epoch, kind: ElectionKind::Failover, noticed_at: WallTime(0) });
        let position = Position::new(Epoch(1), Lsn(10));
        let seals =
            sealed.iter().map(|key| Seal { epoch, key: key.clone(), position, kind: SealKind::Sealed }).collect();
        later.propose(Command::Appoint {
            epoch,
            primary: appointee.clone(),
            start: Start::Promote,
            timeline: TimelineId(2),
            setting: Setting::new(1, []),
            seals,
        })
    }

    fn check(&self) -> Result<(), TestCaseError> {
        for sealed in (0..16).map(|mask| self.keys(mask)) {
            if !self.election_ends_with(&sealed) {
                continue;
            }
            for enough in self.may_acknowledge() {
                let met = !enough.is_disjoint(&sealed);
                prop_assert!(met, "a commit on {enough:?} alone is lost with {sealed:?}; held: {:?}", self.held);
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn a_rule_change_may_be_interrupted_anywhere(list in prop::collection::vec(steps(), 1..40)) {
        let mut model = Model::new();
        model.check()?;
        for step in &list {
            model.step(step);
            model.check()?;
        }
    }
}

/// The property says something only if changes are finished, and elections can end, along the way.
#[test]
fn changes_are_finished_and_elections_can_end() {
    let mut model = Model::new();
    let mut dice = common::Dice(3);
    let (mut finished, mut ends) = (0, 0);
    for _ in 0..4_000 {
        let step = match dice.next(10) {
            0 => Step::Change { mask: dice.next(16) as u8, k: 1 + dice.next(3) as u32 },
            1..=4 => Step::Learn,
            5..=7 => Step::Configure,
            _ => Step::Prove,
        };
        let agreed = model.step(&step);
        finished += u32::from(agreed && matches!(step, Step::Prove));
        ends += u32::from(model.election_ends_with(&model.keys(0b0111)));
    }
    assert!(finished > 20 && ends > 200, "finished {finished}, ends {ends}");
}
