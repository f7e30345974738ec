//! What an agent needs of the world: its own process, the data directory and the server in it, sessions there. Methods
//! without `async` wait for nobody; a few of them look at one file. Times are in milliseconds unless their name says
//! otherwise.
//!
//! The futures are not asked to be `Send`: whoever spawns one knows its own ports, and for these the compiler sees whether
//! it is.

use crate::{bug::Bug, known::Known};
use pgvigil_core::{
    cluster::ClusterState,
    id::{ClusterId, Epoch, MemberId, TimelineId},
    keeper::Renewal,
    lineage::OwnEnd,
    local::{Marker, Promise},
    lsn::Lsn,
    reconcile::{Action, Upstream},
    report::DiscardedWal,
    sample::Sample,
    sync_rule::SyncRule,
    time::{Time, WallTime},
};
pub use pgvigil_core::{proof::ProofSender, sync_rule::RecoveryTimeline};
use std::{collections::BTreeMap, future::Future, ops::DerefMut, sync::Arc};

/// Whom something concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The worker asks again what is to be done.
    Worker,
    /// The leader is told at once.
    Report,
    /// PostgreSQL is looked at at once.
    Look,
}

/// How a server came to be the primary of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reigning {
    /// It is asked to promote.
    Asked,
    /// It was promoted, or started.
    Begun,
    /// It was a primary before.
    GoesOn,
}

/// The agent's own process: what it knows, its clock, its durable promise.
#[expect(async_fn_in_trait, reason = "see the module")]
pub trait Agent: Clone {
    /// What is known, held for a moment: never across an `await`.
    type Known<'a>: DerefMut<Target = Known>
    where
        Self: 'a;

