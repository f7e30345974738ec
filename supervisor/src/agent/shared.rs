//! What the agent's tasks share: the member's fixed facts, what is known at this moment, and how to wake each other.

use super::{
    access::Names,
    in_force::{Drifted, Expected},
    marker::{self, Judged, Kept, MarkerError},
    peers::Peers,
    promise::{PromiseError, PromiseFile, Promises},
    twin::Replies,
    unproven::UnprovenFile,
};
use crate::{
    clock,
    config::{Config, ConfigError, Fixture, MemberConfig},
    journal::Journal,
};
use pgvigil_consensus::Consensus;
use pgvigil_core::{
    beats::Leader,
    cluster::ClusterState,
    command::Proof,
    id::{ClusterId, Epoch, MemberId, NodeId, TimelineId},
    keeper::{Guarded, Renewal},
    lease::Right,
    local::{Directory, Local, LocalPostgres, Promise, RuleDoubt},
    lsn::Lsn,
    member::MemberSpec,
    report::{DiscardedWal, Probe, Receiver},
    rpo::{Canaries, Ledger, Releases},
    time::{Time, WallTime},
    worker::Worker,
    written::Written,
};
use pgvigil_postgres::{
    Binaries, DirLock, Endpoint, Layout, Link, Postmaster, Sample, SlowSample, boottime_ms, cgroup, fsio::FsError,
    hba::Access, lock::LockError, role::Secret, tcp, version::BinariesError, ways::Ways,
};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};
use tokio::sync::{Notify, mpsc, watch};

/// The role under which standbys connect.
pub const REPLICATION_ROLE: &str = "pgvigil_replication";

