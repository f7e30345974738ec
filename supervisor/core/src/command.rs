//! Commands: the changes that can be agreed, who proposes them and what becomes of them.

use crate::{
    id::{ClusterId, Epoch, Incarnation, MemberId, MemberKey, NodeId, Revision, RuleVersion, TimelineId},
    lsn::Lsn,
    member::MemberSpec,
    position::Position,
    reign::{CatchUp, ElectionKind, Promotion, Seal, Start},
    report::ByHand,
    rpo::{Shown, Unproven},
    rule::Setting,
    settings::Settings,
    time::WallTime,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt};

/// Who wants a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Actor {
    /// The Raft leader's controller on this node, by the rules.
    Controller(NodeId),
    /// A person or program, by name, through the API.
    Operator(String),
    /// A member's own pgvigil process, about itself.
    Agent(MemberId),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller(node) => write!(f, "leader on node {node}"),
            Self::Operator(name) => write!(f, "operator {name}"),
            Self::Agent(member) => write!(f, "agent of {member}"),
        }
    }
}

/// A change to agree, with its reasons: an entry of the Raft log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// Which cluster it changes.
    pub cluster: ClusterId,
    /// The revision of the cluster's state from which it was decided; `apply` refuses it if the state has moved.
    /// `None` for requests that hold whatever the state is.
    pub based_on: Option<Revision>,
    /// The proposer's wall clock, for people.
    pub at: WallTime,
    /// Who wants it.
    pub by: Actor,
    /// One sentence.
    pub reason: String,
    /// What was seen, one line each.
    pub evidence: Vec<String>,
    /// The change.
    pub command: Command,
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.cluster, self.command.name(), self.reason)
    }
}

/// That k of S have flushed past a point under a setting that every walsender holds.
///
/// (a) a new connection showed the setting, (b) the marker was written after that, (c) every walsender that existed
/// then has itself reported flush ≥ marker or is gone, (d) `flushed` have flushed ≥ marker. Keeps S1 (histories A2, D3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The version of the setting that was in force.
    pub version: RuleVersion,
    /// The end of the marker's record.
    pub marker: Lsn,
    /// The members that have flushed it.
    pub flushed: BTreeSet<MemberKey>,
}

/// The changes that can be agreed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// A cluster is to be supervised.
    CreateCluster {
        /// The initial settings.
        settings: Settings,
        /// Who must be there before initdb.
        expect: BTreeSet<MemberId>,
    },
    /// A member makes itself known, or its address changed.
    RegisterMember {
        /// What its configuration says.
        spec: MemberSpec,
    },
    /// A member's data directory is to be made anew. Committed before its first byte is overwritten.
    NewIncarnation {
        /// Whose.
        member: MemberId,
        /// The incarnation that is given up.
        replaces: Incarnation,
    },
    /// The operator wants a fresh data directory.
    RequestReinit {
        /// Whose.
        member: MemberId,
    },
    /// The operator wants PostgreSQL restarted.
    RequestRestart {
        /// Whose.
        member: MemberId,
    },
    /// The operator wants a member to leave.
    RequestLeave {
        /// Who.
        member: MemberId,
    },
    /// A member that is in no open rule is forgotten.
    Forget {
        /// Who.
        member: MemberId,
    },
    /// The first reign: initdb, or the adoption of a running primary.
    Found {
        /// Who.
        primary: MemberKey,
        /// Initdb or Adopt.
        start: Start,
        /// The timeline it has or will have.
        timeline: TimelineId,
        /// For an adopted cluster.
        system_identifier: Option<u64>,
        /// The rule in force from the beginning: k = 0 only for an adopted cluster.
        setting: Setting,
    },
    /// Seals for `epoch` are to be collected; the lease is renewed no more.
    BeginElection {
        /// The next epoch.
        epoch: Epoch,
        /// Why.
        kind: ElectionKind,
        /// When the first sign was seen, by the leader's wall clock, for the incident.
        noticed_at: WallTime,
    },
    /// The successor, on the evidence of its seals.
    Appoint {
        /// The election's epoch.
        epoch: Epoch,
        /// Who.
        primary: MemberKey,
        /// Promote or Continue.
        start: Start,
        /// Never allotted before (Promote), or the one that is continued.
        timeline: TimelineId,
        /// The rule of the new reign.
        setting: Setting,
        /// The evidence.
        seals: Vec<Seal>,
    },
    /// The appointee has left recovery on the allotted timeline.
    RecordPromotion {
        /// The reign.
        epoch: Epoch,
        /// The timeline it is on.
        timeline: TimelineId,
        /// Fork and end of recovery.
        promotion: Promotion,
        /// PostgreSQL's system identifier.
        system_identifier: u64,
    },
    /// Clients may come in: every former primary is known to be fenced.
    Open {
        /// The reign.
        epoch: Epoch,
    },
    /// The older rules are closed.
    CompleteRule {
        /// The reign.
        epoch: Epoch,
        /// That k' of S' have the new history.
        proof: Proof,
    },
    /// The rule inside the reign is to change: the wide rule holds from here on.
    BeginChange {
        /// The reign.
        epoch: Epoch,
        /// The rule to which it leads.
        to: Setting,
    },
    /// Members get new names for their connections, since their present ones are used by others too. The rule stays as it
    /// is, in a new version.
    Rename {
        /// The reign.
        epoch: Epoch,
        /// Whose names.
        members: BTreeSet<MemberId>,
    },
    /// The change is proven: the final rule holds.
    FinishChange {
        /// The reign.
        epoch: Epoch,
        /// That k' of S' confirm under the new setting, and that no walsender holds an older one.
        proof: Proof,
    },
    /// New settings.
    ChangeSettings {
        /// All of them.
        settings: Settings,
    },
    /// pgvigil watches but decides nothing.
    Pause,
    /// pgvigil decides again.
    Resume,
    /// The operator wants another primary.
    RequestElection {
        /// Switchover or Forced.
        kind: ElectionKind,
    },
    /// What was asked for cannot be done now, or is done.
    DropRequest,
    /// The guard of the primary of `epoch` is armed again after a pause.
    ConfirmGuard {
        /// The reign.
        epoch: Epoch,
    },
    /// A sealed member is to fetch, from another sealed member, the WAL it lacks.
    CatchUp {
        /// The election.
        epoch: Epoch,
        /// Who from whom up to where.
        order: CatchUp,
    },
    /// Something became known that speaks against "no acknowledged commit was lost", or until when nothing did.
    NoteUnproven {
        /// The reign.
        epoch: Epoch,
        /// Stretches in which commits may have been acknowledged without k standbys.
        found: Vec<Unproven>,
        /// Until when the rule was shown in force, before the election under way.
        shown: Option<Shown>,
    },
    /// A node has a vote, and this is its Raft store: of the group, not of one cluster.
    RememberStore {
        /// The node.
        node: NodeId,
        /// Its store's random id.
        store: u64,
    },
    /// Something became known about an incident.
    Note {
        /// Which.
        incident: Epoch,
        /// What.
        text: String,
    },
    /// A member was seen to hold a timeline of a number that was not allotted: it is taken for good.
    NoteTimeline {
        /// The number.
        timeline: TimelineId,
    },
    /// A member was promoted by hand, or what it wrote since is now kept aside.
    NotePromotedByHand {
        /// Who.
        key: MemberKey,
        /// What its disk shows.
        found: ByHand,
        /// Where its WAL is kept.
        kept_in: Option<String>,
    },
    /// What members were seen to have flushed: remembered for the next leader, before which a directory may come back old.
    NoteFlushed {
        /// Each a record's end.
        flushed: Vec<(MemberKey, Position)>,
    },
}

