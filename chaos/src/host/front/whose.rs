//! Who has connected: the process at the other end of a connection on this machine.

use std::fs;
use std::net::SocketAddr;

use super::Hosts;
use crate::host::links::End;
use crate::processes;

/// The end whose process holds the socket that is bound to `address`. Whatever is neither a host's nor the clients' is
/// the operator's; so is a process that has ended meanwhile.
pub(super) fn of(address: SocketAddr, hosts: &Hosts) -> End {
    let Some(pid) = socket(address).and_then(holder) else { return End::Operator };
    let in_host = |dir| processes::of_host(dir).iter().any(|process| process.pid == pid);
    if let Some((id, _)) = hosts.iter().find(|(_, dir)| in_host(dir)) {
        return End::Host(*id);
    }
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = command.split(|byte| *byte == 0);
    let program = words.next().unwrap_or_default();
    // The process that `workload` starts for them.
    let clients = program.ends_with(b"pgvigil-chaos") && words.next() == Some(b"load".as_slice());
    if clients { End::Clients } else { End::Operator }
}

/// The number of the socket that is bound to that address and connected.
fn socket(address: SocketAddr) -> Option<u64> {
    let SocketAddr::V4(address) = address else { return None };
    let local = format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port());
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let here = fields.next()? == local;
        // After the local address: remote address, state, queues, timer, retransmissions, user, timeout, inode.
        here.then(|| fields.nth(7)?.parse().ok()).flatten()
    })
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
