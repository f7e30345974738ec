//! The primary's side of replication: commits, walsenders, and who releases a commit, with PostgreSQL's traps.
//!
//! A walsender that handles a reply decides with *its own* k over flags that *the others* wrote in shared memory, and
//! compares positions without timelines (protocol review, A1, A2, A6).

use super::{
    server::{Ended, Flight, PgEvent, Waiter},
    wal::Point,
};
use crate::world::World;
use std::rc::Rc;

/// After so long without getting through, a connection is given up.
const PATIENCE: u64 = 3_000_000;
const RETRY: u64 = 60_000;

impl World {
    /// A primary writes `bytes` of WAL; they are on disk a little later. Returns the end.
    pub fn write_wal(&self, host: usize, bytes: u64) -> u64 {
        let mut pg = self.hosts[host].pg.borrow_mut();
        pg.insert += bytes;
        let lsn = pg.insert;
        drop(pg);
        self.pg_after(host, self.disk_delay(host), PgEvent::Flushed(lsn));
        lsn
    }

    /// A commit of `waiter`, if this server takes one now.
    pub fn commit(&self, host: usize, bytes: u64, waiter: Waiter) -> Option<u64> {
        {
            let pg = self.hosts[host].pg.borrow();
            if pg.pid == 0 || !pg.ready || pg.in_recovery || pg.stopping {
                return None;
            }
        }
        let lsn = self.write_wal(host, bytes);
        if let Some(data) = &self.hosts[host].disk.borrow().data {
            self.tree.borrow_mut().commits(data.end.branch, lsn);
        }
        let id = self.fresh_id();
        self.hosts[host].pg.borrow_mut().waiters.insert((lsn, id), waiter);
        Some(lsn)
    }

    /// The canary's commit.
    pub fn commit_canary(&self, host: usize, flight: &Rc<Flight>) -> bool {
        let lsn = self.commit(host, 0x80, Waiter::Canary(Rc::clone(flight)));
        flight.lsn.set(lsn.unwrap_or(0));
        lsn.is_some()
    }

    pub(super) fn on_flushed(&self, host: usize, lsn: u64) {
        {
            let mut disk = self.hosts[host].disk.borrow_mut();
            let mut pg = self.hosts[host].pg.borrow_mut();
            let Some(data) = &mut disk.data else { return };
            if pg.in_recovery {
                return;
            }
            pg.flush = pg.flush.max(lsn);
            data.end.lsn = data.end.lsn.max(pg.flush);
            data.synced = data.end.lsn;
        }
        self.release_flushed(host);
        self.ship(host);
    }

    /// Commits that need no standby, or whose position was released before they began to wait.
    fn release_flushed(&self, host: usize) {
        let upto = {
            let pg = self.hosts[host].pg.borrow();
            if pg.commits_wait && pg.conf.names.k > 0 { pg.released.min(pg.flush) } else { pg.flush }
        };
        self.acknowledge(host, upto);
    }

    fn acknowledge(&self, host: usize, upto: u64) {
        let acknowledged = {
            let mut pg = self.hosts[host].pg.borrow_mut();
            if pg.waiters.first_key_value().is_none_or(|((lsn, _), _)| *lsn > upto) {
                return;
            }
            let later = pg.waiters.split_off(&(upto + 1, 0));
            std::mem::replace(&mut pg.waiters, later)
        };
        let branch = self.hosts[host].disk.borrow().data.as_ref().map(|data| data.end.branch);
        let Some(branch) = branch else { return };
        for ((lsn, _), waiter) in acknowledged {
            match waiter {
                Waiter::Client => self.check.borrow_mut().acknowledged(self, host, Point { branch, lsn }),
                Waiter::Canary(flight) => {
                    flight.ended.set(Ended::Acknowledged);
                    flight.done.end(&self.exec);
                }
            }
        }
    }

    pub(super) fn on_sender_reload(&self, host: usize, id: u64) {
        let now = self.exec.now();
        let again = {
            let mut pg = self.hosts[host].pg.borrow_mut();
            let conf = Rc::clone(&pg.conf);
            let Some(sender) = pg.sender(id) else { return };
            if sender.stuck_until > now {
                Some(sender.stuck_until + 1 - now)
            } else {
                sender.pending = false;
                sender.flag = conf.names.names.contains(&sender.name);
                sender.conf = conf;
                None
            }
        };
        if let Some(wait) = again {
            self.pg_after(host, wait, PgEvent::SenderReload(id));
        }
    }

