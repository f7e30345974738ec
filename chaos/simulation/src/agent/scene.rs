//! What can be seen around a simulated data directory: there is always room, and nobody else is there.

use super::shared::Ctx;
use pgvigil_agent::tasks::scene::Around;

impl Around for Ctx {
    async fn room(&self) -> Option<(u8, u8)> {
        Some((2, 2))
    }

    fn is_port_taken(&self) -> bool {
        false
    }

    async fn files(&self) -> Option<u64> {
        Some(0)
    }
}
