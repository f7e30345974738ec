//! The standby's side of replication: the walreceiver and the startup process that starts it.
//!
//! The startup process may hold an old connection string for a while after a reload and start another walreceiver with
//! it; what that one reads at the moment it connects is the pass file (history A5).

use super::{
    server::{PgEvent, Receiver, Sender},
    wal::{Point, SEGMENT},
};
use crate::{planted::Planted, world::World};
use std::rc::Rc;

/// `wal_retrieve_retry_interval`.
const RETRY: u64 = 100_000;

impl World {
    pub(super) fn on_startup_reload(&self, host: usize) {
        let changed = {
            let mut pg = self.hosts[host].pg.borrow_mut();
            let changed = pg.startup.upstream != pg.conf.upstream;
            pg.startup = Rc::clone(&pg.conf);
            changed && pg.in_recovery
        };
        if changed {
            self.drop_receiver(host);
            self.pg_after(host, self.rng.range(500, 5_000), PgEvent::WantReceiver);
        }
    }

    /// The startup process asks for a walreceiver once it has replayed everything that is there.
    pub(super) fn on_want_receiver(&self, host: usize) {
        self.replay(host);
        self.look_for_target(host);
        let end = self.hosts[host].disk.borrow().data.as_ref().map_or(0, |data| data.end.lsn);
        let mut pg = self.hosts[host].pg.borrow_mut();
        if !pg.in_recovery || pg.promoting || pg.stopping || pg.receiver.is_some() {
            return;
        }
        let Some(upstream) = pg.startup.upstream.clone() else { return };
        if pg.replay < end {
            drop(pg);
            self.with_data(host, |data| data.synced = data.end.lsn);
            self.pg_after(host, RETRY, PgEvent::WantReceiver);
            return;
        }
        let id = self.fresh_id();
        pg.receiver =
            Some(Receiver { id, streaming: false, from: upstream.host, from_pid: 0, sender: 0, blind: false });
        drop(pg);
        let delay = self.rng.range(500, 4_000) + 3 * self.latency(host, upstream.host);
        self.pg_after(host, delay, PgEvent::Connect(id));
    }

    pub(super) fn on_connect(&self, host: usize, id: u64) {
        let upstream = {
            let pg = self.hosts[host].pg.borrow();
            if pg.receiver.as_ref().is_none_or(|r| r.id != id || r.streaming) {
                return;
            }
            pg.startup.upstream.clone()
        };
        let connected = upstream.is_some_and(|upstream| self.connect(host, id, upstream));
        if !connected {
            self.hosts[host].pg.borrow_mut().receiver = None;
            self.pg_after(host, RETRY + self.rng.range(0, RETRY), PgEvent::WantReceiver);
        }
    }

