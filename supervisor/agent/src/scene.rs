//! What must change for an act that failed to be promising again.

use pgvigil_core::worker::Orders;

/// See the module. Only compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scene {
    /// The files that people write and PostgreSQL needs to start, and who may read them.
    pub files: u64,
    /// How much room there is for data and for WAL, in coarse steps: an act writes files itself.
    pub room: (u8, u8),
    /// Whether somebody else has PostgreSQL's port.
    pub port_taken: bool,
    /// What operators asked for and set.
    pub orders: Option<Orders>,
}
