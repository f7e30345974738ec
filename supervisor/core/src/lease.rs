//! The lease and the canary: who may serve, until when. The only place that does this arithmetic. Keeps S3.
//!
//! The holder counts from when it *sent* the heartbeat, the granter from when it *received* it and waits a margin
//! longer, a new leader from when it *became* leader. Only clock rates are compared, never clocks (history A14 says what
//! that assumes). A canary that began at t and was acknowledged shows that no quorum of seals was complete at t.

use crate::{
    cluster::ClusterState,
    id::{Epoch, MemberKey},
    observation::Observations,
    reign::{FenceDebt, Start},
    report::{PostgresReport, Report},
    settings::{Settings, margin_floor_ms},
    time::Time,
};
use serde::{Deserialize, Serialize};

/// The holder's side: what a primary's agent knows of its own right to serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Right {
    /// When the newest heartbeat that was answered with "renewed" was sent.
    pub renewed_sent_at: Option<Time>,
    /// When the newest successful canary under a rule of k ≥ 1 began.
    pub canary_began_at: Option<Time>,
}

impl Right {
    /// Until when the primary may serve: a lease length after the later of the two. `None`: it has no right.
    #[must_use]
    pub fn until(&self, settings: &Settings) -> Option<Time> {
        self.renewed_sent_at.max(self.canary_began_at).map(|from| from.plus(settings.lease_ms))
    }

    /// Milliseconds left at `now`.
    #[must_use]
    pub fn left(&self, settings: &Settings, now: Time) -> u64 {
        self.until(settings).map_or(0, |until| until.since(now))
    }
}

/// The granter's side: whether the sender of this heartbeat is renewed, *provided* a quorum confirms this leader after
/// the heartbeat came in.
#[must_use]
pub fn may_renew(cluster: &ClusterState, report: &Report) -> bool {
    let Some(reign) = cluster.reign_in_force() else { return false };
    let key = report.incarnation.map(|incarnation| MemberKey::new(report.spec.member.clone(), incarnation));
    let serves = matches!(&report.postgres, PostgresReport::Primary(primary) if primary.epoch == reign.epoch);
    serves && key.as_ref() == Some(&reign.primary)
}

/// Why a debt is paid, or from when on time alone pays it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fenced {
    /// It is known to serve nobody.
    Yes(String),
    /// Its right runs out at this time.
    At(Time),
    /// Time does not fence it: it may run unguarded.
    Never(String),
}

/// Whether the former primary of `debt` is fenced, for the opening of `epoch`.
#[must_use]
pub fn fenced(cluster: &ClusterState, seen: &Observations, debt: &FenceDebt, epoch: Epoch) -> Fenced {
    let member = &debt.primary.member;
    if debt.asserted_off {
        return Fenced::Yes(format!("the operator's recorded word that {member} is off"));
    }
    if seen.reports.get(member).is_some_and(|seen| seen.report.fenced >= Some(debt.epoch)) {
        return Fenced::Yes(format!("{member}'s agent reports it fenced"));
    }
    if seen.fence_commands_done.get(member) >= Some(&debt.epoch) {
        return Fenced::Yes(format!("the fence command for {member} succeeded"));
    }
    if debt.unguarded {
        return Fenced::Never(format!(
            "time does not fence {member}: it was paused and may run unguarded, or a member was given up that may confirm its \
             commits; fence it, or state that it is off"
        ));
    }
    let settings = &cluster.settings;
    if !settings.fence_by_time {
        return Fenced::Never(format!(
            "{member} may still serve, and time does not fence it (fence_by_time is off): a fence command, its agent or \
             an operator must say that it is stopped"
        ));
    }
    // Its own renewals; those of its successor, which go on, are no right of its.
    let renewal = seen.last_renewal.range(..=debt.epoch).map(|(_, at)| *at).max();
    let canary = match seen.seals_quiet {
        Some((of, at)) if of == epoch => Some(at),
        _ => seen.appointed_seen.filter(|(of, _)| *of == epoch).map(|(_, at)| at),
    };
    let from = renewal.max(canary).max(Some(seen.since)).unwrap_or(seen.since);
    let (mut lease_ms, mut margin_ms) = (settings.lease_ms, settings.lease_margin_ms);
    if debt.lease_ms > lease_ms {
        // It was longer, and needs a margin of its own length: clocks differ by a share of it.
        lease_ms = debt.lease_ms;
        margin_ms = margin_ms.max(margin_floor_ms(lease_ms));
    }
    Fenced::At(from.plus(lease_ms + margin_ms))
}

/// The former primaries for which a fence command should run now: still in debt, and silent, so that they cannot be
/// asked to stop by themselves. One that answers is never shot: its agent fences it sooner, and says so.
#[must_use]
pub fn to_fence(cluster: &ClusterState, seen: &Observations, now: Time) -> Vec<FenceDebt> {
    let Some(reign) = cluster.reign_in_force() else { return Vec::new() };
    if reign.open {
        return Vec::new();
    }
    let silent = |debt: &&FenceDebt| {
        seen.silence(&debt.primary.member, now) > cluster.settings.suspect_ms + seen.starved_ms
            && !matches!(fenced(cluster, seen, debt, reign.epoch), Fenced::Yes(_))
    };
    cluster.fence_debts.iter().filter(silent).cloned().collect()
}

/// Whether a reign may open as far as its own start goes: a crashed primary that restarted stays closed until k
/// standbys have its end of recovery.
#[must_use]
pub fn start_allows_opening(cluster: &ClusterState) -> bool {
    cluster.reign().is_some_and(|reign| reign.promotion.is_some() && (reign.start != Start::Continue || reign.complete))
}
