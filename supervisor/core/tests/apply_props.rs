//! Goal: whatever the log holds, every member computes the same state, the invariants hold, and nothing panics.
//! Method: random lists of commands, most of them aimed at the present state so that many are agreed, applied to a fresh
//! state, and to one that is encoded and decoded after every step. A counter shows that the interesting ones happen.

use pgvigil_core::{
    Outcome, Proposal, State, apply,
    cluster::ClusterState,
    command::{Actor, Command, Proof},
    id::{ClusterId, Epoch, Incarnation, MemberId, MemberKey, NodeId, RuleVersion, TimelineId},
    invariant,
    lsn::Lsn,
    member::{MemberSpec, Tier},
    position::Position,
    reign::{ElectionKind, Promotion, Seal, SealKind, Start},
    rule::Setting,
    settings::Settings,
    time::WallTime,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A command as dice: what, who, and numbers near the present ones.
#[derive(Clone, Debug)]
struct Roll {
    what: u8,
    who: u8,
    mask: u8,
    near: u8,
    lsn: u64,
    k: u32,
}

fn roll() -> impl Strategy<Value = Roll> {
    (0..19_u8, 0..4_u8, any::<u8>(), 0..8_u8, 0..400_u64, 0..3_u32).prop_map(|(what, who, mask, near, lsn, k)| Roll {
        what,
        who,
        mask,
        near,
        lsn,
        k,
    })
}

fn name(number: u8) -> MemberId {
    MemberId(format!("m{number}"))
}

fn spec(number: u8) -> MemberSpec {
    let tier = if number == 3 { Tier::Emergency } else { Tier::Replica };
    MemberSpec {
        member: name(number),
        tier,
        priority: 1,
        host: "h".to_owned(),
        port: 5000 + u16::from(number),
        node: NodeId(u64::from(number) + 1),
    }
}

impl Roll {
    fn key(&self, cluster: &ClusterState, number: u8) -> MemberKey {
        // Now and then an incarnation that does not count.
        let key = cluster.key_of(&name(number));
        let wrong = self.near == 7;
        key.filter(|_| !wrong).unwrap_or_else(|| MemberKey::new(name(number), Incarnation(1)))
    }

    fn keys(&self, cluster: &ClusterState) -> Vec<MemberKey> {
        (0..4).filter(|n| self.mask >> n & 1 == 1).map(|n| self.key(cluster, n)).collect()
    }

    fn seals(&self, cluster: &ClusterState, epoch: Epoch) -> Vec<Seal> {
        let newest = cluster.reigns.last().map_or(Epoch(1), |r| r.epoch);
        let at = |n: u64| {
            let began = if (self.mask >> 4) & 1 == 1 { newest } else { Epoch(1) };
            Position::new(began, Lsn(self.lsn + n * u64::from(self.mask >> 6)))
        };
        let kind = if self.near == 6 { SealKind::Standing } else { SealKind::Sealed };
        let keys = self.keys(cluster).into_iter().enumerate();
        keys.map(|(n, key)| Seal { epoch, key, position: at(n as u64), kind }).collect()
    }

    fn command(&self, cluster: Option<&ClusterState>) -> Command {
        let Some(cluster) = cluster else {
            return Command::CreateCluster { settings: Settings::default(), expect: (0..3).map(name).collect() };
        };
        let member = name(self.who);
        let epoch = Epoch((cluster.epoch.0 + u64::from(self.near == 5)).max(1));
        let setting = Setting::new(self.k, self.keys(cluster));
        let version = cluster.newest_rule().map_or(RuleVersion(1), |r| r.version);
        let flushed = self.keys(cluster).into_iter().collect();
        let proof = Proof { version, marker: Lsn(self.lsn + 300), flushed };
        let kind = match self.k {
            0 => ElectionKind::Failover,
            1 => ElectionKind::Switchover { to: Some(member.clone()) },
            _ => ElectionKind::Renewal,
        };
        match self.what {
            0 | 1 => Command::RegisterMember { spec: spec(self.who) },
            2 => Command::NewIncarnation {
                replaces: cluster.members.get(&member).map_or(Incarnation(9), |m| m.incarnation),
                member,
            },
            3 => Command::Found {
                primary: self.key(cluster, self.who),
                start: if self.k == 0 { Start::Adopt } else { Start::Initdb },
                timeline: TimelineId(1),
                system_identifier: (self.k == 0).then_some(7),
                setting: Setting::new(self.k, []),
            },
            4 | 5 => Command::BeginElection { epoch: cluster.epoch.next(), kind, noticed_at: WallTime(0) },
            6..=9 => {
                let again = self.near < 2;
                let last = cluster.reign();
                let primary = match last {
                    Some(last) if again => last.primary.clone(),
                    _ => self.key(cluster, self.who),
                };
                // Mostly a rule that is allowed; now and then one that is not.
                let mut setting = setting;
                if self.near != 4 {
                    setting.k = setting.k.max(1);
                    setting.cohort.remove(&primary);
                }
                Command::Appoint {
                    epoch,
                    primary,
                    start: if again { Start::Continue } else { Start::Promote },
                    timeline: match last {
                        Some(last) if again => last.timeline,
                        _ => cluster.last_timeline.next(),
                    },
                    setting,
                    seals: self.seals(cluster, epoch),
                }
            }
            10 | 11 => Command::RecordPromotion {
                epoch,
                timeline: cluster.reign().map_or(TimelineId(1), |r| r.timeline),
                promotion: Promotion { fork: Lsn(self.lsn), end: Lsn(self.lsn) },
                system_identifier: 7,
            },
            12 => Command::Open { epoch },
            13 => Command::CompleteRule { epoch, proof },
            14 => {
                let mut to = setting;
                if let Some(reign) = cluster.reign().filter(|_| self.near != 4) {
                    to.k = to.k.max(1);
                    to.cohort.remove(&reign.primary);
                }
                Command::BeginChange { epoch, to }
            }
            15 => Command::FinishChange { epoch, proof },
            16 => [Command::Pause, Command::Resume, Command::DropRequest][self.k as usize].clone(),
            17 => [
                Command::RequestReinit { member: member.clone() },
                Command::RequestLeave { member: member.clone() },
                Command::Forget { member },
            ][self.k as usize]
                .clone(),
            _ => Command::RequestElection { kind },
        }
    }
}

fn step(state: &mut State, roll: &Roll) -> (&'static str, Outcome) {
    let cluster = ClusterId::from("c");
    let command = roll.command(state.clusters.get(&cluster));
    let name = command.name();
    let proposal = Proposal {
        based_on: None,
        at: WallTime(roll.lsn),
        by: Actor::Controller(NodeId(1)),
        reason: "dice".to_owned(),
        evidence: Vec::new(),
        cluster,
        command,
    };
    (name, apply(state, &proposal))
}

/// S2: a later reign starts from a position that no open rule's acknowledged commits can exceed; here: an agreed
/// appointment's evidence closes every rule that was open, computed anew from the definition.
fn appointment_closes_rules(before: &ClusterState, after: &ClusterState) {
    let (Some(election), Some(reign)) = (&before.election, after.reign()) else { return };
    if reign.epoch != election.epoch || before.reigns.len() == after.reigns.len() {
        return;
    }
    let own = reign.seals.iter().find(|s| s.key == reign.primary).expect("the appointee is sealed").position;
    for rule in &before.rules {
        let in_reach = |key: &MemberKey| {
            before.void.contains(key)
                || reign.seals.iter().any(|s| s.key == *key && s.kind == SealKind::Sealed && s.position <= own)
        };
        let unsealed = rule.setting.cohort.iter().filter(|key| !in_reach(key)).count();
        let by_count = unsealed < rule.setting.k as usize;
        let by_primary = reign.seals.iter().any(|s| {
            s.position <= own
                && before.reigns.iter().any(|r| r.primary == s.key && r.promotion.is_some() && r.epoch >= rule.epoch)
        });
        assert!(by_count || by_primary, "rule {rule:?} was not closed by {:?}", reign.seals);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn any_command_list_keeps_the_invariants(rolls in prop::collection::vec(roll(), 1..160)) {
        let mut state = State::default();
        let mut decoded = State::default();
        for roll in &rolls {
            let before = state.clusters.values().next().cloned();
            let (name, outcome) = step(&mut state, roll);
            let (_, again) = step(&mut decoded, roll);
            prop_assert_eq!(&outcome, &again);
            let bytes = serde_json::to_vec(&decoded).unwrap();
            decoded = serde_json::from_slice(&bytes).unwrap();
            prop_assert_eq!(&state, &decoded);
            for cluster in state.clusters.values() {
                invariant::check(cluster).map_err(|v| TestCaseError::fail(format!("{v} after {name}")))?;
                if let Some(before) = &before {
                    appointment_closes_rules(before, cluster);
                    prop_assert!(cluster.epoch >= before.epoch && cluster.revision >= before.revision);
                }
            }
        }
    }
}

/// The dice must reach what matters, or the property above says nothing.
#[test]
fn the_dice_reach_every_kind_of_step() {
    let mut state = State::default();
    let mut seed = 7_u64;
    let mut next = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut seen = BTreeMap::<&'static str, u64>::new();
    for round in 0..60_000 {
        if round % 300 == 0 {
            state = State::default();
        }
        let roll = Roll {
            what: next(19) as u8,
            who: next(4) as u8,
            mask: next(256) as u8,
            near: next(8) as u8,
            lsn: next(400),
            k: next(3) as u32,
        };
        let (name, outcome) = step(&mut state, &roll);
        if matches!(outcome, Outcome::Agreed { .. }) {
            *seen.entry(name).or_default() += 1;
        }
    }
    for name in [
        "found",
        "begin-election",
        "appoint",
        "record-promotion",
        "open",
        "complete-rule",
        "begin-change",
        "finish-change",
        "new-incarnation",
        "forget",
    ] {
        assert!(seen.get(name).copied().unwrap_or(0) > 0, "never agreed: {name}; {seen:?}");
    }
}
