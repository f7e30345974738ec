//! Timeline history files: reading them, choosing the next timeline's number, and putting WAL of a newer timeline out
//! of recovery's way.
//!
//! At promotion PostgreSQL probes for history files upward from its recovery target timeline and takes the first
//! number that has none (`findNewestTimeLine`). To make it take the allotted number T from timeline t, a file must
//! exist for each of t+1 … T-1 and none for T. Those that do not exist really are planted as reservations: comment
//! only, so that each reads as a timeline without ancestors. `recovery_target_timeline = 'latest'` on a *running*
//! standby then logs "not a child of database system timeline" and stays where it is; at a *start* it would refuse
//! ("requested timeline is not a child of this server's history"), so a server that holds reservations above its own
//! timeline is started pinned ([`start_timeline`]). Reservations below the current timeline stay for ever: a standby's
//! walreceiver asks its upstream for every history file between its own timeline and the upstream's.
//!
//! A real history file of a timeline that came to nothing is worse than none: a standby that runs with `latest` takes it
//! for its target as soon as it looks, then never goes over to a timeline that is not its child, and a promotion would
//! name it as the parent. So such a file is nobody's to receive ([`reserve`] buries it) and a server that may have looked
//! at one is sealed by being stopped ([`above`]).

use crate::{
    fsio::{FsError, create_dir_private, read_lossy, remove_durable, sync_dir, sync_file, write_atomic},
    layout::parse_segment_name,
    settings::RecoveryTimeline,
};
use pgvigil_core::{
    id::{Epoch, TimelineId},
    timeline::{MARK, ParseHistoryError, TimelineHistory},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

const RESERVED: &str = "# pgvigil: timeline number reserved, never used\n";

/// History files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// A file failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A file cannot be believed.
    #[error("{}: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ParseHistoryError,
    },
    /// No history file for a timeline above 1.
    #[error("timeline {timeline} has no history file in {}", pg_wal.display())]
    Absent {
        /// The timeline.
        timeline: TimelineId,
        /// Where it was looked for.
        pg_wal: PathBuf,
    },
    /// The allotted number is taken here already, or not above the current one.
    #[error("timeline {allotted} cannot be taken from timeline {current}: {problem}")]
    Taken {
        /// The timeline before the promotion.
        current: TimelineId,
        /// The number that was allotted.
        allotted: TimelineId,
        /// Why not.
        problem: &'static str,
    },
}

/// The path of `timeline`'s history file.
#[must_use]
pub fn path(pg_wal: &Path, timeline: TimelineId) -> PathBuf {
    pg_wal.join(format!("{:08X}.history", timeline.0))
}

/// The text of `timeline`'s history file; `None` when there is none.
pub fn text(pg_wal: &Path, timeline: TimelineId) -> Result<Option<String>, HistoryError> {
    // What stands there after the switch point is a comment, of whatever encoding.
    Ok(read_lossy(&path(pg_wal, timeline))?)
}

/// The history of `timeline`. Timeline 1 needs no file; any other without one is an error.
pub fn read(pg_wal: &Path, timeline: TimelineId) -> Result<TimelineHistory, HistoryError> {
    match text(pg_wal, timeline)? {
        Some(text) => TimelineHistory::parse(timeline, &text)
            .map_err(|source| HistoryError::Parse { path: path(pg_wal, timeline), source }),
        None if timeline.0 <= 1 => Ok(TimelineHistory::root(timeline)),
        None => Err(HistoryError::Absent { timeline, pg_wal: pg_wal.to_owned() }),
    }
}

/// Writes `timeline`'s history file durably: for a standby that is pinned to a timeline whose file it has not yet
/// received.
pub fn write(pg_wal: &Path, timeline: TimelineId, text: &str) -> Result<(), HistoryError> {
    TimelineHistory::parse(timeline, text)
        .map_err(|source| HistoryError::Parse { path: path(pg_wal, timeline), source })?;
    write_atomic(&path(pg_wal, timeline), text.as_bytes(), 0o600)?;
    Ok(())
}

/// A history as PostgreSQL writes its file.
#[must_use]
pub fn render(history: &TimelineHistory) -> String {
    let line = |a: &pgvigil_core::timeline::Ancestor| format!("{}\t{}\tpgvigil\n", a.timeline, a.end);
    history.ancestors.iter().map(line).collect()
}

