//! All of a member's configuration files as one value: written whole after initdb, a clone or a rewind, and whenever
//! something in it changes.

use crate::{
    conf_files::ensure_include,
    drift::{self, Drift},
    fsio::{FsError, Written},
    hba::{self, Access, Door},
    layout::Layout,
    settings::{Settings, SettingsError},
    version::Version,
};

/// What a member is configured as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberConfig {
    /// Our settings file.
    pub settings: Settings,
    /// Whether clients may come in.
    pub door: Door,
    /// Who always may.
    pub access: Access,
    /// The user's lines of `pg_hba.conf`.
    pub user_hba: Vec<String>,
}

/// What writing the configuration changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigWritten {
    /// Our settings files or the include line changed: reload, and restart for settings that need one.
    pub settings: Written,
    /// `pg_hba.conf` changed: reload.
    pub door: Written,
    /// Settings by `ALTER SYSTEM` that were removed.
    pub drift: Vec<Drift>,
}

impl MemberConfig {
    /// Writes every file durably. Idempotent. Nothing is signalled.
    pub fn write(&self, version: Version, layout: &Layout) -> Result<ConfigWritten, SettingsError> {
        let settings = self.settings.write(version, layout)?;
        let include = ensure_include(layout)?;
        let door = self.write_door(layout)?;
        let drift = drift::remove(layout)?;
        let settings = if include == Written::Changed { include } else { settings };
        Ok(ConfigWritten { settings, door, drift })
    }

    /// Writes the door alone.
    pub fn write_door(&self, layout: &Layout) -> Result<Written, FsError> {
        hba::write(layout, self.door, &self.access, &self.user_hba)
    }
}
