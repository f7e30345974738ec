//! The guard: a small process of its own that ends the primary's service when its right has run out and the agent is
//! dead or stuck (S3). It knows one number, the deadline, and one act, [`kill_all`].
//!
//! Single-threaded, blocking, no runtime. It must act when everything else on the machine struggles, so it allocates
//! next to nothing once it runs, waits on a CLOCK_BOOTTIME timer (which fires after a suspend at once), and kills even
//! when the disk hangs. It goes on when its agent dies; the next agent connects and takes over.
//!
//! Protocol, one line each way: `deadline <CLOCK_BOOTTIME ms>` → `ok <ms>` (or `late <now>`: in force, and already
//! over); `disarm` → `ok disarmed` (not primary: nothing to guard); `pause-hold` → `ok held` (paused: only a fence
//! ends the right); `status` → `<state> <ms>`; `watchdog` → `watchdog on`, `off` (not armed,
//! or the device cannot be opened) or `none`; `quit` → `ok quit` unless armed.

use crate::{
    clock::boottime_ms,
    fault::{self, Bug},
    fsio::FsError,
    guard_watchdog::Watchdog,
    instance::write_fence,
    kill::kill_all,
    layout::Layout,
    lock::{DirLock, LockError},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        socket::{getsockopt, sockopt::PeerCredentials},
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
    unistd::Uid,
};
use pgvigil_core::{
    guard::{Answer, Duty, Message, Watch},
    time::Time,
};
use std::{
    fs, io,
    io::{Read, Write},
    os::{
        fd::AsFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::PathBuf,
    sync::mpsc,
    thread,
    time::Duration,
};

/// What a guard is told at its start.
#[derive(Clone, Debug)]
pub struct GuardConfig {
    /// The directories of the instance.
    pub layout: Layout,
    /// A cgroup that holds nothing but PostgreSQL, where one is used.
    pub cgroup: Option<PathBuf>,
    /// Where it listens.
    pub socket: PathBuf,
    /// `/dev/watchdog`, where the machine is to be reset when the guard itself fails. None: not used.
    pub watchdog: Option<PathBuf>,
}

/// The guard cannot work.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// Another guard watches this directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A system call failed.
    #[error("guard: cannot {op}: {source}")]
    System {
        /// What was being done.
        op: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

fn system<E: Into<io::Error>>(op: &'static str) -> impl FnOnce(E) -> GuardError {
    move |source| GuardError::System { op, source: source.into() }
}

/// One agent's connection. More than one may exist while an old agent dies; the last word counts.
struct Client {
    stream: UnixStream,
    line: [u8; 64],
    filled: usize,
}

struct Guard {
    config: GuardConfig,
    watch: Watch,
    timer: TimerFd,
    watchdog: Option<Watchdog>,
}

/// Agents connected at once: one, and a few that are going away.
const CLIENTS: usize = 8;
/// How long the fence may delay the killing when the disk hangs.
const FENCE_LIMIT: Duration = Duration::from_millis(50);
/// How long one round of killing may take before it is reported and begun anew.
const ROUND: Duration = Duration::from_millis(500);

/// Runs the guard until it is told to quit. Blocking; call it from a process of its own, without a runtime.
pub fn run_guard(config: GuardConfig) -> Result<(), GuardError> {
    let _lock = DirLock::acquire(&config.layout.guard_lock(), "guard")?;
    // The lock is ours, so a socket that lies here belongs to a guard that is gone.
    let _ = fs::remove_file(&config.socket);
    let listener = UnixListener::bind(&config.socket).map_err(system("listen"))?;
    fs::set_permissions(&config.socket, fs::Permissions::from_mode(0o600)).map_err(system("protect the socket"))?;
    listener.set_nonblocking(true).map_err(system("listen"))?;
    let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)
        .map_err(system("make a timer"))?;
    let mut guard = Guard { config, watch: Watch::default(), timer, watchdog: None };
    let mut clients: Vec<Client> = Vec::with_capacity(CLIENTS);
    loop {
        let ready = wait(&guard, &listener, &clients)?;
        // The deadline comes before any message: a flood of them must not delay it.
        guard.look_at_the_clock();
        for index in (0..clients.len()).rev() {
            if !ready[index + 2] {
                continue;
            }
            match serve(&mut guard, &mut clients[index]) {
                Served::Open => {}
                Served::Closed => drop(clients.swap_remove(index)),
                Served::Quit => return Ok(()),
            }
        }
        if ready[1] {
            accept(&listener, &mut clients);
        }
    }
}

/// Waits for the timer, the listener or a client; returns which are ready, in that order.
fn wait(guard: &Guard, listener: &UnixListener, clients: &[Client]) -> Result<[bool; CLIENTS + 2], GuardError> {
    let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(CLIENTS + 2);
    fds.push(PollFd::new(guard.timer.as_fd(), PollFlags::POLLIN));
    fds.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
    fds.extend(clients.iter().map(|client| PollFd::new(client.stream.as_fd(), PollFlags::POLLIN)));
    // A watchdog must be fed; without one only the timer and the agent wake us.
    let limit = if guard.watchdog.is_some() { PollTimeout::from(1000u16) } else { PollTimeout::NONE };
    match poll(&mut fds, limit) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(system("wait")(errno)),
    }
    let mut ready = [false; CLIENTS + 2];
    for (index, fd) in fds.iter().enumerate() {
        ready[index] = fd.revents().is_some_and(|events| !events.is_empty());
    }
    Ok(ready)
}

