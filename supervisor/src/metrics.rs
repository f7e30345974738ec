//! What is counted for Prometheus. Counters live as long as the process; gauges are set from the view when scraped,
//! so they are never older than the view itself.

use crate::{
    api::{Backend, http::is_open_primary},
    view::{ClusterWord, Role, StatusDocument, status_document},
};
use prometheus::{Encoder, GaugeVec, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};
use std::sync::LazyLock;

/// The text format's content type.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The counters that the program increments as things happen.
pub struct Counters {
    registry: Registry,
    /// Proposals by command and outcome (`agreed`, `refused`, `failed`).
    pub proposals: IntCounterVec,
    /// Lease renewals granted by this node, per cluster.
    pub renewals: IntCounterVec,
    /// Canaries by outcome (`ok`, `failed`), per member.
    pub canaries: IntCounterVec,
    /// How long successful canaries took, in seconds, per member.
    pub canary_seconds: HistogramVec,
    /// Times this process was starved of CPU, per kind of loop.
    pub starved: IntCounterVec,
}

static COUNTERS: LazyLock<Counters> =
    LazyLock::new(|| Counters::new().expect("names and labels are constant and valid"));

/// The process's counters.
#[must_use]
pub fn counters() -> &'static Counters {
    &COUNTERS
}

impl Counters {
    fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let vector = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vector.clone()))?;
            prometheus::Result::Ok(vector)
        };
        let proposals = counter(
            "pgvigil_proposals_total",
            "Proposals by command and outcome.",
            &["cluster", "command", "outcome"],
        )?;
        let renewals = counter("pgvigil_lease_renewals_total", "Lease renewals granted by this node.", &["cluster"])?;
        let canaries = counter("pgvigil_canaries_total", "Canary commits by outcome.", &["member", "outcome"])?;
        let starved = counter("pgvigil_starved_total", "Times a loop ran much later than planned.", &["loop"])?;
        let canary_seconds = HistogramVec::new(
            prometheus::HistogramOpts::new("pgvigil_canary_seconds", "Duration of successful canary commits.")
                .buckets(vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]),
            &["member"],
        )?;
        registry.register(Box::new(canary_seconds.clone()))?;
        Ok(Self { registry, proposals, renewals, canaries, canary_seconds, starved })
    }
}

/// Gauges of one scrape.
struct Gauges {
    registry: Registry,
    whole: Vec<(&'static str, IntGaugeVec)>,
    lag: GaugeVec,
}

const GAUGES: [(&str, &str, &[&str]); 18] = [
    ("pgvigil_raft_leader", "1 on the Raft leader.", &[]),
    ("pgvigil_raft_has_leader", "1 if a Raft leader is known.", &[]),
    ("pgvigil_raft_term", "The Raft term.", &[]),
    ("pgvigil_raft_committed", "Raft entries known to be agreed.", &[]),
    ("pgvigil_raft_state_differs", "1 if another node was seen to hold another agreed state: one is damaged.", &[]),
    ("pgvigil_open_primary", "1 while the member on this host is the open primary.", &["cluster", "member"]),
    ("pgvigil_epoch", "The newest epoch begun.", &["cluster"]),
    ("pgvigil_timeline", "The timeline of the newest reign.", &["cluster"]),
    ("pgvigil_revision", "Count of agreed changes.", &["cluster"]),
    ("pgvigil_paused", "1 while paused.", &["cluster"]),
    ("pgvigil_incidents", "Changes of primary that are remembered.", &["cluster"]),
    ("pgvigil_open_rules", "Durability rules that count in an election.", &["cluster"]),
    ("pgvigil_state", "1 for the state the cluster is in; only on the leader.", &["cluster", "state"]),
    ("pgvigil_rpo_zero", "1 while no acknowledged commit can be lost; only on the leader.", &["cluster"]),
    ("pgvigil_writable", "1 while commits go through; only on the leader.", &["cluster"]),
    ("pgvigil_findings", "Problems and waiting decisions; only on the leader.", &["cluster"]),
    ("pgvigil_member_role", "1 for the member's role; only on the leader.", &["cluster", "member", "role"]),
    ("pgvigil_may_take_over", "1 if the member could take over now; only on the leader.", &["cluster", "member"]),
];

impl Gauges {
    fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let mut whole = Vec::new();
        for (name, help, labels) in GAUGES {
            let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            whole.push((name, gauge));
        }
        let lag = GaugeVec::new(
            Opts::new("pgvigil_lag_bytes", "WAL behind the primary; only on the leader."),
            &["cluster", "member", "kind"],
        )?;
        registry.register(Box::new(lag.clone()))?;
        Ok(Self { registry, whole, lag })
    }

