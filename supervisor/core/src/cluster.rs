//! The agreed state: everything that a decision of one leader tells the next, keyed by cluster.

use crate::{
    id::{ClusterId, Epoch, Incarnation, MemberId, MemberKey, NodeId, Revision, TimelineId},
    incident::Incident,
    member::{Member, Tier},
    reign::{Election, ElectionKind, FenceDebt, Reign, Start},
    rule::{Rule, Setting},
    settings::Settings,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The format of the state and of the commands that this build writes and understands.
pub const FORMAT: u32 = 1;

/// Everything agreed, for every cluster that the Raft group supervises.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// See [`FORMAT`].
    pub format: u32,
    /// The clusters by name.
    pub clusters: BTreeMap<ClusterId, ClusterState>,
    /// The Raft store of each node that ever had a vote: an id is never used again with another one, also by nodes that
    /// joined later. Keeps S4.
    #[serde(default)]
    pub stores: BTreeMap<NodeId, u64>,
}

impl Default for State {
    fn default() -> Self {
        Self { format: FORMAT, clusters: BTreeMap::new(), stores: BTreeMap::new() }
    }
}

/// What an operator asked for and the leader has not yet begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The election to begin.
    pub kind: ElectionKind,
    /// Who asked.
    pub by: String,
    /// The revision as which it was agreed: whoever asked knows its own change of primary by it. 0: asked for in an
    /// older format.
    #[serde(default)]
    pub revision: Revision,
}

/// A change of the durability rule inside a reign, of which the wide rule is agreed and the final one is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleChange {
    /// The rule to which it leads.
    pub to: Setting,
    /// Why.
    pub reason: String,
}

/// The agreed state of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// The cluster's name.
    pub id: ClusterId,
    /// Count of changes. An agent never goes back to an older one. Keeps S5.
    pub revision: Revision,
    /// PostgreSQL's system identifier, once known; a data directory with another one is refused.
    pub system_identifier: Option<u64>,
    /// The operator's settings.
    pub settings: Settings,
    /// The members that must be there, with empty data directories, before initdb.
    pub expect: BTreeSet<MemberId>,
    /// The members by name.
    pub members: BTreeMap<MemberId, Member>,
    /// The newest incarnation allotted to anyone.
    pub last_incarnation: Incarnation,
    /// The newest timeline allotted to, or known of, anyone. Never allotted again (history A7).
    pub last_timeline: TimelineId,
    /// The newest epoch begun, by a reign or an election.
    pub epoch: Epoch,
    /// The reigns, oldest first; bounded, but never losing one of which a rule is open.
    pub reigns: Vec<Reign>,
    /// The open rules, oldest first: each counts in an election.
    pub rules: Vec<Rule>,
    /// The change of the newest rule that is under way.
    pub change: Option<RuleChange>,
    /// The election under way.
    pub election: Option<Election>,
    /// Former primaries that may still serve.
    pub fence_debts: Vec<FenceDebt>,
    /// Incarnations given up by a forced failover: never sealed, never counted again.
    pub void: BTreeSet<MemberKey>,
    /// Set while paused: by whom and why.
    pub paused: Option<String>,
    /// The reign whose primary may run unguarded, since it was paused and its agent has not confirmed the guard yet:
    /// only a fence ends its right (history B8). Keeps S3.
    pub unguarded: Option<Epoch>,
    /// The longest lease, in milliseconds, that was in force during the newest reign and is shorter now: its primary may
    /// not have heard of the change yet and still count by it. 0: none was shortened. Keeps S3.
    #[serde(default)]
    pub shortened_lease_ms: u64,
    /// What an operator asked for.
    pub request: Option<Request>,
    /// Why the last request that was dropped was.
    pub request_dropped: Option<String>,
    /// The revision as which that request had been agreed.
    #[serde(default)]
    pub request_dropped_of: Revision,
    /// The newest incidents, oldest first; bounded.
    pub incidents: Vec<Incident>,
}

/// How many reigns a cluster remembers beyond those of which a rule is open.
pub const REIGNS_MAX: usize = 200;

impl ClusterState {
    /// A cluster of which nothing is known but its name and settings.
    #[must_use]
    pub fn new(id: ClusterId, settings: Settings, expect: BTreeSet<MemberId>) -> Self {
        Self {
            id,
            revision: Revision(0),
            system_identifier: None,
            settings,
            expect,
            members: BTreeMap::new(),
            last_incarnation: Incarnation(0),
            last_timeline: TimelineId(0),
            epoch: Epoch(0),
            reigns: Vec::new(),
            rules: Vec::new(),
            change: None,
            election: None,
            fence_debts: Vec::new(),
            void: BTreeSet::new(),
            paused: None,
            unguarded: None,
            shortened_lease_ms: 0,
            request: None,
            request_dropped: None,
            request_dropped_of: Revision(0),
            incidents: Vec::new(),
        }
    }

