//! The state of the world under the checker: small numbers only, so that millions of them fit into memory.
//!
//! Members are numbered from 0 and printed a, b, c... Incarnations are the core's own numbers; since they are unique
//! in the cluster, a set of them fits into a bit mask. What is agreed is a number in the [`Book`](crate::agreed::Book).

use serde::Serialize;

/// The most members a model may have.
pub const MEMBERS_MAX: usize = 5;

/// A member's number.
pub type Member = u8;
/// An incarnation of the core; 0 stands for none.
pub type Inc = u8;
/// A set of incarnations.
pub type IncMask = u16;
/// A set of members.
pub type MemberMask = u8;
/// What is agreed: a number in the book. 0 is never given out.
pub type AgreedId = u32;

/// A stretch of write-ahead log: the branch that owns the last record, and how many records there are from the
/// beginning of time. One record stands for any number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Wal {
    /// The branch that owns the last record; 0 is the first one.
    pub branch: u8,
    /// Records from the beginning.
    pub len: u8,
}

/// One physical line of history: what one server wrote after one promotion.
///
/// Its timeline number is only its name: two promotions that took the same number are two branches (history A7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Branch {
    /// The branch that was left.
    pub parent: u8,
    /// How many records it inherited.
    pub fork: u8,
    /// The epoch as whose primary its writer was promoted.
    pub epoch: u8,
    /// The number under which PostgreSQL knows it.
    pub timeline: u8,
}

/// `ANY k (names)` as one process of PostgreSQL holds it. Names are incarnations within an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Held {
    /// The epoch in the names.
    pub epoch: u8,
    /// The incarnations named.
    pub names: IncMask,
    /// How many of them must have flushed.
    pub k: u8,
}

impl Held {
    /// The setting of a member without a rule: it names somebody that nobody can be, so that nothing is ever
    /// acknowledged (history A8).
    pub const NOBODY: Self = Self { epoch: 0, names: 0, k: 1 };
}

/// A walsender of a primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Sender {
    /// The incarnation in the name of its connection; 0: there is no such walsender.
    pub inc: Inc,
    /// The epoch in that name.
    pub epoch: u8,
    /// The setting it holds: its own until it has looked at the reload.
    pub held: Held,
    /// What its standby has reported as flushed. Kept when the standby is gone: replies may be in flight for ever.
    pub flush: u8,
}

/// What a member's PostgreSQL is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum Run {
    /// No process.
    #[default]
    Down,
    /// In recovery.
    Standby,
    /// In recovery, and asked to promote.
    Promoting,
    /// Out of recovery.
    Primary,
}

/// `InForce` of the core, small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Force {
    /// The epoch in whose names it is written.
    pub epoch: u8,
    /// The version of the setting; 0: none.
    pub version: u8,
    /// Whether clients may come in.
    pub door: bool,
    /// Whom it follows, as a member and an incarnation; 0: nobody.
    pub upstream: (Member, Inc),
}

/// A complete proof as the agent reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Proven {
    /// The version of the setting.
    pub version: u8,
    /// The marker.
    pub marker: u8,
    /// Who has flushed it: the incarnation of each member, or 0.
    pub flushed: [Inc; MEMBERS_MAX],
}

/// One member: its data directory, its PostgreSQL and its agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Server {
    /// Its host runs.
    pub up: bool,
    /// The mark in its data directory; 0: the directory is empty.
    pub marker: Inc,
    /// Its WAL, all of it flushed.
    pub wal: Wal,
    /// Its PostgreSQL.
    pub run: Run,
    /// PostgreSQL died although nobody stopped it.
    pub crashed: bool,
    /// `standby.signal` is in place.
    pub fence: bool,
    /// The newest epoch it promised to obey.
    pub promised: u8,
    /// The newest epoch as whose primary it started or promoted.
    pub reigned: u8,
    /// What that brought: fork and end of recovery.
    pub promotion: Option<(u8, u8)>,
    /// Its agent has read the end of its WAL, and none can have been added since.
    pub read: bool,
    /// The election for which it is sealed at that end; 0: none.
    pub sealed: u8,
    /// The configuration its agent saw in force.
    pub force: Option<Force>,
    /// Whom its walreceiver streams from, and under which name: member, incarnation in the name, epoch in the name.
    /// The incarnation is 0 when there is no walreceiver.
    pub follows: (Member, Inc, u8),
    /// The rule in its configuration file: what new walsenders hold.
    pub setting: Held,
    /// Its walsenders, by the member they serve.
    pub senders: [Sender; MEMBERS_MAX],
    /// The marker of a proof under way; 0: none.
    pub marking: u8,
    /// Where its WAL ended when every walsender had reported the marker; 0: not yet.
    pub reported: u8,
    /// The version its agent holds as proven under the configuration in force; 0: none.
    pub proven: u8,
    /// The proof it reports.
    pub proof: Option<Proven>,
    /// The agreed state its agent has a plan from; the newest one unless that plan is still to be carried out.
    pub view: AgreedId,
    /// The timeline whose first segment it last began to receive: only kept where a planted bug reads it (history A3).
    pub touched: u8,
}

/// How often the world may still misbehave. Every fault uses up one, so that the search ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Budget {
    /// Commits of clients.
    pub writes: u8,
    /// Elections.
    pub elections: u8,
    /// Hosts that crash.
    pub crashes: u8,
    /// Data directories that come back empty.
    pub wipes: u8,
    /// Data directories that come back as they once were.
    pub rollbacks: u8,
    /// Changes of the rule inside a reign.
    pub changes: u8,
    /// Plans that are carried out although something newer was agreed.
    pub stale: u8,
}

/// What the leader was told of a seal for the election under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Told {
    /// Whose.
    pub inc: Inc,
    /// Its position: the epoch in which the owning timeline began, and the end.
    pub position: (u8, u8),
}

/// The newest commit acknowledged under one epoch. Everything before it on its history is acknowledged with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Acked {
    /// The epoch.
    pub epoch: u8,
    /// The history up to it.
    pub wal: Wal,
}

/// The whole world.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct World {
    /// What is agreed.
    pub agreed: AgreedId,
    /// The members.
    pub servers: Vec<Server>,
    /// Every line of history there ever was.
    pub branches: Vec<Branch>,
    /// What was acknowledged, by rising epoch.
    pub acked: Vec<Acked>,
    /// What clients were shown through an open door, by rising epoch.
    pub shown: Vec<Acked>,
    /// The seals the leader was told of.
    pub told: [Option<Told>; MEMBERS_MAX],
    /// What may still go wrong.
    pub budget: Budget,
}

/// A member's letter.
#[must_use]
pub fn letter(member: Member) -> char {
    char::from(b'a' + member)
}
