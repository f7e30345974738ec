//! What an agent tells the leader, several times a second: facts about its own PostgreSQL, never wishes.
//!
//! Every report is late by the time it is read. Ages are on the sender's own clock, so no two clocks are compared.

use crate::{
    command::Proof,
    id::{ClusterId, Epoch, Incarnation, MemberId, MemberKey, NodeId, Revision, RuleVersion, TimelineId},
    lsn::Lsn,
    member::MemberSpec,
    reign::{Promotion, Seal},
    rpo::UnprovenReport,
    time::{Time, WallTime},
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One heartbeat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Who, and what its configuration says.
    pub spec: MemberSpec,
    /// Numbered by the sender since its start, from 1; a renewal answers to one of them.
    pub seq: u64,
    /// The incarnation marked in the data directory; `None` without one of ours.
    pub incarnation: Option<Incarnation>,
    /// The newest agreed revision the agent holds.
    pub revision: Revision,
    /// The newest epoch it promised to obey.
    pub promised: Epoch,
    /// What its PostgreSQL is.
    pub postgres: PostgresReport,
    /// Its seal for the election under way.
    pub seal: Option<SealReport>,
    /// It is known to serve nobody as primary of this epoch or an older one: fence on disk, every process gone (or
    /// running as a standby since).
    pub fenced: Option<Epoch>,
    /// How much later than planned the agent's own loop ran at worst since the last report, in milliseconds.
    pub starved_ms: u64,
    /// Whether the guard has confirmed the newest deadline and would kill when it comes: not while it holds still in a pause.
    pub guard_armed: bool,
    /// Its newest probe of the primary's port, made when the WAL stops coming.
    pub probe: Option<Probe>,
    /// There is hardly any room left for data or WAL.
    #[serde(default)]
    pub disk_full: bool,
    /// What it is busy with: cloning, rewinding, with progress.
    pub activity: Option<String>,
    /// What an operator should know: drift of settings, lost slots, a refused data directory.
    pub problems: Vec<String>,
    /// The data directory must be made anew before it can follow; why.
    pub needs_new_incarnation: Option<String>,
    /// The last restart request that was carried out.
    pub restarted: u64,
    /// Since this process began it was a member: if it is none any more, it was removed, and does not join by itself.
    #[serde(default)]
    pub was_member: bool,
    /// WAL that a rewind or clone discarded, kept aside: said once per event, for the incident.
    pub discarded_wal: Option<DiscardedWal>,
    /// Stretches of its reigns in which commits may have been acknowledged without k standbys, until they are agreed.
    /// Also told by a former primary that comes back.
    #[serde(default)]
    pub unproven: Vec<UnprovenReport>,
    /// When the leader that it heard last had seen the rule of that reign in force, in milliseconds before now: for the
    /// next leader, who may never hear of that primary.
    #[serde(default)]
    pub shown_to_leader: Option<(Epoch, u64)>,
    /// The newest clock of a leader that came with an answer, and how long ago that came, in milliseconds: by it that leader
    /// knows a moment of its own clock that was not after the sending of this report, however slow the network is.
    #[serde(default)]
    pub echo: Option<(LeaderClock, u64)>,
    /// The timelines that it was seen to hold.
    #[serde(default)]
    pub timelines: TimelinesReport,
}

/// The timelines that a member was seen to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelinesReport {
    /// The newest number that a history file of its own describes, mere reservations excluded, or its server is on; 0
    /// where none was seen.
    pub newest: TimelineId,
    /// Its WAL ends on a timeline that nobody agreed on: it was promoted by hand.
    pub by_hand: Option<ByHand>,
}

/// A promotion that pgvigil did not order, as its member's disk shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByHand {
    /// The number that its timeline took.
    pub timeline: TimelineId,
    /// Which timeline it left, and where.
    pub left: Option<(TimelineId, Lsn)>,
    /// Where its WAL ends.
    pub end: Lsn,
    /// When its history file was written, by that host's clock; for people.
    pub at: Option<WallTime>,
}

impl Report {
    /// The number of a report that is no heartbeat: the agent of that member does not run, and `postgres` is
    /// [`PostgresReport::Unusable`] with the reason.
    pub const NO_HEARTBEAT: u64 = 0;
}

