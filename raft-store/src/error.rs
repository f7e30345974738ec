//! What can go wrong with the store. Every variant says which thing, and where an operator can act, how.

use std::io;
use std::path::PathBuf;

/// A failure of the Raft store. None of these may be answered by carrying on: the caller fences and exits.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// RocksDB refused to open the database.
    #[error(
        "raft store {}: cannot open the database. If files of it are damaged or gone, this node may have promised what it \
         no longer knows: remove it from the group and add it under a new node id with an empty directory",
        path.display()
    )]
    Open {
        /// The store's directory.
        path: PathBuf,
        /// RocksDB's reason.
        #[source]
        source: rocksdb::Error,
    },
    /// A file of ours beside the database could not be read or written.
    #[error("raft store: cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The store was written by a newer program.
    #[error(
        "raft store {}: format {found}, but this program supports up to {supported}: a newer pgvigil wrote it. Run that \
         version again, or remove this node from the group and add it under a new node id with an empty directory",
        path.display()
    )]
    NewerFormat {
        /// The store's directory.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format understood here.
        supported: u32,
    },
    /// The store belongs to another node.
    #[error("raft store {}: belongs to node {found}, this process is node {wanted}", path.display())]
    OtherNode {
        /// The store's directory.
        path: PathBuf,
        /// Whose store it is.
        found: u64,
        /// Who tried to open it.
        wanted: u64,
    },
    /// A stored value cannot be trusted.
    #[error(
        "raft store: damaged value under {key}: {reason}. This node may have promised what it no longer knows, so it must \
         not vote: remove it from the group and add it under a new node id with an empty directory"
    )]
    Damaged {
        /// Column family and key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something that this node reported as durable is no longer there.
    #[error(
        "raft store: incomplete: {reason}. This node may have promised what it no longer knows, so it must not vote: \
         remove it from the group and add it under a new node id with an empty directory"
    )]
    Incomplete {
        /// What says so, and what is missing.
        reason: String,
    },
    /// A value has no JSON form; a bug, such as a map whose keys are neither text nor numbers.
    #[error("raft store: cannot encode the value for {key}")]
    Unencodable {
        /// Column family and key.
        key: String,
        /// serde's reason.
        #[source]
        source: serde_json::Error,
    },
    /// RocksDB failed at run time.
    #[error("raft store: cannot {action}")]
    Database {
        /// What was tried.
        action: &'static str,
        /// RocksDB's reason.
        #[source]
        source: rocksdb::Error,
    },
    /// An earlier failure made the store unusable: after a failed flush nobody knows what is on disk.
    #[error("raft store: unusable since an earlier failure: {0}")]
    Failed(String),
    /// The caller broke a rule of the log.
    #[error("raft store: refused: {0}")]
    Refused(String),
}

impl StoreError {
    /// The error and all its causes on one line, for messages that cross openraft or the network.
    #[must_use]
    pub fn full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(next) = cause {
            text.push_str(": ");
            text.push_str(&next.to_string());
            cause = next.source();
        }
        text
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        // openraft keeps only the outermost text of an error.
        Self::other(error.full())
    }
}
