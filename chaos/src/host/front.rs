//! Links that can be cut where hosts are only folders: before every server stands a front, in user space.
//!
//! A node is known by an address of its front (127.77.0.N); its servers listen behind it (127.77.1.N). Everything on
//! loopback may send from one address, so whoever connects is known by its process (`whose`). While a link is cut, what
//! a connection carries, its end among it, waits in the front until the link is mended, as it would in the sender's
//! kernel; a new connection is accepted and hears nothing. There are no frames that could be lost, late or doubled.
//!
//! A front refuses connections as its server's host would: it listens while the server does, or while a link to the host is
//! cut. One that took a connection only to break it would be asked again and again: libpq goes on to the next host only
//! from one that refuses.

mod carry;
mod whose;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::carry::Gates;
use super::links::{CutId, End, Link, Service, Trouble};
use super::{HostError, Place};

/// How often a front looks whether it is to listen, or to close.
const LOOK: Duration = Duration::from_millis(50);

/// All fronts, and what is the trouble between them.
#[derive(Debug, Default)]
pub struct Fronts {
    gates: Arc<Gates>,
    open: BTreeMap<u64, Vec<Front>>,
}

/// One front. Dropping it closes it and every connection through it.
#[derive(Debug)]
struct Front {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fronts {
    /// Where the node of that id lives, and by which address it is known.
    pub fn place(id: u64) -> Place {
        assert!((1..255).contains(&id), "host {id} has no address here");
        Place {
            address: format!("127.77.0.{id}"),
            behind: Some(format!("127.77.1.{id}")),
            // All come from loopback, by way of a front.
            clients: "127.0.0.0/8".to_owned(),
            ..Place::loopback()
        }
    }

    /// Opens the front of a server of that host, whose processes are those of the folder `dir`. Returns where it listens.
    pub fn open(
        &mut self,
        host: u64,
        dir: &Path,
        service: Service,
        front: SocketAddr,
        server: SocketAddr,
    ) -> Result<SocketAddr, HostError> {
        let listener = listen(front).map_err(HostError::io(format!("opening a front at {front}")))?;
        let address = listener.local_addr().map_err(HostError::io("opening a front"))?;
        self.gates.host(host, dir.to_owned());
        let stop = Arc::new(AtomicBool::new(false));
        let (gates, stopped) = (Arc::clone(&self.gates), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            attend(listener, address, &gates, End::Host(host), service, server, &stopped);
        });
        self.open.entry(host).or_default().push(Front { address, stop, thread: Some(thread) });
        Ok(address)
    }

    /// Closes the fronts of that host.
    pub fn remove_host(&mut self, host: u64) {
        self.open.remove(&host);
    }

    /// From now on there is trouble on these links; `None` if there cannot be such trouble here.
    pub fn trouble(&mut self, links: &[Link], trouble: Trouble) -> Option<CutId> {
        match trouble {
            Trouble::Cut | Trouble::CutService(_) => Some(self.gates.change(|troubles| troubles.add(links, trouble))),
            Trouble::Loss(_) => None,
        }
    }

    /// That trouble is over.
    pub fn mend(&mut self, id: CutId) {
        self.gates.change(|troubles| troubles.end(id));
    }
}

impl Drop for Fronts {
    fn drop(&mut self) {
        self.open.clear();
        self.gates.close();
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("the front at {} had ended by a panic", self.address);
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Takes connections until it is told to stop; each is carried by threads of its own.
fn attend(
    first: TcpListener,
    address: SocketAddr,
    gates: &Arc<Gates>,
    host: End,
    service: Service,
    server: SocketAddr,
    stop: &AtomicBool,
) {
    let patience = PollTimeout::try_from(LOOK).expect("it is short");
    let mut listener = Some(first);
    while !stop.load(Ordering::Acquire) {
        if !gates.is_cut_off(host) && !whose::listens(server) {
            listener = None;
            std::thread::sleep(LOOK);
            continue;
        }
        if listener.is_none() {
            // Tried again at the next look; the address is nobody else's for long.
            listener = listen(address).ok();
        }
        let Some(listener) = &listener else {
            std::thread::sleep(LOOK);
            continue;
        };
        // An interrupted or failed wait is followed by another look.
        let _ready = poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], patience);
        while let Ok((client, from)) = listener.accept() {
            let gates = Arc::clone(gates);
            let Ok(here) = client.local_addr() else { continue };
            std::thread::spawn(move || {
                // Whoever has gone already gets nothing.
                if let Some(peer) = whose::of(from, here, &gates.hosts()) {
                    gates.carry(client, peer, host, service, server);
                }
            });
        }
    }
    gates.close_of(host);
}

/// The folders of hosts, by node.
type Hosts = BTreeMap<u64, PathBuf>;

#[cfg(test)]
mod front_test;
