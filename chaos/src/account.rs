//! As whom servers run: PostgreSQL and pgvigil refuse root, so a run started by root uses an unprivileged user.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Gid, Uid, User, chown};
use thiserror::Error;

use crate::host::tool;

/// Why no account to run servers with was found, or a file could not be given to it.
#[derive(Debug, Error)]
pub enum AccountError {
    /// Neither `postgres` nor `nobody` is known here.
    #[error("started as root, and there is neither a user 'postgres' nor a user 'nobody' to run servers as")]
    NoUser,
    /// The system's user database could not be read.
    #[error("looking up a user: {0}")]
    Lookup(#[source] nix::Error),
    /// A file could not be handed over.
    #[error("{what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

/// A user that servers run as.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its name: also the name of PostgreSQL's superuser.
    pub name: String,
    /// Set when it is another user than the one we are (we are root).
    switch_to: Option<(Uid, Gid)>,
}

impl Account {
    /// The calling user, or `postgres` or `nobody` if that is root.
    pub fn unprivileged() -> Result<Account, AccountError> {
        let own = Uid::effective();
        if !own.is_root() {
            let user = User::from_uid(own).map_err(AccountError::Lookup)?.ok_or(AccountError::NoUser)?;
            return Ok(Account { name: user.name, switch_to: None });
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name).map_err(AccountError::Lookup)? {
                return Ok(Account { name: user.name, switch_to: Some((user.uid, user.gid)) });
            }
        }
        Err(AccountError::NoUser)
    }

    /// A command that will run as this user, working in `dir`, with a home folder it may write to.
    pub fn command(&self, program: &Path, dir: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(dir).env("HOME", dir).env("LC_ALL", "C.UTF-8");
        if let Some((uid, gid)) = self.switch_to {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        command
    }

    /// Makes a folder that belongs to this user and is closed to others.
    pub fn make_dir(&self, path: &Path) -> Result<(), AccountError> {
        let fail = |what| move |source| AccountError::File { what, path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(fail("making the folder"))?;
        self.own(path)
    }

    /// Writes a file that belongs to this user and that nobody else may read. It is there whole or not at all: whoever waits
    /// for it may take it away at once, as a server does that is asked to promote.
    pub fn write_file(&self, path: &Path, content: &str) -> Result<(), AccountError> {
        let fail = |what| move |source| AccountError::File { what, path: path.to_owned(), source };
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let new = path.with_file_name(name);
        std::fs::write(&new, content).map_err(fail("writing"))?;
        self.own(&new)?;
        std::fs::rename(&new, path).map_err(fail("naming"))
    }

    fn own(&self, path: &Path) -> Result<(), AccountError> {
        use std::os::unix::fs::PermissionsExt;
        let fail = |what| move |source| AccountError::File { what, path: path.to_owned(), source };
        let mode = if path.is_dir() { 0o700 } else { 0o600 };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .map_err(fail("setting the permissions of"))?;
        if let Some((uid, gid)) = self.switch_to {
            chown(path, Some(uid), Some(gid))
                .map_err(|e| fail("giving to the unprivileged user")(std::io::Error::from(e)))?;
        }
        Ok(())
    }

    /// A path to `program` that this user can run: the program itself, or, where a folder above it is closed to others
    /// (a checkout below root's home), a copy in `dir`.
    pub fn runnable(&self, program: &Path, dir: &Path) -> Result<PathBuf, AccountError> {
        use std::os::unix::fs::PermissionsExt;
        let fail = |what| move |source| AccountError::File { what, path: program.to_owned(), source };
        let program = program.canonicalize().map_err(fail("finding"))?;
        let open = program
            .ancestors()
            .all(|path| std::fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0));
        if self.switch_to.is_none() || open {
            return Ok(program);
        }
        let copy = dir.join(program.file_name().expect("a program has a name"));
        // Not by this process: what another thread forks meanwhile would hold the copy open for writing, too busy to run.
        tool("cp", &[&program.to_string_lossy(), &copy.to_string_lossy()], None)
            .map_err(|error| fail("copying")(std::io::Error::other(error)))?;
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755))
            .map_err(fail("setting the permissions of"))?;
        Ok(copy)
    }
}
