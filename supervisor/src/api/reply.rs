//! From what the node answers to what gRPC carries: refusals inside replies, failures as statuses.

use super::{BackendError, LEADER_METADATA, convert::word};
use pgvigil_core::{command::Refusal, id::NodeId};
use pgvigil_proto::v1;
use tonic::{Code, Status, metadata::MetadataValue};

pub(super) fn refusal(refusal: &Refusal) -> v1::Refusal {
    v1::Refusal { code: word(&refusal.code), text: refusal.text.clone() }
}

/// Only the leader answers: whom to ask instead, as a status.
pub(super) fn not_leader(leader: Option<(NodeId, String)>) -> Status {
    let Some((node, address)) = leader else {
        return Status::new(
            Code::Unavailable,
            "no Raft leader is known at the moment; an election takes a second or less",
        );
    };
    let mut status =
        Status::new(Code::FailedPrecondition, format!("this node does not lead; node {node} at {address} does"));
    if let Ok(value) = MetadataValue::try_from(address.as_str()) {
        status.metadata_mut().insert(LEADER_METADATA, value);
    }
    status
}

pub(super) fn failure(error: BackendError) -> Status {
    match error {
        BackendError::NotLeader { leader } => not_leader(leader),
        BackendError::Unavailable(text) => Status::unavailable(text),
        // Callers that can carry a refusal look for it first.
        BackendError::Refused { code, text } => Status::failed_precondition(format!("{code}: {text}")),
    }
}
