//! A client that is libpq itself: what an application sees is what is measured.
//!
//! Connecting and waiting for answers go through libpq's non-blocking calls, so that every wait has a deadline of
//! milliseconds (libpq's own `connect_timeout` counts whole seconds, at least two). Warnings are kept with the answer
//! they came with: a COMMIT reported together with "canceling wait for synchronous replication" is not an
//! acknowledgement.
#![allow(unsafe_code)]

mod dsn;
mod ffi;

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use thiserror::Error;

pub use dsn::{Address, Dsn};

/// Why no connection came about. Nothing was written in any of these cases.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// libpq is not installed, or not a usable one.
    #[error("libpq cannot be loaded: {0}")]
    NoLibpq(&'static str),
    /// The connection string holds a NUL byte.
    #[error("connection string with a NUL byte")]
    Nul,
    /// The servers named answered, and none of them took us; libpq's own words.
    #[error("{0}")]
    Refused(String),
    /// That server was silent until the deadline.
    #[error("no answer from {0:?} before the deadline")]
    Deadline(Address),
}

/// Why a statement has no result.
#[derive(Debug, Error)]
pub enum ExecError {
    /// The server answered with an error.
    #[error("{severity} {sqlstate}: {message}")]
    Server {
        /// `ERROR`, `FATAL` or `PANIC`, untranslated.
        severity: String,
        /// Five characters.
        sqlstate: String,
        /// The primary message.
        message: String,
    },
    /// The connection broke; whether the statement took effect is not known.
    #[error("connection lost: {0}")]
    Lost(String),
    /// No answer yet. The statement is still under way on this connection.
    #[error("no answer before the deadline")]
    Deadline,
    /// The statement holds a NUL byte and was not sent.
    #[error("statement with a NUL byte")]
    Nul,
}

/// A notice or warning that came with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// `WARNING`, `NOTICE`, …, untranslated.
    pub severity: String,
    /// Five characters.
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
}

/// What a statement answered.
#[derive(Debug, Default)]
pub struct Answer {
    /// Rows of the last result, in text form; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
    /// Everything of severity WARNING that came with it. A commit with a warning is not acknowledged.
    pub warnings: Vec<Notice>,
}

/// One connection, closed when dropped (which never waits for the server).
#[derive(Debug)]
pub struct Connection {
    api: &'static ffi::Api,
    raw: *mut ffi::PgConn,
    /// Filled by `receive_notice`, which libpq calls with this address; freed after the connection is closed.
    notices: *mut RefCell<Vec<Notice>>,
    /// What has come of the answer so far, kept over a `receive` that met its deadline half-way.
    pending: Result<Answer, ExecError>,
}

// SAFETY: libpq allows a connection to be used by any thread, as long as it is one at a time, which ownership ensures
// (Connection is not Sync). The notices are reached through the connection only.
unsafe impl Send for Connection {}

impl Connection {
    /// Connects, trying the servers in the order named, and gives up at `deadline`.
    pub fn connect(conninfo: &str, deadline: Instant) -> Result<Connection, ConnectError> {
        let api = ffi::api().map_err(ConnectError::NoLibpq)?;
        let conninfo = CString::new(conninfo).map_err(|_| ConnectError::Nul)?;
        // SAFETY: a NUL-terminated string that outlives the call.
        let raw = unsafe { (api.connect_start)(conninfo.as_ptr()) };
        assert!(!raw.is_null(), "libpq is out of memory");
        let notices = Box::into_raw(Box::new(RefCell::new(Vec::new())));
        let connection = Connection { api, raw, notices, pending: Ok(Answer::default()) };
        // SAFETY: `notices` lives until after PQfinish (see Drop), and the receiver knows its type.
        unsafe { (api.set_notice_receiver)(raw, receive_notice, notices.cast()) };
        if connection.status() == ffi::CONNECTION_BAD {
            return Err(ConnectError::Refused(connection.error_message()));
        }
        // The protocol of PQconnectPoll: behave at first as if it had asked to wait until writing is possible.
        let mut wanted = PollFlags::POLLOUT;
        loop {
            if !connection.wait(wanted, deadline) {
                return Err(ConnectError::Deadline(connection.address()));
            }
            // SAFETY: a live connection object.
            wanted = match unsafe { (api.connect_poll)(raw) } {
                ffi::POLLING_OK => return Ok(connection),
                ffi::POLLING_FAILED => return Err(ConnectError::Refused(connection.error_message())),
                ffi::POLLING_READING => PollFlags::POLLIN,
                _ => PollFlags::POLLOUT,
            };
        }
    }