/// WAL of a dead branch that was kept aside before a data directory was made anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscardedWal {
    /// The reign it belonged to.
    pub epoch: Epoch,
    /// The timeline it was on.
    pub timeline: TimelineId,
    /// Where it left the living history.
    pub from: Lsn,
    /// Its end.
    pub to: Lsn,
    /// The directory, on that member's host, where it is kept.
    pub kept_in: String,
    /// It was written after a promotion by hand, and so belongs to no reign; `epoch` is then the one in which it was found.
    #[serde(default)]
    pub by_hand: bool,
}

/// A seal as its agent reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealReport {
    /// The seal.
    pub seal: Seal,
    /// How long ago the earliest sample that already showed the final flushed position began; 0 if unsampled
    /// (history A15). Read against the canary's right to serve. Keeps S3.
    pub quiet_ms: u64,
    /// The position read before is still what the disk holds, and it can stream to others.
    pub can_stream: bool,
    /// It is a copy that is not consistent before it has received more: it may join a rule, but be neither promoted nor a
    /// source.
    #[serde(default)]
    pub incomplete: bool,
}

/// An active probe of the primary's PostgreSQL port: does its postmaster still answer?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Who was probed.
    pub member: MemberId,
    /// Whether a postmaster answered.
    pub answered: bool,
    /// How long ago the probe ended.
    pub age_ms: u64,
    /// What was seen.
    pub detail: String,
}

/// What an agent's PostgreSQL is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PostgresReport {
    /// The data directory is empty or missing.
    NoData,
    /// There is a data directory that cannot be used, and why. Nothing is touched.
    Unusable {
        /// Why.
        why: String,
    },
    /// PostgreSQL servers that pgvigil did not set up and that could be adopted.
    Adoptable(Adoptable),
    /// Not running.
    Stopped {
        /// It died although nobody stopped it.
        crashed: bool,
    },
    /// Running, not yet answering.
    Starting,
    /// Running as a standby.
    Standby(StandbyReport),
    /// Running as a primary, open or closed.
    Primary(Box<PrimaryReport>),
}

/// A server without pgvigil's marks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adoptable {
    /// PostgreSQL's system identifier.
    pub system_identifier: u64,
    /// Whether it runs in recovery.
    pub in_recovery: bool,
    /// Its timeline.
    pub timeline: TimelineId,
    /// Its major version.
    pub major: u32,
}

/// A running standby.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyReport {
    /// The timeline it follows.
    pub timeline: TimelineId,
    /// The newest epoch whose primary it is set to follow.
    pub following: Option<Epoch>,
    /// WAL received and flushed, as the walreceiver says: for lag and liveness, never for a choice (history A4).
    pub flush_lsn: Lsn,
    /// WAL replayed.
    pub replay_lsn: Lsn,
    /// Whether a walreceiver streams.
    pub streaming: bool,
    /// How long ago the flushed position last moved.
    pub wal_age_ms: u64,
    /// Replay was paused or is delayed on purpose.
    pub replay_held: bool,
    /// What its agent sees of its walreceiver's connection.
    #[serde(default)]
    pub receiver: Receiver,
}

/// The far end of a connection as one of its ends names it. A proxy or address translation between them makes the two
/// ends name one connection differently.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Remote {
    /// The IP address.
    pub address: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.address.contains(':') {
            return write!(f, "[{}]:{}", self.address, self.port);
        }
        write!(f, "{}:{}", self.address, self.port)
    }
}

/// The connection of a standby's walreceiver, as its own agent sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Receiver {
    /// It could not be looked at.
    #[default]
    Unknown,
    /// There is no walreceiver.
    Absent,
    /// From this address and port of its own.
    Connected(Remote),
}

