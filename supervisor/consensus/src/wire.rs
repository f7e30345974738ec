//! openraft's messages as bytes on the wire, and whom to believe.
//!
//! Every message names its sender, the sender's store, its receiver and the group. All four are checked before
//! anything in it counts: an address that was taken over by another node would otherwise vote twice, and a node that
//! lost its store would vote against its own promises.

use crate::trust::{NotMine, Trust};
use bytes::Bytes;
use pgvigil_proto::v1::RaftPayload;
use pgvigil_raft_store::{Digest, Digests, PeerError};
use serde::{Serialize, de::DeserializeOwned};
use std::sync::Arc;
use tonic::Status;

/// The encoding of message bodies: JSON. The only one so far.
const FORMAT: u32 = 1;

/// Why a message is not believed, or could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("message format {found}, this program knows {FORMAT}: the other node runs a newer version")]
    Format { found: u32 },
    #[error("meant for group {theirs:?}, this is {ours:?}")]
    Group { theirs: String, ours: String },
    #[error("meant for node {meant}, this is node {here}: an address points to the wrong node")]
    WrongReceiver { meant: u64, here: u64 },
    #[error("answered by node {found} instead of node {expected}: an address points to the wrong node")]
    WrongSender { found: u64, expected: u64 },
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    NotMine(#[from] NotMine),
    #[error("undecodable message: {0}")]
    Undecodable(serde_json::Error),
    #[error("unencodable message: {0}")]
    Unencodable(serde_json::Error),
}

impl From<WireError> for Status {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Undecodable(_) => Self::invalid_argument(error.to_string()),
            WireError::Unencodable(_) => Self::internal(error.to_string()),
            WireError::NotMine(refusal) => refusal.into_status(),
            _ => Self::failed_precondition(error.to_string()),
        }
    }
}

/// This node's end of every conversation.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) node: u64,
    pub(crate) store: u64,
    pub(crate) group: Arc<str>,
    pub(crate) trust: Trust,
    pub(crate) digests: Digests,
    /// See [`Digests::kind`].
    pub(crate) digest_kind: u32,
}

impl Wire {
    /// Puts a message to `to` into its envelope.
    pub(crate) fn wrap<T: Serialize>(&self, to: u64, message: &T) -> Result<RaftPayload, WireError> {
        let body = serde_json::to_vec(message).map_err(WireError::Unencodable)?;
        let applied = self.digests.newest().unwrap_or_default();
        Ok(RaftPayload {
            format: FORMAT,
            from: self.node,
            to,
            store: self.store,
            group: self.group.as_ref().to_owned(),
            body: Bytes::from(body),
            applied_index: applied.index,
            applied_digest: applied.value,
            digest_kind: self.digest_kind,
            to_store: self.trust.known(to).unwrap_or(0),
        })
    }

    /// Checks the envelope and takes the message out; also returns who sent it.
    pub(crate) async fn unwrap<T: DeserializeOwned>(&self, payload: &RaftPayload) -> Result<(u64, T), WireError> {
        self.check(payload, false).await?;
        let message = serde_json::from_slice(&payload.body).map_err(WireError::Undecodable)?;
        Ok((payload.from, message))
    }

    /// As [`Self::unwrap`], for an answer that must come from `from`.
    pub(crate) async fn unwrap_from<T: DeserializeOwned>(
        &self,
        from: u64,
        payload: &RaftPayload,
    ) -> Result<T, WireError> {
        if payload.from != from {
            return Err(WireError::WrongSender { found: payload.from, expected: from });
        }
        self.unwrap(payload).await.map(|(_, message)| message)
    }

    /// Checks the envelope only. `asking`: nothing is done with the message but to answer who this is.
    pub(crate) async fn check(&self, payload: &RaftPayload, asking: bool) -> Result<(), WireError> {
        if payload.format != FORMAT {
            return Err(WireError::Format { found: payload.format });
        }
        if payload.group != *self.group {
            return Err(WireError::Group { theirs: payload.group.clone(), ours: self.group.as_ref().to_owned() });
        }
        if payload.to != self.node {
            return Err(WireError::WrongReceiver { meant: payload.to, here: self.node });
        }
        self.trust.meet(payload.from, payload.store).await?;
        self.trust.is_called(payload.from, payload.to_store, asking)?;
        if payload.applied_index > 0 && payload.digest_kind == self.digest_kind {
            // A difference is said and kept; the message counts all the same, for nobody knows which side is wrong.
            let theirs = Digest { index: payload.applied_index, value: payload.applied_digest };
            let _said = self.digests.compare(payload.from, theirs);
        }
        Ok(())
    }
}
