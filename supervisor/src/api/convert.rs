//! Between the status document and the wire, both ways.

use crate::view::{
    ClusterWord, EventDocument, IncidentDocument, MemberDocument, PhaseDocument, Role, RpoDocument, RuleDocument,
    StatusDocument,
};
use pgvigil_core::member::Tier;
use pgvigil_proto::v1;
use serde::{Serialize, de::DeserializeOwned};

/// A value of a closed set as its stable word.
pub(crate) fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

/// The value of a word; the default for a word of a newer server.
fn value<T: DeserializeOwned + Default>(word: &str) -> T {
    serde_json::from_value(serde_json::Value::String(word.to_owned())).unwrap_or_default()
}

macro_rules! both_ways {
    ($document:ident, $wire:ident { $($same:ident),* } $(words { $($word:ident: $kind:ty),* })? $(lists { $($list:ident),* })? $(casts { $($cast:ident: $ours:ty, $theirs:ty),* })?) => {
        impl From<$document> for v1::$wire {
            fn from(document: $document) -> Self {
                Self {
                    $($same: document.$same,)*
                    $($($word: word(&document.$word),)*)?
                    $($($list: document.$list.into_iter().map(Into::into).collect(),)*)?
                    $($($cast: <$theirs>::from(document.$cast),)*)?
                }
            }
        }

        impl From<v1::$wire> for $document {
            fn from(wire: v1::$wire) -> Self {
                Self {
                    $($same: wire.$same,)*
                    $($($word: value::<$kind>(&wire.$word),)*)?
                    $($($list: wire.$list.into_iter().map(Into::into).collect(),)*)?
                    $($($cast: <$ours>::try_from(wire.$cast).unwrap_or_default(),)*)?
                }
            }
        }
    };
}

both_ways!(PhaseDocument, Phase { name, at_ms, after_ms });
both_ways!(EventDocument, Event { at_ms, kind, about, text });
both_ways!(RpoDocument, Rpo { zero, why_not, writable, not_writable });
both_ways!(RuleDocument, RuleStatus { epoch, version, k, cohort, open_rules, change });
both_ways!(IncidentDocument, Incident {
    number, kind, reason, evidence, by, from, to, notes, possible_data_loss, outcome, to_open_ms, loss,
    request_revision
} lists { phases });
both_ways!(MemberDocument, MemberStatus {
    name, priority, host, node, incarnation, state, timeline, flush_lsn, flush_lag_bytes, replay_lag_bytes, in_rule,
    may_take_over, may_not_because, silent_ms, reinit_requested, restart_request, restarted, leaving, problems, activity,
    encrypted
} words { tier: Tier, role: Role } casts { port: u16, u32 });

impl From<StatusDocument> for v1::Status {
    fn from(document: StatusDocument) -> Self {
        Self {
            cluster: document.cluster,
            at_ms: document.at_ms,
            node: document.node,
            from_leader: document.from_leader,
            leader: document.leader,
            revision: document.revision,
            epoch: document.epoch,
            timeline: document.timeline,
            primary: document.primary,
            state: word(&document.state),
            waits_for: document.waits_for,
            paused: document.paused,
            members: document.members.into_iter().map(Into::into).collect(),
            rule: document.rule.map(Into::into),
            rpo: Some(document.rpo.into()),
            request: document.request,
            request_revision: document.request_revision,
            dropped_revision: document.dropped_revision,
            dropped_because: document.dropped_because,
            unfenced: document.unfenced,
            findings: document.findings,
            incidents: document.incidents.into_iter().map(Into::into).collect(),
            system_identifier: document.system_identifier,
            incident_count: document.incident_count,
        }
    }
}

impl From<v1::Status> for StatusDocument {
    fn from(wire: v1::Status) -> Self {
        Self {
            cluster: wire.cluster,
            at_ms: wire.at_ms,
            node: wire.node,
            from_leader: wire.from_leader,
            leader: wire.leader,
            revision: wire.revision,
            epoch: wire.epoch,
            timeline: wire.timeline,
            primary: wire.primary,
            state: serde_json::from_value(serde_json::Value::String(wire.state)).unwrap_or(ClusterWord::Unknown),
            waits_for: wire.waits_for,
            paused: wire.paused,
            members: wire.members.into_iter().map(Into::into).collect(),
            rule: wire.rule.map(Into::into),
            rpo: wire.rpo.map(Into::into).unwrap_or_default(),
            request: wire.request,
            request_revision: wire.request_revision,
            dropped_revision: wire.dropped_revision,
            dropped_because: wire.dropped_because,
            unfenced: wire.unfenced,
            findings: wire.findings,
            incidents: wire.incidents.into_iter().map(Into::into).collect(),
            system_identifier: wire.system_identifier,
            incident_count: wire.incident_count,
        }
    }
}
