//! S3: no two primaries are open to clients at one true moment, and no older one after a newer one has opened.

use super::Check;
use crate::world::World;

impl Check {
    /// Looks at every server as of this moment. A frozen one serves nobody.
    pub fn service(&mut self, w: &World) {
        let mut open: Option<(u64, usize)> = None;
        for host in 0..w.hosts.len() {
            let (serves, epoch, fresh) = {
                let pg = w.hosts[host].pg.borrow();
                let frozen = w.exec.is_frozen(World::postgres_process(host));
                // What people do by hand is theirs to answer for, as long as nothing is acknowledged.
                (pg.serves() && !frozen && !pg.by_hand, pg.epoch, pg.recovered_to > 0)
            };
            if !serves {
                continue;
            }
            if fresh {
                self.shown(w, host);
            }
            let member = w.member(host);
            if let Some((other, at)) = open {
                let detail = format!("{} of epoch {other} and {member} of epoch {epoch} are open", w.member(at));
                self.fail("S3", w.exec.now(), detail);
            }
            if epoch < self.opened {
                let detail = format!("{member} of epoch {epoch} is open, though epoch {} has opened", self.opened);
                self.fail("S3", w.exec.now(), detail);
            }
            self.opened = self.opened.max(epoch);
            open = Some((epoch, host));
        }
    }
}
