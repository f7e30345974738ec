//! PostgreSQL's timeline history: which timeline owns which stretch of WAL.

use crate::{
    id::{Epoch, TimelineId},
    lsn::Lsn,
};
use serde::{Deserialize, Serialize};

/// One line of a history file: `timeline` was left at `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// The timeline that was left.
    pub timeline: TimelineId,
    /// Its switch point: the first byte that belongs to its child.
    pub end: Lsn,
    /// The epoch in which that child began, as the line says itself: written there by the agent of the primary that was
    /// promoted, so that no other promotion at the same place is taken for it. `None`: no such word stands there.
    #[serde(default)]
    pub mark: Option<Epoch>,
}

/// What stands before the epoch in a marked line.
pub const MARK: &str = "pgvigil epoch ";

/// The epoch in the text that follows the switch point of a line.
fn mark_in(reason: &str) -> Option<Epoch> {
    let (_, after) = reason.rsplit_once(MARK)?;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().map(Epoch)
}

/// A timeline and its ancestors, oldest first: what `NNNNNNNN.history` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineHistory {
    /// The timeline itself; it has no end yet.
    pub timeline: TimelineId,
    /// Oldest first, with rising timeline ids and switch points that do not fall.
    pub ancestors: Vec<Ancestor>,
}

/// A history file that cannot be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("timeline history line {line}: {problem}: {text:?}")]
pub struct ParseHistoryError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: &'static str,
    /// The line as it stands.
    pub text: String,
}

impl TimelineHistory {
    /// A timeline without ancestors, as initdb makes it.
    #[must_use]
    pub const fn root(timeline: TimelineId) -> Self {
        Self { timeline, ancestors: Vec::new() }
    }

    /// The history of `timeline`, one of this one's ancestors (or itself), as this one tells it.
    #[must_use]
    pub fn cut(&self, timeline: TimelineId) -> Self {
        let before = |ancestor: &&Ancestor| ancestor.timeline < timeline;
        Self { timeline, ancestors: self.ancestors.iter().filter(before).copied().collect() }
    }

    /// Parses the text of `timeline`'s history file. Undecodable lines are an error, never skipped.
    pub fn parse(timeline: TimelineId, text: &str) -> Result<Self, ParseHistoryError> {
        let mut ancestors: Vec<Ancestor> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let bare = line.split('#').next().unwrap_or_default().trim();
            if bare.is_empty() {
                continue;
            }
            let refuse = |problem| ParseHistoryError { line: index + 1, problem, text: line.to_owned() };
            let mut fields = bare.split_whitespace();
            let id: u32 =
                fields.next().and_then(|field| field.parse().ok()).ok_or_else(|| refuse("expected a timeline id"))?;
            let end: Lsn = fields
                .next()
                .and_then(|field| field.parse().ok())
                .ok_or_else(|| refuse("expected the LSN of the switch point"))?;
            let ancestor = Ancestor { timeline: TimelineId(id), end, mark: mark_in(bare) };
            if ancestors.last().is_some_and(|last| last.timeline >= ancestor.timeline || last.end > ancestor.end) {
                return Err(refuse("timelines must rise and switch points must not fall"));
            }
            if ancestor.timeline >= timeline {
                return Err(refuse("an ancestor must have a smaller id than the timeline itself"));
            }
            ancestors.push(ancestor);
        }
        Ok(Self { timeline, ancestors })
    }

    /// The timeline that owns the byte *before* `end`: the one to which the last byte of WAL that ends there
    /// belongs (history A3: a timeline's first segment starts with bytes that belong to its parent).
    #[must_use]
    pub fn owner_of_end(&self, end: Lsn) -> TimelineId {
        self.ancestors.iter().find(|ancestor| end <= ancestor.end).map_or(self.timeline, |ancestor| ancestor.timeline)
    }

    /// Where `timeline` was left on the way to this one; `None` if it is this one or no ancestor.
    #[must_use]
    pub fn switch_point(&self, timeline: TimelineId) -> Option<Lsn> {
        self.ancestors.iter().find(|a| a.timeline == timeline).map(|a| a.end)
    }

    /// Whether WAL of `timeline` that ends at `end` lies wholly within this history, so that a server holding it
    /// can follow this timeline without a rewind.
    #[must_use]
    pub fn contains(&self, timeline: TimelineId, end: Lsn) -> bool {
        timeline == self.timeline || self.switch_point(timeline).is_some_and(|point| end <= point)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> TimelineHistory {
        TimelineHistory::parse(TimelineId(5), "1\t0/3000000\tno recovery target\n\n3\t0/5000000\tx # y\n").unwrap()
    }

    #[test]
    fn the_last_byte_belongs_to_the_ancestor_up_to_the_switch_point() {
        let history = history();
        assert_eq!(history.owner_of_end(Lsn(0x300_0000)), TimelineId(1));
        assert_eq!(history.owner_of_end(Lsn(0x300_0001)), TimelineId(3));
        assert_eq!(history.owner_of_end(Lsn(0x500_0001)), TimelineId(5));
    }

    #[test]
    fn wal_beyond_the_switch_point_has_diverged() {
        let history = history();
        assert!(history.contains(TimelineId(1), Lsn(0x300_0000)));
        assert!(!history.contains(TimelineId(1), Lsn(0x300_0001)));
        assert!(!history.contains(TimelineId(2), Lsn(0x100_0000)));
        assert!(history.contains(TimelineId(5), Lsn(u64::MAX)));
    }

    #[test]
    fn a_marked_line_tells_its_epoch_and_a_comment_does_not() {
        let text = "1\t0/30\tno recovery target specified, pgvigil epoch 4\n2\t0/50\tx # pgvigil epoch 9\n";
        let history = TimelineHistory::parse(TimelineId(5), text).unwrap();
        assert_eq!(history.ancestors.iter().map(|a| a.mark).collect::<Vec<_>>(), [Some(Epoch(4)), None]);
    }

    #[test]
    fn refuses_what_cannot_be_believed() {
        for text in ["x 0/1", "1", "1 0", "2 0/1\n1 0/2", "1 0/5\n2 0/4", "5 0/1"] {
            assert!(TimelineHistory::parse(TimelineId(5), text).is_err(), "{text:?}");
        }
    }
}