    /// The port of the server this connection reached, of all those that were named.
    pub fn port(&self) -> u16 {
        // SAFETY: a live connection object; the string belongs to it.
        let port = unsafe { text((self.api.port)(self.raw)) };
        port.parse().expect("libpq reports the number it connected to")
    }

    /// The server this connection reached, of all those that were named.
    pub fn address(&self) -> Address {
        // SAFETY: a live connection object; the string belongs to it.
        let host = unsafe { text((self.api.host)(self.raw)) };
        Address { host, port: self.port() }
    }

    /// Sends a statement and waits for its answer. After `Deadline` only `receive` or dropping makes sense.
    pub fn exec(&mut self, sql: &str, deadline: Instant) -> Result<Answer, ExecError> {
        self.send(sql)?;
        self.receive(deadline)
    }

    /// Sends a statement without waiting. Once this was called, the statement may take effect, whatever it returns.
    pub fn send(&mut self, sql: &str) -> Result<(), ExecError> {
        let sql = CString::new(sql).map_err(|_| ExecError::Nul)?;
        self.notices().borrow_mut().clear();
        self.pending = Ok(Answer::default());
        // SAFETY: a live connection and a NUL-terminated string that outlives the call.
        match unsafe { (self.api.send_query)(self.raw, sql.as_ptr()) } {
            1 => Ok(()),
            _ => Err(ExecError::Lost(self.error_message())),
        }
    }

    /// Waits for the answer to the statement sent last. After `Deadline` it can be called again.
    pub fn receive(&mut self, deadline: Instant) -> Result<Answer, ExecError> {
        loop {
            // SAFETY (this loop): a live connection object, used by one thread.
            while unsafe { (self.api.is_busy)(self.raw) } != 0 {
                if !self.wait(PollFlags::POLLIN, deadline) {
                    return Err(ExecError::Deadline);
                }
                // On failure libpq makes up an error result, which the next round reads.
                unsafe { (self.api.consume_input)(self.raw) };
            }
            let result = unsafe { (self.api.get_result)(self.raw) };
            if result.is_null() {
                break;
            }
            match self.read_result(result) {
                Ok(rows) => {
                    if let Ok(answer) = &mut self.pending {
                        answer.rows = rows;
                    }
                }
                // The first error is the reason; "connection lost" often follows it.
                Err(e) if self.pending.is_ok() => self.pending = Err(e),
                Err(_) => {}
            }
            // SAFETY: the result was just handed to us and is not used again.
            unsafe { (self.api.clear)(result) };
        }
        let mut answer = std::mem::replace(&mut self.pending, Ok(Answer::default()))?;
        answer.warnings = self.notices().take().into_iter().filter(|n| n.severity == "WARNING").collect();
        Ok(answer)
    }

