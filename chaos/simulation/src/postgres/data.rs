//! What lies on a host's disk: the data directory, the agent's promise, and what of it survives the loss of power.

use super::wal::Point;
use pgvigil_core::{
    local::{Marker, Promise},
    rpo::Stretch,
    sync_rule::SyncRule,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

/// The name under which a walreceiver connects.
pub type Name = Rc<str>;

/// `synchronous_standby_names` and what else decides whether a commit waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// k; 0 where commits wait for nobody.
    pub k: u32,
    /// Who; nobody when empty, and then commits wait for ever.
    pub names: BTreeSet<Name>,
    /// `synchronous_standby_names` as it is shown.
    pub value: Rc<str>,
    /// `synchronous_commit`.
    pub commit: &'static str,
}

impl Names {
    /// As pgvigil writes it.
    #[must_use]
    pub fn of(rule: &SyncRule) -> Self {
        let (k, names) = match rule {
            SyncRule::Any { k, names } => (u32::from(*k), names.iter().map(|name| Rc::from(name.as_str())).collect()),
            SyncRule::Nobody => (1, BTreeSet::new()),
            SyncRule::Local => (0, BTreeSet::new()),
        };
        Self { k, names, value: rule.names_value().into(), commit: rule.commit_value() }
    }

    /// PostgreSQL's own default: no commit waits.
    #[must_use]
    pub fn none() -> Self {
        Self { k: 0, names: BTreeSet::new(), value: "".into(), commit: "on" }
    }

    /// Somebody whom nobody has.
    #[must_use]
    pub fn somebody() -> Self {
        Self { k: 1, names: BTreeSet::new(), value: "somebody".into(), commit: "on" }
    }
}

/// An upstream in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Which host.
    pub host: usize,
    /// Under which name.
    pub name: Name,
}

/// pgvigil's settings file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conf {
    /// Who confirms commits.
    pub names: Names,
    /// The generation that a new connection shows.
    pub generation: Rc<str>,
    /// Whom a standby follows.
    pub upstream: Option<Upstream>,
    /// Recovery is pinned to the timeline that owns the end.
    pub pinned: bool,
    /// How often people have changed it, as the files' stamps tell.
    pub touched: u32,
    /// A line of theirs comes after ours.
    pub by_hand: bool,
}

impl Conf {
    /// Nobody confirms, nobody is followed.
    #[must_use]
    pub fn sealed() -> Self {
        Self {
            names: Names::of(&SyncRule::Nobody),
            generation: "".into(),
            upstream: None,
            pinned: false,
            touched: 0,
            by_hand: false,
        }
    }
}

/// A data directory.
#[derive(Clone, Debug)]
pub struct DataDir {
    /// Whose it is.
    pub marker: Option<Marker>,
    /// `standby.signal`.
    pub signal: bool,
    /// Our settings file.
    pub conf: Rc<Conf>,
    /// Whose server the pass file holds the replication password for; `None`: it is empty.
    pub pass: Option<usize>,
    /// `pg_hba.conf` lets clients in.
    pub door: bool,
    /// The end of its WAL, in the kernel's memory at least.
    pub end: Point,
    /// How much of that survives the loss of power.
    pub synced: u64,
    /// The control file says that it was shut down in good order.
    pub clean: bool,
    /// The history files that are here: where each timeline left its parent. None for one that is only reserved.
    pub histories: BTreeMap<u32, Option<Point>>,
    /// A rewind was begun and has not ended.
    pub interrupted: bool,
}

/// What pgvigil wrote that the loss of power may undo, if it was not fsynced.
#[derive(Clone, Debug)]
pub struct Synced {
    /// `standby.signal`.
    pub signal: bool,
    /// Our settings file.
    pub conf: Rc<Conf>,
    /// The pass file.
    pub pass: Option<usize>,
}

/// A host's disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The data directory; `None` when it is empty.
    pub data: Option<DataDir>,
    /// The agent's promise, as it reads it.
    pub promise: Promise,
    /// The agent's promise as the loss of power leaves it.
    pub promise_synced: Promise,
    /// What the agent has seen that speaks against its rule, and that is not agreed yet. Not flushed.
    pub unproven: Vec<Stretch>,
    /// The rule as the agent wrote it last: somebody else may have written another one since.
    pub names_written: Option<Names>,
    /// What the loss of power restores; `None`: everything was fsynced.
    pub data_synced: Option<Synced>,
    /// Whether clients may be inside, as the agent noted it last.
    pub door_noted: Option<bool>,
    /// fsync hangs until this true time.
    pub stalled_until: u64,
}

impl Disk {
    /// The loss of power: whatever was not fsynced is gone.
    pub fn lose_power(&mut self) {
        self.promise = self.promise_synced.clone();
        self.unproven.clear();
        let synced = self.data_synced.take();
        if let Some(data) = &mut self.data {
            data.end.lsn = data.end.lsn.min(data.synced.max(1));
            if let Some(synced) = synced {
                data.signal = synced.signal;
                data.conf = synced.conf;
                data.pass = synced.pass;
            }
        }
    }

    /// Remembers, before a write that is not fsynced, what the loss of power would restore.
    pub fn before_unsynced(&mut self) {
        if self.data_synced.is_none()
            && let Some(data) = &self.data
        {
            self.data_synced = Some(Synced { signal: data.signal, conf: Rc::clone(&data.conf), pass: data.pass });
        }
    }
}
