//! The sizes of worlds that are checked: how many members, and how often what may go wrong.

use crate::{
    actions::Step,
    planted::Planted,
    state::{Budget, Member},
};
use serde::Serialize;

/// What cohorts a leader may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Cohorts {
    /// All other sealed members, as the shipped `decide` does.
    Sealed,
    /// Any members at all that `apply` lets through.
    Any,
}

/// How a search ends if it does not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Class {
    /// Exhausted within seconds: run with every change.
    Small,
    /// Minutes to hours: run by hand.
    Large,
    /// Of a planted bug.
    Planted,
}

/// One size.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Size {
    /// Its name.
    pub name: &'static str,
    /// Small or large.
    pub class: Class,
    /// How many members.
    pub members: Member,
    /// `ANY k` of the first rule, and of the settings.
    pub k: u8,
    /// How many members, the last ones, the first rule does not name.
    pub outside: Member,
    /// What may happen, how often.
    pub budget: Budget,
    /// The first reign has reported a proof of its rule, as one that began with a promotion would have.
    pub proven: bool,
    /// What cohorts a leader may choose.
    pub cohorts: Cohorts,
    /// The leader may also renew a reign.
    pub renewals: bool,
    /// The leader may order sealed members to catch up.
    pub catch_up: bool,
    /// Doors open and what clients are shown is checked too.
    pub doors: bool,
    /// From every state the fair run must arrive.
    pub heals: bool,
    /// The search stops at this depth; 0: it goes on to the end.
    pub depth: usize,
    /// What has happened before the search begins: the long way to a situation that few steps then turn bad.
    pub before: &'static [Step],
    /// Which protection is taken out.
    pub planted: Planted,
}

const NONE: Budget = Budget { writes: 0, elections: 0, crashes: 0, wipes: 0, rollbacks: 0, changes: 0, stale: 0 };

const BASE: Size = Size {
    name: "",
    class: Class::Small,
    members: 3,
    k: 1,
    outside: 0,
    budget: NONE,
    proven: false,
    cohorts: Cohorts::Sealed,
    renewals: false,
    catch_up: false,
    doors: false,
    heals: false,
    depth: 0,
    before: &[],
    planted: Planted::Nothing,
};

const fn small(name: &'static str, budget: Budget) -> Size {
    Size { name, budget, ..BASE }
}

const fn large(name: &'static str, budget: Budget) -> Size {
    Size { name, class: Class::Large, budget, ..BASE }
}

/// Every size without a planted bug.
pub const ALL: &[Size] = &[
    Size { heals: true, ..small("three-one-failover", Budget { writes: 1, elections: 1, crashes: 1, ..NONE }) },
    Size { heals: true, ..small("three-late-plans", Budget { writes: 1, elections: 1, stale: 2, ..NONE }) },
    Size {
        renewals: true,
        cohorts: Cohorts::Any,
        ..small("three-renewal", Budget { writes: 1, elections: 1, ..NONE })
    },
    small("three-change", Budget { writes: 2, changes: 2, ..NONE }),
    Size { heals: true, ..small("three-change-failover", Budget { writes: 1, changes: 1, elections: 1, ..NONE }) },
    Size { heals: true, ..small("three-wipe", Budget { writes: 1, elections: 1, wipes: 1, ..NONE }) },
    Size { catch_up: true, heals: true, ..small("three-catch-up", Budget { writes: 2, elections: 1, ..NONE }) },
    Size {
        proven: true,
        cohorts: Cohorts::Any,
        depth: 14,
        ..small("three-renewed-twice", Budget { writes: 1, elections: 2, ..NONE })
    },
    Size { k: 2, heals: true, ..small("three-both", Budget { writes: 1, elections: 1, crashes: 1, ..NONE }) },
    Size { doors: true, heals: true, ..small("three-doors", Budget { writes: 1, elections: 1, crashes: 1, ..NONE }) },
    small("three-rollback", Budget { writes: 1, elections: 1, rollbacks: 1, changes: 1, ..NONE }),
    Size { heals: true, ..small("three-two-failovers", Budget { writes: 1, elections: 2, ..NONE }) },
    Size { members: 5, k: 2, depth: 10, ..small("five-one-failover", Budget { writes: 1, elections: 1, ..NONE }) },
    large("three-two-failovers-crash", Budget { writes: 2, elections: 2, crashes: 1, ..NONE }),
    large("three-two-failovers-wipe", Budget { writes: 1, elections: 2, wipes: 1, ..NONE }),
    large("three-two-failovers-change", Budget { writes: 1, elections: 2, changes: 1, ..NONE }),
    large("three-two-failovers-late", Budget { writes: 1, elections: 2, stale: 1, ..NONE }),
    Size { doors: true, ..large("three-two-failovers-doors", Budget { writes: 1, elections: 2, crashes: 1, ..NONE }) },
    Size {
        cohorts: Cohorts::Any,
        renewals: true,
        ..large("three-two-failovers-any", Budget { writes: 1, elections: 2, ..NONE })
    },
    Size { members: 5, k: 2, ..large("five-one-failover-whole", Budget { writes: 1, elections: 1, ..NONE }) },
    Size { members: 5, k: 2, depth: 14, ..large("five-two-failovers", Budget { writes: 1, elections: 2, ..NONE }) },
    Size {
        members: 5,
        k: 2,
        depth: 14,
        ..large("five-change-failover", Budget { writes: 1, elections: 1, changes: 1, ..NONE })
    },
    Size {
        members: 5,
        k: 2,
        depth: 14,
        ..large("five-wipe-crash", Budget { writes: 1, elections: 1, wipes: 1, crashes: 1, ..NONE })
    },
];

