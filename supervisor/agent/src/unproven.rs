//! What looks show that speaks against "no acknowledged commit can be lost".

use crate::{known::Known, report};
use pgvigil_core::{
    rpo::Cause,
    sample::Sample,
    time::{Time, WallTime},
};

impl Known {
    /// Commits may be acknowledged without k standbys from now on, for this cause, or have been since the rule was last
    /// shown in force. Said again while it goes on, it changes nothing. `true`: what is known has changed.
    pub fn unproven_begins(&mut self, cause: Cause, detail: &str, (now, wall): (Time, WallTime)) -> bool {
        let epoch = self.local.promise.reigned;
        let begins = self.unproven.begins(epoch, cause, detail, now, wall.0);
        if begins {
            tracing::error!(member = %self.local.me, %epoch, ?cause, "commits may be acknowledged without k standbys: {detail}");
        }
        begins
    }
}

/// Whether a person who sets this may let commits be acknowledged without k standbys.
#[must_use]
pub fn weakens(setting: &str) -> bool {
    matches!(setting, "synchronous_standby_names" | "synchronous_commit" | "fsync" | "full_page_writes")
}

/// Whether a look shows what this agent has put in force as the rule of this reign. That backends wait by it is another
/// question; see [`RuleDoubt`](pgvigil_core::local::RuleDoubt).
#[must_use]
pub fn shows_rule(inner: &Known, sample: &Sample) -> bool {
    let reigned = inner.local.promise.reigned;
    !sample.in_recovery
        && inner.local.in_force.as_ref().is_some_and(|f| f.epoch == reigned && f.version.is_some())
        && inner.names_in_force.as_ref() == Some(&sample.sync_names)
}

/// What a look that began at `began` shows of the rule: in force, or commits lowered. That the names differ is judged
/// where they are put back. `true`: the evidence has changed.
pub fn look(inner: &mut Known, sample: &Sample, began: Time, (now, wall): (Time, WallTime)) -> bool {
    if sample.in_recovery {
        return inner.unproven.end_all(began);
    }
    let reigned = inner.local.promise.reigned;
    // A primary that was found running, before this agent has put anything in force.
    if inner.names_in_force.is_none() && inner.rule_written.as_ref().is_some_and(|names| *names != sample.sync_names) {
        let text = format!(
            "synchronous_standby_names was {:?} when pgvigil came up: it was changed by hand while pgvigil did not run",
            sample.sync_names
        );
        inner.local.rule_doubt.raise();
        return inner.unproven_begins(Cause::RuleNotInForce, &text, (now, wall));
    }
    let rule = shows_rule(inner, sample) && !inner.local.rule_doubt.is_open();
    let lowered = report::weakened(sample).join("; ");
    let lowered = (!lowered.is_empty()).then_some(lowered.as_str());
    inner.unproven.looked(reigned, rule, lowered, began, wall.0)
}
