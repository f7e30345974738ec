//! Weather on a cable: frames are delayed, lost, doubled and reordered by a relay in user space.
//!
//! Not every kernel has netem. While the relay runs, the host's port is off the bridge; frames are read from it with a
//! packet socket, kept until their time has come, and written to a second cable that is on the bridge instead. The
//! header of virtio travels with each frame, so that checksums not yet computed and segments not yet cut stay so.
#![allow(unsafe_code)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rand::Rng;

use super::{HostError, tool};

/// More than any frame: segments that are cut later may have 64 KiB, and there is virtio's header.
const FRAME: usize = 80 * 1024;
/// How often a relay looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// What happens to every frame, each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// The mean delay.
    pub delay: Duration,
    /// The delay is anything between `delay - jitter` and `delay + jitter`, each frame its own: they overtake.
    pub jitter: Duration,
    /// So many of a hundred are lost.
    pub loss: u8,
    /// So many of a hundred arrive twice.
    pub duplicate: u8,
}

/// A relay at work. Dropping it plugs the port in again.
#[derive(Debug)]
pub(super) struct Relay {
    port: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The name of the port that is on the bridge instead.
pub(super) fn substitute(port: &str) -> String {
    format!("{port}w")
}

impl Relay {
    /// Takes the port off the bridge and relays its frames. Called in the switch's network.
    pub(super) fn start(port: &str, weather: Weather) -> Result<Relay, HostError> {
        let (bridged, free) = (substitute(port), format!("{port}x"));
        let ip = |line: &str| tool("ip", &line.split(' ').collect::<Vec<_>>(), None);
        ip(&format!("link add {bridged} type veth peer name {free}"))?;
        let mut relay = Relay { port: port.to_owned(), stop: Arc::new(AtomicBool::new(false)), thread: None };
        for end in [&bridged, &free] {
            ip(&format!("link set {end} addrgenmode none"))?;
        }
        // A port that is on no bridge would answer for the switch's own address.
        for end in [port, &free] {
            ip(&format!("link set {end} arp off"))?;
        }
        ip(&format!("link set {port} nomaster"))?;
        ip(&format!("link set {free} up"))?;
        ip(&format!("link set {bridged} master br0 up"))?;
        let ends = [open(port)?, open(&free)?];
        let stop = Arc::clone(&relay.stop);
        relay.thread = Some(std::thread::spawn(move || carry(&ends, weather, &stop)));
        Ok(relay)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the relay of {} panicked", self.port);
        }
        let ip = |line: String| tool("ip", &line.split(' ').collect::<Vec<_>>(), None);
        let straight = ip(format!("link del {}", substitute(&self.port)))
            .and_then(|_| ip(format!("link set {} arp on", self.port)))
            .and_then(|_| ip(format!("link set {} master br0", self.port)));
        if let Err(error) = straight {
            eprintln!("{} could not be plugged in again: {error}", self.port);
        }
    }
}

/// A packet socket on a device, which does not see what it sends itself.
fn open(device: &str) -> Result<OwnedFd, HostError> {
    const ALL: u16 = (libc::ETH_P_ALL as u16).to_be();
    let failed = HostError::kernel("opening a packet socket");
    let name = std::ffi::CString::new(device).expect("names of ports hold no NUL");
    // SAFETY: a NUL-terminated string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    // SAFETY: no pointers.
    let raw = unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, i32::from(ALL))
    };
    if index == 0 || raw < 0 {
        return Err(failed(Errno::last()));
    }
    // SAFETY: just opened, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let on: libc::c_int = 1;
    for option in [libc::PACKET_VNET_HDR, libc::PACKET_IGNORE_OUTGOING] {
        // SAFETY: the value is an int that lives during the call, with its size.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if set != 0 {
            return Err(HostError::Kernel { what: "setting up a packet socket", source: Errno::last() });
        }
    }
    // SAFETY: plain numbers, for which all zeros is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = ALL;
    address.sll_ifindex = index as libc::c_int;
    // SAFETY: the address lives during the call, with its size.
    let bound = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    };
    if bound != 0 {
        return Err(HostError::Kernel { what: "binding a packet socket", source: Errno::last() });
    }
    Ok(socket)
}

/// A frame that waits: when it is due, its place in the order of arrival, where it goes, its bytes.
type Waiting = Reverse<(Instant, u64, usize, Vec<u8>)>;

fn carry(ends: &[OwnedFd; 2], weather: Weather, stop: &AtomicBool) {
    let mut waiting: BinaryHeap<Waiting> = BinaryHeap::new();
    let mut buffer = vec![0_u8; FRAME];
    let mut random = rand::rng();
    let mut number = 0;
    while !stop.load(Ordering::Acquire) {
        let now = Instant::now();
        while waiting.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            if let Some(Reverse((_, _, to, frame))) = waiting.pop() {
                // A full queue loses frames, as a switch does.
                let _lost = nix::unistd::write(&ends[to], &frame);
            }
        }
        let due = waiting.peek().map_or(LOOK, |Reverse((due, ..))| due.saturating_duration_since(now).min(LOOK));
        let mut polled =
            [PollFd::new(ends[0].as_fd(), PollFlags::POLLIN), PollFd::new(ends[1].as_fd(), PollFlags::POLLIN)];
        // Rounded up: a frame that is a millisecond late is no worse than one that is on time.
        let limit = PollTimeout::from(due.as_micros().div_ceil(1000) as u16);
        if poll(&mut polled, limit).is_err() {
            continue;
        }
        for (from, end) in ends.iter().enumerate() {
            // Until it is empty, or a while: what is due goes first.
            for _ in 0..64 {
                let Ok(length) = nix::unistd::read(end, &mut buffer) else { break };
                if random.random_range(0..100) < weather.loss {
                    continue;
                }
                let copies = 1 + usize::from(random.random_range(0..100) < weather.duplicate);
                for _ in 0..copies {
                    number += 1;
                    let spread = weather.jitter.mul_f64(random.random_range(0.0..=2.0));
                    let due = Instant::now() + (weather.delay + spread).saturating_sub(weather.jitter);
                    waiting.push(Reverse((due, number, 1 - from, buffer[..length].to_vec())));
                }
            }
        }
    }
}
