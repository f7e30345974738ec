//! Goal: whatever numbers people give to timelines, WAL counts as an agreed timeline's only if it is.
//! Method: random trees of promotions, agreed ones and ones by hand, at places and with numbers that collide as often as
//! they can; each branch knows what it is, and `place` is asked with nothing but its history file.

mod common;

use common::agree;
use pgvigil_core::{
    State,
    cluster::ClusterState,
    command::Command,
    id::{ClusterId, Epoch, MemberId, MemberKey, NodeId, TimelineId},
    lineage::{OwnEnd, place},
    lsn::Lsn,
    member::{MemberSpec, Tier},
    position::Position,
    reign::{ElectionKind, Promotion, Seal, SealKind, Start},
    rule::Setting,
    settings::Settings,
    time::WallTime,
    timeline::{Ancestor, TimelineHistory},
};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A branch of WAL: what its history file says, and the truth.
#[derive(Clone, Debug)]
struct Branch {
    history: TimelineHistory,
    /// Its epoch, if it is agreed; and up to where its line is that of agreed branches.
    epoch: Option<Epoch>,
    agreed_to: Option<Position>,
}

fn member(number: u8) -> MemberId {
    MemberId::from(["a", "b", "c"][usize::from(number % 3)])
}

fn cluster(state: &State) -> &ClusterState {
    &state.clusters[&ClusterId::from("c")]
}

fn key(state: &State, number: u8) -> MemberKey {
    cluster(state).key_of(&member(number)).unwrap()
}

fn founded() -> State {
    let mut state = State::default();
    agree(&mut state, Command::CreateCluster { settings: Settings::default(), expect: BTreeSet::new() });
    for number in 0..3_u8 {
        let spec = MemberSpec {
            member: member(number),
            tier: Tier::Primary,
            priority: 1,
            host: "h".to_owned(),
            port: 5432 + u16::from(number),
            node: NodeId(u64::from(number) + 1),
        };
        agree(&mut state, Command::RegisterMember { spec });
    }
    let primary = key(&state, 0);
    let (timeline, setting) = (TimelineId(1), Setting::new(1, []));
    agree(&mut state, Command::Found { primary, start: Start::Initdb, timeline, system_identifier: None, setting });
    record(&mut state, 1, 1, 1);
    state
}

fn record(state: &mut State, epoch: u64, timeline: u32, fork: u64) {
    let promotion = Promotion { fork: Lsn(fork), end: Lsn(fork), marked: true };
    let (epoch, timeline) = (Epoch(epoch), TimelineId(timeline));
    agree(state, Command::RecordPromotion { epoch, timeline, promotion, system_identifier: 7 });
}

/// One that leaves `parent` at `fork` with a number above its own.
fn child(parent: &Branch, number: u32, fork: u64, mark: Option<Epoch>) -> TimelineHistory {
    let mut ancestors = parent.history.ancestors.clone();
    let end = ancestors.last().map_or(Lsn(fork), |last| last.end.max(Lsn(fork)));
    ancestors.push(Ancestor { timeline: parent.history.timeline, end, mark });
    TimelineHistory { timeline: TimelineId(number), ancestors }
}

/// An appointment of `by` where `parent` ends at `fork`, its promotion recorded or not. Returns the branch.
fn appointed(state: &mut State, parent: &Branch, by: u8, fork: u64, recorded: bool) -> Branch {
    let epoch = cluster(state).epoch.next();
    let began = parent.epoch.unwrap();
    agree(state, Command::BeginElection { epoch, kind: ElectionKind::Failover, noticed_at: WallTime(0) });
    let number = cluster(state).last_timeline.next();
    let history = child(parent, number.0, fork, Some(epoch));
    let at = history.ancestors.last().unwrap().end;
    let appointee = key(state, by);
    let seal = |n: u8| Seal {
        epoch,
        key: key(state, n),
        position: Position::new(if n == by { began } else { Epoch(0) }, if n == by { at } else { Lsn(0) }),
        kind: SealKind::Sealed,
    };
    // Which seals are enough is another test's: here the state is put together by hand.
    let seals: Vec<Seal> = (0..3).map(seal).collect();
    let cluster = state.clusters.get_mut(&ClusterId::from("c")).unwrap();
    cluster.rules.clear();
    for member in cluster.members.values_mut() {
        member.proven = None;
    }
    let setting = Setting::new(1, []);
    let (start, timeline) = (Start::Promote, number);
    agree(state, Command::Appoint { epoch, primary: appointee, start, timeline, setting, seals });
    if recorded {
        record(state, epoch.0, number.0, at.0);
    }
    Branch { history, epoch: recorded.then_some(epoch), agreed_to: Some(Position::new(began, at)) }
}

