//! What this node has seen while it leads: reports stamped with its own clock, and the findings of its last decision.

use crate::clock;
use pgvigil_core::{
    State,
    cluster::ClusterState,
    decide::Finding,
    id::{ClusterId, Epoch, MemberId, NodeId},
    lease,
    observation::Observations,
    report::{LeaderClock, PostgresReport, Report},
    time::Time,
};
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, watch};

/// See the module.
#[derive(Debug)]
pub struct Inbox {
    me: NodeId,
    inner: Mutex<Inner>,
    /// Woken by every report.
    pub poke: Notify,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Since when this node leads and listens; `None` while it does not.
    since: Option<Time>,
    /// In which term it has listened since then.
    term: u64,
    seen: BTreeMap<ClusterId, Observations>,
    findings: BTreeMap<ClusterId, Vec<Finding>>,
    /// Members whose agents cannot start, why, and when that was heard.
    ailing: BTreeMap<(ClusterId, MemberId), (String, Time)>,
}

/// How long what was heard of an agent that cannot start is shown, in milliseconds: several of its attempts.
const AILING_MS: u64 = 10_000;

impl Inbox {
    /// An inbox that does not listen yet.
    #[must_use]
    pub fn new(me: NodeId) -> Self {
        Self { me, inner: Mutex::default(), poke: Notify::new(), changed: watch::Sender::new(0) }
    }

    // Nothing awaits under this lock.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node became leader of `term` at `since`: everything seen before is forgotten, silence before is no evidence.
    pub fn begin(&self, since: Time, term: u64) {
        *self.lock() = Inner { since: Some(since), term, ..Inner::default() };
        self.mark_changed();
    }

    /// This node no longer leads.
    pub fn end(&self) {
        *self.lock() = Inner::default();
        self.mark_changed();
    }

    /// Whether it listens, and since when.
    #[must_use]
    pub fn since(&self) -> Option<Time> {
        self.lock().since
    }

    /// This moment, for those who are answered now.
    #[must_use]
    pub fn clock(&self) -> Option<LeaderClock> {
        let since = self.since()?;
        Some(LeaderClock { node: self.me, since, at: clock::now() })
    }

    /// In which of Raft's terms it listens, if it does.
    #[must_use]
    pub fn listens(&self) -> Option<u64> {
        let inner = self.lock();
        inner.since.map(|_| inner.term)
    }

    /// Marked when anything seen or found has changed.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Tells subscribers.
    pub fn mark_changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Takes in a report; `false` if this node does not listen.
    pub fn receive(&self, agreed: Option<&ClusterState>, report: Report, at: Time) -> bool {
        let mut inner = self.lock();
        let Some(since) = inner.since else { return false };
        let me = self.me;
        let seen = inner.seen.entry(report.cluster.clone()).or_insert_with(|| Observations::new(me, since));
        seen.receive(agreed, report, at);
        drop(inner);
        self.poke.notify_one();
        self.mark_changed();
        true
    }

    /// Remembers why the agent of a member cannot start. It is no sign of life: `decide` hears nothing of it.
    pub fn ailing(&self, report: &Report, at: Time) {
        let PostgresReport::Unusable { why } = &report.postgres else { return };
        let key = (report.cluster.clone(), report.spec.member.clone());
        let mut inner = self.lock();
        let news =
            inner.since.is_some() && inner.ailing.insert(key, (why.clone(), at)).is_none_or(|(old, _)| old != *why);
        drop(inner);
        if news {
            self.mark_changed();
        }
    }

    /// Whether the heartbeat in `report`, received at `at`, renews the lease; if so it is remembered *before* anybody
    /// is told, so that no opening can overlook it. The caller has had its leadership confirmed by a quorum after `at`.
    /// Keeps S3.
    #[must_use]
    pub fn renew(&self, agreed: &ClusterState, report: &Report, at: Time) -> bool {
        let mut inner = self.lock();
        if inner.since.is_none() || !lease::may_renew(agreed, report) {
            return false;
        }
        let (Some(seen), Some(reign)) = (inner.seen.get_mut(&report.cluster), agreed.reign()) else { return false };
        let newest = seen.last_renewal.entry(reign.epoch).or_insert(at);
        *newest = (*newest).max(at);
        true
    }