    /// This member.
    fn me(&self) -> &MemberId;
    /// Its cluster.
    fn cluster(&self) -> ClusterId;
    /// What is known.
    fn known(&self) -> Self::Known<'_>;
    /// The newest agreed state held.
    fn agreed(&self) -> Option<Arc<ClusterState>>;
    /// Completes when what was agreed since has overtaken `action`.
    async fn overtaken(&self, action: &Action);
    /// The clock of decisions.
    fn now(&self) -> Time;
    /// The wall clock, for people.
    fn wall(&self) -> WallTime;
    /// Waits for so many microseconds.
    async fn pause(&self, us: u64);
    /// Wakes a task of this agent.
    fn wake(&self, whom: Wake);
    /// Hands what makes the right longer, or ends it, to the task that keeps it.
    fn renew(&self, renewal: Renewal);
    /// PostgreSQL was found not to run: forgets everything that was true of the running one (see
    /// [`Known::forget_running`]).
    fn forget_running(&self, crashed: bool);
    /// What the server here is to the cluster from now on. Nothing depends on it: it is for those who look on.
    fn reigns(&self, epoch: Epoch, how: Reigning) {
        let _ = (epoch, how);
    }
    /// What is known against the rule has changed: it is written down and told.
    fn evidence_changed(&self);
    /// Remembers a problem for the next report, or forgets it.
    fn problem(&self, topic: &'static str, text: Option<String>);
    /// Changes the promise for an act of `epoch`, which is promised with it: on disk and fsynced first, then known. Refused
    /// when a newer epoch was promised. Once begun it is done, also if the act is given up meanwhile.
    async fn promise(&self, epoch: Epoch, change: impl FnOnce(&mut Promise) + Send + 'static) -> anyhow::Result<()>;
    /// The same for what belongs to no epoch.
    async fn promise_note(&self, change: impl FnOnce(&mut Promise) + Send + 'static) -> anyhow::Result<()>;
    /// A place between two steps, where a fault may strike.
    async fn reach(&self, point: &'static str);
    /// Whether a bug was put back.
    fn planted(&self, bug: Bug) -> bool;
}

/// The data directory, and what this agent keeps beside it. Every write is durable when it returns, unless its text says
/// otherwise.
#[expect(async_fn_in_trait, reason = "see the module")]
pub trait Directory {
    /// Whether there is a data directory of PostgreSQL's.
    async fn has_data(&self) -> bool;
    /// Marks it; no remake is unfinished any more.
    async fn mark(&self, marker: &Marker) -> anyhow::Result<()>;
    /// What a seal must have on disk: no password, a fence, nobody to follow and nobody to confirm, nothing that overrides
    /// that. The recovery of a start goes for `timeline`.
    async fn seal_on_disk(&self, timeline: RecoveryTimeline) -> anyhow::Result<()>;
    /// The fence: whoever starts a server here starts a standby.
    async fn write_fence(&self) -> anyhow::Result<()>;
    /// What overrides our settings in files that we may change, and would be taken out.
    async fn overrides(&self) -> anyhow::Result<Removed>;
    /// Takes it out. After an error some of it may be gone.
    async fn remove_overrides(&self) -> anyhow::Result<Removed>;
    /// Writes rule and generation, for the next reload or start. Not flushed. What has to be shown then.
    async fn put_rule(&self, rule: &SyncRule, generation: &str) -> anyhow::Result<BTreeMap<String, String>>;
    /// Writes from whom to stream, and the password for there, for the next reload or start. Not flushed. What has to be shown
    /// then.
    async fn point_at(
        &self,
        upstream: &Upstream,
        name: &str,
        bind_channel: bool,
        timeline: RecoveryTimeline,
    ) -> anyhow::Result<BTreeMap<String, String>>;
    /// Whether the upstream may be given the password; if so, whether only over a bound channel.
    async fn trusted(&self, upstream: &Upstream) -> anyhow::Result<bool>;
    /// Writes whether clients are let in, for the next reload or start. Not flushed.
    async fn write_door(&self, open: bool) -> anyhow::Result<()>;
    /// Remembers whether clients may be inside, for an agent that finds the server running. Not flushed.
    fn remember_door(&self, open: bool) -> anyhow::Result<()>;

    /// The newest timeline that a history file describes, reservations excluded.
    async fn newest_timeline(&self) -> anyhow::Result<TimelineId>;
    /// When a timeline's history file was written.
    fn history_written_at(&self, timeline: TimelineId) -> Option<WallTime>;
    /// For which timeline a start that follows nobody goes, whose WAL ends on `owner`.
    async fn start_timeline(&self, owner: TimelineId) -> anyhow::Result<RecoveryTimeline>;
    /// Makes `allotted` the next number that PostgreSQL finds free.
    async fn reserve_timeline(&self, owner: TimelineId, allotted: TimelineId) -> anyhow::Result<()>;
    /// Removes reservations above `owner`.
    async fn clear_reservations(&self, owner: TimelineId) -> anyhow::Result<()>;
    /// Removes every history file above `owner`.
    async fn remove_histories_above(&self, owner: TimelineId) -> anyhow::Result<Vec<TimelineId>>;
    /// Notes in a timeline's history file in whose epoch it began.
    async fn mark_history(&self, timeline: TimelineId, epoch: Epoch) -> anyhow::Result<()>;

    /// Makes an empty data directory, fenced, its door closed.
    async fn initdb(&self) -> anyhow::Result<()>;
    /// Whether a rewind was begun here and has not ended.
    fn is_interrupted(&self) -> anyhow::Result<bool>;
    /// Where the WAL of a stopped server ends.
    async fn end_of_stopped(&self) -> anyhow::Result<DirectoryEnd>;
    /// Keeps the WAL beyond `fork` aside. `None`: there is none.
    async fn keep_diverged(&self, fork: Lsn, label: &str) -> anyhow::Result<Option<DiscardedWal>>;
    /// Ends whatever runs in a directory that is half made, and what lets it receive.
    async fn fence_half_made(&self) -> anyhow::Result<()>;
    /// pg_rewind to `fork`; the WAL beyond it is kept aside first. After an error that leaves a directory which is neither the
    /// old one nor the new one, [`is_interrupted`](Self::is_interrupted) says so.
    async fn rewind(&self, upstream: &Upstream, fork: Lsn, timeline: TimelineId, label: &str) -> Rewound;
    /// pg_basebackup; the old directory is kept under `keep_old`, or removed.
    async fn clone_from(&self, upstream: &Upstream, keep_old: Option<String>) -> anyhow::Result<()>;
}

/// What came of a rewind.
#[derive(Debug)]
pub struct Rewound {
    /// WAL that was kept aside, whether it was rewound after that or not.
    pub kept: Option<DiscardedWal>,
    /// Whether it was.
    pub done: anyhow::Result<()>,
}

/// What overrode our settings and was taken out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Settings and their values.
    pub lines: Vec<(String, String)>,
    /// A file was changed for it.
    pub changed: bool,
}

/// Where the WAL of a directory ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEnd {
    /// The owning timeline's history, and the end.
    pub own: OwnEnd,
    /// Up to where a copy that was never recovered still needs WAL, and on which timeline.
    pub needs: Option<(TimelineId, Lsn)>,
}

/// What became of a server that was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealedServer {
    /// It runs on as a standby and receives nothing.
    Running {
        /// Its recovery is pinned to the timeline that it was started on.
        pinned: bool,
    },
    /// It was stopped, or did not run. Why.
    Stopped(&'static str),
}

/// A seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Where its WAL ends.
    pub end: DirectoryEnd,
    /// What became of the server.
    pub server: SealedServer,
    /// What each step took, in microseconds.
    pub steps: Vec<(&'static str, u64)>,
}

/// A seal that is not complete. What is on disk already holds.
#[derive(Debug)]
pub struct NotSealed {
    /// WAL without which nothing here can be recovered is missing.
    pub lacks_wal: bool,
    /// Why.
    pub why: anyhow::Error,
}

/// In which role a server is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAs {
    /// Without the fence, which is put back once it has started.
    Primary,
    /// With it.
    Standby,
}

/// Why there is no session.
#[derive(Debug)]
pub struct NoSession {
    /// PostgreSQL lives and refuses; else it does not answer, or is starting.
    pub refused: bool,
    /// Why.
    pub why: anyhow::Error,
}

impl From<NoSession> for anyhow::Error {
    fn from(no: NoSession) -> Self {
        no.why
    }
}

/// What came of a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// The new timeline.
    pub timeline: TimelineId,
    /// Where it left its parent.
    pub fork: Lsn,
    /// How far WAL is written.
    pub insert: Lsn,
}

