//! S1 and S2: every commit ever acknowledged under an epoch, however late its answer arrives, is in the history from
//! which every later epoch starts; and each epoch has one acknowledging primary.

use super::Check;
use crate::{
    postgres::wal::{Branch, Point},
    world::World,
};

impl Check {
    /// A client's commit was acknowledged by the server of `host`.
    pub fn acknowledged(&mut self, w: &World, host: usize, point: Point) {
        let now = w.exec.now();
        let epoch = w.hosts[host].pg.borrow().epoch;
        w.exec.mix(point.lsn ^ epoch << 48);
        self.commits += 1;
        self.last = (now, epoch);
        let member = w.member(host);
        if *self.acknowledges.entry(epoch).or_insert(host) != host {
            self.fail("S2", now, format!("{member} acknowledges in epoch {epoch}, as another member did before"));
        }
        if epoch < self.opened {
            self.fail("S3", now, format!("{member} acknowledges in epoch {epoch} after epoch {} opened", self.opened));
        }
        if epoch <= self.forgiven {
            return;
        }
        if w.hands {
            self.acknowledgements.push((point, epoch, now));
        }
        let last = self.acknowledged.entry((point.branch, epoch)).or_insert(0);
        *last = (*last).max(point.lsn);
        let tree = w.tree.borrow();
        let lost = self.begun.iter().find(|(later, _, start)| *later > epoch && !tree.covers(*start, point)).copied();
        drop(tree);
        if let Some((later, by, start)) = lost {
            if self.lost_by_hand(w, point, epoch, start, later) {
                self.acknowledged.remove(&(point.branch, epoch));
                return;
            }
            let by = w.member(by);
            let detail =
                format!("{member} acknowledges {point:?} in epoch {epoch}; {by} began epoch {later} from {start:?}");
            self.fail("S1", now, detail);
        }
    }

    /// The server of `host` was promoted: its new branch leaves the old one at a fork.
    pub fn promoted(&mut self, w: &World, host: usize) {
        let branch = w.hosts[host].disk.borrow().data.as_ref().map(|data| data.end.branch);
        let fork = branch.and_then(|branch| w.tree.borrow().fork(branch));
        if let Some(fork) = fork {
            w.cover.hit("postgres", "promoted");
            self.failovers += 1;
            self.begins(w, host, fork);
        }
    }

    /// A promotion is about to name `target` as the parent of its timeline, and what it has ends on `own`.
    pub fn promoted_from_nothing(&mut self, w: &World, host: usize, target: Option<u32>, own: u32) {
        let target = target.map_or_else(|| "none".to_owned(), |target| target.to_string());
        let detail = format!("{} is promoted from timeline {target}, and its WAL ends on {own}", w.member(host));
        self.fail("history", w.exec.now(), detail);
    }

    /// The server of `host` was started as a primary.
    pub fn started(&mut self, w: &World, host: usize) {
        let end = w.hosts[host].disk.borrow().data.as_ref().map(|data| data.end);
        if let Some(end) = end {
            w.cover.hit("postgres", "started-as-primary");
            self.begins(w, host, end);
        }
    }

    fn begins(&mut self, w: &World, host: usize, start: Point) {
        let epoch = w.hosts[host].pg.borrow().epoch;
        w.exec.mix(start.lsn ^ epoch << 40);
        w.log_host(host, || format!("is primary of epoch {epoch} from {start:?}"));
        if epoch == 0 {
            return;
        }
        self.reigns += 1;
        let tree = w.tree.borrow();
        let missing = |(branch, of): &(Branch, u64), lsn: &u64| {
            *of < epoch && !tree.covers(start, Point { branch: *branch, lsn: *lsn })
        };
        let lost: Vec<_> = self
            .acknowledged
            .iter()
            .filter(|(of, lsn)| missing(of, lsn))
            .map(|((branch, of), lsn)| (*branch, *of, *lsn))
            .collect();
        drop(tree);
        self.begun.push((epoch, host, start));
        for (branch, of, lsn) in lost {
            if self.lost_by_hand(w, Point { branch, lsn }, of, start, epoch) {
                self.acknowledged.remove(&(branch, of));
                continue;
            }
            let member = w.member(host);
            let detail = format!(
                "{member} begins epoch {epoch} from {start:?} without what was acknowledged in epoch {of} up to {lsn} on branch {branch}"
            );
            self.fail("S1", w.exec.now(), detail);
        }
    }

    /// The operator gives up members: what was acknowledged up to this epoch may be gone.
    pub(super) fn forgive(&mut self, epoch: u64) {
        self.forgiven = self.forgiven.max(epoch);
        self.acknowledged.retain(|(_, of), _| *of > epoch);
    }

    /// What a server that recovered shows to the clients it lets in must stay.
    pub(super) fn shown(&mut self, w: &World, host: usize) {
        let mut pg = w.hosts[host].pg.borrow_mut();
        let recovered = std::mem::take(&mut pg.recovered_to);
        let epoch = pg.epoch;
        drop(pg);
        let branch = w.hosts[host].disk.borrow().data.as_ref().map(|data| data.end.branch);
        if let (Some(branch), true) = (branch, recovered > 0 && epoch > self.forgiven) {
            let last = self.acknowledged.entry((branch, epoch)).or_insert(0);
            *last = (*last).max(recovered);
        }
    }
}
