//! What can be seen around the data directory.

use super::here::Here;
use nix::sys::statvfs::statvfs;
use pgvigil_agent::tasks::scene::{self, Around};
use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use tokio::net::TcpSocket;

/// A file that is larger is looked at by its size and times only.
const CONTENT_MAX: u64 = 256 << 10;

/// Starts the task.
pub fn start(here: Here) {
    let around = here.clone();
    tokio::spawn(async move { scene::run(&here, around).await });
}

impl Around for Here {
    async fn room(&self) -> Option<(u8, u8)> {
        let data = self.layout.data_dir.clone();
        tokio::task::spawn_blocking(move || room(&data)).await.ok()
    }

    fn is_port_taken(&self) -> bool {
        is_taken(self.config.port)
    }

    async fn files(&self) -> Option<u64> {
        let data = self.layout.data_dir.clone();
        tokio::task::spawn_blocking(move || files(&data)).await.ok()
    }
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