/// A promotion that is not complete, or not the one that was asked for.
#[derive(Debug)]
pub struct NotPromoted {
    /// It took another timeline than the one allotted, or nobody knows from where it came.
    pub wrong: bool,
    /// Why.
    pub why: anyhow::Error,
}

/// The server in the data directory.
#[expect(async_fn_in_trait, reason = "see the module")]
pub trait Server {
    /// A session there.
    type Session: Session;

    /// Starts it, and has it watched. `until`: it is left to finish by itself when that completes. An error: it does not run.
    async fn start(&self, role: StartAs, limit_ms: u64, until: impl Future<Output = ()>) -> anyhow::Result<()>;
    /// Has it read its files again.
    fn reload(&self) -> anyhow::Result<()>;
    /// Stops it in good order within the limit, else kills it. In any case nothing of it runs after `Ok`.
    async fn stop(&self, limit_ms: u64) -> anyhow::Result<()>;
    /// Kills everything that works in the data directory and sees it gone.
    async fn kill(&self) -> anyhow::Result<()>;
    /// Asks it to promote.
    fn ask_promotion(&self) -> anyhow::Result<()>;
    /// The fault point between the history file and the end-of-recovery record.
    async fn history_file_written(&self, timeline: TimelineId) {
        let _ = timeline;
    }
    /// Asks client backends to end, by signal. How many were asked.
    fn signal_clients(&self) -> anyhow::Result<usize>;
    /// Seals it, whatever it is doing (see [`Sealed`]): nothing is received from here on. `promotion_asked`: this agent has
    /// asked it to promote and has not seen the end of that. Keeps S1.
    async fn seal(&self, promotion_asked: bool) -> Result<Sealed, NotSealed>;

