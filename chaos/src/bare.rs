//! PostgreSQL servers without pgvigil: what the floor is measured on.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::account::{Account, AccountError};
use crate::interrupt::{WaitError, wait_for};
use crate::libpq::{Address, Connection, Dsn};
use crate::processes::{self, SignalError};

/// Why a bare server is not there.
#[derive(Debug, Error)]
pub enum BareError {
    /// No PostgreSQL was found.
    #[error("no PostgreSQL 14 to 18 in /usr/lib/postgresql/*/bin (tools/setup installs one)")]
    NoPostgres,
    /// A PostgreSQL program failed.
    #[error("{program} failed: {output}")]
    Program {
        /// Which.
        program: String,
        /// What it said.
        output: String,
    },
    /// A program could not be run, or a file not be written.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A statement failed.
    #[error("{0}")]
    Statement(String),
    /// See there.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// See there.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// See there.
    #[error(transparent)]
    Signal(#[from] SignalError),
}

/// The folder of the newest supported PostgreSQL's programs.
pub fn bin_dir() -> Result<PathBuf, BareError> {
    [18, 17, 16, 15, 14]
        .into_iter()
        .map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")))
        .find(|dir| dir.join("postgres").exists())
        .ok_or(BareError::NoPostgres)
}

/// Ports on loopback that were free a moment ago, below those that the system gives to outgoing connections: one of
/// these could take a server's port while the server is down. All are held until the last is known, so that they differ.
pub fn free_ports(count: usize) -> Result<Vec<u16>, BareError> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
    let lowest = range.and_then(|text| text.split_whitespace().next()?.parse::<u16>().ok()).unwrap_or(32_768);
    let begin = lowest.saturating_sub(12_000).max(1_024);
    let mut held = Vec::new();
    for _ in 0..2_000 {
        let port = if begin < lowest { rand::random_range(begin..lowest) } else { 0 };
        if let Ok(listener) = std::net::TcpListener::bind(("127.0.0.1", port)) {
            held.push(listener);
        }
        if held.len() == count {
            let fail = |source| BareError::Io { what: "choosing a free port".to_owned(), source };
            return held.iter().map(|listener| Ok(listener.local_addr().map_err(fail)?.port())).collect();
        }
    }
    let source = std::io::Error::other("none is left on 127.0.0.1");
    Err(BareError::Io { what: "choosing a free port".to_owned(), source })
}

/// One server, killed with all its children when dropped.
#[derive(Debug)]
pub struct BareServer {
    /// Its data directory.
    pub data_dir: PathBuf,
    /// Where it listens on loopback.
    pub port: u16,
    account: Account,
    bin: PathBuf,
    child: Option<Child>,
    released: bool,
}

impl BareServer {
    /// A new server in `data_dir` (made by initdb), not started.
    pub fn create(account: &Account, data_dir: PathBuf, port: u16) -> Result<BareServer, BareError> {
        let server =
            BareServer { data_dir, port, account: account.clone(), bin: bin_dir()?, child: None, released: false };
        let dir = server.data_dir.to_string_lossy().into_owned();
        server.run("initdb", &["-D", &dir, "-U", &account.name, "-A", "trust", "-k", "-E", "UTF8", "--no-sync"])?;
        server.configure(&[("synchronous_standby_names", "")])?;
        Ok(server)
    }

    /// A standby of this server in `data_dir`, called `name`, not started.
    pub fn clone_to(&self, data_dir: PathBuf, port: u16, name: &str) -> Result<BareServer, BareError> {
        let standby = BareServer {
            data_dir,
            port,
            account: self.account.clone(),
            bin: self.bin.clone(),
            child: None,
            released: false,
        };
        let source = format!("host=127.0.0.1 port={} user={}", self.port, self.account.name);
        let dir = standby.data_dir.to_string_lossy().into_owned();
        standby.run("pg_basebackup", &["-d", &source, "-D", &dir, "-c", "fast", "-X", "stream", "--no-sync"])?;
        self.account.write_file(&standby.data_dir.join("standby.signal"), "")?;
        standby.follow(self.port, name, &[])?;
        Ok(standby)
    }