/// A running primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimaryReport {
    /// The epoch as whose primary it runs.
    pub epoch: Epoch,
    /// Its timeline.
    pub timeline: TimelineId,
    /// WAL flushed.
    pub flush_lsn: Lsn,
    /// Set once it has left recovery in this epoch.
    pub promotion: Option<Promotion>,
    /// PostgreSQL's system identifier.
    pub system_identifier: u64,
    /// Whether clients may come in.
    pub door_open: bool,
    /// How long ago the checkpoint ended that a planned change asked for.
    pub checkpoint_age_ms: Option<u64>,
    /// The newest version of the setting that a new connection has shown.
    pub setting_in_force: Option<RuleVersion>,
    /// The newest proof, if it is complete.
    pub proof: Option<Proof>,
    /// The canary.
    pub canary: CanaryReport,
    /// Its walsenders' view of each standby.
    pub standbys: Vec<SenderReport>,
    /// What would weaken S1 and is not pgvigil's: `synchronous_commit` lowered, settings changed by hand.
    pub weakened: Vec<String>,
    /// When its right to serve ends: milliseconds from now; 0 when it has none.
    pub right_ms: u64,
    /// How long ago the look began that showed the agreed rule in force, and nothing that weakens it; `None`: not yet, or
    /// it is not. In milliseconds.
    #[serde(default)]
    pub shown_ago_ms: Option<u64>,
    /// For how long no session could be had: its standbys are not known then, and it has flushed at least `flush_lsn`.
    #[serde(default)]
    pub unasked_ms: Option<u64>,
    /// Bytes of WAL that others than the canary were seen to write since it became primary; too many rather than too few.
    #[serde(default)]
    pub written_by_others: u64,
}

/// The agent's own small commit under the rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryReport {
    /// How long ago the last successful one began; `None` before the first.
    pub ok_age_ms: Option<u64>,
    /// How long ago the last one began that k standbys of the rule are seen to have; `None` before the first. What was committed
    /// before it is on them too.
    #[serde(default)]
    pub confirmed_age_ms: Option<u64>,
    /// How long the present one has been waiting; 0 if none is under way.
    pub waiting_ms: u64,
    /// How long the last successful one took, in microseconds.
    pub took_us: u64,
}

/// One walsender of the primary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderReport {
    /// Which incarnation it serves, by its name of this epoch; others are not listed.
    pub key: MemberKey,
    /// What the standby has flushed.
    pub flush_lsn: Lsn,
    /// The newest canary or marker, a record's end, that it has flushed: evidence against a directory that comes
    /// back old.
    pub flushed_record: Option<Lsn>,
    /// Whether it is in state `streaming`.
    pub streaming: bool,
    /// Whether PostgreSQL counts it under the setting in force.
    pub counted: bool,
    /// Whether its connection is encrypted; `None` from an agent that does not tell.
    #[serde(default)]
    pub encrypted: Option<bool>,
    /// Which of the member's names of this epoch (see [`crate::member::Member::named`]).
    #[serde(default)]
    pub named: u64,
    /// Every walsender of that name. With more than one, what is said above is true of each of them.
    #[serde(default)]
    pub walsenders: Vec<Walsender>,
}

/// One process that sends WAL to a standby, as the primary's agent sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walsender {
    /// The process.
    pub pid: i32,
    /// Whom it serves; `None` on a Unix-domain socket.
    pub from: Option<Remote>,
    /// How long it has been connected.
    pub age_ms: u64,
    /// How long ago its newest reply was first seen; as long as it has been connected if none was seen to come.
    pub quiet_ms: u64,
}

/// What the leader answers to a report, after a quorum confirmed that it still leads. Keeps S5.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The agreed state, when it is newer than the one the report named. An agent never goes back to an older one.
    pub state: Option<Box<crate::cluster::ClusterState>>,
    /// The lease is renewed as of the sending of this heartbeat.
    pub renewed: Option<u64>,
    /// Why this agent is not listened to.
    pub refused: Option<String>,
    /// When this leader has seen the rule in force last: for the next leader.
    #[serde(default)]
    pub shown: Option<ShownToLeader>,
    /// The primary's agent is late: its port is worth a probe. `None` from a leader that does not tell.
    #[serde(default)]
    pub primary_late: Option<bool>,
    /// When this was sent.
    #[serde(default)]
    pub clock: Option<LeaderClock>,
}

/// A moment on a leader's own clock. Of use to that leader only, and only while it leads on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderClock {
    /// Its node.
    pub node: NodeId,
    /// When it began to listen.
    pub since: Time,
    /// The moment.
    pub at: Time,
}

/// When a leader has seen the rule of a reign in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownToLeader {
    /// The reign.
    pub epoch: Epoch,
    /// In milliseconds before the heartbeat came in that this answers.
    pub ago_ms: u64,
    /// That heartbeat.
    pub seq: u64,
}

/// The format of [`Report`] and [`Answer`] on the wire.
pub const WIRE_FORMAT: u32 = 1;
