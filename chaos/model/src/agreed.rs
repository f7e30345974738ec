//! The book of agreed states: each distinct one is stored once and known by its number, so that a world stays small
//! and the shipped `apply` runs once for each state and command, however many worlds meet there.
//!
//! What grows without bound or is only for people is taken out before two states are compared: revision, incidents,
//! reasons and times. `reconcile` and `apply` decide by none of it.

use crate::{
    planted::Planted,
    state::{AgreedId, Inc, Member},
};
use pgvigil_core::{
    Outcome, Proposal, State, apply,
    cluster::ClusterState,
    command::{Actor, Command, Refusal},
    id::{ClusterId, MemberId, MemberKey, NodeId, Revision, TimelineId},
    invariant,
    lsn::Lsn,
    member::{MemberSpec, Tier},
    reign::{Promotion, Start},
    rule::Setting,
    settings::Settings,
    time::WallTime,
};
use rustc_hash::FxHashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The one cluster of the model.
const CLUSTER: &str = "c";

/// Every agreed state met so far.
#[derive(Debug, Default)]
pub struct Book {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    states: Vec<Arc<ClusterState>>,
    broken: Vec<Option<String>>,
    by_text: FxHashMap<String, AgreedId>,
    applied: FxHashMap<(AgreedId, String), Option<AgreedId>>,
    refusals: FxHashMap<String, u64>,
}

/// The name of a member.
#[must_use]
pub fn name(member: Member) -> MemberId {
    MemberId(crate::state::letter(member).to_string())
}

/// The number of a member.
#[must_use]
pub fn number(member: &MemberId) -> Member {
    member.0.as_bytes()[0] - b'a'
}

/// A core key as the model's incarnation.
#[must_use]
pub fn inc(key: &MemberKey) -> Inc {
    small(key.incarnation.0)
}

/// A number of the core as the model keeps it.
///
/// # Panics
/// If it does not fit: then a size is far beyond what can be searched.
#[must_use]
pub fn small(number: u64) -> u8 {
    u8::try_from(number).expect("numbers of a searchable model fit into a byte")
}

impl Book {
    /// A cluster of `members` members whose first primary, a, was founded, promoted, proven and opened by `apply`,
    /// under `ANY k` of all the others but the last
    /// `outside`.
    ///
    /// # Panics
    /// If the core refuses to found it: then the model no longer fits the core.
    #[must_use]
    pub fn founded(&self, members: Member, outside: Member, k: u8) -> AgreedId {
        let mut state = State::default();
        let settings = Settings { sync_standbys: u32::from(k), ..Settings::default() };
        agree(&mut state, Command::CreateCluster { settings, expect: (0..members).map(name).collect() });
        for member in 0..members {
            let spec = MemberSpec {
                member: name(member),
                tier: Tier::Replica,
                priority: 1,
                host: "h".to_owned(),
                port: 5000 + u16::from(member),
                node: NodeId(u64::from(member) + 1),
            };
            agree(&mut state, Command::RegisterMember { spec });
        }
        let keys: Vec<MemberKey> =
            (0..members).filter_map(|m| state.clusters[&ClusterId::from(CLUSTER)].key_of(&name(m))).collect();
        let named = keys.len() - usize::from(outside);
        let setting = Setting::new(u32::from(k), keys[1..named].iter().cloned());
        let found = Command::Found {
            primary: keys[0].clone(),
            start: Start::Initdb,
            timeline: TimelineId(1),
            system_identifier: None,
            setting,
        };
        agree(&mut state, found);
        let promotion = Promotion { fork: Lsn(0), end: Lsn(0), marked: true };
        let epoch = pgvigil_core::id::Epoch(1);
        let record = Command::RecordPromotion { epoch, timeline: TimelineId(1), promotion, system_identifier: 1 };
        agree(&mut state, record);
        agree(&mut state, Command::Open { epoch });
        let cluster = state.clusters.remove(&ClusterId::from(CLUSTER)).expect("it was just created");
        self.intern(cluster)
    }

