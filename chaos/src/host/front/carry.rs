//! Connections through fronts, and the gates that they wait at.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use super::Hosts;
use crate::host::links::{End, Link, Service, Troubles};

/// What all connections look at before they let anything pass.
#[derive(Debug, Default)]
pub(super) struct Gates {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    troubles: Troubles,
    hosts: Hosts,
    connections: Vec<Weak<Connection>>,
}

/// One connection.
#[derive(Debug)]
struct Connection {
    client: TcpStream,
    to: End,
    service: Service,
    closed: AtomicBool,
    /// The second half, once there is one.
    server: Mutex<Option<TcpStream>>,
}

impl Gates {
    /// Nobody who panicked can have left half a change: each is one call.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder of a host.
    pub(super) fn host(&self, id: u64, dir: PathBuf) {
        self.state().hosts.insert(id, dir);
    }

    /// The folders of all hosts.
    pub(super) fn hosts(&self) -> Hosts {
        self.state().hosts.clone()
    }

    /// Whether a link to that host, or from it, is cut.
    pub(super) fn is_cut_off(&self, host: End) -> bool {
        self.state().troubles.all().any(|(link, _)| link.from == host || link.to == host)
    }

    /// Changes the troubles, and tells every connection.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Troubles) -> T) -> T {
        let result = change(&mut self.state().troubles);
        self.changed.notify_all();
        result
    }

    /// Ends every connection.
    pub(super) fn close(&self) {
        self.close_those(|_| true);
    }

    /// Ends every connection to that host.
    pub(super) fn close_of(&self, host: End) {
        self.close_those(|connection| connection.to == host);
    }

    fn close_those(&self, which: impl Fn(&Connection) -> bool) {
        let state = self.state();
        for connection in state.connections.iter().filter_map(Weak::upgrade).filter(|c| which(c)) {
            connection.close();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Carries a connection of `client`, who is `from`, to its end.
    pub(super) fn carry(&self, client: TcpStream, from: End, to: End, service: Service, server: SocketAddr) {
        let closed = AtomicBool::new(false);
        let connection = Arc::new(Connection { client, to, service, closed, server: Mutex::default() });
        let mut state = self.state();
        state.connections.retain(|other| other.strong_count() > 0);
        state.connections.push(Arc::downgrade(&connection));
        drop(state);
        // A connection is made by packets both ways.
        let (there, back) = (Link { from, to }, Link { from: to, to: from });
        if !self.pass(&connection, &[there, back]) {
            return;
        }
        let Ok(server) = connection.connect(server) else { return connection.close() };
        std::thread::scope(|scope| {
            scope.spawn(|| self.one_way(&connection, &connection.client, &server, there));
            self.one_way(&connection, &server, &connection.client, back);
        });
    }

    /// Waits until none of the links is cut; `false`: the connection has been closed.
    fn pass(&self, connection: &Connection, links: &[Link]) -> bool {
        let cut = |state: &mut State| {
            !connection.is_closed() && links.iter().any(|link| state.troubles.cut(*link, connection.service))
        };
        drop(self.changed.wait_while(self.state(), cut).unwrap_or_else(PoisonError::into_inner));
        !connection.is_closed()
    }

    /// Carries what comes from one socket to the other, until the first ends.
    fn one_way(&self, connection: &Connection, mut from: &TcpStream, mut to: &TcpStream, link: Link) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = match from.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read,
            };
            if !self.pass(connection, &[link]) {
                return;
            }
            match read {
                Ok(length) if length > 0 => {
                    if to.write_all(&buffer[..length]).is_err() {
                        // The receiver is gone. Its end comes back to the sender on the other way, when that is open.
                        return;
                    }
                }
                Ok(_) => {
                    // Whoever has ended already needs not be told.
                    let _gone = to.shutdown(Shutdown::Write);
                    return;
                }
                Err(_) => return connection.close(),
            }
        }
    }
}

impl Connection {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The second half.
    fn connect(&self, server: SocketAddr) -> std::io::Result<TcpStream> {
        let server = TcpStream::connect(server)?;
        server.set_nodelay(true)?;
        self.client.set_nonblocking(false)?;
        self.client.set_nodelay(true)?;
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server.try_clone()?);
        // Closed while it was made: nobody else could have closed this half.
        if self.is_closed() {
            server.shutdown(Shutdown::Both)?;
        }
        Ok(server)
    }

    /// Ends both halves.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        for half in [Some(&self.client), server.as_ref()].into_iter().flatten() {
            // Whoever has ended already needs not be told.
            let _gone = half.shutdown(Shutdown::Both);
        }
    }
}