    fn read_result(&self, result: *const ffi::PgResult) -> Result<Vec<Vec<Option<String>>>, ExecError> {
        let api = self.api;
        // SAFETY (whole function): a live result; row and column numbers stay below the counts it reports.
        match unsafe { (api.result_status)(result) } {
            ffi::TUPLES_OK => {
                let (rows, columns) = unsafe { ((api.ntuples)(result), (api.nfields)(result)) };
                let cell = |row, column| unsafe {
                    ((api.getisnull)(result, row, column) == 0).then(|| text((api.getvalue)(result, row, column)))
                };
                Ok((0..rows).map(|row| (0..columns).map(|column| cell(row, column)).collect()).collect())
            }
            ffi::COMMAND_OK | ffi::EMPTY_QUERY => Ok(Vec::new()),
            _ => {
                let field = |code| unsafe { text((api.result_error_field)(result, code)) };
                let sqlstate = field(ffi::DIAG_SQLSTATE);
                // An error that libpq made up itself, because the connection broke, has no SQLSTATE.
                if sqlstate.is_empty() {
                    return Err(ExecError::Lost(self.error_message()));
                }
                Err(ExecError::Server {
                    severity: field(ffi::DIAG_SEVERITY),
                    sqlstate,
                    message: field(ffi::DIAG_MESSAGE),
                })
            }
        }
    }

    /// Takes what the server has said on the way, also while a statement still runs.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        self.notices().take()
    }

    /// Waits for the socket; false when the deadline passed first.
    fn wait(&self, wanted: PollFlags, deadline: Instant) -> bool {
        loop {
            // SAFETY: a live connection object.
            let socket = unsafe { (self.api.socket)(self.raw) };
            if socket < 0 {
                // Closed already: libpq's next call says why.
                return true;
            }
            // SAFETY: libpq keeps the socket open at least until its next call, which is after this wait.
            let socket = unsafe { BorrowedFd::borrow_raw(socket) };
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, else the last millisecond would be a busy loop.
            let millis = left.as_micros().div_ceil(1000).min(60_000) as u16;
            match poll(&mut [PollFd::new(socket, wanted)], PollTimeout::from(millis)) {
                Ok(0) if Instant::now() >= deadline => return false,
                Ok(0) | Err(_) => {
                    // An interrupted wait goes on, unless its time is up as well.
                    if Instant::now() >= deadline {
                        return false;
                    }
                }
                Ok(_) => return true,
            }
        }
    }

    fn status(&self) -> c_int {
        // SAFETY: a live connection object.
        unsafe { (self.api.status)(self.raw) }
    }

    /// Whether the connection is usable as far as libpq knows without asking the server.
    pub fn is_up(&self) -> bool {
        self.status() == ffi::CONNECTION_OK
    }

    fn error_message(&self) -> String {
        // SAFETY: a live connection object; the string belongs to it.
        unsafe { text((self.api.error_message)(self.raw)) }.trim_end().to_owned()
    }

    fn notices(&self) -> &RefCell<Vec<Notice>> {
        // SAFETY: made in `connect`, freed in `drop` only; RefCell guards against a notice while it is read.
        unsafe { &*self.notices }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: both are live and this is their last use; libpq must be done before the notices are freed.
        unsafe {
            (self.api.finish)(self.raw);
            drop(Box::from_raw(self.notices));
        }
    }
}

/// Called by libpq within `connect_poll`, `consume_input`, `is_busy` and `get_result`.
unsafe extern "C" fn receive_notice(sink: *mut c_void, result: *const ffi::PgResult) {
    // A notice can only come once libpq is loaded; without it there would be nobody to call this.
    let Ok(api) = ffi::api() else { return };
    // SAFETY: `sink` is what `connect` registered; `result` lives during this call.
    unsafe {
        let field = |code| text((api.result_error_field)(result, code));
        let notice = Notice {
            severity: field(ffi::DIAG_SEVERITY),
            sqlstate: field(ffi::DIAG_SQLSTATE),
            message: field(ffi::DIAG_MESSAGE),
        };
        (*sink.cast::<RefCell<Vec<Notice>>>()).borrow_mut().push(notice);
    }
}

/// A copy of a C string; empty for a null pointer.
///
/// # Safety
/// `from` is null or NUL-terminated.
unsafe fn text(from: *const c_char) -> String {
    if from.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(from) }.to_string_lossy().into_owned()
}