    fn connect(&self, host: usize, id: u64, upstream: super::data::Upstream) -> bool {
        let from = upstream.host;
        let (mine, pass) = {
            let disk = self.hosts[host].disk.borrow();
            let Some(data) = &disk.data else { return false };
            (data.end, data.pass)
        };
        // libpq looks for the line of the server that it connects to, at the moment when it does.
        let known = match self.planted {
            Some(Planted::PasswordForEveryHost) => pass.is_some(),
            _ => pass == Some(from),
        };
        if !known
            || from == host
            || !self.reaches_both(host, from)
            || self.exec.is_frozen(World::postgres_process(from))
        {
            return false;
        }
        let theirs = self.hosts[from].disk.borrow().data.as_ref().map(|data| data.end);
        let Some(theirs) = theirs else { return false };
        let source = self.hosts[from].pg.borrow_mut();
        if !source.ready || source.stopping || source.orphaned {
            return false;
        }
        let available = if source.in_recovery { source.replay } else { source.flush };
        let tree = self.tree.borrow();
        let line = Point { branch: theirs.branch, lsn: available };
        let mine = tree.owner(mine);
        let diverged = tree.along(theirs, mine.branch) < mine.lsn;
        // PostgreSQL asks for a timeline by its number, and compares nothing but that and the position.
        let blind = diverged && tree.by_number(line, tree.timeline(mine.branch)).is_some_and(|at| mine.lsn <= at.lsn);
        // Ahead of what the upstream can send, on the same line: refused until it has caught up.
        if !diverged && !tree.covers(line, mine) {
            return false;
        }
        let there = if source.in_recovery { tree.owner(line).branch } else { line.branch };
        let (own, newest) = (tree.timeline(mine.branch), tree.timeline(there));
        drop(tree);
        drop(source);
        if !self.fetch_histories(host, from, own, newest) {
            return false;
        }
        self.look_for_target(host);
        let target = self.hosts[host].pg.borrow().target;
        // It asks for WAL of its target, and gets to the end of its own timeline only if that is its target.
        if !diverged && target != Some(newest) {
            self.cover.hit("postgres", "target-elsewhere");
            return false;
        }
        let mut source = self.hosts[from].pg.borrow_mut();
        let sender = self.fresh_id();
        let conf = Rc::clone(&source.conf);
        let flag = conf.names.names.contains(&upstream.name);
        let from_pid = source.pid;
        source.senders.push(Sender {
            id: sender,
            name: upstream.name,
            host,
            receiver: id,
            conf,
            pending: false,
            flag,
            flushed: None,
            sent: mine.lsn,
            stuck_until: 0,
            stalled_since: None,
            diverged: diverged && !blind,
        });
        drop(source);
        let mut pg = self.hosts[host].pg.borrow_mut();
        pg.receiver = Some(Receiver { id, streaming: true, from, from_pid, sender, blind });
        // Reception begins at the segment's start: what is shown goes back (history A4).
        pg.receive_shown = Some(mine.lsn / SEGMENT * SEGMENT);
        let replayed = pg.replay;
        drop(pg);
        // Its first reply carries what it has, whatever history that belongs to (history A6).
        let at = self.exec.now() + self.latency(host, from);
        self.pg_event_at(from, from_pid, at, PgEvent::Reply(sender, replayed));
        if blind {
            self.cover.hit("postgres", "blind");
        }
        if diverged && !blind {
            self.pg_event_at(from, from_pid, at + self.rng.range(500, 20_000), PgEvent::Diverged(sender));
        } else {
            self.pg_after(from, 0, PgEvent::Ship);
        }
        true
    }

    pub(super) fn on_data(&self, host: usize, receiver: u64, point: Point) {
        let end = {
            let mut disk = self.hosts[host].disk.borrow_mut();
            let mut pg = self.hosts[host].pg.borrow_mut();
            if pg.receiver.as_ref().is_none_or(|r| r.id != receiver) {
                return;
            }
            let Some(data) = &mut disk.data else { return };
            if pg.receiver.as_ref().is_some_and(|r| r.blind) {
                drop((pg, disk));
                self.pg_after(host, self.disk_delay(host), PgEvent::Synced(receiver, point));
                return;
            }
            let tree = self.tree.borrow();
            let point = tree.owner(point);
            if !tree.covers(point, data.end) {
                return;
            }
            if Some(tree.timeline(point.branch)) > pg.target {
                // Its upstream went over to another timeline meanwhile: it gets to the end of this one, and asks anew.
                drop((tree, pg));
                drop(disk);
                self.on_receiver_broken(host, receiver);
                return;
            }
            data.end = point;
            pg.receive_shown = pg.receive_shown.max(Some(point.lsn));
            point
        };
        self.pg_after(host, self.disk_delay(host), PgEvent::Synced(receiver, end));
    }