#[derive(Clone, Debug)]
enum Step {
    /// pgvigil promotes `by` from an agreed branch.
    Ordered { from: usize, by: u8, fork: u64, recorded: bool },
    /// Somebody promotes what stands on any branch; `above`: how many numbers were taken there already.
    ByHand { from: usize, fork: u64, above: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let fork = (1..5_u64).prop_map(|n| n * 100);
    prop_oneof![
        (any::<usize>(), 0..3_u8, fork.clone(), prop::bool::weighted(0.8))
            .prop_map(|(from, by, fork, recorded)| { Step::Ordered { from, by, fork, recorded } }),
        (any::<usize>(), fork, 0..2_u32).prop_map(|(from, fork, above)| Step::ByHand { from, fork, above }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn wal_counts_as_an_agreed_timelines_only_if_it_is(steps in prop::collection::vec(step(), 1..10), end in 0..2_000_u64) {
        let mut state = founded();
        let root = TimelineHistory::root(TimelineId(1));
        let mut branches = vec![Branch { history: root, epoch: Some(Epoch(1)), agreed_to: None }];
        for step in steps {
            let branch = match step {
                Step::Ordered { from, by, fork, recorded } => {
                    let agreed: Vec<Branch> = branches.iter().filter(|b| b.epoch.is_some()).cloned().collect();
                    let branch = appointed(&mut state, &agreed[from % agreed.len()], by, fork, recorded);
                    if !recorded {
                        // Its appointee may hold it and nobody else; its next directory does not either.
                        let own = OwnEnd { history: branch.history.clone(), end: Lsn(end) };
                        for other in 0..3 {
                            prop_assert_eq!(place(cluster(&state), &key(&state, other), &own).is_ok(), other == by);
                        }
                        continue;
                    }
                    branch
                }
                Step::ByHand { from, fork, above } => {
                    let parent = &branches[from % branches.len()];
                    let number = parent.history.timeline.0 + 1 + above;
                    let history = child(parent, number, fork, None);
                    let at = history.ancestors.last().unwrap().end;
                    let agreed_to = parent.epoch.map(|epoch| Position::new(epoch, at)).or(parent.agreed_to);
                    Branch { history, epoch: None, agreed_to }
                }
            };
            branches.push(branch);
        }
        let agreed = cluster(&state);
        for branch in &branches {
            let own = OwnEnd { history: branch.history.clone(), end: Lsn(end) };
            // An appointee whose promotion came to nothing may have been promoted by hand onto the number it was allotted.
            let holds = |number| own.history.timeline == number || own.history.switch_point(number).is_some();
            let appointee = |n: &u8| agreed.reigns.iter().any(|r| {
                r.promotion.is_none() && holds(r.timeline) && r.primary == key(&state, *n)
            });
            for number in (0..3_u8).filter(|n| !appointee(n)) {
                match (place(agreed, &key(&state, number), &own), branch.epoch) {
                    (Ok(position), Some(epoch)) => prop_assert_eq!(position, Position::new(epoch, Lsn(end))),
                    (Err(astray), None) => {
                        prop_assert_eq!(astray.agreed_to, branch.agreed_to);
                        prop_assert!(astray.by_hand);
                    }
                    (told, truth) => prop_assert!(false, "{:?} of {:?}, which is of {:?}", told, branch, truth),
                }
            }
        }
    }
}
