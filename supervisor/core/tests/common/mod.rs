//! Random logs for the property tests: commands as dice, most of them aimed at the present state so that many are
//! agreed.

// Each property test uses its own part of this.
#![allow(dead_code)]

use pgvigil_core::{
    Outcome, Proposal, State, apply,
    cluster::ClusterState,
    command::{Actor, Command, Proof},
    id::{ClusterId, Epoch, Incarnation, MemberId, MemberKey, NodeId, RuleVersion, TimelineId},
    lsn::Lsn,
    member::{MemberSpec, Tier},
    position::Position,
    reign::{CatchUp, ElectionKind, Promotion, Seal, SealKind, Start},
    rpo::{Cause, Shown, Unproven},
    rule::Setting,
    settings::Settings,
    time::WallTime,
};
use proptest::prelude::*;

/// A command as dice: what, who, and numbers near the present ones.
#[derive(Clone, Debug)]
pub struct Roll {
    what: u8,
    who: u8,
    mask: u8,
    near: u8,
    lsn: u64,
    k: u32,
}

/// A roll of the dice.
pub fn roll() -> impl Strategy<Value = Roll> {
    (0..21_u8, 0..4_u8, any::<u8>(), 0..8_u8, 0..400_u64, 0..3_u32).prop_map(|(what, who, mask, near, lsn, k)| Roll {
        what,
        who,
        mask,
        near,
        lsn,
        k,
    })
}

/// Members m0 to m3.
pub fn name(number: u8) -> MemberId {
    MemberId(format!("m{number}"))
}

/// Member m3 is an emergency host.
pub fn spec(number: u8) -> MemberSpec {
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
                promotion: Promotion { fork: Lsn(self.lsn), end: Lsn(self.lsn), marked: true },
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
            18 if self.near > 2 => {
                const CAUSES: [Cause; 4] =
                    [Cause::RuleNotInForce, Cause::CommitLowered, Cause::ReloadByOthers, Cause::NameTakenTwice];
                let found = Unproven {
                    cause: CAUSES[usize::from(self.who)],
                    detail: "dice".to_owned(),
                    from: WallTime(self.lsn),
                    until: (self.mask & 1 == 1).then_some(WallTime(self.lsn + 9)),
                    newest: 1 + u64::from(self.near),
                    times: 1,
                };
                let shown = Shown { until: WallTime(self.lsn), unseen_ms: 100 * self.lsn };
                Command::NoteUnproven {
                    epoch: cluster.reigns.get(usize::from(self.near)).map_or(epoch, |reign| reign.epoch),
                    found: if self.k == 0 { Vec::new() } else { vec![found] },
                    shown: (self.k < 2).then_some(shown),
                }
            }
            18 => Command::RequestRestart { member },
            19 => {
                let keys = self.keys(cluster);
                let (Some(member), Some(source)) = (keys.first(), keys.last()) else { return Command::DropRequest };
                let target = Position::new(Epoch(1), Lsn(self.lsn));
                let order = CatchUp { member: member.clone(), source: source.clone(), target };
                Command::CatchUp { epoch, order }
            }
            _ => Command::RequestElection { kind },
        }
    }
}

/// `command`, as a leader proposes it.
pub fn proposed(command: Command) -> Proposal {
    Proposal {
        cluster: ClusterId::from("c"),
        based_on: None,
        at: WallTime(0),
        by: Actor::Controller(NodeId(1)),
        reason: String::new(),
        evidence: Vec::new(),
        command,
    }
}

/// `command` is agreed.
pub fn agree(state: &mut State, command: Command) {
    let outcome = apply(state, &proposed(command));
    assert!(matches!(outcome, Outcome::Agreed { .. }), "{outcome:?}");
}

/// What the dice propose.
pub fn proposal(state: &State, roll: &Roll) -> Proposal {
    let cluster = ClusterId::from("c");
    Proposal {
        based_on: None,
        at: WallTime(roll.lsn),
        by: Actor::Controller(NodeId(1)),
        reason: "dice".to_owned(),
        evidence: Vec::new(),
        command: roll.command(state.clusters.get(&cluster)),
        cluster,
    }
}

/// Proposes what the dice say; the command's name and what became of it.
pub fn step(state: &mut State, roll: &Roll) -> (&'static str, Outcome) {
    let proposal = proposal(state, roll);
    (proposal.command.name(), apply(state, &proposal))
}

/// A small generator of its own, for tests that count what the dice reach: the same numbers in every run.
pub struct Dice(pub u64);

impl Dice {
    /// A number below `below`.
    pub fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    /// A roll for the next command.
    pub fn roll(&mut self) -> Roll {
        Roll {
            what: self.next(21) as u8,
            who: self.next(4) as u8,
            mask: self.next(256) as u8,
            near: self.next(8) as u8,
            lsn: self.next(400),
            k: self.next(3) as u32,
        }
    }
}