/// Why an agent cannot start. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// PostgreSQL's programs.
    #[error(transparent)]
    Binaries(#[from] BinariesError),
    /// PostgreSQL's programs for the data directory that is there.
    #[error(
        "{} is of PostgreSQL {major}, and programs of that version are needed: {source}. Install them, or name their \
         directory as member.bin_dir",
        data_dir.display()
    )]
    Major {
        /// The data directory.
        data_dir: PathBuf,
        /// What its PG_VERSION says.
        major: u16,
        /// Where programs were looked for.
        source: BinariesError,
    },
    /// The configuration's files.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The promise.
    #[error(transparent)]
    Promise(#[from] PromiseError),
    /// The mark in the data directory.
    #[error(transparent)]
    Marker(#[from] MarkerError),
    /// Another agent has the data directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file of the agent's own.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The user cannot be determined.
    #[error("cannot determine the operating-system user: {0}")]
    User(String),
}

/// See the module.
#[derive(Debug)]
pub struct Shared {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member's configuration.
    pub config: MemberConfig,
    /// What it says of itself.
    pub spec: MemberSpec,
    /// This process.
    pub node: NodeId,
    /// The initial voters, to find a leader.
    pub voters: Vec<(NodeId, String)>,
    /// The local Raft node, if this process is a voter.
    pub consensus: Option<Consensus>,
    /// PostgreSQL's programs.
    pub binaries: Binaries,
    /// Where everything lies.
    pub layout: Layout,
    /// Who may connect while the door is closed, without the members' addresses (see [`Self::access`]).
    pub(super) access: Access,
    /// Held while `pg_hba.conf` is written.
    pub(super) door: Mutex<()>,
    /// The replication role's password.
    pub secret: Secret,
    /// The guard's socket.
    pub guard_socket: PathBuf,
    /// The watchdog device that the guard is to arm.
    pub watchdog: Option<PathBuf>,
    /// The cgroup in which PostgreSQL runs, and nothing else.
    pub cgroup: Option<PathBuf>,
    /// Where acts are written down, if anywhere.
    pub journal: Journal,
    /// The promise on disk, and its owner.
    pub promises: Promises,
    /// What is not agreed yet of [`Inner::unproven`].
    pub unproven_file: UnprovenFile,
    inner: Mutex<Inner>,
    /// Wakes the worker.
    pub work: Notify,
    /// Asks for a report at once.
    pub report: Notify,
    /// Asks for a sample at once.
    pub look: Notify,
    /// The newest agreed state, as a watch for tasks that must stop when it moves.
    pub agreed: watch::Sender<Option<Arc<ClusterState>>>,
    /// Where renewals of the right go.
    pub renewals: OnceLock<mpsc::UnboundedSender<Renewal>>,
    _lock: DirLock,
}

/// Everything that changes.
#[derive(Debug)]
pub struct Inner {
    /// What `reconcile` looks at.
    pub local: Local,
    /// The socket directory and port under which PostgreSQL was last started or found.
    pub endpoint: Endpoint,
    /// The postmaster, if one is known to run.
    pub postmaster: Option<Arc<Postmaster>>,
    /// The newest sample and when it began.
    pub sample: Option<(Sample, Time)>,
    /// When the walsenders of this primary last replied.
    pub replies: Replies,
    /// What was seen of this standby's walreceiver.
    pub receiver: Receiver,
    /// Its connection, for the next look.
    pub receiver_socket: Option<tcp::Connection>,
    /// The newest slow sample.
    pub slow: Option<SlowSample>,
    /// A standby's flushed position and when the first sample that showed it had come in.
    pub flush_seen: Option<(Lsn, Time)>,
    /// Ends of records of canaries and markers, newest last: what a standby's flushed position is measured against.
    pub records: Vec<Lsn>,
    /// The newest timeline that a history file here describes, reservations excluded; as of the last look.
    pub newest_timeline: TimelineId,
    /// When the history file of `own_end`'s timeline was written, by this host's clock.
    pub own_end_at: Option<WallTime>,
    /// WAL that others than the canary have written since this became primary.
    pub written: Written,
    /// The newest successful canary began then.
    pub canary_ok_at: Option<Time>,
    /// The canary under way began then.
    pub canary_waiting_since: Option<Time>,
    /// When it was last seen to wait for a lock.
    pub canary_locked_at: Option<Time>,
    /// How long the newest successful canary took, in microseconds.
    pub canary_took_us: u64,
    /// The newest complete proof.
    pub proof: Option<Proof>,
    /// The newest probe of the primary's port and when it ended.
    pub probe: Option<(Probe, Time)>,
    /// What a longer act is doing.
    pub activity: Option<String>,
    /// Which act may begin now.
    pub worker: Worker<super::scene::Scene>,
    /// There is hardly any room left for data or WAL.
    pub disk_full: bool,
    /// What a proof or a checkpoint waited for last, as far as it was told already.
    pub aside_waits_for: Option<String>,
    /// What went wrong lately, by topic.
    pub problems: std::collections::BTreeMap<&'static str, String>,
    /// `reconcile`'s wish for a new incarnation.
    pub needs_new_incarnation: Option<String>,
    /// Diverged WAL that was kept aside.
    pub discarded: Option<DiscardedWal>,
    /// What the guard has confirmed.
    pub guarded: Guarded,
    /// The worst delay of the worker's own timer since the last report.
    pub starved_ms: u64,
    /// The seal is good for streaming from.
    pub can_stream: bool,
    /// How long before now the sealed position was first sampled; an instant.
    pub quiet_since: Option<Time>,
    /// The value of `synchronous_standby_names` that was last put in force.
    pub names_in_force: Option<String>,
    /// What was put in force, for looks to hold against the server.
    pub expected: Option<Expected>,
    /// What is not as it was put in force.
    pub drifted: Drifted,
    /// PostgreSQL was started with its recovery pinned to one timeline.
    pub pinned: bool,
    /// The agreed state has named this member since this process began.
    pub was_member: bool,
    /// PostgreSQL was stopped by us: its end is no crash.
    pub stopping: bool,
    /// When a fence that is under way should be complete. After that this agent is silent: a disk that hangs lets no
    /// fence be written and no process die, and whoever renews its lease must not go on.
    pub fence_due: Option<Time>,
    /// Stretches of time in which commits may have been acknowledged without k standbys, until they are agreed.
    pub unproven: Ledger,
    /// The value of `synchronous_standby_names` that an agent before this one wrote last.
    pub rule_written: Option<String>,
    /// What the leader heard last has said.
    pub leader: Leader,
    /// What members' host names mean.
    pub names: Names,
    /// Servers that were asked whether they would let this member in.
    pub peers: Peers,
    /// Where this standby was pointed at last, and whether that connection must bind its channel.
    pub pointed_at: Option<((String, u16), bool)>,
    /// Canaries that give a right once a look has shown the rule in force.
    pub canaries: Canaries,
    /// Who waits for standbys, to see whether anybody is released by hand.
    pub releases: Releases,
    /// The connection that showed an appointee its new settings, for the promotion that follows at once.
    pub proven_link: Option<Link>,
}

impl Inner {
    /// WAL may be added, or another history begins: what was read of its end is no longer so.
    pub fn forget_end(&mut self) {
        self.local.wal_end = None;
        self.local.own_end = None;
        self.own_end_at = None;
    }

    /// A reign begins here: what was measured in an older one is of another history.
    pub fn forget_records(&mut self) {
        self.records.clear();
        self.written = Written::default();
    }
}

/// Whose the data directory is, by its mark and by what is remembered of it; what can be put right is put right. A damaged
/// mark ends neither this process nor the voter in it.
fn judge(
    me: &MemberId,
    layout: &Layout,
    kept: Option<Kept>,
    rewinding: Option<&str>,
    major: u16,
) -> Result<Judged, StartError> {
    let found = match marker::read(&layout.data_dir) {
        Err(error @ MarkerError::Damaged { .. }) => Err(error.to_string()),
        read => Ok(read?),
    };
    let judged = marker::judge(me, found, kept.clone().map(|kept| kept.marker), rewinding);
    if judged.finished {
        pgvigil_postgres::rewind::forget_interrupted(layout)?;
    }
    if let Some(why) = &judged.half_made {
        tracing::error!(member = %me, "{why}");
    }
    if let Some(marker) = judged.marker.clone().filter(|m| m.member == *me && judged.half_made.is_none()) {
        if let Some(why) = &judged.damaged {
            tracing::error!(member = %me, "{why}; it is written anew from the copy in {}", layout.agent_dir.display());
            marker::write(&layout.data_dir, &marker)?;
        }
        if kept.is_none_or(|kept| kept.marker != marker || kept.major != major) {
            marker::keep(&layout.agent_dir, &Kept { marker, major })?;
        }
    }
    Ok(judged)
}

fn watchdog(wanted: &Fixture) -> Option<PathBuf> {
    let usual = || PathBuf::from("/dev/watchdog");
    // Opening it would start its countdown.
    let may_use = |path: &PathBuf| nix::unistd::access(path, nix::unistd::AccessFlags::W_OK).is_ok();
    match wanted {
        Fixture::Off => None,
        Fixture::At(path) => Some(path.clone()),
        Fixture::Auto => Some(usual()).filter(may_use),
    }
}

fn cgroup(wanted: &Fixture, member: &MemberId) -> Option<PathBuf> {
    match wanted {
        Fixture::Off => None,
        Fixture::At(path) => Some(path.clone()),
        // Not delegated to this user: processes are found by their directory alone.
        Fixture::Auto => cgroup::below(&cgroup::own()?, &format!("postgres-{member}")).ok(),
    }
}

impl Shared {
    /// Reads everything that must be known before the first act.
    pub fn new(
        config: &Config,
        member: &MemberConfig,
        consensus: Option<Consensus>,
        journal: Journal,
    ) -> Result<Self, StartError> {
        let agent_dir = config.node.state_dir.join("agent");
        let promise_file = PromiseFile::new(&agent_dir)?;
        let layout = Layout::new(&member.data_dir, &agent_dir);
        let rewinding = pgvigil_postgres::rewind::interrupted(&layout)?;
        let kept = marker::read_kept(&agent_dir)?;
        let major = match pgvigil_postgres::datadir::major_version(&member.data_dir) {
            Ok(Some(major)) => Some(major),
            // pg_rewind replaces that file as well.
            Ok(None) if rewinding.is_none() => None,
            _ => kept.as_ref().map(|kept| kept.major),
        };
        let binaries = Binaries::find_major(member.bin_dir.as_deref(), major).map_err(|source| match major {
            Some(major) => StartError::Major { data_dir: member.data_dir.clone(), major, source },
            None => StartError::Binaries(source),
        })?;
        let lock = DirLock::acquire(&layout.agent_lock(), "the agent of this data directory")?;
        let promises = Promises::new(promise_file)?;
        let judged = judge(&member.name, &layout, kept, rewinding.as_deref(), binaries.version().major)?;
        let os_user = nix::unistd::User::from_uid(nix::unistd::geteuid())
            .map_err(|error| StartError::User(error.to_string()))?
            .map(|user| user.name)
            .ok_or_else(|| StartError::User("no entry in the user database".to_owned()))?;
        let superuser = member.superuser.clone().unwrap_or_else(|| os_user.clone());
        let mut endpoint = Endpoint::new(agent_dir.clone(), member.port, superuser.clone(), binaries.version().major);
        endpoint.ways = Arc::new(Ways::kept_in(agent_dir.join("databases")).unwrap_or_default());
        let access = Access {
            superuser,
            os_user,
            replication_role: REPLICATION_ROLE.to_owned(),
            replication_addresses: Vec::new(),
        };
        let local = Local {
            me: member.name.clone(),
            marker: judged.marker,
            promise: promises.held(),
            postgres: LocalPostgres::Unknown,
            wal_end: None,
            directory: Directory { half_made: judged.half_made, ..Directory::default() },
            own_end: None,
            sealed: None,
            fence_on_disk: false,
            in_force: None,
            right: Right::default(),
            starting_since: None,
            election_since: None,
            canary_waiting_ms: 0,
            standbys_enough_since: None,
            proven: None,
            checkpointed_at: None,
            busy: false,
            restart_due: None,
            rule_astray_since: None,
            rule_doubt: RuleDoubt::default(),
            unasked_since: None,
        };
        let inner = Inner {
            local,
            endpoint,
            postmaster: None,
            sample: None,
            replies: Replies::default(),
            receiver: Receiver::Unknown,
            receiver_socket: None,
            slow: None,
            flush_seen: None,
            records: Vec::new(),
            newest_timeline: TimelineId(0),
            own_end_at: None,
            written: Written::default(),
            canary_ok_at: None,
            canary_waiting_since: None,
            canary_locked_at: None,
            canary_took_us: 0,
            proof: None,
            probe: None,
            activity: None,
            worker: Worker::default(),
            disk_full: false,
            aside_waits_for: None,
            problems: std::collections::BTreeMap::new(),
            needs_new_incarnation: None,
            discarded: None,
            guarded: Guarded::default(),
            starved_ms: 0,
            can_stream: false,
            quiet_since: None,
            names_in_force: None,
            expected: None,
            drifted: Drifted::default(),
            pinned: false,
            was_member: false,
            stopping: false,
            fence_due: None,
            unproven: UnprovenFile::new(&agent_dir).read(),
            rule_written: UnprovenFile::new(&agent_dir).rule(),
            leader: Leader::default(),
            names: Names::new(),
            peers: Peers::new(),
            pointed_at: None,
            canaries: Canaries::default(),
            releases: Releases::default(),
            proven_link: None,
        };
        Ok(Self {
            cluster: config.cluster.clone(),
            spec: member.spec(config.node.id),
            secret: Secret::new(member.replication_password()?),
            config: member.clone(),
            node: config.node.id,
            voters: config.node.voters.iter().map(|(id, address)| (*id, address.clone())).collect(),
            consensus,
            binaries,
            guard_socket: agent_dir.join("guard.sock"),
            watchdog: watchdog(&member.watchdog),
            cgroup: cgroup(&member.cgroup, &member.name),
            layout,
            access,
            door: Mutex::new(()),
            journal,
            promises,
            unproven_file: UnprovenFile::new(&agent_dir),
            inner: Mutex::new(inner),
            work: Notify::new(),
            report: Notify::new(),
            look: Notify::new(),
            agreed: watch::Sender::new(None),
            renewals: OnceLock::new(),
            _lock: lock,
        })
    }

    /// Nothing awaits under this lock.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process id of the postmaster, if one is known to run.
    #[must_use]
    pub fn postmaster_pid(&self) -> Option<i32> {
        self.lock().postmaster.as_ref().map(|postmaster| postmaster.pid())
    }

    /// The member's name.
    #[must_use]
    pub const fn me(&self) -> &MemberId {
        &self.spec.member
    }

    /// The newest agreed state held.
    #[must_use]
    pub fn agreed(&self) -> Option<Arc<ClusterState>> {
        self.agreed.borrow().clone()
    }

    /// Takes in agreed state, unless it is older than what is held. Keeps S5.
    pub fn learn(&self, state: ClusterState) {
        let named = state.members.get(self.me()).is_some_and(|member| member.spec.node == self.node);
        let mut election = None;
        let newer = self.agreed.send_if_modified(|held| {
            let newer = held.as_ref().is_none_or(|held| held.revision < state.revision);
            if newer {
                election = Some(state.election.as_ref().map(|e| e.epoch));
                let before = held.as_ref().and_then(|held| held.election.as_ref().map(|e| e.epoch));
                if election == Some(before) {
                    election = None;
                }
                *held = Some(Arc::new(state));
            }
            newer
        });
        if !newer {
            return;
        }
        if named {
            self.lock().was_member = true;
        }
        self.forget_agreed_evidence();
        if let Some(election) = election {
            self.lock().local.election_since = election.map(|_| clock::now());
            self.look.notify_one();
        }
        self.work.notify_one();
    }

    /// Changes the promise for an act of `epoch`: on disk and fsynced first, then in memory. See [`Promises::change`].
    pub fn promise(&self, epoch: Epoch, change: impl FnOnce(&mut Promise)) -> Result<(), PromiseError> {
        self.promises.change(epoch, change, |promise| self.lock().local.promise.clone_from(promise))
    }

    /// The same for what belongs to no epoch.
    pub fn promise_note(&self, change: impl FnOnce(&mut Promise)) -> Result<(), PromiseError> {
        self.promises.note(change, |promise| self.lock().local.promise.clone_from(promise))
    }

    /// Remembers a problem for the next report, or forgets it.
    pub fn problem(&self, topic: &'static str, text: Option<String>) {
        let mut inner = self.lock();
        let changed = match text {
            Some(text) => inner.problems.insert(topic, text.clone()).as_ref() != Some(&text),
            None => inner.problems.remove(topic).is_some(),
        };
        let now = inner.problems.get(topic).cloned();
        drop(inner);
        if changed {
            match now {
                Some(text) => tracing::warn!(member = %self.me(), topic, "{text}"),
                None => tracing::info!(member = %self.me(), topic, "no longer a problem"),
            }
            self.report.notify_one();
        }
    }

    /// PostgreSQL was found not to run: forgets everything that was true of the running one.
    pub fn forget_running(&self, crashed: bool) {
        let mut inner = self.lock();
        inner.postmaster = None;
        inner.proven_link = None;
        inner.sample = None;
        inner.replies = Replies::default();
        inner.receiver = Receiver::Unknown;
        inner.receiver_socket = None;
        inner.canary_waiting_since = None;
        inner.local.canary_waiting_ms = 0;
        inner.local.standbys_enough_since = None;
        inner.local.in_force = None;
        inner.local.restart_due = None;
        inner.local.rule_doubt.server_ended();
        inner.local.rule_astray_since = None;
        inner.expected = None;
        inner.drifted = Drifted::default();
        inner.local.unasked_since = None;
        inner.local.proven = None;
        inner.proof = None;
        inner.local.postgres = LocalPostgres::Stopped { crashed };
        drop(inner);
        self.unproven_all_end();
    }

    /// `CLOCK_BOOTTIME` now.
    #[must_use]
    pub fn now() -> Time {
        Time(boottime_ms())
    }
}
