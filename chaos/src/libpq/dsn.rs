//! Connection strings that name every host.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where one PostgreSQL server listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Address {
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A libpq connection string over several servers, of which one accepts writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dsn {
    /// Every server, in the order they are tried.
    pub addresses: Vec<Address>,
    /// Database.
    pub database: String,
    /// Role to log in as.
    pub user: String,
    /// Whether a server that only reads is passed over (`target_session_attrs=read-write`).
    pub read_write: bool,
}

impl Dsn {
    /// That server is named last from now on: what a client does that has just found it silent. (libpq asks one after the
    /// other, and waits.)
    pub fn ask_last(&mut self, silent: &Address) {
        self.addresses.sort_by_key(|address| address == silent);
    }

    /// The same login on one server only, whether or not it accepts writes.
    pub fn pinned(&self, address: Address) -> Dsn {
        Dsn { addresses: vec![address], read_write: false, ..self.clone() }
    }
}

impl fmt::Display for Dsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |pick: fn(&Address) -> String| self.addresses.iter().map(pick).collect::<Vec<_>>().join(",");
        write!(
            f,
            "host={} port={} dbname={} user={} target_session_attrs={} application_name=pgvigil-chaos",
            list(|a| a.host.clone()),
            list(|a| a.port.to_string()),
            self.database,
            self.user,
            if self.read_write { "read-write" } else { "any" },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Dsn {
        let at = |port| Address { host: "127.0.0.1".into(), port };
        Dsn { addresses: vec![at(1), at(2), at(3)], database: "postgres".into(), user: "u".into(), read_write: true }
    }

    #[test]
    fn every_host_is_named_in_order() {
        assert_eq!(
            three().to_string(),
            "host=127.0.0.1,127.0.0.1,127.0.0.1 port=1,2,3 dbname=postgres user=u target_session_attrs=read-write \
             application_name=pgvigil-chaos"
        );
    }

    #[test]
    fn a_silent_server_goes_to_the_end_and_the_others_stay_in_order() {
        let mut dsn = three();
        let silent = dsn.addresses[0].clone();
        dsn.ask_last(&silent);
        assert_eq!(dsn.addresses.iter().map(|a| a.port).collect::<Vec<_>>(), [2, 3, 1]);
        dsn.ask_last(&silent);
        assert_eq!(dsn.addresses.iter().map(|a| a.port).collect::<Vec<_>>(), [2, 3, 1]);
    }
}
