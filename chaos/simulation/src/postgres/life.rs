//! A server's life: start, reload, replay, stop, death.

use super::{
    data::{Conf, DataDir},
    server::{Ended, Pg, PgEvent, Waiter},
};
use crate::{planted::Planted, world::World};
use std::rc::Rc;

impl World {
    /// Lets `what` happen in the server of `host` after `delay`, if that server still runs then.
    pub fn pg_after(&self, host: usize, delay: u64, what: PgEvent) {
        let pid = self.hosts[host].pg.borrow().pid;
        self.pg_event_at(host, pid, self.exec.now() + delay, what);
    }

    /// Starts a server on whatever lies in the data directory; `false` if there is nothing to start. It is a standby
    /// if `standby.signal` is there.
    pub fn start_server(&self, host: usize) -> bool {
        let mut disk = self.hosts[host].disk.borrow_mut();
        let Some(data) = &mut disk.data else { return false };
        let mut pg = self.hosts[host].pg.borrow_mut();
        if pg.pid != 0 && !pg.orphaned {
            return false;
        }
        let end = data.end;
        let in_recovery = data.signal;
        let restarted = Pg {
            pid: self.fresh_id(),
            in_recovery,
            conf: Rc::clone(&data.conf),
            loaded_us: self.exec.now(),
            startup: Rc::clone(&data.conf),
            pinned: data.conf.pinned,
            target: data.first_target(&self.tree.borrow()),
            door: data.door,
            commits_wait: data.conf.names.k > 0,
            insert: end.lsn,
            flush: end.lsn,
            replay: if in_recovery && self.rng.chance(30) { data.synced.min(end.lsn) } else { end.lsn },
            recovered_to: if in_recovery || !self.tree.borrow().has_commits(end) { 0 } else { end.lsn },
            ..Pg::default()
        };
        data.clean = false;
        *pg = restarted;
        drop(pg);
        drop(disk);
        let most = if self.rng.chance(10) { 2_000_000 } else { 150_000 };
        let delay = self.rng.range(30_000, most) + self.disk_delay(host);
        self.pg_after(host, delay, PgEvent::Ready);
        true
    }

    pub(super) fn on_ready(&self, host: usize) {
        let mut pg = self.hosts[host].pg.borrow_mut();
        if pg.in_recovery && pg.target.is_none() {
            drop(pg);
            self.cover.hit("postgres", "refused-to-start");
            self.end_server(host, false);
            return;
        }
        pg.ready = true;
        let in_recovery = pg.in_recovery;
        drop(pg);
        if in_recovery {
            self.replay(host);
            self.pg_after(host, self.rng.range(1_000, 20_000), PgEvent::WantReceiver);
        } else {
            // The record of the end of recovery.
            self.write_wal(host, 0x60);
            self.check.borrow_mut().started(self, host);
        }
    }

    /// SIGHUP.
    pub fn reload(&self, host: usize) {
        self.pg_after(host, self.rng.range(50, 1_500), PgEvent::Reload);
    }

    pub(super) fn on_reload(&self, host: usize) {
        let (conf, door) = {
            let disk = self.hosts[host].disk.borrow();
            let Some(data) = &disk.data else { return };
            (Rc::clone(&data.conf), data.door)
        };
        let mut pg = self.hosts[host].pg.borrow_mut();
        pg.conf = conf;
        pg.loaded_us = self.exec.now();
        pg.door = door;
        pg.checkpointer_pending = true;
        let mut senders = Vec::new();
        let often = if pg.sticky_until > self.exec.now() { 60 } else { 3 };
        for sender in &mut pg.senders {
            sender.pending = true;
            if self.rng.chance(often) && sender.stuck_until < self.exec.now() {
                // Descheduled inside its loop over replies (history A2).
                sender.stuck_until = self.exec.now() + self.rng.range(1_000, 3_000_000);
            }
            senders.push(sender.id);
        }
        drop(pg);
        for id in senders {
            self.pg_after(host, self.rng.range(50, 5_000), PgEvent::SenderReload(id));
        }
        let late = if self.rng.chance(5) { 2_000_000 } else { 5_000 };
        self.pg_after(host, self.rng.range(50, late), PgEvent::StartupReload);
        let late = if self.rng.chance(5) { 2_000_000 } else { 20_000 };
        self.pg_after(host, self.rng.range(50, late), PgEvent::CheckpointerReload);
        self.check_service();
    }

    pub(super) fn on_checkpointer_reload(&self, host: usize) {
        let mut pg = self.hosts[host].pg.borrow_mut();
        pg.checkpointer_pending = false;
        pg.commits_wait = pg.conf.names.k > 0;
    }

    /// Replays what was received, unless something holds it back.
    pub fn replay(&self, host: usize) {
        let end = self.hosts[host].disk.borrow().data.as_ref().map_or(0, |data| data.synced.min(data.end.lsn));
        let mut pg = self.hosts[host].pg.borrow_mut();
        if !pg.in_recovery || pg.pid == 0 || pg.replay >= end {
            return;
        }
        if pg.replay_paused {
            return;
        }
        let now = self.exec.now();
        if pg.replay_slow_until > now {
            let wait = pg.replay_slow_until - now;
            drop(pg);
            self.pg_after(host, wait, PgEvent::Replay);
            return;
        }
        pg.replay = end;
        drop(pg);
        self.ship(host);
    }

