//! The names and numbers that everything else is keyed by: ordered newtypes, nothing more.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl $name {
            /// The number after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
    };
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    };
}

number! {
    /// A pgvigil process in the Raft group. Raft's node id, never used for anything of PostgreSQL.
    NodeId(u64)
}
number! {
    /// The number of a reign. Every appointment of a primary takes the next one; it is the fencing token.
    Epoch(u64)
}
number! {
    /// Which data directory a member's name stands for: new whenever the directory is made anew.
    /// Allotted by `apply`, never reused within a cluster.
    Incarnation(u64)
}
number! {
    /// Count of changes applied to one cluster's state. A command names the revision on which it was based.
    Revision(u64)
}
number! {
    /// PostgreSQL's timeline id.
    TimelineId(u32)
}
number! {
    /// Orders the durability rules of one epoch.
    RuleVersion(u64)
}

name! {
    /// A cluster: the members that replicate from one primary.
    ClusterId
}
name! {
    /// A member: one PostgreSQL data directory and the agent beside it. Unique within its cluster.
    MemberId
}

/// One incarnation of one member: the identity that a durability rule counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberKey {
    /// The member's name.
    pub member: MemberId,
    /// Which of its data directories.
    pub incarnation: Incarnation,
}

impl MemberKey {
    /// The key of `member` in `incarnation`.
    #[must_use]
    pub const fn new(member: MemberId, incarnation: Incarnation) -> Self {
        Self { member, incarnation }
    }

    /// The name under which this incarnation's walreceiver connects during `epoch`, and which
    /// `synchronous_standby_names` lists. A name of one reign never counts in another
    /// (history A6: a diverged member acknowledges by number).
    ///
    /// `named` counts the names that were given up because somebody else used them; the first is 0.
    #[must_use]
    pub fn sync_name(&self, epoch: Epoch, named: u64) -> String {
        let first = format!("pgvigil_{}_i{}_e{}", self.member, self.incarnation, epoch);
        if named == 0 { first } else { format!("{first}_n{named}") }
    }
}

impl fmt::Display for MemberKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.member, self.incarnation)
    }
}
