//! What PostgreSQL shows of the settings on which the promise rests, held against what was put in force. What is astray
//! counts as evidence and is put back.

use crate::{known::Known, ports::Removed, unproven};
use pgvigil_core::{
    cluster::ClusterState,
    local::LocalPostgres,
    rpo::Cause,
    sample::Sample,
    sync_rule::SyncRule,
    time::{Time, WallTime},
};
use std::collections::BTreeMap;

/// How long a reload that nobody waited for may take before the old values are held against the server, in milliseconds.
const RELOAD_MS: u64 = 1_000;

/// What was put in force.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The values that have to be shown.
    pub shown: BTreeMap<String, String>,
    /// Looks that began earlier may show what was before.
    pub since: Time,
    /// A look has shown all of it.
    pub seen: bool,
}

/// Which file it is, and its last change of any kind.
pub type Stamp = (u64, u64, i64, i64);

/// What is known of drift: of settings, of files, and what was said of it.
#[derive(Clone, Debug, Default)]
pub struct Drifted {
    /// The names that the newest look showed astray, and when it began.
    pub names: Vec<String>,
    /// See `names`.
    pub at: Time,
    /// When the first look in a row began that showed something astray.
    pub since: Option<Time>,
    /// Values that were set for the agent's own role or for its database: they are no server's.
    pub of_session: BTreeMap<String, String>,
    /// What is to be told for a while after it was mended, and until when.
    pub told: Option<(String, Time)>,
    /// The files that could weaken the rule, and when they were last loaded, at the newest look.
    pub files: Option<(Vec<Option<Stamp>>, i64)>,
    /// Counts what was taken out of them by us: a look at them that began before is of no use.
    pub taken_out: u64,
}

/// One look, and what is needed to judge it.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// What it shows.
    pub sample: &'a Sample,
    /// When it began.
    pub began: Time,
    /// When it is judged.
    pub now: (Time, WallTime),
    /// The newest agreed state.
    pub agreed: Option<&'a ClusterState>,
    /// The files that could weaken the rule, as they were after the sample, and [`Drifted::taken_out`] before that.
    pub files: (&'a [Option<Stamp>], u64),
    /// The value of `synchronous_standby_names` that this agent has written last, in force or not.
    pub written: &'a dyn Fn() -> Option<String>,
}

/// The names of which `sample` shows another value than was put in force.
fn astray(expected: &Expected, of_session: &BTreeMap<String, String>, sample: &Sample, began: Time) -> Vec<String> {
    let grace = if expected.seen { 0 } else { RELOAD_MS };
    if began < expected.since.plus(grace) {
        return Vec::new();
    }
    let of_primary = |name: &str| matches!(name, "synchronous_standby_names" | "synchronous_commit");
    let other = |(name, value): (&String, &String)| {
        let shown = sample.watched.get(name)?;
        let matters = !(sample.in_recovery && of_primary(name)) && of_session.get(name) != Some(shown);
        (matters && shown != value).then(|| name.clone())
    };
    expected.shown.iter().filter_map(other).collect()
}

/// Whether a look shows the agreed rule of the reign: all that an agent can say which has not put it in force itself.
/// `None`: it does not know what is agreed.
fn shows_agreed(inner: &Known, agreed: Option<&ClusterState>, sample: &Sample) -> Option<bool> {
    let agreed = agreed?;
    let reign = agreed.reign().filter(|reign| reign.epoch == inner.local.promise.reigned)?;
    let safe = ["fsync", "full_page_writes"].iter().all(|name| sample.watched.get(*name).is_some_and(|v| v == "on"));
    Some(sample.sync_names == SyncRule::of(Some(agreed), &reign.setting, reign.epoch).names_value() && safe)
}

