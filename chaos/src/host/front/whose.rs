//! Who has connected: the process at the other end of a connection on this machine.

use std::fs;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use super::Hosts;
use crate::host::links::End;
use crate::processes;

/// How often a connection is looked for, and how long after the look before. The kernel's table is read in pieces, and
/// lines can be missed while others come and go.
const LOOKS: usize = 40;
const PAUSE: Duration = Duration::from_millis(25);

/// The end whose process made the connection from `address` to `front`; `None`: it has gone already. Whatever is neither
/// a host's nor the clients' is the operator's.
pub(super) fn of(address: SocketAddr, front: SocketAddr, hosts: &Hosts) -> Option<End> {
    let pid = (0..LOOKS).find_map(|look| {
        if look > 0 {
            sleep(PAUSE);
        }
        match socket(address, front)? {
            // Nobody has it open any more.
            0 => Some(None),
            socket => holder(socket).map(Some),
        }
    })??;
    let in_host = |dir| processes::of_host(dir).iter().any(|process| process.pid == pid);
    if let Some((id, _)) = hosts.iter().find(|(_, dir)| in_host(dir)) {
        return Some(End::Host(*id));
    }
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = command.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    // The process that `workload` starts for them.
    let clients = program.ends_with(b"pgvigil-chaos") && words.next() == Some(b"load".as_slice());
    Some(if clients { End::Clients } else { End::Operator })
}

/// The number of the socket of that connection. One port of ours may have connections to several others.
fn socket(from: SocketAddr, to: SocketAddr) -> Option<u64> {
    let (from, to) = (hexadecimal(from)?, hexadecimal(to)?);
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let this = fields.next()? == from && fields.next()? == to;
        // After the addresses: state, queues, timer, retransmissions, user, timeout, inode.
        this.then(|| fields.nth(6)?.parse().ok()).flatten()
    })
}

/// Whether a server listens at that address.
pub(super) fn listens(address: SocketAddr) -> bool {
    let Some(here) = hexadecimal(address) else { return false };
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    // The kernel lists those that listen first; 0A is their state.
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some(&here) && fields.nth(1) == Some("0A")
    })
}

/// As the kernel's table writes it.
fn hexadecimal(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port()))
}

/// A process that has that socket open.
fn holder(socket: u64) -> Option<i32> {
    let wanted = format!("socket:[{socket}]");
    let holds = |pid: &i32| {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str()))
    };
    processes::all().into_iter().map(|process| process.pid).find(holds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, sockopt};
    use std::net::TcpListener;
    use std::os::fd::{AsRawFd, OwnedFd};

    /// A socket bound to that port, shared with others that are bound like this.
    fn bound(port: u16) -> OwnedFd {
        let made = nix::sys::socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
        let made = made.expect("a socket");
        setsockopt(&made, sockopt::ReuseAddr, &true).expect("an option");
        bind(made.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)).expect("the port is shared");
        made
    }

    #[test]
    fn a_port_with_two_connections_has_two_sockets() {
        let listeners = ["127.77.0.2:0", "127.77.0.3:0"].map(|address| TcpListener::bind(address).expect("a port"));
        let [to, other] = listeners.each_ref().map(|listener| listener.local_addr().expect("an address"));
        // Not one that is given to others meanwhile: it was free a moment ago.
        let port = crate::bare::free_ports(1).expect("a port")[0];
        let sockets = [(bound(port), to), (bound(port), other)];
        for (socket, to) in &sockets {
            let SocketAddr::V4(to) = to else { panic!("{to} is of another family") };
            connect(socket.as_raw_fd(), &SockaddrIn::from(*to)).expect("connects");
        }
        let from = SocketAddr::from(([127, 0, 0, 1], port));
        let numbers = [to, other].map(|to| socket(from, to).expect("it is in the table"));
        let own = sockets.each_ref().map(|(socket, _)| {
            let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
            fs::read_link(path).expect("is open").to_string_lossy().into_owned()
        });
        assert_eq!(numbers.map(|number| format!("socket:[{number}]")), own);
    }
}
