//! What the agent's tasks share: the member's fixed facts, what is known at this moment, and how to wake each other.

use super::{
    access::Names,
    marker::{self, Judged, Kept, MarkerError},
    peers::Peers,
    promise::{PromiseError, PromiseFile, Promises},
    unproven::UnprovenFile,
};
use crate::{
    clock,
    config::{Config, ConfigError, Fixture, MemberConfig},
    journal::Journal,
};
use pgvigil_agent::known::{Known, Remembered, ServerId};
use pgvigil_consensus::Consensus;
use pgvigil_core::{
    cluster::ClusterState,
    id::{ClusterId, Epoch, MemberId, NodeId},
    keeper::Renewal,
    local::Promise,
    member::MemberSpec,
};
use pgvigil_postgres::{
    Binaries, DirLock, Endpoint, Layout, Link, Postmaster, cgroup, drift::Drift, fsio::FsError, hba::Access,
    lock::LockError, role::Secret, tcp, version::BinariesError, ways::Ways,
};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
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
    /// What is not agreed yet of [`Known::unproven`].
    pub unproven_file: UnprovenFile,
    known: Mutex<Known>,
    server: Mutex<Server>,
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

/// What is held of the server and of other servers: handles, and what was learnt on the way to them.
#[derive(Debug)]
pub struct Server {
    /// The socket directory and port under which PostgreSQL was last started or found.
    pub endpoint: Endpoint,
    /// The postmaster, if one is known to run.
    pub postmaster: Option<Arc<Postmaster>>,
    /// The connection of this standby's walreceiver, for the next look.
    pub receiver_socket: Option<tcp::Connection>,
    /// What members' host names mean.
    pub names: Names,
    /// Servers that were asked whether they would let this member in.
    pub peers: Peers,
    /// Where this standby was pointed at last, and whether that connection must bind its channel.
    pub pointed_at: Option<((String, u16), bool)>,
    /// Lines that override ours without effect on the running server, as the slower look saw them.
    pub idle_overrides: Vec<Drift>,
    /// The connection that showed an appointee its new settings, for the promotion that follows at once.
    pub proven_link: Option<Arc<Link>>,
    /// The sampler's session, for a moment in which another one would cost time that nobody has.
    pub warm_link: Weak<Link>,
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
        let unproven_file = UnprovenFile::new(&agent_dir);
        let known = Known::new(
            member.name.clone(),
            Remembered {
                marker: judged.marker,
                half_made: judged.half_made,
                promise: promises.held(),
                unproven: unproven_file.read(),
                rule_written: unproven_file.rule(),
            },
        );
        let server = Server {
            endpoint,
            postmaster: None,
            receiver_socket: None,
            names: Names::new(),
            peers: Peers::new(),
            pointed_at: None,
            idle_overrides: Vec::new(),
            proven_link: None,
            warm_link: Weak::new(),
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
            unproven_file,
            known: Mutex::new(known),
            server: Mutex::new(server),
            work: Notify::new(),
            report: Notify::new(),
            look: Notify::new(),
            agreed: watch::Sender::new(None),
            renewals: OnceLock::new(),
            _lock: lock,
        })
    }

    /// What is known. Nothing awaits under this lock; it is taken before that of [`Self::server`], never after it.
    pub fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is held of the server. Nothing awaits under this lock.
    pub fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process id of the postmaster, if one is known to run.
    #[must_use]
    pub fn postmaster_pid(&self) -> Option<i32> {
        self.server().postmaster.as_ref().map(|postmaster| postmaster.pid())
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
        let mut known = self.lock();
        let changed = known.problem(topic, text);
        let now = known.problems.get(topic).cloned();
        drop(known);
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
        self.forget_if(|_| Some(crashed));
    }

    /// That server was seen to end. `Some`: it was the one that is known, and whether it crashed.
    pub fn has_ended(&self, ended: ServerId) -> Option<bool> {
        self.forget_if(|known| (known.server == Some(ended)).then_some(!known.stopping))
    }

    /// Both halves at once: whoever starts another server meanwhile comes before or after.
    fn forget_if(&self, crashed: impl FnOnce(&Known) -> Option<bool>) -> Option<bool> {
        let mut known = self.lock();
        let crashed = crashed(&known)?;
        let mut server = self.server();
        server.postmaster = None;
        server.proven_link = None;
        server.receiver_socket = None;
        server.idle_overrides.clear();
        drop(server);
        let evidence = known.forget_running(crashed, clock::now());
        drop(known);
        if evidence {
            self.evidence_changed();
        }
        Some(crashed)
    }
}
