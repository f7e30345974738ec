//! Promotion in PostgreSQL's own steps: replay to the end, a history file, the record of the end of recovery.

use super::{server::PgEvent, wal::Point};
use crate::world::World;

impl World {
    /// Somebody asks for a promotion by hand; `false` if there is no standby to be promoted.
    pub fn promote_by_hand(&self, host: usize) -> bool {
        {
            let mut pg = self.hosts[host].pg.borrow_mut();
            if pg.pid == 0 || !pg.ready || !pg.in_recovery || pg.promoting || pg.stopping || pg.orphaned {
                return false;
            }
            pg.by_hand = true;
        }
        self.ask_promotion(host);
        true
    }

    /// The file and the signal that ask for a promotion.
    pub fn ask_promotion(&self, host: usize) {
        let mut pg = self.hosts[host].pg.borrow_mut();
        if pg.in_recovery && !pg.promoting {
            pg.promoting = true;
            drop(pg);
            self.pg_after(host, self.rng.range(200, 3_000), PgEvent::Promotion(0));
        }
    }

    pub(super) fn on_promotion(&self, host: usize, step: u8) {
        match step {
            0 => self.drop_receiver(host),
            1 => {
                self.replay(host);
                let end = self.hosts[host].disk.borrow().data.as_ref().map_or(0, |data| data.end.lsn);
                if self.hosts[host].pg.borrow().replay < end {
                    self.pg_after(host, 5_000, PgEvent::Promotion(1));
                    return;
                }
            }
            2 => self.take_timeline(host),
            _ => {
                self.finish_promotion(host);
                return;
            }
        }
        self.pg_after(host, self.rng.range(300, 6_000) + self.disk_delay(host), PgEvent::Promotion(step + 1));
    }

    /// The first number above its target that has no history file (history A7); its file names the target as parent.
    fn take_timeline(&self, host: usize) {
        let own = self.own_timeline(host);
        let (target, by_hand) = {
            let pg = self.hosts[host].pg.borrow();
            (pg.target, pg.by_hand)
        };
        if target != Some(own) && !by_hand {
            self.check.borrow_mut().promoted_from_nothing(self, host, target, own);
        }
        let target = target.unwrap_or(own);
        let number = self.with_data(host, |data| data.newest_history(target) + 1).unwrap_or(0);
        self.hosts[host].pg.borrow_mut().promoting_to = number;
        self.with_data(host, |data| {
            let fork = self.tree.borrow().owner(data.end);
            data.histories.insert(number, Some(fork));
        });
    }

    fn finish_promotion(&self, host: usize) {
        let number = self.hosts[host].pg.borrow().promoting_to;
        let mut fork = Point { branch: 0, lsn: 0 };
        self.with_data(host, |data| {
            fork = self.tree.borrow().owner(data.end);
            let branch = self.tree.borrow_mut().begin(number, Some(fork));
            data.end = Point { branch, lsn: fork.lsn };
            data.synced = fork.lsn;
            data.signal = false;
        });
        {
            let mut pg = self.hosts[host].pg.borrow_mut();
            pg.in_recovery = false;
            pg.promoting = false;
            pg.insert = fork.lsn;
            pg.flush = fork.lsn;
            pg.released = 0;
            pg.commits_wait = pg.conf.names.k > 0;
        }
        // Who streamed from the standby that it was gets to the end of the old timeline, and asks anew.
        let senders: Vec<u64> = self.hosts[host].pg.borrow().senders.iter().map(|sender| sender.id).collect();
        for id in senders {
            self.terminate_sender(host, id);
        }
        self.write_wal(host, 0x60);
        self.check.borrow_mut().promoted(self, host);
        self.check_service();
    }
}
