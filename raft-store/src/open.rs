//! Opens the store, or makes it: identity first, then the durable mark, whose existence says that the store is whole.

use crate::check::{Recovered, check};
use crate::db::{Counters, Db, Probe, read};
use crate::digest::Digests;
use crate::error::StoreError;
use crate::flusher::Flusher;
use crate::frame;
use crate::log_store::LogStore;
use crate::mark::DurableMark;
use crate::options;
use crate::peers::{self, KnownPeers};
use crate::schema::{FAMILIES, FORMAT_VERSION, IDENTITY, Identity, META, name};
use crate::state_machine::{AppliedState, StateMachine};
use crate::torn::TornTail;
use rocksdb::{DB, DBRecoveryMode, IteratorMode, WriteOptions};
use std::path::Path;
use std::sync::{Arc, Weak};
use tokio::sync::{oneshot, watch};

/// RocksDB's directory within the store's.
pub(crate) const DATABASE: &str = "db";
/// The durable mark's file within the store's directory.
const MARK: &str = "durable-mark";

/// An open store: openraft's two halves, and the handle by which the node watches them.
#[derive(Debug)]
pub struct Store {
    /// For openraft.
    pub log: LogStore,
    /// For openraft.
    pub state_machine: StateMachine,
    /// For the node.
    pub handle: StoreHandle,
}

/// What the node sees of its store while openraft works on it.
#[derive(Clone, Debug)]
pub struct StoreHandle {
    /// This store's random id; see [`KnownPeers`].
    pub store_id: u64,
    /// The peers met so far.
    pub peers: KnownPeers,
    /// The applied state, newest first and last.
    pub states: watch::Receiver<Arc<AppliedState>>,
    /// Digests of the applied state, to be compared with other nodes'.
    pub digests: Digests,
    /// Becomes `Some(reason)` when the store has failed for good; the supervisor then fences and exits.
    pub failure: watch::Receiver<Option<String>>,
    db: Weak<Db>,
}

impl StoreHandle {
    /// How much was written since the store was opened. Zero once it is closed.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.db.upgrade().map(|db| db.counters()).unwrap_or_default()
    }
}

/// Resolves when the database is closed, so that it may be opened again in this process.
#[derive(Debug)]
pub struct Closed(oneshot::Receiver<()>);

impl Closed {
    /// Waits for everybody to let go of the store.
    pub async fn wait(self) {
        // The sender is never used: its end is the message.
        let _ = self.0.await;
    }
}

/// Opens the store in directory `path` for node `node`, or makes it where there is none. Blocks on the disk.
///
/// Refuses a store of a newer format, of another node, with a damaged value, or whose log lost something that was
/// reported durable.
pub fn open(path: &Path, node: u64, probe: Option<Probe>) -> Result<(Store, Closed), StoreError> {
    std::fs::create_dir_all(path).map_err(|source| StoreError::File {
        action: "create the directory",
        path: path.to_owned(),
        source,
    })?;
    let (rocks, identity, mark) = match DurableMark::open(&path.join(MARK))? {
        Some((mark, durable)) => reopen(path, node, mark, durable)?,
        None => create(path, node)?,
    };
    let (db, closed) = Db::new(rocks, mark, probe);
    let db = Arc::new(db);
    let Recovered { extent, applied } = check(&db).map_err(|e| unreadable(path, e))?;
    let met = peers::read(&db).map_err(|e| unreadable(path, e))?;
    // After everything that may refuse the store: the thread keeps the database open until it ends.
    let flusher = Flusher::start(db.clone())?;
    let (peers, recorder) = KnownPeers::new(db.clone(), flusher.clone(), met);
    let digests = Digests::new();
    let (state_machine, states) = StateMachine::new(db.clone(), flusher.clone(), applied, digests.clone());
    let (failure, weak) = (db.failure(), Arc::downgrade(&db));
    let handle = StoreHandle { store_id: identity.store, peers, states, digests, failure, db: weak };
    Ok((Store { log: LogStore::new(db, flusher, extent, recorder), state_machine, handle }, Closed(closed)))
}

fn reopen(path: &Path, node: u64, mark: DurableMark, durable: u64) -> Result<(DB, Identity, DurableMark), StoreError> {
    // Before anything is changed: opening to write removes what lies beyond damage, and with it the evidence.
    let whole = match verify_write_ahead_logs(path) {
        Err(refusal @ StoreError::Open { .. }) => {
            trim_torn_tail(path, durable)?.ok_or(refusal).and_then(|()| verify_write_ahead_logs(path))?
        }
        verified => verified?,
    };
    let rocks = open_database(path, false)?;
    let identity = read_identity(path, &rocks)
        .map_err(|e| unreadable(path, e))?
        .ok_or_else(|| StoreError::Incomplete { reason: "the store has lost its identity".to_owned() })?;
    if identity.node != node {
        return Err(StoreError::OtherNode { path: path.to_owned(), found: identity.node, wanted: node });
    }
    let sequence = rocks.latest_sequence_number().min(whole);
    reaches(sequence, durable)?;
    Ok((rocks, identity, mark))
}