    /// Ends every session of clients: their waits for standbys end with a warning, which acknowledges nothing.
    pub fn end_sessions(&self, host: usize) {
        let mut pg = self.hosts[host].pg.borrow_mut();
        pg.sessions = false;
        pg.waiters.retain(|_, waiter| matches!(waiter, Waiter::Canary(_)));
    }

    /// Ends every session of clients and lets no more of them in.
    pub fn shut_out(&self, host: usize) {
        self.hosts[host].pg.borrow_mut().door = false;
        self.end_sessions(host);
        self.check_service();
    }

    /// Whether every connected standby of `names` has flushed all that this server has flushed; nothing runs: so it is.
    #[must_use]
    pub fn is_drained(&self, host: usize, names: &[String]) -> bool {
        let pg = self.hosts[host].pg.borrow();
        let mut counted = pg.senders.iter().filter(|sender| names.iter().any(|name| **name == *sender.name));
        pg.pid == 0 || counted.all(|sender| sender.flushed.is_none_or(|at| at >= pg.flush))
    }

    /// One wait for standbys is cancelled: committed here, acknowledged by nobody.
    pub fn cancel_waits(&self, host: usize) -> usize {
        let waiters = std::mem::take(&mut self.hosts[host].pg.borrow_mut().waiters);
        let count = waiters.len();
        for waiter in waiters.into_values() {
            self.fail(waiter);
        }
        count
    }

    fn fail(&self, waiter: Waiter) {
        if let Waiter::Canary(flight) = waiter {
            flight.ended.set(Ended::Failed);
            flight.done.end(&self.exec);
        }
    }

    /// Fast shutdown.
    pub fn stop_server(&self, host: usize) {
        self.end_sessions(host);
        self.cancel_waits(host);
        let in_recovery = {
            let mut pg = self.hosts[host].pg.borrow_mut();
            if pg.pid == 0 {
                return;
            }
            pg.door = false;
            pg.stopping = true;
            pg.in_recovery
        };
        if in_recovery {
            self.drop_receiver(host);
        } else {
            // The shutdown checkpoint's record.
            self.write_wal(host, 0x70);
        }
        self.check_service();
        self.pg_after(host, self.rng.range(2_000, 40_000) + self.disk_delay(host), PgEvent::Stopping);
    }

    /// A primary waits until its standbys have its last record; then it is gone.
    pub(super) fn on_stopping(&self, host: usize) {
        let waits = {
            let pg = self.hosts[host].pg.borrow();
            !pg.in_recovery
                && (pg.flush < pg.insert || pg.senders.iter().any(|s| s.flushed.is_none_or(|at| at < pg.flush)))
        };
        if waits {
            self.pg_after(host, 3_000, PgEvent::Stopping);
            return;
        }
        self.end_server(host, true);
    }

    /// SIGKILL of everything, or its own end.
    pub fn kill_server(&self, host: usize) {
        self.end_server(host, false);
    }

    /// What a fence command of ours does: planted bugs live here.
    pub fn fence_kill(&self, host: usize) {
        if self.planted == Some(Planted::FenceMissesBackends) {
            let mut pg = self.hosts[host].pg.borrow_mut();
            if pg.serves() {
                pg.orphaned = true;
                drop(pg);
                self.tell_exit(host);
                return;
            }
        }
        self.end_server(host, false);
    }

    fn end_server(&self, host: usize, clean: bool) {
        let pid = self.hosts[host].pg.borrow().pid;
        if pid == 0 {
            return;
        }
        self.drop_receiver(host);
        let pg = std::mem::take(&mut *self.hosts[host].pg.borrow_mut());
        self.exec.kill(World::postgres_process(host));
        {
            let mut disk = self.hosts[host].disk.borrow_mut();
            if let Some(data) = &mut disk.data {
                data.clean = clean;
                if !pg.in_recovery && pg.ready {
                    // What was written and not flushed is in the kernel's memory, or never left the process.
                    let lsn = if self.rng.chance(50) { pg.insert } else { pg.flush };
                    data.end.lsn = data.end.lsn.max(lsn);
                    if clean {
                        data.synced = data.end.lsn;
                    }
                }
            }
        }
        for sender in pg.senders {
            self.break_receiver(sender.host, sender.receiver, host);
        }
        for waiter in pg.waiters.into_values() {
            self.fail(waiter);
        }
        self.tell_exit(host);
    }

    fn tell_exit(&self, host: usize) {
        if let Some(agent) = &*self.hosts[host].agent.borrow() {
            agent.exited.notify(&self.exec);
        }
    }

    /// Whether a postmaster works in the data directory, as `/proc` shows it.
    pub fn server_runs(&self, host: usize) -> bool {
        let pg = self.hosts[host].pg.borrow();
        pg.pid != 0 && !pg.orphaned
    }

    /// Changes the settings file, durably.
    pub fn write_conf(&self, host: usize, change: impl FnOnce(&mut Conf)) {
        let mut disk = self.hosts[host].disk.borrow_mut();
        if let Some(data) = &mut disk.data {
            let mut conf = (*data.conf).clone();
            change(&mut conf);
            data.conf = Rc::new(conf);
        }
        disk.data_synced = None;
    }

    /// Changes the data directory, if there is one.
    pub fn with_data<T>(&self, host: usize, change: impl FnOnce(&mut DataDir) -> T) -> Option<T> {
        self.hosts[host].disk.borrow_mut().data.as_mut().map(change)
    }
}