    fn set(&self, name: &str, labels: &[&str], value: u64) -> prometheus::Result<()> {
        if let Some((_, gauge)) = self.whole.iter().find(|(known, _)| *known == name) {
            gauge.get_metric_with_label_values(labels)?.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        Ok(())
    }

    fn cluster(&self, status: &StatusDocument) -> prometheus::Result<()> {
        let c = status.cluster.as_str();
        self.set("pgvigil_epoch", &[c], status.epoch)?;
        self.set("pgvigil_timeline", &[c], status.timeline.into())?;
        self.set("pgvigil_revision", &[c], status.revision)?;
        self.set("pgvigil_paused", &[c], (!status.paused.is_empty()).into())?;
        self.set("pgvigil_incidents", &[c], status.incident_count.into())?;
        self.set("pgvigil_open_rules", &[c], status.rule.as_ref().map_or(0, |rule| rule.open_rules.into()))?;
        if !status.from_leader {
            return Ok(());
        }
        for word in WORDS {
            let name = crate::api::convert::word(&word);
            self.set("pgvigil_state", &[c, &name], (status.state == word).into())?;
        }
        self.set("pgvigil_rpo_zero", &[c], status.rpo.zero.into())?;
        self.set("pgvigil_writable", &[c], status.rpo.writable.into())?;
        self.set("pgvigil_findings", &[c], status.findings.len() as u64)?;
        for member in &status.members {
            let m = member.name.as_str();
            for role in [Role::Primary, Role::Appointed, Role::Standby, Role::None] {
                let name = crate::api::convert::word(&role);
                self.set("pgvigil_member_role", &[c, m, &name], (member.role == role).into())?;
            }
            self.set("pgvigil_may_take_over", &[c, m], member.may_take_over.into())?;
            for (kind, lag) in [("flush", member.flush_lag_bytes), ("replay", member.replay_lag_bytes)] {
                if let Some(lag) = lag {
                    self.lag.get_metric_with_label_values(&[c, m, kind])?.set(lag as f64);
                }
            }
        }
        Ok(())
    }
}

const WORDS: [ClusterWord; 8] = [
    ClusterWord::Forming,
    ClusterWord::Healthy,
    ClusterWord::Degraded,
    ClusterWord::Electing,
    ClusterWord::Promoting,
    ClusterWord::Opening,
    ClusterWord::Completing,
    ClusterWord::Down,
];

/// Everything in the text format.
pub fn render<B: Backend>(backend: &B) -> prometheus::Result<String> {
    let gauges = Gauges::new()?;
    let (node, leads, raft) = (backend.node(), backend.is_leader(), backend.raft());
    gauges.set("pgvigil_raft_leader", &[], leads.into())?;
    gauges.set("pgvigil_raft_has_leader", &[], backend.leader().is_some().into())?;
    gauges.set("pgvigil_raft_term", &[], raft.term)?;
    gauges.set("pgvigil_raft_committed", &[], raft.committed)?;
    gauges.set("pgvigil_raft_state_differs", &[], raft.differs.into())?;
    if let Some(local) = backend.local() {
        let labels = [local.cluster.as_str(), local.member.as_str()];
        gauges.set("pgvigil_open_primary", &labels, is_open_primary(&local).into())?;
    }
    let leader = if leads { Some(node) } else { None };
    for snapshot in backend.view().iter() {
        gauges.cluster(&status_document(snapshot, node, leader))?;
    }
    let mut families = gauges.registry.gather();
    families.extend(counters().registry.gather());
    let mut bytes = Vec::new();
    TextEncoder::new().encode(&families, &mut bytes)?;
    String::from_utf8(bytes).map_err(|error| prometheus::Error::Msg(error.to_string()))
}
