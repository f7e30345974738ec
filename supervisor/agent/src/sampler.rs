//! What a look at PostgreSQL changes in what is known.

use crate::{
    confirmed::confirmed,
    in_force,
    known::{Known, ServerId},
    unproven,
};
use pgvigil_core::{
    id::{Epoch, TimelineId},
    local::{InForce, LocalPostgres, Running},
    report::Adoptable,
    rpo,
    sample::Sample,
    time::Time,
};

/// What came of a look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Something that the worker and the leader should hear of has changed.
    pub changed: bool,
    /// What is known against the rule has changed.
    pub evidence: bool,
    /// A canary of that epoch that began then is known to be confirmed.
    pub canary: Option<(Epoch, Time)>,
}

/// Takes in what `look` shows of `server`. Whoever asked another server that has ended since changes nothing. `major`: the
/// version of PostgreSQL's programs.
pub fn take(inner: &mut Known, look: in_force::Look<'_>, server: ServerId, major: u32) -> Taken {
    let in_force::Look { sample, began, now, agreed, .. } = look;
    if inner.server != Some(server) {
        return Taken::default();
    }
    if inner.local.marker.is_none() {
        return Taken { changed: unmarked(inner, sample, major), ..Taken::default() };
    }
    let before = match &inner.local.postgres {
        LocalPostgres::Running(running) => Some(running.clone()),
        _ => None,
    };
    inner.local.unasked_since = None;
    let running = running(sample, before.as_ref(), began);
    if sample.in_recovery {
        // What a primary complained of is over when it is one no more.
        inner.problems.remove("canary");
        if inner.flush_seen.is_none_or(|(lsn, _)| lsn != running.flush_lsn) {
            // Its answer's time, not its beginning: what came in between may belong to a canary that began in between,
            // and the successor's door must outwait that one too (found by the model, `quiet-from-beginning`). Keeps S3.
            inner.flush_seen = Some((running.flush_lsn, now.0));
        }
    } else if let Some(agreed) = agreed
        && let Some(rule) = agreed.newest_rule()
    {
        let streaming = |name: &String| {
            sample.walsenders.iter().any(|s| s.application_name == *name && s.state.as_deref() == Some("streaming"))
        };
        let names = rule.setting.cohort.iter().map(|key| agreed.sync_name(key, rule.epoch));
        let count = names.filter(streaming).count();
        inner.local.standbys_enough_since = match inner.local.standbys_enough_since {
            _ if rule.setting.k == 0 || count < rule.setting.k as usize => None,
            None => Some(began),
            since => since,
        };
    }
    let changed = before.as_ref().is_none_or(|b| {
        (b.in_recovery, b.timeline, b.streaming) != (running.in_recovery, running.timeline, running.streaming)
    });
    let senders_changed = !sample.in_recovery
        && inner.sample.as_ref().is_none_or(|(old, _)| {
            old.walsenders
                .iter()
                .map(|s| (&s.application_name, &s.state))
                .ne(sample.walsenders.iter().map(|s| (&s.application_name, &s.state)))
        });
    if !running.in_recovery {
        // A primary that ends is fenced anew: its processes must be seen gone, whatever lies on disk.
        inner.local.fence_on_disk = false;
    }
    inner.local.postgres = LocalPostgres::Running(running);
    let evidence = in_force::look(inner, look) | unproven::look(inner, sample, began, now);
    inner.replies.note(&sample.walsenders, began);
    let confirmed = agreed.and_then(|agreed| confirmed(agreed, &inner.local, &sample.walsenders));
    let taken = agreed.and_then(|agreed| agreed.reign()).is_some_and(|reign| rpo::name_taken(&reign.unproven));
    let canary = inner.canaries.looked(unproven::shows_rule(inner, sample) && !taken, confirmed, began);
    inner.sample = Some((sample.clone(), began));
    Taken { changed: changed || senders_changed, evidence, canary }
}