    /// Writes the configuration of a standby of the server at `port`. Takes effect at the next start or reload.
    pub fn follow(&self, port: u16, name: &str, more: &[(&str, &str)]) -> Result<(), BareError> {
        let source = format!("host=127.0.0.1 port={port} user={} application_name={name}", self.account.name);
        let mut settings = vec![("primary_conninfo", source.as_str())];
        settings.extend_from_slice(more);
        self.configure(&settings)
    }

    /// Writes the configuration. Takes effect at the next start or reload.
    pub fn configure(&self, settings: &[(&str, &str)]) -> Result<(), BareError> {
        // A standby that lost its upstream less than wal_retrieve_retry_interval (5 s) after an earlier failure can sleep
        // that long before it looks at a promotion request; the floor is not to contain that.
        let mut text = format!(
            "wal_retrieve_retry_interval = '50ms'\nlisten_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = ''\nshared_buffers = '32MB'\n\
             max_connections = 50\nwal_level = replica\nhot_standby = on\n",
            self.port
        );
        for (name, value) in settings {
            text.push_str(&format!("{name} = '{value}'\n"));
        }
        Ok(self.account.write_file(&self.data_dir.join("postgresql.conf"), &text)?)
    }

    /// Starts the server and waits until it answers.
    pub fn start(&mut self) -> Result<(), BareError> {
        let log = std::fs::File::create(self.data_dir.with_extension("log"))
            .map_err(|source| BareError::Io { what: "making a log file".to_owned(), source })?;
        let child = self
            .account
            .command(&self.bin.join("postgres"), &self.data_dir)
            .arg("-D")
            .arg(&self.data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|source| BareError::Io { what: "starting postgres".to_owned(), source })?;
        self.child = Some(child);
        wait_for("a bare server to answer", Duration::from_secs(60), Duration::from_millis(10), || {
            Ok::<_, BareError>(self.connect().ok().map(drop))
        })
    }

    /// A connection to this server.
    pub fn connect(&self) -> Result<Connection, BareError> {
        Connection::connect(&self.dsn().to_string(), Instant::now() + Duration::from_secs(5))
            .map_err(|e| BareError::Statement(e.to_string()))
    }

    /// Its connection string.
    pub fn dsn(&self) -> Dsn {
        Dsn {
            addresses: vec![Address { host: "127.0.0.1".to_owned(), port: self.port }],
            database: "postgres".to_owned(),
            user: self.account.name.clone(),
            read_write: false,
        }
    }

    /// The postmaster, while it was started and not killed.
    pub fn postmaster(&self) -> Option<i32> {
        self.child.as_ref().map(|child| child.id() as i32)
    }

    /// Makes a file in the data directory that the server looks for, such as `promote`.
    pub fn touch(&self, name: &str) -> Result<(), BareError> {
        Ok(self.account.write_file(&self.data_dir.join(name), "")?)
    }

    /// Lets the running server go: from here on it is somebody else's to end. It is still reaped, as init would.
    pub fn release(mut self) {
        if let Some(mut child) = self.child.take() {
            std::thread::spawn(move || child.wait());
        }
        self.released = true;
    }

    /// Kills the server; its data directory stays.
    pub fn crash(&mut self) -> Result<(), BareError> {
        self.kill()
    }

    /// Kills the server and removes its data directory.
    pub fn destroy(mut self) -> Result<(), BareError> {
        self.kill()?;
        std::fs::remove_dir_all(&self.data_dir)
            .map_err(|source| BareError::Io { what: format!("removing {}", self.data_dir.display()), source })
    }

    fn kill(&mut self) -> Result<(), BareError> {
        processes::kill_host(&self.data_dir)?;
        if let Some(mut child) = self.child.take() {
            child.wait().map_err(|source| BareError::Io { what: "waiting for postgres".to_owned(), source })?;
        }
        Ok(())
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), BareError> {
        let parent: &Path = self.data_dir.parent().expect("a data directory lies in a folder");
        let output = self
            .account
            .command(&self.bin.join(program), parent)
            .args(arguments)
            .output()
            .map_err(|source| BareError::Io { what: format!("running {program}"), source })?;
        if output.status.success() {
            return Ok(());
        }
        let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(BareError::Program { program: program.to_owned(), output })
    }
}

impl Drop for BareServer {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        if let Err(error) = self.kill() {
            eprintln!("a bare server in {} could not be ended: {error}", self.data_dir.display());
        }
    }
}