    pub(super) fn on_synced(&self, host: usize, receiver: u64, end: Point) {
        self.with_data(host, |data| data.synced = data.synced.max(end.lsn).min(data.end.lsn));
        self.replay(host);
        let upstream = self.hosts[host].pg.borrow().receiver.clone();
        let Some(upstream) = upstream.filter(|r| r.id == receiver) else { return };
        if self.reaches(host, upstream.from) {
            let at = self.exec.now() + self.latency(host, upstream.from);
            self.pg_event_at(upstream.from, upstream.from_pid, at, PgEvent::Reply(upstream.sender, end.lsn));
        } else if self.rng.chance(5) {
            // The connection is given up in the end.
            self.drop_receiver(host);
            self.pg_after(host, RETRY, PgEvent::WantReceiver);
        } else {
            self.pg_after(host, 50_000, PgEvent::Synced(receiver, end));
        }
    }

    pub(super) fn on_receiver_broken(&self, host: usize, receiver: u64) {
        if self.hosts[host].pg.borrow().receiver.as_ref().is_some_and(|r| r.id == receiver) {
            self.drop_receiver(host);
            self.pg_after(host, self.rng.range(1_000, RETRY), PgEvent::WantReceiver);
        }
    }

    /// Ends the walreceiver: it flushes what it received before it goes.
    pub fn drop_receiver(&self, host: usize) {
        let receiver = self.hosts[host].pg.borrow_mut().receiver.take();
        let Some(receiver) = receiver else { return };
        self.with_data(host, |data| data.synced = data.end.lsn);
        self.replay(host);
        if !receiver.streaming {
            return;
        }
        let told = self.reaches(host, receiver.from) && self.hosts[host].powered.get();
        let delay = if told { self.latency(host, receiver.from) } else { self.rng.range(1_000_000, 4_000_000) };
        let at = self.exec.now() + delay;
        self.pg_event_at(receiver.from, receiver.from_pid, at, PgEvent::SenderBroken(receiver.sender));
    }

    /// Whether any walreceiver process exists, also one that is only starting.
    pub fn has_receiver(&self, host: usize) -> bool {
        self.hosts[host].pg.borrow().receiver.is_some()
    }
}

impl World {
    /// SIGTERM to the walreceiver: the startup process may ask for another one.
    pub fn terminate_receiver(&self, host: usize) {
        self.drop_receiver(host);
        self.pg_after(host, self.rng.range(500, RETRY), PgEvent::WantReceiver);
    }

    /// One event in a server.
    pub fn pg_event(&self, host: usize, pid: u64, what: PgEvent) {
        if self.hosts[host].pg.borrow().pid != pid || pid == 0 {
            return;
        }
        match what {
            PgEvent::Ready => self.on_ready(host),
            PgEvent::Reload => self.on_reload(host),
            PgEvent::SenderReload(id) => self.on_sender_reload(host, id),
            PgEvent::StartupReload => self.on_startup_reload(host),
            PgEvent::CheckpointerReload => self.on_checkpointer_reload(host),
            PgEvent::Flushed(lsn) => self.on_flushed(host, lsn),
            PgEvent::WantReceiver => self.on_want_receiver(host),
            PgEvent::Connect(id) => self.on_connect(host, id),
            PgEvent::Data(receiver, point) => self.on_data(host, receiver, point),
            PgEvent::Synced(receiver, end) => self.on_synced(host, receiver, end),
            PgEvent::Reply(sender, flushed) => self.on_reply(host, sender, flushed),
            PgEvent::Ship => self.ship(host),
            PgEvent::ReceiverBroken(id) => self.on_receiver_broken(host, id),
            PgEvent::SenderBroken(id) | PgEvent::Diverged(id) => self.on_sender_broken(host, id),
            PgEvent::Promotion(step) => self.on_promotion(host, step),
            PgEvent::Stopping => self.on_stopping(host),
            PgEvent::Replay => self.replay(host),
        }
    }

    /// Ends a walsender: its standby connects anew.
    pub fn terminate_sender(&self, host: usize, id: u64) {
        self.on_sender_broken(host, id);
    }
}