const fn planted(name: &'static str, planted: Planted, budget: Budget) -> Size {
    Size { name, class: Class::Planted, budget, planted, ..BASE }
}

const ONE: Budget = Budget { writes: 1, elections: 1, ..NONE };
const TWO: Budget = Budget { writes: 1, elections: 2, ..NONE };
const CHANGE: Budget = Budget { writes: 1, elections: 1, changes: 1, ..NONE };

const A: Member = 0;
const B: Member = 1;
const C: Member = 2;

/// b is promoted as primary of epoch 2 and writes what nobody receives: its host crashes.
const UNHEARD: &[Step] = &[
    Step::Begin(false),
    Step::Act(B),
    Step::Act(C),
    Step::Appoint { primary: B, goes_on: false, cohort: 1 << C, k: 1 },
    Step::Act(B),
    Step::Act(B),
    Step::Promoted(B),
    Step::Record(B),
    Step::Write(B),
    Step::Crash(B),
];

/// a has a record that nobody else has, crashes, comes back and is sealed for epoch 2.
const UNACKNOWLEDGED: &[Step] =
    &[Step::Write(A), Step::Crash(A), Step::Return(A), Step::Begin(false), Step::Act(A), Step::Act(A)];

/// The protections taken out, each in the smallest world that shows why it is there.
pub const PLANTED: &[Size] = &[
    planted("seal-threshold", Planted::SealThreshold, ONE),
    planted("old-rules-dropped", Planted::OldRulesDropped, TWO),
    planted("complete-without-proof", Planted::CompleteWithoutProof, TWO),
    planted("lsn-only", Planted::LsnOnly, TWO),
    planted("no-catch-up", Planted::NoCatchUp, ONE),
    planted("promote-before-rule", Planted::PromoteBeforeRule, TWO),
    planted("seal-forgotten", Planted::SealForgotten, ONE),
    planted("receiver-lives", Planted::ReceiverLives, ONE),
    planted("wiped-counted", Planted::WipedCounted, Budget { wipes: 1, ..ONE }),
    planted("rolled-back-counted", Planted::RolledBackCounted, Budget { rollbacks: 1, changes: 1, ..ONE }),
    planted("remade-in-place", Planted::RemadeInPlace, Budget { wipes: 1, ..ONE }),
    planted("position-of-followed-timeline", Planted::PositionOfFollowedTimeline, TWO),
    Size {
        before: UNACKNOWLEDGED,
        ..planted("diverged-follows", Planted::DivergedFollows, Budget { crashes: 1, ..TWO })
    },
    Size { members: 4, outside: 1, ..planted("pair-of-rules", Planted::PairOfRules, CHANGE) },
    Size { outside: 1, ..planted("old-rule-during-change", Planted::OldRuleDuringChange, CHANGE) },
    planted("new-rule-at-once", Planted::NewRuleAtOnce, CHANGE),
    planted("no-proof", Planted::NoProof, CHANGE),
    planted("proof-without-walsenders", Planted::ProofWithoutWalsenders, CHANGE),
    planted("proof-without-flush", Planted::ProofWithoutFlush, CHANGE),
    planted("proof-of-marker-only", Planted::ProofOfMarkerOnly, CHANGE),
    Size { proven: true, cohorts: Cohorts::Any, ..planted("proof-of-older-epoch", Planted::ProofOfOlderEpoch, TWO) },
    Size {
        before: UNHEARD,
        ..planted("timeline-reused", Planted::TimelineReused, Budget { writes: 1, crashes: 1, elections: 3, ..NONE })
    },
    Size { doors: true, ..planted("restart-opens-at-once", Planted::RestartOpensAtOnce, Budget { crashes: 1, ..TWO }) },
    Size { heals: true, ..planted("proof-unreported", Planted::ProofUnreported, ONE) },
];
