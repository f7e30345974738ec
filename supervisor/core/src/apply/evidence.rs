//! What speaks against "no acknowledged commit was lost": agreed, kept with its reign, never taken back.

use super::{Applied, refuse};
use crate::{
    cluster::ClusterState,
    command::{Command, RefusalCode},
    id::{Epoch, RuleVersion},
    rpo::{self, Cause, Shown, Unproven, Verdict},
    time::WallTime,
};

/// Adds stretches of a reign, whether or not it is over, and until when its rule was shown in force.
pub(super) fn note(cluster: &mut ClusterState, epoch: Epoch, found: &[Unproven], shown: Option<Shown>) -> Applied {
    let Some(reign) = cluster.reigns.iter_mut().find(|reign| reign.epoch == epoch) else {
        return refuse(RefusalCode::WrongEpoch, format!("there is no reign {epoch}"));
    };
    let mut changed = false;
    for stretch in found {
        changed |= rpo::merge(&mut reign.unproven, stretch);
    }
    if let Some(shown) = shown
        && reign.shown.is_none_or(|known| shown.unseen_ms < known.unseen_ms)
    {
        reign.shown = Some(shown);
        changed = true;
    }
    if changed { Ok(()) } else { refuse(RefusalCode::Exists, "that is agreed already") }
}

/// What the agreed state itself shows, from `at` on: a rule that demands nobody, members given up.
pub(super) fn begins(cluster: &mut ClusterState, cause: Cause, detail: &str, at: WallTime, until: Option<WallTime>) {
    if let Some(reign) = cluster.reigns.last_mut() {
        let detail = detail.chars().take(rpo::DETAIL_MAX).collect();
        reign.unproven.push(Unproven { cause, detail, from: at, until, newest: 0, times: 1 });
    }
}

/// A rule that demands somebody is proven: the one that demanded nobody is over.
pub(super) fn rule_demands(cluster: &mut ClusterState, epoch: Epoch, at: WallTime) {
    let Some(reign) = cluster.reigns.iter_mut().find(|reign| reign.epoch == epoch) else { return };
    for stretch in reign.unproven.iter_mut().filter(|s| s.cause == Cause::NoRule && s.until.is_none()) {
        stretch.until = Some(at);
    }
}

/// It is proven that no walsender holds an older version of the rule: under names that were given up, or left the rule, since
/// a stretch began, nothing is confirmed any more.
pub(super) fn names_are_own(cluster: &mut ClusterState, epoch: Epoch, proven: RuleVersion, at: WallTime) {
    let Some(reign) = cluster.reigns.iter_mut().find(|reign| reign.epoch == epoch) else { return };
    let taken = reign.unproven.iter_mut().filter(|s| s.cause == Cause::NameTakenTwice && s.newest < proven.0);
    for stretch in taken.filter(|stretch| stretch.until.is_none()) {
        stretch.until = Some(at);
    }
}

/// An incident whose verdict is not, or not any more, that nothing was lost says so for good.
pub(super) fn settle(cluster: &mut ClusterState, command: &Command) {
    // Settings too: they say how long a primary may be unseen.
    if !matches!(command, Command::Appoint { .. } | Command::NoteUnproven { .. } | Command::ChangeSettings { .. }) {
        return;
    }
    let doubtful: Vec<usize> = (0..cluster.incidents.len())
        .filter(|at| !cluster.incidents[*at].possible_data_loss)
        .filter(|at| matches!(rpo::verdict(cluster, &cluster.incidents[*at]), Verdict::NotProven(_)))
        .collect();
    for at in doubtful {
        cluster.incidents[at].possible_data_loss = true;
    }
}