    /// The newest reign of which the rule was shown in force, to this leader or to one before, and how long before `at`, in
    /// milliseconds.
    #[must_use]
    pub fn rule_shown(&self, agreed: &ClusterState, at: Time) -> Option<(Epoch, u64)> {
        let inner = self.lock();
        let (epoch, shown) = inner.seen.get(&agreed.id)?.rule_shown?;
        Some((epoch, at.since(shown)))
    }

    /// Whether the reigning primary's agent has missed a heartbeat. Evidence of nothing: standbys then look at its port.
    #[must_use]
    pub fn primary_late(&self, agreed: &ClusterState) -> bool {
        let limit = agreed.settings.heartbeat_ms * 3 / 2;
        let inner = self.lock();
        let (Some(seen), Some(reign)) = (inner.seen.get(&agreed.id), agreed.reign()) else { return false };
        seen.silence(&reign.primary.member, clock::now()) > limit
    }

    /// Runs `look` on what was seen of `cluster`, made current with `agreed`.
    pub fn with<T>(&self, agreed: &ClusterState, look: impl FnOnce(&mut Observations) -> T) -> Option<T> {
        let mut inner = self.lock();
        let since = inner.since?;
        let me = self.me;
        let seen = inner.seen.entry(agreed.id.clone()).or_insert_with(|| Observations::new(me, since));
        seen.wall = clock::wall();
        Some(look(seen))
    }

    /// The fence command for `member` succeeded for `epoch`, begun while this node led since `since`: it serves nobody.
    pub fn fence_command_done(&self, cluster: &ClusterId, member: &MemberId, epoch: Epoch, since: Time) {
        let mut inner = self.lock();
        if inner.since != Some(since) {
            return;
        }
        if let Some(seen) = inner.seen.get_mut(cluster) {
            seen.fence_commands_done.insert(member.clone(), epoch);
        }
        drop(inner);
        self.poke.notify_one();
    }

    /// Keeps the findings of the last decision, for the status page.
    pub fn found(&self, cluster: &ClusterId, findings: Vec<Finding>) {
        let mut inner = self.lock();
        if inner.findings.get(cluster) != Some(&findings) {
            for finding in &findings {
                tracing::debug!(%cluster, code = finding.code, "{}", finding.text);
            }
            inner.findings.insert(cluster.clone(), findings);
            drop(inner);
            self.mark_changed();
        }
    }

    /// A copy of what was seen and found, for faces.
    #[must_use]
    pub fn snapshot(&self, cluster: &ClusterId) -> (Observations, Vec<Finding>) {
        let inner = self.lock();
        let seen = inner.seen.get(cluster).cloned();
        let mut findings = inner.findings.get(cluster).cloned().unwrap_or_default();
        let now = clock::now();
        let ailing = inner.ailing.iter().filter(|((of, _), (_, at))| of == cluster && now.since(*at) < AILING_MS);
        findings.extend(ailing.map(|((_, member), (why, _))| Finding {
            code: "agent-cannot-start".to_owned(),
            text: format!("the agent of {member} cannot start and is tried again; its node votes on meanwhile: {why}"),
        }));
        (seen.unwrap_or_else(|| Observations { me: self.me, ..Observations::default() }), findings)
    }

    /// A copy of everything seen, for the leader's placement.
    #[must_use]
    pub fn all(&self, state: &State) -> BTreeMap<ClusterId, Observations> {
        let inner = self.lock();
        inner
            .seen
            .iter()
            .filter(|(id, _)| state.clusters.contains_key(id))
            .map(|(id, o)| (id.clone(), o.clone()))
            .collect()
    }
}