    /// A new session; `purpose` is its name.
    async fn connect(&self, purpose: &str, limit_ms: u64) -> Result<Self::Session, NoSession>;
    /// A session for what nobody can wait for: one that is there already, if there is one.
    async fn urgent_session(&self, purpose: &str) -> Result<Self::Session, NoSession>;
    /// A new session whose commits wait for no standby.
    async fn connect_local(&self, purpose: &str, limit_ms: u64) -> Result<Self::Session, NoSession>;
    /// Keeps the session that has shown the settings, for the promotion that follows at once.
    fn keep_session(&self, session: Option<Self::Session>);
    /// That session, if it is still there.
    fn kept_session(&self) -> Option<Self::Session>;
    /// A checkpoint, for which nobody waits.
    fn checkpoint_later(&self, session: Self::Session);
    /// Watches a promotion that was asked for.
    async fn wait_promoted(
        &self,
        session: &Self::Session,
        allotted: TimelineId,
        limit_ms: u64,
    ) -> Result<Promoted, NotPromoted>;
    /// Checks that the server that runs can be taken over as it is, and prepares it.
    async fn prepare_adoption(&self, session: &Self::Session, primary: bool) -> anyhow::Result<()>;
    /// Writes our files beside those of a server that is taken over.
    async fn take_over_files(&self, primary: bool) -> anyhow::Result<()>;
}

/// A session. Each statement has a limit of its own.
#[expect(async_fn_in_trait, reason = "see the module")]
pub trait Session {
    /// What it shows.
    async fn sample(&self) -> anyhow::Result<Sample>;
    /// `synchronous_standby_names`.
    async fn sync_names(&self) -> anyhow::Result<String>;
    /// Whether it shows that generation and those names, and nothing that overrides what the promise rests on.
    async fn shows(&self, generation: &str, names: &str) -> anyhow::Result<bool>;
    /// Why it does not, in PostgreSQL's words; and whether no change of any file is taken up at all.
    async fn why_not(&self) -> (String, bool);
    /// Whether it is in recovery.
    async fn in_recovery(&self) -> anyhow::Result<bool>;
    /// How far WAL is inserted.
    async fn insert_lsn(&self) -> anyhow::Result<Lsn>;
    /// How far WAL is flushed.
    async fn flush_lsn(&self) -> anyhow::Result<Lsn>;
    /// Every walsender.
    async fn senders(&self) -> anyhow::Result<Vec<ProofSender>>;
    /// Ends one process.
    async fn terminate(&self, pid: i32) -> anyhow::Result<()>;
    /// Ends every session of clients.
    async fn end_clients(&self) -> anyhow::Result<()>;
    /// Whether the connected standbys of `names` have flushed all that this server has flushed.
    async fn is_drained(&self, names: &[String]) -> anyhow::Result<bool>;
    /// Writes a checkpoint.
    async fn checkpoint(&self, limit_ms: u64) -> anyhow::Result<()>;
    /// Replay goes on.
    async fn resume_replay(&self) -> anyhow::Result<()>;
    /// Writes a marker without waiting for any standby; a position at or past its end, flushed here.
    async fn marker(&self) -> anyhow::Result<Lsn>;
    /// Puts the replication role in order.
    async fn mend_role(&self) -> anyhow::Result<()>;
}

/// All of it.
pub trait Member: Agent + Directory + Server {}

impl<T: Agent + Directory + Server> Member for T {}