    /// The current reign: the last appointment, whether or not an election has begun since.
    #[must_use]
    pub fn reign(&self) -> Option<&Reign> {
        self.reigns.last()
    }

    /// The reign that may serve now: appointed, and no election begun since.
    #[must_use]
    pub fn reign_in_force(&self) -> Option<&Reign> {
        self.reigns.last().filter(|_| self.election.is_none())
    }

    /// Whether the reign in force is open and complete, and nothing is under way that anybody waits for.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let settled = self.reign_in_force().is_some_and(|reign| reign.open && reign.complete);
        settled && self.change.is_none() && self.request.is_none()
    }

    /// The newest rule: that of the current reign.
    #[must_use]
    pub fn newest_rule(&self) -> Option<&Rule> {
        self.rules.last()
    }

    /// The counted identity of a member.
    #[must_use]
    pub fn key_of(&self, member: &MemberId) -> Option<MemberKey> {
        self.members.get(member).map(Member::key)
    }

    /// The name under which `key` streams in `epoch`, as agreed now; of an incarnation that counts no more, one that nobody
    /// has.
    #[must_use]
    pub fn sync_name(&self, key: &MemberKey, epoch: Epoch) -> String {
        let member = self.members.get(&key.member).filter(|member| member.incarnation == key.incarnation);
        key.sync_name(epoch, member.map_or(0, |member| member.named))
    }

    /// Every name under which `key` may have streamed in `epoch`, those that were given up among them.
    #[must_use]
    pub fn sync_names(&self, key: &MemberKey, epoch: Epoch) -> Vec<String> {
        let named = self.members.get(&key.member).map_or(0, |member| member.named);
        (0..=named).map(|named| key.sync_name(epoch, named)).collect()
    }

    /// Whether `key` is what its member counts as now and was not given up.
    #[must_use]
    pub fn is_counted(&self, key: &MemberKey) -> bool {
        self.key_of(&key.member).as_ref() == Some(key) && !self.void.contains(key)
    }

    /// The epoch in which `timeline` began; epoch 0 for ancestors of an adopted cluster's timeline; `None` for a
    /// timeline that was never allotted. From agreed state, never from the number alone (history A7).
    #[must_use]
    pub fn epoch_of_timeline(&self, timeline: TimelineId) -> Option<Epoch> {
        let first = self.reigns.first()?;
        if timeline < first.timeline {
            return Some(Epoch(0));
        }
        self.reigns.iter().find(|reign| reign.timeline == timeline).map(|reign| reign.epoch)
    }

    /// The newest reign of which `key` is known to have been the promoted primary, or which it was to continue.
    ///
    /// A reign that continues a timeline was given to the member that was promoted onto it, and one that adopts to the
    /// member that ran as primary: whether or not that came to an end, nobody else can have acknowledged anything in it,
    /// and it has everything of all before.
    #[must_use]
    pub fn promoted_epoch_of(&self, key: &MemberKey) -> Option<Epoch> {
        let reigned = |r: &&Reign| {
            r.primary == *key && (r.promotion.is_some() || matches!(r.start, Start::Continue | Start::Adopt))
        };
        self.reigns.iter().rev().find(reigned).map(|r| r.epoch)
    }

    /// How many members could confirm commits of `primary`, whoever is there at the moment.
    #[must_use]
    pub fn confirmers(&self, primary: Option<&MemberId>) -> usize {
        let countable = |m: &&Member| m.spec.tier != Tier::Backup && !m.leaving && self.is_counted(&m.key());
        let others = self.members.values().filter(countable).filter(|m| Some(&m.spec.member) != primary).count();
        // Whoever is chosen does not confirm its own commits.
        if primary.is_none() { others.saturating_sub(1) } else { others }
    }

    /// Forgets what an operator asked for, and says why.
    pub(crate) fn drop_request(&mut self, why: String) {
        if let Some(request) = self.request.take() {
            self.request_dropped = Some(why);
            self.request_dropped_of = request.revision;
        }
    }

    /// Whether any open rule names `member` in any incarnation, as standby or as primary.
    #[must_use]
    pub fn is_in_a_rule(&self, member: &MemberId) -> bool {
        self.rules
            .iter()
            .any(|rule| rule.primary.member == *member || rule.setting.cohort.iter().any(|key| key.member == *member))
    }

    /// Marks the members that a rule or a reign now names as used: an empty directory of theirs is a loss.
    pub(crate) fn mark_used(&mut self) {
        let Some(rule) = self.rules.last() else { return };
        let named: Vec<MemberKey> = rule.setting.cohort.iter().chain([&rule.primary]).cloned().collect();
        for key in named {
            if let Some(member) = self.members.get_mut(&key.member)
                && member.incarnation == key.incarnation
            {
                member.used = true;
            }
        }
    }

    /// The incident of the current or last election.
    pub fn incident_mut(&mut self, epoch: Epoch) -> Option<&mut Incident> {
        self.incidents.iter_mut().rev().find(|incident| incident.epoch == epoch)
    }
}
