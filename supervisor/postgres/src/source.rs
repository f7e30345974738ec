//! The server from which a clone or a rewind takes its data, and how its password reaches PostgreSQL's programs: by a
//! pass file of mode 0600, never by the command line or the environment.

use crate::{
    conf_text::{conninfo, pass_line},
    fsio::remove_durable,
    layout::Layout,
    libpq,
    settings::SettingsError,
    version::Version,
};
use std::path::{Path, PathBuf};

/// A server that is a member's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Host name, address or socket directory.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The replication role.
    pub user: String,
    /// Its password.
    pub password: String,
    /// Connect by TLS with channel binding or not at all (see [`libpq::pinned`]).
    pub scram_plus: bool,
}

impl Source {
    /// Without a database for a replication connection.
    pub(crate) fn conninfo(&self, version: Version, layout: &Layout, dbname: &str, purpose: &str) -> String {
        let mut pairs = vec![
            ("host", self.host.clone()),
            ("port", self.port.to_string()),
            ("user", self.user.clone()),
            ("application_name", format!("pgvigil_{purpose}")),
            ("connect_timeout", "5".to_owned()),
            ("keepalives_idle", "5".to_owned()),
            ("keepalives_interval", "2".to_owned()),
            ("keepalives_count", "3".to_owned()),
            ("tcp_user_timeout", "10000".to_owned()),
        ];
        if !dbname.is_empty() {
            pairs.push(("dbname", dbname.to_owned()));
        }
        pairs.extend(libpq::pinned(version, layout, self.scram_plus));
        conninfo(&pairs)
    }
}

/// A pass file that exists as long as this value.
#[derive(Debug)]
pub(crate) struct PassFile(PathBuf);

impl PassFile {
    pub(crate) fn create(layout: &Layout, purpose: &str, source: &Source) -> Result<Self, SettingsError> {
        let path = layout.agent_dir.join(format!("{purpose}.pass"));
        crate::fsio::create_dir_private(&layout.agent_dir)?;
        // For any host: a socket's directory goes by another name here, and the file lives only as long as the program.
        let line = pass_line("*", source.port, &source.user, &source.password)?;
        crate::fsio::write_atomic(&path, line.as_bytes(), 0o600)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PassFile {
    fn drop(&mut self) {
        if let Err(error) = remove_durable(&self.0) {
            tracing::warn!(%error, "a pass file is left behind");
        }
    }
}