fn accept(listener: &UnixListener, clients: &mut Vec<Client>) {
    let Ok((stream, _)) = listener.accept() else { return };
    // The socket's mode keeps others out; this also holds where the directory is too open.
    let trusted = getsockopt(&stream, PeerCredentials).is_ok_and(|peer| {
        let uid = Uid::from_raw(peer.uid());
        uid == Uid::effective() || uid.is_root()
    });
    if !trusted || stream.set_nonblocking(true).is_err() {
        return;
    }
    if clients.len() == CLIENTS {
        // The oldest is the least likely to be the living agent.
        clients.remove(0);
    }
    clients.push(Client { stream, line: [0; 64], filled: 0 });
}

enum Served {
    Open,
    Closed,
    Quit,
}

fn serve(guard: &mut Guard, client: &mut Client) -> Served {
    loop {
        let free = &mut client.line[client.filled..];
        if free.is_empty() {
            // No message of ours is that long.
            return Served::Closed;
        }
        match client.stream.read(free) {
            Ok(0) => return Served::Closed,
            Ok(count) => client.filled += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Served::Open,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Served::Closed,
        }
        while let Some(end) = client.line[..client.filled].iter().position(|byte| *byte == b'\n') {
            let mut message = [0; 64];
            message[..end].copy_from_slice(&client.line[..end]);
            client.line.copy_within(end + 1..client.filled, 0);
            client.filled -= end + 1;
            let text = std::str::from_utf8(&message[..end]).unwrap_or_default().trim();
            let (answer, quit) = guard.obey(text);
            if client.stream.write_all(format!("{answer}\n").as_bytes()).is_err() {
                return Served::Closed;
            }
            if quit {
                return Served::Quit;
            }
        }
    }
}

impl Guard {
    /// Carries out one message; returns the answer, and whether to quit.
    fn obey(&mut self, text: &str) -> (String, bool) {
        let mut words = text.split(' ');
        let message = match (words.next(), words.next().map(str::parse::<u64>), words.next()) {
            (Some("deadline"), Some(Ok(deadline)), None) => Message::Arm(Time(deadline)),
            (Some("disarm"), None, None) => Message::Disarm,
            (Some("pause-hold"), None, None) => Message::Hold,
            (Some("status"), None, None) => Message::Status,
            (Some("watchdog"), None, None) => {
                let state = match (&self.config.watchdog, &self.watchdog) {
                    (None, _) => "none",
                    (Some(_), None) => "off",
                    (Some(_), Some(_)) => "on",
                };
                return (format!("watchdog {state}"), false);
            }
            (Some("quit"), None, None) if self.watch.may_quit() => return ("ok quit".to_owned(), true),
            (Some("quit"), None, None) => return ("error armed".to_owned(), false),
            _ => return ("error unknown message".to_owned(), false),
        };
        (self.carry_out(message), false)
    }