impl Command {
    /// The command's name in logs and ledgers.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::CreateCluster { .. } => "create-cluster",
            Self::RegisterMember { .. } => "register-member",
            Self::NewIncarnation { .. } => "new-incarnation",
            Self::RequestReinit { .. } => "request-reinit",
            Self::RequestRestart { .. } => "request-restart",
            Self::RequestLeave { .. } => "request-leave",
            Self::Forget { .. } => "forget",
            Self::Found { .. } => "found",
            Self::BeginElection { .. } => "begin-election",
            Self::Appoint { .. } => "appoint",
            Self::RecordPromotion { .. } => "record-promotion",
            Self::Open { .. } => "open",
            Self::CompleteRule { .. } => "complete-rule",
            Self::BeginChange { .. } => "begin-change",
            Self::Rename { .. } => "rename",
            Self::FinishChange { .. } => "finish-change",
            Self::ChangeSettings { .. } => "change-settings",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::RequestElection { .. } => "request-election",
            Self::DropRequest => "drop-request",
            Self::ConfirmGuard { .. } => "confirm-guard",
            Self::CatchUp { .. } => "catch-up",
            Self::NoteUnproven { .. } => "note-unproven",
            Self::RememberStore { .. } => "remember-store",
            Self::Note { .. } => "note",
            Self::NoteTimeline { .. } => "note-timeline",
            Self::NotePromotedByHand { .. } => "note-promoted-by-hand",
            Self::NoteFlushed { .. } => "note-flushed",
        }
    }
}

/// Why the rules say no. A value, never an error: the log goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// A stable code for programs.
    pub code: RefusalCode,
    /// A sentence for people: what, what is allowed, what to do.
    pub text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// No such cluster.
    UnknownCluster,
    /// No such member.
    UnknownMember,
    /// It exists already.
    Exists,
    /// The state has moved since the decision.
    Stale,
    /// Not the epoch to which the command belongs.
    WrongEpoch,
    /// Not possible in the present phase.
    WrongPhase,
    /// Paused.
    Paused,
    /// A value is out of its bounds.
    BadValue,
    /// Two members with one name.
    NameTaken,
    /// The evidence does not close every open rule.
    TooFewSeals,
    /// A seal that does not count.
    BadSeal,
    /// The appointee lacks WAL that the evidence holds.
    Behind,
    /// The member may not be promoted.
    Ineligible,
    /// A timeline that was allotted before.
    TimelineTaken,
    /// The proof does not prove it.
    BadProof,
    /// A former primary may still serve.
    NotFenced,
    /// Written by a newer build.
    NewerFormat,
}

/// What became of a proposal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is agreed; the cluster's state now has this revision.
    Agreed {
        /// The new revision.
        revision: Revision,
    },
    /// The rules say no; nothing has changed.
    Refused(Refusal),
    /// An entry of Raft's own (blank or membership): nothing to do with any cluster.
    Nothing,
}
