//! Generated code for pgvigil's gRPC services, and nothing else but conversions between wire and core.

/// Version 1 of every service and message.
pub mod v1 {
    #![allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
    tonic::include_proto!("pgvigil.v1");
}

/// Descriptors of every service and message, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
