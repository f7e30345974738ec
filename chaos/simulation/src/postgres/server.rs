//! One PostgreSQL server: what of it is in memory, and what it shows of itself.

use super::data::{Conf, Name};
use std::{cell::Cell, collections::BTreeMap, rc::Rc};

/// Something that happens inside a server, or arrives at it.
#[derive(Clone, Debug)]
pub enum PgEvent {
    /// The start is finished.
    Ready,
    /// The postmaster reads its files again.
    Reload,
    /// A walsender takes up the reload.
    SenderReload(u64),
    /// The startup process takes up the reload.
    StartupReload,
    /// The checkpointer takes up the reload: from here on backends know whether commits wait.
    CheckpointerReload,
    /// WAL is on this primary's disk.
    Flushed(u64),
    /// The startup process looks whether it needs a walreceiver.
    WantReceiver,
    /// A walreceiver has reached its upstream.
    Connect(u64),
    /// WAL has come in: for this walreceiver, up to there.
    Data(u64, super::wal::Point),
    /// WAL is on this standby's disk: received by this walreceiver.
    Synced(u64, super::wal::Point),
    /// A standby reports to this walsender.
    Reply(u64, u64),
    /// A walsender tries again to send.
    Ship,
    /// A walreceiver's connection has broken.
    ReceiverBroken(u64),
    /// A walsender's connection has broken.
    SenderBroken(u64),
    /// A walsender whose standby lies beyond the fork is found out.
    Diverged(u64),
    /// The promotion goes one step further.
    Promotion(u8),
    /// A shutdown in good order looks whether it is done.
    Stopping,
    /// Replay goes on.
    Replay,
}

/// How a commit of the agent's own ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Not yet.
    Waiting,
    /// Acknowledged.
    Acknowledged,
    /// The wait was cancelled, or the server died.
    Failed,
}

/// Who waits for a commit.
#[derive(Clone, Debug)]
pub enum Waiter {
    /// A client.
    Client,
    /// The canary.
    Canary(Rc<Flight>),
}

/// A canary's commit under way.
#[derive(Debug)]
pub struct Flight {
    /// How it ended.
    pub ended: Cell<Ended>,
    /// The end of its record, once written.
    pub lsn: Cell<u64>,
    /// Tells the agent.
    pub done: Rc<crate::exec::Done>,
}

/// A walsender.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Its process.
    pub id: u64,
    /// The name its standby connected under.
    pub name: Name,
    /// Where the standby runs.
    pub host: usize,
    /// The standby's walreceiver.
    pub receiver: u64,
    /// The settings as this process holds them.
    pub conf: Rc<Conf>,
    /// A reload that it has not taken up.
    pub pending: bool,
    /// `sync_standby_priority` in shared memory, written by this process under its own settings.
    pub flag: bool,
    /// The standby's flushed position as it reported it.
    pub flushed: Option<u64>,
    /// Sent so far.
    pub sent: u64,
    /// Descheduled until this true time, inside its loop over replies.
    pub stuck_until: u64,
    /// Since when it could not send.
    pub stalled_since: Option<u64>,
    /// Its standby's WAL leaves this history before its end.
    pub diverged: bool,
}

/// A walreceiver.
#[derive(Clone, Debug)]
pub struct Receiver {
    /// Its process.
    pub id: u64,
    /// Connected; before that it is only starting.
    pub streaming: bool,
    /// Where its upstream runs.
    pub from: usize,
    /// The upstream's process.
    pub from_pid: u64,
    /// Its walsender.
    pub sender: u64,
    /// Its upstream's timeline has the number of its own and other WAL: PostgreSQL sees no difference. What comes in is
    /// flushed and confirmed, and never replayed.
    pub blind: bool,
}

/// A server.
#[derive(Clone, Debug)]
pub struct Pg {
    /// Its postmaster; 0 when nothing runs.
    pub pid: u64,
    /// It accepts connections of ours.
    pub ready: bool,
    /// It is in recovery.
    pub in_recovery: bool,
    /// It shuts down in good order.
    pub stopping: bool,
    /// The postmaster has it no more, but backends that a planted bug spared go on.
    pub orphaned: bool,
    /// The settings as the postmaster, and so each new connection, holds them.
    pub conf: Rc<Conf>,
    /// When the postmaster read them: true time.
    pub loaded_us: u64,
    /// Whether new connections of clients come in.
    pub door: bool,
    /// Whether sessions of clients are in.
    pub sessions: bool,
    /// The settings as the startup process holds them.
    pub startup: Rc<Conf>,
    /// Its recovery was pinned to its own timeline at its start.
    pub pinned: bool,
    /// The timeline that its recovery makes for; `None`: there is none that it could start with.
    pub target: Option<u32>,
    /// What backends believe of whether commits wait.
    pub commits_wait: bool,
    /// A reload that the checkpointer has not taken up.
    pub checkpointer_pending: bool,
    /// The epoch as whose primary its agent started, promoted or configured it: for the checkers only.
    pub epoch: u64,
    /// End of what a primary has written.
    pub insert: u64,
    /// End of what a primary has on disk.
    pub flush: u64,
    /// End of what recovery has replayed.
    pub replay: u64,
    /// `pg_wal_replay_pause`.
    pub replay_paused: bool,
    /// Replay conflicts hold it back until then.
    pub replay_slow_until: u64,
    /// Walsenders take up reloads late until then.
    pub sticky_until: u64,
    /// `pg_last_wal_receive_lsn`: forgotten by a restart, and back at the segment's start when streaming begins anew.
    pub receive_shown: Option<u64>,
    /// The walreceiver.
    pub receiver: Option<Receiver>,
    /// The walsenders.
    pub senders: Vec<Sender>,
    /// How far commits are released.
    pub released: u64,
    /// Commits that wait, by end of record.
    pub waiters: BTreeMap<(u64, u64), Waiter>,
    /// It was asked to promote.
    pub promoting: bool,
    /// The timeline whose history file it has written on the way.
    pub promoting_to: u32,
    /// It was promoted by hand: to the checkers no primary, until it acknowledges anything.
    pub by_hand: bool,
    /// End of recovery of a restart in place: shown to clients when the door opens.
    pub recovered_to: u64,
}

impl Default for Pg {
    fn default() -> Self {
        let conf = Rc::new(Conf::sealed());
        Self {
            pid: 0,
            ready: false,
            in_recovery: false,
            stopping: false,
            orphaned: false,
            conf: Rc::clone(&conf),
            loaded_us: 0,
            door: false,
            sessions: false,
            startup: conf,
            pinned: false,
            target: None,
            commits_wait: true,
            checkpointer_pending: false,
            epoch: 0,
            insert: 0,
            flush: 0,
            replay: 0,
            replay_paused: false,
            replay_slow_until: 0,
            sticky_until: 0,
            receive_shown: None,
            receiver: None,
            senders: Vec::new(),
            released: 0,
            waiters: BTreeMap::new(),
            promoting: false,
            promoting_to: 0,
            by_hand: false,
            recovered_to: 0,
        }
    }
}

impl Pg {
    /// Whether it is a primary that clients can reach or are in.
    #[must_use]
    pub const fn serves(&self) -> bool {
        self.pid != 0 && self.ready && !self.in_recovery && (self.door || self.sessions)
    }

    /// The walsender of that number.
    pub fn sender(&mut self, id: u64) -> Option<&mut Sender> {
        self.senders.iter_mut().find(|sender| sender.id == id)
    }
}