    /// Every walsender sends what it may. One that has a reload pending takes it up before it sends: so a standby that
    /// reports a position written after the reload does so to a walsender that has taken it up (proof step D3c).
    pub fn ship(&self, host: usize) {
        let now = self.exec.now();
        let end = match &self.hosts[host].disk.borrow().data {
            Some(data) => data.end,
            None => return,
        };
        let mut again = None;
        let mut broken = Vec::new();
        let mut parcels = Vec::new();
        {
            let mut pg = self.hosts[host].pg.borrow_mut();
            let available = if pg.in_recovery { pg.replay } else { pg.flush };
            let conf = Rc::clone(&pg.conf);
            for sender in &mut pg.senders {
                if sender.sent >= available || sender.diverged {
                    continue;
                }
                if sender.stuck_until > now {
                    again = Some((sender.stuck_until + 2 - now).min(again.unwrap_or(u64::MAX)));
                    continue;
                }
                if !self.reaches(host, sender.host) {
                    let since = *sender.stalled_since.get_or_insert(now);
                    if now - since > PATIENCE {
                        broken.push(sender.id);
                    } else {
                        again = Some(RETRY.min(again.unwrap_or(u64::MAX)));
                    }
                    continue;
                }
                if sender.pending {
                    sender.pending = false;
                    sender.flag = conf.names.names.contains(&sender.name);
                    sender.conf = Rc::clone(&conf);
                }
                sender.stalled_since = None;
                // Not always all at once.
                let all = available - sender.sent;
                let part = if all > 1 && self.rng.chance(5) { self.rng.range(1, all) } else { all };
                sender.sent += part;
                if part < all {
                    again = Some(self.rng.range(100, 30_000).min(again.unwrap_or(u64::MAX)));
                }
                parcels.push((sender.host, sender.receiver, sender.sent));
            }
            for (to, receiver, lsn) in parcels {
                let point = Point { branch: end.branch, lsn };
                let pid = self.hosts[to].pg.borrow().pid;
                let at = now + self.latency(host, to);
                self.pg_event_at(to, pid, at, PgEvent::Data(receiver, point));
            }
        }
        for id in broken {
            self.on_sender_broken(host, id);
        }
        if let Some(wait) = again {
            self.pg_after(host, wait, PgEvent::Ship);
        }
    }

    pub(super) fn on_reply(&self, host: usize, id: u64, flushed: u64) {
        let now = self.exec.now();
        let upto = {
            let mut pg = self.hosts[host].pg.borrow_mut();
            let Some(sender) = pg.sender(id) else { return };
            if sender.stuck_until > now {
                let wait = sender.stuck_until - now;
                drop(pg);
                self.pg_after(host, wait, PgEvent::Reply(id, flushed));
                return;
            }
            sender.flushed = Some(flushed);
            if !sender.flag {
                return;
            }
            let k = sender.conf.names.k as usize;
            let mut flushes: Vec<u64> = pg.senders.iter().filter(|s| s.flag).filter_map(|s| s.flushed).collect();
            if k == 0 || flushes.len() < k {
                return;
            }
            flushes.sort_unstable_by(|a, b| b.cmp(a));
            pg.released = pg.released.max(flushes[k - 1]);
            pg.released.min(pg.flush)
        };
        self.acknowledge(host, upto);
    }

    pub(super) fn on_sender_broken(&self, host: usize, id: u64) {
        let mut pg = self.hosts[host].pg.borrow_mut();
        let Some(at) = pg.senders.iter().position(|sender| sender.id == id) else { return };
        let sender = pg.senders.remove(at);
        drop(pg);
        self.break_receiver(sender.host, sender.receiver, host);
    }

    /// The other end learns that its walsender is gone: at once if it can be told, else after its own time-out.
    pub(super) fn break_receiver(&self, host: usize, receiver: u64, from: usize) {
        let told = self.reaches(from, host) && self.hosts[from].powered.get();
        let delay = if told { self.latency(from, host) } else { self.rng.range(1_000_000, 4_000_000) };
        self.pg_after(host, delay, PgEvent::ReceiverBroken(receiver));
    }
}