    /// The agreed state of a number.
    #[must_use]
    pub fn get(&self, id: AgreedId) -> Arc<ClusterState> {
        Arc::clone(&self.lock().states[id as usize - 1])
    }

    /// Which property of the agreed state does not hold in it, if any.
    #[must_use]
    pub fn broken(&self, id: AgreedId) -> Option<String> {
        self.lock().broken[id as usize - 1].clone()
    }

    /// How many distinct agreed states were met.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().states.len()
    }

    /// Whether none was met.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How often each refusal of `apply` was met, by code.
    #[must_use]
    pub fn refusals(&self) -> Vec<(String, u64)> {
        let mut all: Vec<(String, u64)> = self.lock().refusals.iter().map(|(k, v)| (k.clone(), *v)).collect();
        all.sort();
        all
    }

    /// What `apply` makes of `command`: the new state, or `None` if it refuses or nothing changes.
    pub fn apply(&self, id: AgreedId, command: &Command, planted: Planted) -> Option<AgreedId> {
        let key = (id, format!("{command:?}"));
        if let Some(known) = self.lock().applied.get(&key) {
            return *known;
        }
        let before = self.get(id);
        let input = planted.before_apply(&before, command);
        let mut state = State::default();
        state.clusters.insert(ClusterId::from(CLUSTER), input);
        let result = match apply(&mut state, &proposal(planted.command(command))) {
            Outcome::Agreed { .. } => {
                let after = state.clusters.remove(&ClusterId::from(CLUSTER)).expect("apply removes no cluster");
                let next = self.intern(planted.after_apply(&before, command, after));
                (next != id).then_some(next)
            }
            Outcome::Refused(Refusal { code, .. }) => {
                *self.lock().refusals.entry(format!("{} {code:?}", command.name())).or_default() += 1;
                None
            }
            Outcome::Nothing => None,
        };
        self.lock().applied.insert(key, result);
        result
    }

    fn intern(&self, mut cluster: ClusterState) -> AgreedId {
        normalise(&mut cluster);
        let text = serde_json::to_string(&(&cluster.members, &cluster.last_incarnation, &cluster.last_timeline))
            .and_then(|members| {
                let rest = (&cluster.epoch, &cluster.reigns, &cluster.rules, &cluster.change, &cluster.election);
                serde_json::to_string(&(members, rest, &cluster.fence_debts, &cluster.request))
            })
            .expect("agreed state is plain data");
        let mut inner = self.lock();
        if let Some(id) = inner.by_text.get(&text) {
            return *id;
        }
        inner.broken.push(invariant::check(&cluster).err().map(|violation| violation.to_string()));
        inner.states.push(Arc::new(cluster));
        let id = AgreedId::try_from(inner.states.len()).expect("fewer than 2^32 agreed states fit into memory");
        inner.by_text.insert(text, id);
        id
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn proposal(command: Command) -> Proposal {
    Proposal {
        cluster: ClusterId::from(CLUSTER),
        based_on: None,
        at: WallTime(0),
        by: Actor::Controller(NodeId(1)),
        reason: String::new(),
        evidence: Vec::new(),
        command,
    }
}

fn agree(state: &mut State, command: Command) {
    let outcome = apply(state, &proposal(command));
    assert!(matches!(outcome, Outcome::Agreed { .. }), "the core refuses the model's foundation: {outcome:?}");
}

/// Takes out what nothing is decided by.
fn normalise(cluster: &mut ClusterState) {
    cluster.revision = Revision(0);
    cluster.incidents.clear();
    cluster.request_dropped = None;
    cluster.request_dropped_of = Revision(0);
    if let Some(request) = &mut cluster.request {
        request.revision = Revision(0);
    }
    if let Some(change) = &mut cluster.change {
        change.reason.clear();
    }
    if let Some(election) = &mut cluster.election {
        election.at = WallTime(0);
    }
    for reign in &mut cluster.reigns {
        // The history of timelines reads the appointee's own seal and no other.
        let primary = reign.primary.clone();
        reign.seals.retain(|seal| seal.key == primary);
        reign.unproven.clear();
    }
}