    fn carry_out(&mut self, message: Message) -> String {
        let (answer, now) = loop {
            let now = Time(boottime_ms());
            match self.watch.obey(message, now) {
                Some(answer) => break (answer, now),
                None => self.look_at_the_clock(),
            }
        };
        if message != Message::Status {
            self.set();
        }
        match (message, answer) {
            (_, Answer::Late) => format!("late {}", now.0),
            (Message::Status, Answer::InForce(duty)) => match duty {
                Duty::Disarmed => "disarmed 0".to_owned(),
                Duty::Held => "held 0".to_owned(),
                Duty::Armed(at) => format!("armed {}", at.0),
                Duty::Fired(at) => format!("fired {}", at.0),
            },
            (Message::Arm(deadline), _) => format!("ok {}", deadline.0),
            (Message::Disarm, _) => "ok disarmed".to_owned(),
            (Message::Hold, _) => "ok held".to_owned(),
        }
    }

    /// Sets the timer and the watchdog device to what is in force.
    fn set(&mut self) {
        let set = match self.watch.wake_at() {
            // Zero would disarm the timer, so one millisecond after boot is the earliest.
            Some(at) => {
                let at = Expiration::OneShot(TimeSpec::from_duration(Duration::from_millis(at.0.max(1))));
                self.timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            }
            None => self.timer.unset(),
        };
        if let Err(errno) = set {
            // Cannot happen with valid arguments; if it did, the safe answer would be to fire now.
            eprintln!("pgvigil guard: cannot set the timer: {errno}");
            if let Duty::Armed(deadline) = self.watch.duty() {
                self.fire(deadline);
            }
        }
        match self.watch.duty() {
            Duty::Armed(_) => self.open_watchdog(),
            _ => self.watchdog.take().map_or((), Watchdog::close),
        }
    }

    fn open_watchdog(&mut self) {
        let Some(path) = self.config.watchdog.as_ref().filter(|_| self.watchdog.is_none()) else { return };
        match Watchdog::open(path) {
            Ok(watchdog) => self.watchdog = Some(watchdog),
            Err(error) => eprintln!("pgvigil guard: no watchdog at {}: {error}", path.display()),
        }
    }

    fn look_at_the_clock(&mut self) {
        let Duty::Armed(deadline) = self.watch.duty() else { return };
        if self.watch.look(Time(boottime_ms())) {
            self.fire(deadline);
        } else if let Some(watchdog) = &mut self.watchdog {
            watchdog.feed();
        }
    }

    /// The act. Does not return before nothing of the server is left; a watchdog is not fed meanwhile.
    fn fire(&mut self, deadline: Time) {
        if !fault::planted(Bug::GuardDoesNotKill) {
            say(format!("the right to serve ends at {} ms, killing PostgreSQL", deadline.0));
            self.fence();
            loop {
                match kill_all(&self.config.layout.data_dir, self.config.cgroup.as_deref(), ROUND) {
                    Ok(killed) => {
                        say(format!("{} processes killed in {:?}", killed.pids.len(), killed.took));
                        break;
                    }
                    Err(error) => say(error.to_string()),
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
        self.watch.killed(Time(boottime_ms()));
        self.set();
    }

    /// The fence first (history A13), but never at the cost of the deadline: on a disk that hangs the write goes on in
    /// a thread of its own. `standby.signal` is there anyway unless somebody removed it.
    fn fence(&self) {
        let (done, wait) = mpsc::channel();
        let layout = self.config.layout.clone();
        let thread = thread::Builder::new().stack_size(128 << 10).spawn(move || {
            let result = write_fence(&layout);
            let _ = done.send(());
            if let Err(error) = result {
                eprintln!("pgvigil guard: the fence could not be written: {error}");
            }
        });
        match thread {
            Ok(_) => drop(wait.recv_timeout(FENCE_LIMIT)),
            Err(error) => eprintln!("pgvigil guard: no thread for the fence: {error}"),
        }
    }
}

/// A line on standard error that nothing waits for: the log may lie on the very disk that hangs.
fn say(line: String) {
    let told = thread::Builder::new().stack_size(128 << 10).spawn(move || eprintln!("pgvigil guard: {line}"));
    // Without a thread there is nobody to tell; the act goes on.
    drop(told);
}
