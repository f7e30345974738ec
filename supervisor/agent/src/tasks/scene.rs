//! What must change for an act that failed to be promising again. It is looked at only while something is held back, and
//! apart from the worker: a disk that hangs delays this and no fence.

use super::Tasks;
use crate::{ports::Wake, scene::Scene};
use pgvigil_core::worker::Orders;

/// Between two looks while something is held back, in milliseconds.
const PACE_MS: u64 = 500;
/// The same in quiet times, when only the room that is left is looked at.
const IDLE_MS: u64 = 2_000;

/// What can be seen around the data directory.
#[expect(async_fn_in_trait, reason = "as for the ports of acts")]
pub trait Around {
    /// The room that is left for data and for WAL. 0: none to speak of; 1: too little for comfort; 2: enough. `None`: not
    /// known.
    async fn room(&self) -> Option<(u8, u8)>;
    /// Whether PostgreSQL's port is somebody else's.
    fn is_port_taken(&self) -> bool;
    /// Changes when files change that decide whether PostgreSQL starts. `None`: not known.
    async fn files(&self) -> Option<u64>;
}

/// Looks at the room that is left, and at all the rest while something is held back.
pub async fn run<M: Tasks>(m: &M, around: impl Around) {
    loop {
        let pause = if m.known().worker.brake.is_holding() { PACE_MS } else { IDLE_MS };
        m.until(m.about(pause)).await;
        let Some(room) = around.room().await else { continue };
        note_room(m, room);
        if waits(m) {
            look(m, &around, room).await;
        }
    }
}

/// Whether an act waits for its next try, and none is under way: that would write files itself.
fn waits<M: Tasks>(m: &M) -> bool {
    let known = m.known();
    known.worker.brake.is_holding() && !known.local.busy
}

async fn look<M: Tasks>(m: &M, around: &impl Around, room: (u8, u8)) {
    let orders = m.agreed().map(|agreed| Orders::of(&agreed, m.me()));
    let port_taken = m.known().server.is_none() && around.is_port_taken();
    let Some(files) = around.files().await else { return };
    let now = m.now();
    if waits(m) && m.known().worker.brake.look(Scene { files, room, port_taken, orders }, now) {
        tracing::info!(member = %m.me(), "something has changed: what failed is tried again at once");
        m.wake(Wake::Worker);
    }
}

/// Told when there is next to nothing left, and until there is enough again.
fn note_room<M: Tasks>(m: &M, room: (u8, u8)) {
    let least = room.0.min(room.1);
    let full = {
        let mut known = m.known();
        known.disk_full = least == 0 || (known.disk_full && least == 1);
        known.disk_full
    };
    let where_to = if room.1 < room.0 { "pg_wal" } else { "its data directory" };
    m.problem("disk", full.then(|| format!("the file system of {where_to} is full or nearly so: make room there")));
}
