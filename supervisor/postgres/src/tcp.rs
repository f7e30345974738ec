//! Which TCP connection a process of this host has, as the kernel lists it.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// A TCP connection of a process, remembered by its descriptor and its socket, so that the process's descriptors and the
/// kernel's list, long on a busy host, are read only when it has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The process.
    pub pid: i32,
    /// Its end.
    pub local: SocketAddr,
    fd: u32,
    inode: u64,
}

/// The one connection that `pid` has to a server; `None` where it has none, or several. `before` is the answer of the last
/// look.
pub fn connection_of(pid: i32, before: Option<&Connection>) -> io::Result<Option<Connection>> {
    if let Some(before) = before
        && before.pid == pid
        && socket_at(&PathBuf::from(format!("/proc/{pid}/fd/{}", before.fd))) == Some(before.inode)
    {
        return Ok(Some(*before));
    }
    let sockets = sockets_of(pid)?;
    let fd_of = |inode| sockets.iter().find(|(_, of)| *of == inode).map(|(fd, _)| *fd);
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let path = format!("/proc/{pid}/net/{table}");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let of_process = |(local, inode)| fd_of(inode).map(|fd| Connection { pid, local, fd, inode });
        found.extend(text.lines().skip(1).filter_map(parse).filter_map(of_process));
    }
    match found.as_slice() {
        [one] => Ok(Some(*one)),
        _ => Ok(None),
    }
}

/// Descriptors and sockets.
fn sockets_of(pid: i32) -> io::Result<Vec<(u32, u64)>> {
    let mut sockets = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        let fd = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        sockets.extend(fd.zip(socket_at(&path)));
    }
    Ok(sockets)
}

/// The socket that a descriptor is, if it is one.
fn socket_at(path: &Path) -> Option<u64> {
    fs::read_link(path).ok()?.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The local end and the socket of a line of `/proc/net/tcp`; `None` for one that listens or is connected to nobody.
fn parse(line: &str) -> Option<(SocketAddr, u64)> {
    let mut words = line.split_whitespace().skip(1);
    let local = address(words.next()?)?;
    let far = address(words.next()?)?;
    let inode = words.nth(6)?.parse().ok()?;
    (far.port() != 0).then_some((local, inode))
}

/// The kernel prints each 32-bit word of an address as a number of the machine's own byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (number, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(8 * number)?);
            }
            // IPv4 through an IPv6 socket: the far end knows it as IPv4.
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn lines_of_the_kernel_are_read() {
        if cfg!(target_endian = "little") {
            let line =
                "   1: 0100007F:DB1E 0200000A:1538 01 00000000:00000000 02:000A 00000000   105        0 4242 2 0 20";
            assert_eq!(parse(line), Some(("127.0.0.1:56094".parse().unwrap(), 4242)));
            let mapped =
                "0: 0000000000000000FFFF00000100007F:0050 00000000000000000000000001000000:0051 01 0:0 0:0 0 105 0 7 2";
            assert_eq!(parse(mapped), Some(("127.0.0.1:80".parse().unwrap(), 7)));
        }
        assert_eq!(parse("0: 00000000:1538 00000000:0000 0A 0:0 0:0 0 105 0 7 1"), None, "it listens");
        assert_eq!(parse("  sl  local_address rem_address"), None);
    }

    #[test]
    fn the_one_connection_of_a_process_is_found() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Both ends of a connection within one process are two: nobody's in particular.
        let _near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _far = listener.accept().unwrap();
        assert_eq!(connection_of(pid, None).unwrap(), None);
        assert!(connection_of(i32::MAX, None).is_err(), "a process that is gone");
    }
}