fn reaches(sequence: u64, durable: u64) -> Result<(), StoreError> {
    if sequence >= durable {
        return Ok(());
    }
    let reason = format!(
        "the write-ahead log ends at change {sequence}, but everything up to change {durable} was reported durable"
    );
    Err(StoreError::Incomplete { reason })
}

/// Cuts off a tail whose pages never arrived, unless something of it was reported durable. `None` where there is none.
fn trim_torn_tail(path: &Path, durable: u64) -> Result<Option<()>, StoreError> {
    let Some(torn) = TornTail::find(&path.join(DATABASE))? else { return Ok(None) };
    reaches(read_write_ahead_logs(path, DBRecoveryMode::PointInTime)?, durable)?;
    torn.cut().map(Some)
}

/// What cannot be read while a store is opened is damaged, and no matter of the moment.
fn unreadable(path: &Path, error: StoreError) -> StoreError {
    match error {
        StoreError::Database { source, .. } => StoreError::Open { path: path.to_owned(), source },
        other => other,
    }
}

/// Reads the write-ahead logs in the two ways that RocksDB has and returns the last change; nothing is written.
///
/// One way takes damage in the middle of a file for what it is, but a record at the end of a file that claims to go on
/// beyond it for a torn one, also in a file that others follow: what they hold would come after a hole. The other way
/// ends at the first damage, whatever it is. Only where both find the same end is there neither.
fn verify_write_ahead_logs(path: &Path) -> Result<u64, StoreError> {
    let beyond = read_write_ahead_logs(path, DBRecoveryMode::TolerateCorruptedTailRecords)?;
    let whole = read_write_ahead_logs(path, DBRecoveryMode::PointInTime)?;
    if beyond != whole {
        let reason =
            format!("a write-ahead log is damaged after change {whole}, and others go on up to change {beyond}");
        return Err(StoreError::Incomplete { reason });
    }
    Ok(whole)
}

/// Reads the write-ahead logs in one of RocksDB's ways and returns the last change; nothing is written.
fn read_write_ahead_logs(path: &Path, mode: DBRecoveryMode) -> Result<u64, StoreError> {
    let mut settings = options::database(false);
    settings.set_wal_recovery_mode(mode);
    DB::open_cf_descriptors_read_only(&settings, path.join(DATABASE), options::families(), false)
        .map(|rocks| rocks.latest_sequence_number())
        .map_err(|source| StoreError::Open { path: path.to_owned(), source })
}

/// Makes a store, or completes one whose making was cut short; nothing was ever reported durable from such a one.
fn create(path: &Path, node: u64) -> Result<(DB, Identity, DurableMark), StoreError> {
    let rocks = open_database(path, true)?;
    // A newer program's store without a mark must not be taken for an unfinished one of ours.
    read_identity(path, &rocks)?;
    if holds_more_than_identity(&rocks)? {
        let reason = format!("the database holds data, but its {MARK} file is gone");
        return Err(StoreError::Incomplete { reason });
    }
    let (store, _) = uuid::Uuid::new_v4().as_u64_pair();
    let identity = Identity { format: FORMAT_VERSION, node, store };
    let bytes = frame::encode(&name(META, IDENTITY), &identity)?;
    let failed = |source| StoreError::Database { action: "write the store's identity", source };
    let mut durable = WriteOptions::default();
    durable.set_sync(true);
    rocks.put_cf_opt(family(&rocks, META), IDENTITY, bytes, &durable).map_err(failed)?;
    let mark = DurableMark::create(&path.join(MARK), rocks.latest_sequence_number())?;
    Ok((rocks, identity, mark))
}

fn open_database(path: &Path, create: bool) -> Result<DB, StoreError> {
    DB::open_cf_descriptors(&options::database(create), path.join(DATABASE), options::families())
        .map_err(|source| StoreError::Open { path: path.to_owned(), source })
}

pub(crate) fn read_identity(path: &Path, rocks: &DB) -> Result<Option<Identity>, StoreError> {
    let identity: Option<Identity> = read(rocks, META, IDENTITY)?;
    match identity {
        Some(Identity { format, .. }) if format > FORMAT_VERSION => {
            Err(StoreError::NewerFormat { path: path.to_owned(), found: format, supported: FORMAT_VERSION })
        }
        known => Ok(known),
    }
}

fn holds_more_than_identity(rocks: &DB) -> Result<bool, StoreError> {
    for name in FAMILIES {
        for row in rocks.iterator_cf(family(rocks, name), IteratorMode::Start) {
            let (key, _) = row.map_err(|source| StoreError::Database { action: "read the stored rows", source })?;
            if !(name == META && *key == *IDENTITY.as_bytes()) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

pub(crate) fn family<'a>(rocks: &'a DB, name: &str) -> &'a rocksdb::ColumnFamily {
    rocks.cf_handle(name).expect("every column family of the schema was opened")
}