/// All timelines with a history file, rising, and whether each is a mere reservation.
pub fn all(pg_wal: &Path) -> Result<Vec<(TimelineId, bool)>, HistoryError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(pg_wal).map_err(FsError::at("list", pg_wal))? {
        let entry = entry.map_err(FsError::at("list", pg_wal))?;
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|name| name.strip_suffix(".history")).filter(|n| n.len() == 8) else {
            continue;
        };
        let Ok(number) = u32::from_str_radix(number, 16) else { continue };
        let timeline = TimelineId(number);
        found.push((timeline, text(pg_wal, timeline)?.as_deref() == Some(RESERVED)));
    }
    found.sort_unstable();
    Ok(found)
}

/// The newest timeline that a history file really describes; `None` without any.
pub fn newest(pg_wal: &Path) -> Result<Option<TimelineId>, HistoryError> {
    Ok(all(pg_wal)?.into_iter().filter(|(_, reserved)| !reserved).map(|(timeline, _)| timeline).next_back())
}

/// Makes sure that a promotion of a server on timeline `current` takes the number `allotted`, and that its standbys
/// receive no history but the one that it makes: real files between the two are of timelines that came to nothing here,
/// and become reservations. Idempotent; durable when it returns. The server must be pinned to `current` or running on it,
/// and archive recovery must be off: PostgreSQL would ask the archive for history files too.
pub fn reserve(pg_wal: &Path, current: TimelineId, allotted: TimelineId) -> Result<(), HistoryError> {
    let taken = |problem| Err(HistoryError::Taken { current, allotted, problem });
    if allotted <= current {
        return taken("it is not greater");
    }
    // One that was reserved for a later promotion that never came is ours to free.
    match text(pg_wal, allotted)?.as_deref() {
        None => {}
        Some(RESERVED) => remove_durable(&path(pg_wal, allotted))?,
        Some(_) => return taken("a history file of that number exists"),
    }
    if allotted.0 == current.0 + 1 {
        return Ok(());
    }
    for number in current.0 + 1..allotted.0 {
        let number = TimelineId(number);
        if text(pg_wal, number)?.as_deref() == Some(RESERVED) {
            sync_file(&path(pg_wal, number))?;
        } else {
            write_atomic(&path(pg_wal, number), RESERVED.as_bytes(), 0o600)?;
        }
    }
    sync_dir(pg_wal)?;
    Ok(())
}

/// The timelines above `current` with a history file, rising, and whether each is a mere reservation.
fn higher(pg_wal: &Path, current: TimelineId) -> Result<Vec<(TimelineId, bool)>, HistoryError> {
    let mut all = all(pg_wal)?;
    all.retain(|(timeline, _)| *timeline > current);
    Ok(all)
}

/// Removes reservations above `current`: after a promotion that was called off. One of them may stand for a timeline that
/// others are on, and a walreceiver does not ask for a file that is there.
pub fn clear_reservations(pg_wal: &Path, current: TimelineId) -> Result<(), HistoryError> {
    for (timeline, reserved) in higher(pg_wal, current)? {
        if reserved {
            remove_durable(&path(pg_wal, timeline))?;
        }
    }
    Ok(())
}

/// Removes every history file above `current`, for a server that is to follow: reservations, the file of a promotion that
/// was cut off before its end-of-recovery record, or that of a promotion by hand, which names another timeline by the same
/// number. A server that starts with `latest` would take the newest of them for its target, and a walreceiver fetches only
/// the ones that are not there: those of its upstream it gets again. Returns them. The server must be stopped.
pub fn remove_above(pg_wal: &Path, current: TimelineId) -> Result<Vec<TimelineId>, HistoryError> {
    let mut removed = Vec::new();
    for (timeline, _) in higher(pg_wal, current)? {
        remove_durable(&path(pg_wal, timeline))?;
        removed.push(timeline);
    }
    Ok(removed)
}

