//! The timeline that recovery makes for, as PostgreSQL chooses it: from history files alone, before any of its WAL came.
//!
//! A server that is not pinned takes the newest number that has a file, counting up from its target without a gap, if that
//! is a child of its target; else it stays. It looks at its start and whenever it has no walreceiver.

use super::{
    data::DataDir,
    wal::{Branch, Tree},
};
use crate::world::World;

impl Tree {
    /// Whether `timeline` is the branch's or one that it came from.
    #[must_use]
    pub fn came_from(&self, mut branch: Branch, timeline: u32) -> bool {
        loop {
            if self.timeline(branch) == timeline {
                return true;
            }
            let Some(parent) = self.fork(branch) else { return false };
            branch = parent.branch;
        }
    }
}

impl DataDir {
    /// The newest number from `timeline` on that has a history file, without a gap.
    #[must_use]
    pub fn newest_history(&self, mut timeline: u32) -> u32 {
        while self.histories.contains_key(&(timeline + 1)) {
            timeline += 1;
        }
        timeline
    }

    /// Whether its history file makes `timeline` a child of `of`. A reservation is nobody's child.
    fn is_child(&self, tree: &Tree, timeline: u32, of: u32) -> bool {
        timeline == of
            || self
                .histories
                .get(&timeline)
                .is_some_and(|fork| fork.is_some_and(|fork| tree.came_from(fork.branch, of)))
    }

    /// The number of the timeline that owns the end of its WAL.
    fn own_timeline(&self, tree: &Tree) -> u32 {
        tree.timeline(tree.owner(self.end).branch)
    }

    /// The newest timeline that has a file, counting up from `target`, if it is a child of that.
    fn next_target(&self, tree: &Tree, target: u32) -> Option<u32> {
        let newest = self.newest_history(target);
        self.is_child(tree, newest, target).then_some(newest)
    }

    /// The target with which a server starts; `None`: it refuses to, for its files say that its own WAL is no part of it.
    pub(super) fn first_target(&self, tree: &Tree) -> Option<u32> {
        let own = self.own_timeline(tree);
        if self.conf.pinned { Some(own) } else { self.next_target(tree, own) }
    }

    /// The newest number that a file really describes; 0 without any.
    #[must_use]
    pub fn newest_real(&self) -> u32 {
        self.histories.iter().rev().find(|(_, fork)| fork.is_some()).map_or(0, |(number, _)| *number)
    }

    /// Whether a file above `timeline` describes a real one.
    #[must_use]
    pub fn has_history_above(&self, timeline: u32) -> bool {
        self.histories.range(timeline + 1..).any(|(_, fork)| fork.is_some())
    }
}

impl World {
    /// The number of the timeline that owns the end of what lies on the host's disk; 0 without any.
    #[must_use]
    pub fn own_timeline(&self, host: usize) -> u32 {
        let disk = self.hosts[host].disk.borrow();
        disk.data.as_ref().map_or(0, |data| data.own_timeline(&self.tree.borrow()))
    }

    /// Without a walreceiver: is there a newer timeline to go over to?
    pub(super) fn look_for_target(&self, host: usize) {
        let mut pg = self.hosts[host].pg.borrow_mut();
        let disk = self.hosts[host].disk.borrow();
        let Some(data) = disk.data.as_ref().filter(|_| pg.in_recovery && !pg.pinned) else { return };
        let tree = self.tree.borrow();
        pg.target = pg.target.map(|target| data.next_target(&tree, target).unwrap_or(target));
    }

    /// A walreceiver fetches every history file between its own timeline and its upstream's, one after the other; `false`
    /// when its connection broke on the way, or a file is not to be had.
    pub(super) fn fetch_histories(&self, host: usize, from: usize, own: u32, theirs: u32) -> bool {
        for number in own + 1..=theirs {
            let here = self.with_data(host, |data| data.histories.contains_key(&number)).unwrap_or(false);
            if here {
                continue;
            }
            let file = self.with_data(from, |data| data.histories.get(&number).copied()).flatten();
            let Some(file) = file else { return false };
            if self.rng.chance(5) {
                return false;
            }
            self.with_data(host, |data| data.histories.insert(number, file));
        }
        true
    }
}
