//! The acts: control of one PostgreSQL data directory, versions 14 to 18.
//!
//! This crate knows no Raft and no reasons. The agent decides what is to be done; here it is done, durably and in the
//! order that the safety argument needs (`protocol-review.md` names the histories behind each order), and reported
//! with what PostgreSQL really did. Nothing needs root: this runs as the operating-system user that owns the data
//! directory, like PostgreSQL itself.

pub mod admin;
pub mod backup_label;
pub mod canary;
pub mod cgroup;
pub mod clients;
pub mod clock;
pub mod clone;
pub mod conf_files;
pub mod conf_text;
pub mod config;
pub mod control_file;
pub mod datadir;
pub mod diverged;
pub mod drift;
pub mod evidence;
pub mod fault;
pub mod fsio;
pub mod guard;
pub mod guard_client;
mod guard_watchdog;
pub mod handshake;
pub mod hba;
pub mod history_files;
pub mod in_force;
pub mod instance;
pub mod kill;
pub mod layout;
pub mod libpq;
pub mod link;
pub mod lock;
pub mod position;
pub mod process;
pub mod procfs;
mod reserved;
pub mod rewind;
pub mod role;
pub mod sample;
pub mod seal;
pub mod settings;
pub mod source;
pub mod stale_locks;
pub mod stopped;
pub mod tcp;
pub mod tool;
pub mod user_conf;
pub mod version;
pub mod wal;
mod wal_record;
pub mod walsender;
pub mod ways;

pub use canary::{Beat, Canary, CanaryError};
pub use clock::boottime_ms;
pub use config::MemberConfig;
pub use control_file::{ClusterState, ControlFile};
pub use guard::{GuardConfig, GuardError, run_guard};
pub use guard_client::{GuardClient, GuardClientError};
pub use instance::{Instance, InstanceError, Promoted, StartAs};
pub use layout::Layout;
pub use link::{Endpoint, Link, QueryError};
pub use lock::DirLock;
pub use position::DiskPosition;
pub use process::{Postmaster, StopMode};
pub use sample::{Sample, SlowSample, Walsender};
pub use seal::{SealLimits, Sealed, SealedServer, seal};
pub use settings::{RecoveryTimeline, Settings, SyncRule, Upstream};
pub use source::Source;
pub use version::{Binaries, Version};
pub use wal::{Start, WalEnd, WalError, WalFormat, end_of_wal};
