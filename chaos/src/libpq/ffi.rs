//! libpq's C functions, looked up in `libpq.so.5` when the program runs.
//!
//! Loading at run time keeps libpq's development files out of the build. Nothing outside `libpq` sees this module.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::sync::OnceLock;

use libloading::Library;

/// The name every libpq since PostgreSQL 8.2 is installed under.
const LIBRARY: &str = "libpq.so.5";

/// An opaque `PGconn`.
pub(super) type PgConn = c_void;
/// An opaque `PGresult`.
pub(super) type PgResult = c_void;
/// What libpq calls for each notice or warning.
pub(super) type NoticeReceiver = unsafe extern "C" fn(*mut c_void, *const PgResult);

// Values of ConnStatusType, PostgresPollingStatusType and ExecStatusType that are looked at (libpq-fe.h).
pub(super) const CONNECTION_OK: c_int = 0;
pub(super) const CONNECTION_BAD: c_int = 1;
pub(super) const POLLING_FAILED: c_int = 0;
pub(super) const POLLING_READING: c_int = 1;
pub(super) const POLLING_OK: c_int = 3;
pub(super) const EMPTY_QUERY: c_int = 0;
pub(super) const COMMAND_OK: c_int = 1;
pub(super) const TUPLES_OK: c_int = 2;

// Field codes of PQresultErrorField (postgres_ext.h): the severity untranslated, the SQLSTATE, the message.
pub(super) const DIAG_SEVERITY: c_int = b'V' as c_int;
pub(super) const DIAG_SQLSTATE: c_int = b'C' as c_int;
pub(super) const DIAG_MESSAGE: c_int = b'M' as c_int;

macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of libpq that are used here.
        #[derive(Debug)]
        pub(super) struct Api {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            /// Kept loaded: the functions above live in it.
            _library: Library,
        }

        impl Api {
            fn load() -> Result<Api, String> {
                // SAFETY: loading libpq runs only its constructors, which have no preconditions.
                let library = unsafe { Library::new(LIBRARY) }.map_err(|e| format!("{LIBRARY}: {e}"))?;
                $(
                    // SAFETY: the type written here is the one libpq-fe.h declares for this symbol.
                    let $field = *unsafe {
                        library.get::<unsafe extern "C" fn($($argument),*) $(-> $result)?>(
                            concat!($symbol, "\0").as_bytes(),
                        )
                    }
                    .map_err(|e| format!("{LIBRARY} has no {}: {e}", $symbol))?;
                )*
                Ok(Api { $($field,)* _library: library })
            }
        }
    };
}

functions! {
    connect_start = "PQconnectStart": fn(*const c_char) -> *mut PgConn;
    connect_poll = "PQconnectPoll": fn(*mut PgConn) -> c_int;
    status = "PQstatus": fn(*const PgConn) -> c_int;
    socket = "PQsocket": fn(*const PgConn) -> c_int;
    finish = "PQfinish": fn(*mut PgConn);
    error_message = "PQerrorMessage": fn(*const PgConn) -> *const c_char;
    port = "PQport": fn(*const PgConn) -> *const c_char;
    host = "PQhost": fn(*const PgConn) -> *const c_char;
    send_query = "PQsendQuery": fn(*mut PgConn, *const c_char) -> c_int;
    consume_input = "PQconsumeInput": fn(*mut PgConn) -> c_int;
    is_busy = "PQisBusy": fn(*mut PgConn) -> c_int;
    get_result = "PQgetResult": fn(*mut PgConn) -> *mut PgResult;
    result_status = "PQresultStatus": fn(*const PgResult) -> c_int;
    result_error_field = "PQresultErrorField": fn(*const PgResult, c_int) -> *const c_char;
    ntuples = "PQntuples": fn(*const PgResult) -> c_int;
    nfields = "PQnfields": fn(*const PgResult) -> c_int;
    getvalue = "PQgetvalue": fn(*const PgResult, c_int, c_int) -> *const c_char;
    getisnull = "PQgetisnull": fn(*const PgResult, c_int, c_int) -> c_int;
    clear = "PQclear": fn(*mut PgResult);
    set_notice_receiver = "PQsetNoticeReceiver": fn(*mut PgConn, NoticeReceiver, *mut c_void) -> *mut c_void;
}

/// libpq, loaded once per process; the error says what is missing.
pub(super) fn api() -> Result<&'static Api, &'static str> {
    static API: OnceLock<Result<Api, String>> = OnceLock::new();
    API.get_or_init(Api::load).as_ref().map_err(String::as_str)
}