/// Puts the mark of `epoch` on the last line of `timeline`'s history file, durably, so that no other promotion at the same
/// place is taken for it: before anybody is told to follow, since a walreceiver fetches a file once. Idempotent.
/// PostgreSQL takes what stands after the switch point for a comment and copies it into the files of later timelines.
pub fn mark(pg_wal: &Path, timeline: TimelineId, epoch: Epoch) -> Result<(), HistoryError> {
    let history = read(pg_wal, timeline)?;
    if history.ancestors.last().is_none_or(|last| last.mark == Some(epoch)) {
        return Ok(());
    }
    let text = text(pg_wal, timeline)?.unwrap_or_default();
    let bare = text.trim_end_matches(['\n', ' ', '\t']);
    write_atomic(&path(pg_wal, timeline), format!("{bare}, {MARK}{epoch}\n").as_bytes(), 0o600)?;
    Ok(())
}

/// When `timeline`'s history file was last written, in milliseconds since 1970 by this host's clock, for people.
#[must_use]
pub fn written_at(pg_wal: &Path, timeline: TimelineId) -> Option<u64> {
    let modified = fs::metadata(path(pg_wal, timeline)).and_then(|meta| meta.modified()).ok()?;
    let since = modified.duration_since(std::time::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

/// The timelines above `current` that a history file really describes: what recovery with `latest` may have taken for its
/// target.
pub fn above(pg_wal: &Path, current: TimelineId) -> Result<Vec<TimelineId>, HistoryError> {
    let real = higher(pg_wal, current)?.into_iter().filter(|(_, reserved)| !reserved);
    Ok(real.map(|(timeline, _)| timeline).collect())
}

/// With which `recovery_target_timeline` a server on `current` must be started: pinned, unless it may follow `latest`
/// because no history file above `current` is there to mislead it.
pub fn start_timeline(pg_wal: &Path, current: TimelineId) -> Result<RecoveryTimeline, HistoryError> {
    let misled = !higher(pg_wal, current)?.is_empty();
    Ok(if misled { RecoveryTimeline::Pinned(current) } else { RecoveryTimeline::Latest })
}

/// Moves segments (and `.partial` files) of timelines that are not part of `keep` into `aside`, durably: recovery
/// prefers the newest timeline's file of a segment, and a short one would end it before the position that was
/// reported (history A4). `keep` is the history of the timeline that owns the position; every newer one goes. Returns
/// what was moved. The server must be stopped, and be started pinned to `keep`'s timeline.
pub fn set_aside(
    pg_wal: &Path,
    keep: &TimelineHistory,
    segment_size: u64,
    aside: &Path,
) -> Result<Vec<String>, HistoryError> {
    let mut moved = Vec::new();
    for entry in fs::read_dir(pg_wal).map_err(FsError::at("list", pg_wal))? {
        let entry = entry.map_err(FsError::at("list", pg_wal))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let bare = name.strip_suffix(".partial").unwrap_or(&name);
        let Some((timeline, _)) = parse_segment_name(bare, segment_size) else { continue };
        if TimelineId(timeline) > keep.timeline {
            create_dir_private(aside)?;
            let to = aside.join(&name);
            if fs::rename(entry.path(), &to).is_err() {
                // Another file system: copy, make durable, remove.
                fs::copy(entry.path(), &to).map_err(FsError::at("copy", &entry.path()))?;
                sync_file(&to)?;
                fs::remove_file(entry.path()).map_err(FsError::at("remove", &entry.path()))?;
            }
            moved.push(name);
        }
    }
    if !moved.is_empty() {
        sync_dir(aside)?;
        sync_dir(pg_wal)?;
    }
    moved.sort_unstable();
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgvigil_core::lsn::Lsn;

    /// A promotion to timeline 4 was cut off; the reign is on timeline 5, which left timeline 3.
    #[test]
    fn what_a_cut_off_promotion_left_misleads_nobody() {
        let dir = tempfile::tempdir().unwrap();
        for (number, text) in [(3, "1\t0/A0\tx\n"), (4, "1\t0/A0\tx\n3\t0/B0\tx\n"), (6, RESERVED)] {
            fs::write(path(dir.path(), TimelineId(number)), text).unwrap();
        }
        // Reserved before anything was heard of the real one (found by the simulation).
        fs::write(path(dir.path(), TimelineId(5)), RESERVED).unwrap();
        assert_eq!(remove_above(dir.path(), TimelineId(3)).unwrap(), [4, 5, 6].map(TimelineId));
        assert_eq!(all(dir.path()).unwrap(), [(TimelineId(3), false)]);
        assert_eq!(start_timeline(dir.path(), TimelineId(3)).unwrap(), RecoveryTimeline::Latest);
    }

    #[test]
    fn reservations_fill_the_gap_and_only_the_gap() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), TimelineId(3), "1\t0/3000000\tx\n").unwrap();
        assert_eq!(above(dir.path(), TimelineId(1)).unwrap(), [TimelineId(3)]);
        reserve(dir.path(), TimelineId(1), TimelineId(6)).unwrap();
        assert_eq!(above(dir.path(), TimelineId(1)).unwrap(), []);
        reserve(dir.path(), TimelineId(1), TimelineId(6)).unwrap();
        // Timeline 3 came to nothing: whoever follows must not take it for the one to come.
        let expected = [(2, true), (3, true), (4, true), (5, true)].map(|(t, r)| (TimelineId(t), r));
        assert_eq!(all(dir.path()).unwrap(), expected);
        assert_eq!(newest(dir.path()).unwrap(), None);
        assert_eq!(start_timeline(dir.path(), TimelineId(1)).unwrap(), RecoveryTimeline::Pinned(TimelineId(1)));
        assert_eq!(read(dir.path(), TimelineId(4)).unwrap(), TimelineHistory::root(TimelineId(4)));
        reserve(dir.path(), TimelineId(1), TimelineId(5)).unwrap();
        assert!(!path(dir.path(), TimelineId(5)).exists());
        clear_reservations(dir.path(), TimelineId(3)).unwrap();
        assert_eq!(all(dir.path()).unwrap().len(), 2);
        assert_eq!(start_timeline(dir.path(), TimelineId(3)).unwrap(), RecoveryTimeline::Latest);
    }

    #[test]
    fn a_number_that_is_taken_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), TimelineId(3), "1\t0/3000000\tx\n").unwrap();
        for (current, allotted) in [(1, 3), (3, 3), (3, 2)] {
            let result = reserve(dir.path(), TimelineId(current), TimelineId(allotted));
            assert!(matches!(result, Err(HistoryError::Taken { .. })));
        }
        assert!(matches!(read(dir.path(), TimelineId(9)), Err(HistoryError::Absent { .. })));
    }

    #[test]
    fn segments_of_newer_timelines_are_moved_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (wal, aside) = (dir.path().join("pg_wal"), dir.path().join("aside"));
        fs::create_dir(&wal).unwrap();
        let names = ["000000010000000000000003", "000000020000000000000003", "00000002.history", "x"];
        for name in names {
            fs::write(wal.join(name), "").unwrap();
        }
        let moved = set_aside(&wal, &TimelineHistory::root(TimelineId(1)), 16 << 20, &aside).unwrap();
        assert_eq!(moved, ["000000020000000000000003"]);
        assert!(aside.join(&moved[0]).exists() && wal.join("00000002.history").exists());
    }

    #[test]
    fn a_mark_is_put_on_the_last_line_once() {
        let dir = tempfile::tempdir().unwrap();
        let two = "1\t0/3000000\tno recovery target specified\n\n2\t0/5000000\tno recovery target specified\n\n";
        fs::write(path(dir.path(), TimelineId(3)), two).unwrap();
        for _ in 0..2 {
            mark(dir.path(), TimelineId(3), Epoch(7)).unwrap();
            let history = read(dir.path(), TimelineId(3)).unwrap();
            assert_eq!(history.ancestors.iter().map(|a| a.mark).collect::<Vec<_>>(), [None, Some(Epoch(7))]);
            assert_eq!(history.ancestors.iter().map(|a| a.end.0).collect::<Vec<_>>(), [0x300_0000, 0x500_0000]);
        }
        let text = text(dir.path(), TimelineId(3)).unwrap().unwrap();
        assert!(text.ends_with("\tno recovery target specified, pgvigil epoch 7\n"), "{text}");
        assert!(written_at(dir.path(), TimelineId(3)).is_some_and(|at| at > 1 << 40));
    }

    #[test]
    fn a_rendered_history_is_read_back() {
        let history = TimelineHistory::parse(TimelineId(7), "1\t0/3000000\tx\n5\t1/0\ty\n").unwrap();
        assert_eq!(TimelineHistory::parse(TimelineId(7), &render(&history)).unwrap(), history);
        assert_eq!(history.owner_of_end(Lsn(1)), TimelineId(1));
    }
}