fn running(sample: &Sample, before: Option<&Running>, now: Time) -> Running {
    let flush = if sample.in_recovery {
        // The walreceiver's position is forgotten by a restart; what was replayed was received.
        sample.receive_lsn.max(sample.replay_lsn)
    } else {
        sample.flush_lsn
    };
    let flush_lsn = flush.unwrap_or_default();
    let moved = before.is_none_or(|b| b.flush_lsn != flush_lsn || b.in_recovery != sample.in_recovery);
    let streaming = sample.receiver.as_ref().is_some_and(|r| r.status == "streaming");
    let timeline = sample.timeline.or_else(|| sample.receiver.as_ref().and_then(|r| r.timeline));
    Running {
        in_recovery: sample.in_recovery,
        timeline: timeline.or_else(|| before.map(|b| b.timeline)).unwrap_or(TimelineId(0)),
        flush_lsn,
        streaming,
        wal_moved_at: if moved { now } else { before.map_or(now, |b| b.wal_moved_at) },
    }
}

/// A server that pgvigil did not set up. `true`: that is news.
fn unmarked(inner: &mut Known, sample: &Sample, major: u32) -> bool {
    let Some(slow) = &inner.slow else { return false };
    let found = LocalPostgres::Adoptable(Adoptable {
        system_identifier: slow.system_identifier,
        in_recovery: sample.in_recovery,
        timeline: sample.timeline.unwrap_or(slow.checkpoint_timeline),
        major,
    });
    let changed = inner.local.postgres != found;
    inner.local.postgres = found;
    changed
}

/// What a data directory is in which nothing runs. `clean`: how it ended, by its control file.
#[must_use]
pub fn stopped(inner: &Known, clean: impl FnOnce() -> bool) -> LocalPostgres {
    match &inner.local.postgres {
        _ if inner.local.marker.is_none() => LocalPostgres::Unusable {
            why: "a stopped PostgreSQL without pgvigil's mark: start it to have it adopted, or move its data directory away"
                .to_owned(),
        },
        already @ LocalPostgres::Stopped { .. } => already.clone(),
        // Found stopped by an agent that has just started.
        _ => LocalPostgres::Stopped { crashed: !clean() },
    }
}

/// A PostgreSQL that runs already: it is never restarted for our sake. `fenced`: it runs as a standby, by its own fence on
/// disk; `door_open`: the door as this agent left it, for restarting pgvigil closes it to nobody.
pub fn adopt(inner: &mut Known, server: ServerId, start: Option<in_force::Stamp>, fenced: bool, door_open: bool) {
    inner.local.fence_on_disk = fenced;
    // Somebody else started it, as he liked: on what timeline its recovery makes for, and whether more WAL came in, is read
    // anew. Keeps S2 (found by the simulation: it was sealed, stopped, started by others and appointed).
    inner.forget_end();
    inner.local.sealed = None;
    if inner.local.marker.is_some() && inner.local.in_force.is_none() {
        let epoch = inner.local.promise.reigned;
        inner.local.in_force = Some(InForce { epoch, version: None, door_open, ..InForce::default() });
    }
    inner.found_running(server, start);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::known::Remembered;
    use pgvigil_core::{local::SealedAt, lsn::Lsn, position::Position};

    /// What others start may make for another timeline than the one that was read, or have received more.
    #[test]
    fn what_was_read_of_a_stopped_server_does_not_hold_for_one_that_others_start() {
        let mut known = Known::new("a".into(), Remembered::default());
        let position = Position::new(Epoch(3), Lsn(7));
        known.local.sealed = Some(SealedAt { epoch: Epoch(4), position });
        known.local.wal_end = Some((position, TimelineId(3)));
        adopt(&mut known, 1, None, true, false);
        assert_eq!((known.local.sealed, known.local.wal_end), (None, None));
        assert_eq!((known.server, &known.local.postgres), (Some(1), &LocalPostgres::Starting));
    }

    /// Between two looks somebody may have started one, and ended it again.
    #[test]
    fn what_was_read_of_a_stopped_server_does_not_hold_once_others_have_started_one_in_between() {
        let mut known = Known::new("a".into(), Remembered::default());
        let position = Position::new(Epoch(3), Lsn(7));
        let (ours, others) = (Some((0, 1, 7, 0)), Some((0, 2, 9, 0)));
        known.found_running(1, ours);
        known.forget_running(false, Time(5));
        known.local.sealed = Some(SealedAt { epoch: Epoch(4), position });
        known.local.wal_end = Some((position, TimelineId(3)));
        for start in [ours, None] {
            known.nothing_runs(start);
            assert_eq!(known.local.wal_end, Some((position, TimelineId(3))), "{start:?}");
        }
        known.nothing_runs(others);
        assert_eq!((known.local.sealed, known.local.wal_end), (None, None));
    }
}
