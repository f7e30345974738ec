//! The Raft node: openraft over gRPC on the Raft store, behind a handle that shows none of it.
//!
//! What lives here: starting and stopping the node, proposals, confirmation of leadership, who leads, who is in the
//! group, and the transport between voters. What never does: what a proposal means, and anything of PostgreSQL.
//!
//! ```text
//!   controller, agent, faces ──► Consensus ──► openraft ──► raft-store
//!                                                 │  ▲
//!                            network (outgoing) ◄─┘  └── service (incoming)
//!                                    both through `wire`, which decides whom to believe
//! ```
//!
//! A dead peer makes openraft log a warning with every heartbeat. The process should therefore run with
//! [`LOG_FILTER`] added to its log filter; what matters is in [`Metrics`].

mod confirm;
mod error;
pub mod grid;
mod handle;
mod leadership;
mod membership;
mod metrics;
mod network;
mod node;
mod options;
mod pace;
mod pipe;
mod service;
mod trust;
mod wire;

pub use error::{KnownLeader, MembershipError, NotLeader, ProposeError, StartError};
pub use handle::Consensus;
pub use leadership::{LeaderTerm, Leadership};
pub use membership::Bootstrap;
pub use metrics::{Follower, Metrics};
pub use node::Node;
pub use options::{Options, RaftTimings};
pub use pgvigil_raft_store::{AppliedState, Counters};
pub use service::{Incoming, RaftService};

/// For the process's log filter: openraft warns at every heartbeat to a node that is down.
pub const LOG_FILTER: &str = "openraft=error";