/// Takes a look in: what is astray, and whether files were changed and loaded unseen. `true`: the evidence has changed.
/// Keeps S1.
pub fn look(inner: &mut Known, look: Look<'_>) -> bool {
    let Look { sample, began, now, agreed, files, written } = look;
    let mut evidence = unseen_reload(inner, files, sample, now);
    if inner.local.busy {
        // What is put in force at this moment is judged by the act itself.
        inner.drifted.names.clear();
        return evidence;
    }
    let drifted = &mut inner.drifted;
    drifted.at = began;
    drifted.names = match inner.expected.as_mut() {
        Some(expected) => {
            let mut names = astray(expected, &drifted.of_session, sample, began);
            // What was written here and no new connection could show yet is nobody else's doing.
            names.retain(|name| name != "synchronous_standby_names" || written().as_ref() != Some(&sample.sync_names));
            expected.seen |= names.is_empty() && began >= expected.since.plus(RELOAD_MS);
            names
        }
        None => Vec::new(),
    };
    let names = drifted.names.clone();
    let weak = |list: &[&str]| names.iter().any(|name| list.contains(&name.as_str()));
    // A rule that this agent has not put in force yet, and does not find in force, is none either.
    let unknown = inner.expected.is_none()
        && !sample.in_recovery
        && inner.local.in_force.as_ref().is_some_and(|f| f.door_open && f.version.is_none())
        && shows_agreed(inner, agreed, sample) == Some(false);
    inner.drifted.since = (!names.is_empty()).then_some(inner.drifted.since.unwrap_or(began));
    let promise_astray = !sample.in_recovery && (names.iter().any(|name| unproven::weakens(name)) || unknown);
    inner.local.rule_astray_since = promise_astray.then_some(inner.local.rule_astray_since.unwrap_or(began));
    let shown = |name: &str| format!("{name} is {:?}", sample.watched.get(name).map_or("", String::as_str));
    if !sample.in_recovery && weak(&["synchronous_standby_names"]) {
        inner.local.rule_doubt.raise();
        evidence |= inner.unproven_begins(Cause::RuleNotInForce, &shown("synchronous_standby_names"), now);
    } else if unknown {
        inner.local.rule_doubt.raise();
    }
    if !sample.in_recovery && weak(&["fsync", "full_page_writes"]) {
        let both = ["fsync", "full_page_writes"].map(shown).join(", ");
        evidence |= inner.unproven_begins(Cause::UnsafeSetting, &both, now);
    } else {
        evidence |= inner.unproven.ends(Cause::UnsafeSetting, began);
    }
    evidence
}

/// The files that override ours were changed and loaded between two looks: what stood in them in between, nobody saw.
/// A reload for other reasons (logs that are rotated) changes none of them.
fn unseen_reload(
    inner: &mut Known,
    (files, taken_out): (&[Option<Stamp>], u64),
    sample: &Sample,
    now: (Time, WallTime),
) -> bool {
    let seen = (files.to_vec(), sample.loaded_us);
    let before = std::mem::take(&mut inner.drifted.files);
    // Our own change of the files is none that nobody saw.
    if taken_out == inner.drifted.taken_out {
        inner.drifted.files = Some(seen.clone());
    }
    let serves = !sample.in_recovery && inner.local.in_force.as_ref().is_some_and(|f| f.version.is_some());
    match before {
        Some((files, loaded)) if serves && files != seen.0 && loaded != seen.1 => {
            inner.local.rule_doubt.raise();
            let what = "postgresql.auto.conf or postgresql.conf was changed and loaded between two looks";
            inner.unproven_begins(Cause::ReloadByOthers, what, now)
        }
        // What was loaded may have taken the rule out of force.
        _ => !inner.local.rule_doubt.is_open() && inner.unproven.ends(Cause::ReloadByOthers, now.0),
    }
}

/// Lines that overrode ours were taken out: they may have been loaded before, and nobody saw that. `true`: the evidence has
/// changed.
pub fn taken_out(inner: &mut Known, removed: &Removed, now: (Time, WallTime)) -> bool {
    if removed.changed {
        inner.drifted.files = None;
        inner.drifted.taken_out += 1;
    }
    let weak = removed.lines.iter().filter(|(name, _)| unproven::weakens(name));
    let lines: Vec<String> = weak.map(|(name, value)| format!("{name} = '{value}'")).collect();
    let serves = matches!(&inner.local.postgres, LocalPostgres::Running(running) if !running.in_recovery)
        && inner.local.in_force.as_ref().is_some_and(|f| f.door_open);
    if lines.is_empty() || !serves {
        return false;
    }
    inner.local.rule_doubt.raise();
    let what = format!("{} stood in postgresql.auto.conf, and may have been loaded", lines.join(", "));
    inner.unproven_begins(Cause::ReloadByOthers, &what, now)
}

/// What is astray on a primary is put back by the next Configure, and its rule counts no more until it is proven again.
/// `false`: it was put in force anew while it was asked what is astray.
pub fn put_in_doubt(inner: &mut Known, at: Time) -> bool {
    if inner.local.busy || inner.expected.as_ref().is_none_or(|expected| expected.since > at) {
        return false;
    }
    if let Some(in_force) = inner.local.in_force.as_mut() {
        in_force.version = None;
    }
    inner.local.proven = None;
    true
}

#[cfg(test)]
#[path = "in_force_test.rs"]
mod tests;
