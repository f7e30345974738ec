//! The steps of the world: one of them at a time, in any order.

use crate::state::{Member, MemberMask};
use serde::Serialize;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Step {
    /// A client commits on a primary; whether it is acknowledged is the walsenders' business.
    Write(Member),
    /// A standby connects if it must, takes one record and reports what it has flushed.
    Stream(Member),
    /// One walsender of the first member, the one that serves the second, takes up a reload.
    Reload(Member, Member),
    /// A promotion that was asked for is done.
    Promoted(Member),
    /// A promotion is done, and the host crashes before the agent has noted it.
    PromotedThenCrashed(Member),
    /// Every walsender of a primary has reported the marker of its proof or is ended.
    AllReported(Member),
    /// A proof is complete: k of S have flushed what there was when every walsender had reported.
    Proven(Member),
    /// The agent does what `reconcile` said.
    Act(Member),
    /// The agent drops a plan of its own that something newer has overtaken.
    Learn(Member),
    /// A host crashes.
    Crash(Member),
    /// A host comes back.
    Return(Member),
    /// A host crashes, and its disk comes back empty.
    Wipe(Member),
    /// A host crashes, and its data directory comes back as it was when it held that many records.
    Rollback(Member, u8),
    /// The leader begins an election; `true`: a renewal, which the old primary is meant to survive.
    Begin(bool),
    /// The leader orders the first member to fetch what it lacks from the second.
    OrderCatchUp(Member, Member),
    /// The leader appoints: whom, whether the old primary goes on, the cohort and k of the new rule.
    Appoint {
        /// The appointee.
        primary: Member,
        /// It is the old primary, which goes on without a promotion.
        goes_on: bool,
        /// The members of the new rule.
        cohort: MemberMask,
        /// Its k.
        k: u8,
    },
    /// The leader records the promotion that a member reports.
    Record(Member),
    /// The leader opens the reign of a member.
    Open(Member),
    /// The leader completes the rule of a member's reign on its proof.
    Complete(Member),
    /// The leader begins a change of the rule.
    Change {
        /// The members of the wished rule.
        cohort: MemberMask,
        /// Its k.
        k: u8,
    },
    /// The leader finishes that change on the proof of a member.
    Finish(Member),
    /// The leader allots a new incarnation to a member whose data directory must be made anew.
    NewIncarnation(Member),
    /// Planted bugs only: a sealed member's PostgreSQL streams again from where it did before.
    Unseal(Member),
    /// Planted bugs only: the data directory is being made anew under the incarnation it has, and that breaks off.
    RemakeInPlace(Member),
}
