//! What must change for an act that failed to be promising again. It is looked at only while something is held back, and
//! apart from the worker: a disk that hangs delays this and no fence.

use super::shared::Shared;
use crate::clock;
use nix::sys::statvfs::statvfs;
use pgvigil_agent::scene::Scene;
use pgvigil_consensus::grid;
use pgvigil_core::worker::Orders;
use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpSocket, time::Instant};

/// Between two looks while something is held back.
const PACE: Duration = Duration::from_millis(500);
/// The same in quiet times, when only the room that is left is looked at.
const IDLE: Duration = Duration::from_secs(2);
/// A file that is larger is looked at by its size and times only.
const CONTENT_MAX: u64 = 256 << 10;

/// Looks at the room that is left, and at all the rest while something is held back.
pub fn start(shared: Arc<Shared>) {
    tokio::spawn(async move {
        loop {
            let pause = if shared.lock().worker.brake.is_holding() { PACE } else { IDLE };
            tokio::time::sleep_until(grid::nearest(Instant::now() + pause, pause)).await;
            let data = shared.layout.data_dir.clone();
            let Ok(room) = tokio::task::spawn_blocking(move || room(&data)).await else { continue };
            note_room(&shared, room);
            if waits(&shared) {
                look(&shared, room).await;
            }
        }
    });
}

/// Whether an act waits for its next try, and none is under way: that would write files itself.
fn waits(shared: &Shared) -> bool {
    let inner = shared.lock();
    inner.worker.brake.is_holding() && !inner.local.busy
}

async fn look(shared: &Arc<Shared>, room: (u8, u8)) {
    let orders = shared.agreed().map(|agreed| Orders::of(&agreed, shared.me()));
    let port_taken = shared.server().postmaster.is_none() && is_taken(shared.config.port);
    let data = shared.layout.data_dir.clone();
    let Ok(files) = tokio::task::spawn_blocking(move || files(&data)).await else { return };
    if waits(shared) && shared.lock().worker.brake.look(Scene { files, room, port_taken, orders }, clock::now()) {
        tracing::info!(member = %shared.me(), "something has changed: what failed is tried again at once");
        shared.work.notify_one();
    }
}

/// Told when there is next to nothing left, and until there is enough again.
fn note_room(shared: &Shared, room: (u8, u8)) {
    let least = room.0.min(room.1);
    let full = {
        let mut inner = shared.lock();
        inner.disk_full = least == 0 || (inner.disk_full && least == 1);
        inner.disk_full
    };
    let where_to = if room.1 < room.0 { "pg_wal" } else { "its data directory" };
    shared
        .problem("disk", full.then(|| format!("the file system of {where_to} is full or nearly so: make room there")));
}

/// Whether the port cannot be bound. Nobody can connect to a socket that does not listen.
fn is_taken(port: u16) -> bool {
    let bound = |address: SocketAddr| {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)
    };
    bound(SocketAddr::from(([127, 0, 0, 1], port))).is_err()
}

/// 0: none to speak of; 1: too little for comfort; 2: enough.
fn room(data: &Path) -> (u8, u8) {
    let of = |dir: PathBuf| {
        let free = statvfs(&dir).map_or(0, |found| found.blocks_available() * found.fragment_size());
        match free >> 20 {
            0..16 => 0,
            16..64 => 1,
            _ => 2,
        }
    };
    (of(data.to_owned()), of(data.join("pg_wal")))
}

/// Files that this program writes itself are left out.
fn files(data: &Path) -> u64 {
    const OURS: [&str; 2] = ["pg_hba.conf", "pgvigil.conf"];
    let mut hasher = DefaultHasher::new();
    for path in ["", "pg_wal", "global/pg_control", "backup_label", "recovery.signal", "server.crt", "server.key"] {
        stat(&data.join(path), path != "global/pg_control", &mut hasher);
    }
    // PostgreSQL makes and removes it itself; what is left of one in its way is another matter.
    fs::metadata(data.join("postmaster.pid")).map(|found| found.len()).ok().hash(&mut hasher);
    for dir in [data.to_owned(), data.join("conf.d"), data.join("pg_tblspc")] {
        let mut paths: Vec<PathBuf> = fs::read_dir(&dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
        paths.sort();
        let conf = |path: &Path| path.extension().is_some_and(|extension| extension == "conf");
        let ours = |path: &Path| path.file_name().is_some_and(|name| OURS.iter().any(|ours| name == *ours));
        for path in paths.iter().filter(|path| !ours(path) && (conf(path) || dir.ends_with("pg_tblspc"))) {
            stat(path, false, &mut hasher);
            if fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() <= CONTENT_MAX) {
                fs::read(path).ok().hash(&mut hasher);
            }
        }
    }
    hasher.finish()
}

/// Who and what it is; with `size` how large a file is.
fn stat(path: &Path, size: bool, hasher: &mut DefaultHasher) {
    path.hash(hasher);
    let Ok(found) = fs::metadata(path) else { return };
    (found.mode(), found.uid(), found.gid()).hash(hasher);
    if size && found.is_file() {
        found.len().hash(hasher);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a person does to make a start possible is seen; what the agent writes at every try is not.
    #[test]
    fn a_change_by_hand_is_seen_and_our_own_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path();
        let write = |name: &str, text: &str| fs::write(data.join(name), text).expect("written");
        write("postgresql.conf", "shared_buffers = 1TB");
        write("pgvigil.conf", "port = 1");
        let before = files(data);
        write("pgvigil.conf", "port = 2");
        write("pg_hba.conf", "local all all trust");
        assert_eq!(files(data), before);
        write("postgresql.conf", "shared_buffers = 1GB");
        let mended = files(data);
        assert_ne!(mended, before);
        write("postmaster.pid", "");
        assert_ne!(files(data), mended);
    }

    #[tokio::test]
    async fn a_port_that_somebody_has_is_seen() {
        let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = held.local_addr().expect("an address").port();
        assert!(is_taken(port));
        drop(held);
        assert!(!is_taken(port));
    }
}
