//! What a run was and what came of it: the record, and its forms for people and programs.

mod record;

pub use record::{
    Bar, EpochSpan, FaultSpan, GapRecord, IncidentPhase, IncidentRecord, Rate, RoleSpan, RunRecord, SpanRole,
};
