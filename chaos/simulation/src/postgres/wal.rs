//! WAL as content, not bytes: each promotion makes a branch, and a place on a branch stands for everything before it.
//!
//! Two servers that wrote different bytes at one LSN are on different branches, whatever their timeline's number says:
//! that is how the checkers tell a history from another one that merely looks like it.

use pgvigil_core::{
    id::{Epoch, TimelineId},
    lsn::Lsn,
    timeline::{Ancestor, TimelineHistory},
};

/// A branch of history: one server's writing since one promotion (or initdb).
pub type Branch = usize;

/// A place in a branch's WAL: everything up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// The branch.
    pub branch: Branch,
    /// The end of the last byte.
    pub lsn: u64,
}

/// PostgreSQL's segment size: reception on a new timeline begins at a multiple of it.
pub const SEGMENT: u64 = 16 << 20;
/// Where a new cluster's WAL begins.
pub const FIRST: u64 = SEGMENT;

#[derive(Clone, Debug)]
struct Origin {
    timeline: u32,
    parent: Option<Point>,
    /// Where its first commit ends.
    first_commit: Option<u64>,
    /// The epoch that its history file is marked with.
    mark: Option<u64>,
}

/// Every branch that was ever begun.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    branches: Vec<Origin>,
}

impl Tree {
    /// Begins a branch on `timeline` that leaves its parent at a point; initdb has none.
    pub fn begin(&mut self, timeline: u32, parent: Option<Point>) -> Branch {
        self.branches.push(Origin { timeline, parent, first_commit: None, mark: None });
        self.branches.len() - 1
    }

    /// Its history file is marked, before anybody has fetched it.
    pub fn mark(&mut self, branch: Branch, epoch: u64) {
        self.branches[branch].mark = Some(epoch);
    }

    /// What the branch's own history file tells.
    #[must_use]
    pub fn history(&self, branch: Branch) -> TimelineHistory {
        let mut ancestors = Vec::new();
        let mut at = branch;
        while let Some(parent) = self.branches[at].parent {
            let mark = self.branches[at].mark.map(Epoch);
            let timeline = TimelineId(self.branches[parent.branch].timeline);
            ancestors.push(Ancestor { timeline, end: Lsn(parent.lsn), mark });
            at = parent.branch;
        }
        ancestors.reverse();
        TimelineHistory { timeline: TimelineId(self.branches[branch].timeline), ancestors }
    }

    /// The branch of `line`'s history that has the number `timeline`, and how far the line follows it.
    #[must_use]
    pub fn by_number(&self, line: Point, timeline: u32) -> Option<Point> {
        let (mut at, mut lsn) = (line.branch, line.lsn);
        loop {
            if self.branches[at].timeline == timeline {
                return Some(Point { branch: at, lsn });
            }
            let parent = self.branches[at].parent?;
            at = parent.branch;
            lsn = lsn.min(parent.lsn);
        }
    }

    /// A commit of the branch ends here.
    pub fn commits(&mut self, branch: Branch, lsn: u64) {
        self.branches[branch].first_commit.get_or_insert(lsn);
    }

    /// Whether any commit of the point's own branch ends at or before it. What a server writes of its own, as the end
    /// of recovery, shows nobody anything.
    #[must_use]
    pub fn has_commits(&self, point: Point) -> bool {
        self.branches[point.branch].first_commit.is_some_and(|first| first <= point.lsn)
    }

    /// The branch's timeline number.
    #[must_use]
    pub fn timeline(&self, branch: Branch) -> u32 {
        self.branches[branch].timeline
    }

    /// Where the branch left its parent.
    #[must_use]
    pub fn fork(&self, branch: Branch) -> Option<Point> {
        self.branches[branch].parent
    }

    /// The same place on the branch that owns its last byte (history A3).
    #[must_use]
    pub fn owner(&self, mut point: Point) -> Point {
        while let Some(parent) = self.branches[point.branch].parent {
            if point.lsn > parent.lsn {
                break;
            }
            point.branch = parent.branch;
        }
        point
    }

    /// How far `line` follows `branch` before it leaves it: 0 if it never was on it.
    #[must_use]
    pub fn along(&self, line: Point, branch: Branch) -> u64 {
        let (mut at, mut lsn) = (line.branch, line.lsn);
        loop {
            if at == branch {
                return lsn;
            }
            let Some(parent) = self.branches[at].parent else { return 0 };
            at = parent.branch;
            lsn = lsn.min(parent.lsn);
        }
    }

    /// Whether the history that ends at `line` contains everything up to `point`.
    #[must_use]
    pub fn covers(&self, line: Point, point: Point) -> bool {
        let point = self.owner(point);
        self.along(line, point.branch) >= point.lsn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_covers_its_parent_up_to_the_fork_only() {
        let mut tree = Tree::default();
        let root = tree.begin(1, None);
        let child = tree.begin(2, Some(Point { branch: root, lsn: 100 }));
        let line = Point { branch: child, lsn: 150 };
        assert!(tree.covers(line, Point { branch: root, lsn: 100 }));
        assert!(!tree.covers(line, Point { branch: root, lsn: 101 }));
        assert!(!tree.covers(Point { branch: root, lsn: 500 }, Point { branch: child, lsn: 101 }));
        assert_eq!(tree.owner(Point { branch: child, lsn: 100 }), Point { branch: root, lsn: 100 });
        assert_eq!(tree.owner(Point { branch: child, lsn: 101 }).branch, child);
    }
}
