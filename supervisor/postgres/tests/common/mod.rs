//! The harness: real PostgreSQL in temporary directories, run as user `postgres` when the tests run as root.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this module")]

use pgvigil_core::{id::TimelineId, lsn::Lsn};
use pgvigil_postgres::{
    Binaries, Endpoint, Instance, Layout, Link, MemberConfig, Postmaster, Promoted, SealLimits, Sealed, Settings,
    Source, StartAs, SyncRule, Upstream,
    clone::{ClonePlan, OldData, clone},
    hba::{Access, Door},
    kill::kill_all,
    process::SpawnOptions,
    role::{Look, Secret},
    seal,
    settings::write_pass_file,
};
use std::{
    future::Future,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::{Duration, Instant},
};

/// Generous: only a failure waits this long.
pub const LIMIT: Duration = Duration::from_secs(60);
pub const ROLE: &str = "pgvigil_repl";
pub const PASSWORD: &str = r"p:a'ss\word";

/// Declares a test whose body runs as an unprivileged user, in a tokio runtime.
#[macro_export]
macro_rules! pg_test {
    ($(#[$doc:meta])* $name:ident, $body:expr) => {
        $(#[$doc])*
        #[test]
        fn $name() {
            common::run(stringify!($name), $body);
        }
    };
}

pub fn run(name: &str, body: impl Future<Output = ()>) {
    if nix::unistd::geteuid().is_root() {
        return rerun_unprivileged(name);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(300), body).await.expect("the test took too long")
    });
}

/// PostgreSQL refuses to run as root, and so does everything that controls it here: the one test runs again as user
/// `postgres`.
fn rerun_unprivileged(name: &str) {
    let status = Command::new("setpriv")
        .args(["--reuid=postgres", "--regid=postgres", "--init-groups"])
        .arg(reachable_program())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .current_dir("/")
        .status()
        .unwrap();
    assert!(status.success(), "{name} failed as user postgres: {status}");
}

/// This program, where another user may run it; copied once if it lies in a private directory.
pub fn reachable_program() -> PathBuf {
    static COPY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let program = std::env::current_exe().unwrap();
    let open = |dir: &Path| std::fs::metadata(dir).unwrap().permissions().mode() & 0o001 != 0;
    if program.ancestors().all(open) {
        return program;
    }
    // Other tests wait here, so none of them forks while the copy is open for writing (which would keep it busy).
    let (_, copy) = COPY.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let copy = dir.path().join("test");
        std::fs::copy(&program, &copy).unwrap();
        for path in [dir.path(), &copy] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        (dir, copy)
    });
    copy.clone()
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One member under test.
pub struct Node {
    pub name: String,
    pub instance: Instance,
    pub config: MemberConfig,
    pub postmaster: Option<Postmaster>,
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {}:\n{}", self.name, self.instance.log_tail(60));
        }
        let _ = kill_all(&self.instance.layout.data_dir, None, LIMIT);
    }
}

impl Node {
    /// A member without data.
    pub fn new(root: &Path, name: &str) -> Self {
        let base = root.join(name);
        let (agent, sockets) = (base.join("agent"), base.join("s"));
        std::fs::create_dir_all(&agent).unwrap();
        std::fs::create_dir_all(&sockets).unwrap();
        let port = free_port();
        let os_user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
        let mut settings = Settings::new(port, &sockets);
        settings.listen_addresses = "127.0.0.1".to_owned();
        settings.user = vec![("shared_buffers".into(), "16MB".into()), ("max_connections".into(), "30".into())];
        settings.wal_keep_size_mb = 512;
        let binaries = Binaries::find(None).unwrap();
        let endpoint = Endpoint::new(sockets, port, "boss", binaries.version().major);
        let instance = Instance { binaries, layout: Layout::new(base.join("data"), agent), endpoint, cgroup: None };
        let access = Access {
            superuser: "boss".into(),
            os_user,
            replication_role: ROLE.into(),
            replication_addresses: vec!["127.0.0.1/32".into()],
        };
        let config = MemberConfig { settings, door: Door::Closed, access, user_hba: vec![] };
        Self { name: name.to_owned(), instance, config, postmaster: None }
    }

    /// A primary with a new cluster and the replication role.
    pub async fn primary(root: &Path, name: &str) -> Self {
        Self::primary_with(root, name, &[]).await
    }

    pub async fn primary_with(root: &Path, name: &str, initdb: &[String]) -> Self {
        let mut node = Self::new(root, name);
        node.found_with(initdb).await;
        node
    }

    /// Makes this member a primary with a new cluster and the replication role.
    pub async fn found(&mut self) {
        self.found_with(&[]).await;
    }

    async fn found_with(&mut self, initdb: &[String]) {
        self.instance.initdb_with(initdb, LIMIT, &mut |_| {}).await.unwrap();
        self.config.settings.rule = SyncRule::Local;
        self.write_config();
        self.start(StartAs::Primary).await;
        let secret = Secret::new(PASSWORD.to_owned());
        self.link().await.mend_replication_role(ROLE, &secret, Look::Close, LIMIT).await.unwrap();
    }

    /// A streaming standby of `primary`.
    pub async fn standby(root: &Path, name: &str, primary: &Self) -> Self {
        let mut node = Self::new(root, name);
        node.follow(primary);
        node.clone_from(primary, OldData::Remove).await;
        node.start(StartAs::Standby).await;
        node.wait_streaming().await;
        node
    }

    /// A primary `a` and its streaming standbys `b` and `c`.
    pub async fn three(root: &Path) -> (Self, Self, Self) {
        let a = Self::primary(root, "a").await;
        let b = Self::standby(root, "b", &a).await;
        let c = Self::standby(root, "c", &a).await;
        (a, b, c)
    }

    /// Seals it, as one that was not asked to promote.
    pub async fn seal(&self) -> Sealed {
        seal(&self.instance, &self.config.settings, false, SealLimits::default()).await.unwrap()
    }

    pub async fn clone_from(&self, source: &Self, old: OldData) -> Option<PathBuf> {
        let plan = ClonePlan {
            source: source.as_source(),
            slot: None,
            max_rate: None,
            tablespaces: vec![],
            config: self.config.clone(),
            old,
            limit: LIMIT,
        };
        clone(&self.instance, &plan, &mut |_| {}).await.unwrap()
    }

    pub fn as_source(&self) -> Source {
        Source {
            host: "127.0.0.1".into(),
            port: self.instance.endpoint.port,
            user: ROLE.into(),
            password: PASSWORD.into(),
            scram_plus: false,
        }
    }

    /// Configures this member to stream from `upstream`; nothing is written but the pass file.
    pub fn follow(&mut self, upstream: &Self) {
        let port = upstream.instance.endpoint.port;
        self.config.settings.rule = SyncRule::Nobody;
        let upstream = Upstream::new("127.0.0.1", port, ROLE, &self.name);
        write_pass_file(&self.instance.layout, Some((&upstream, PASSWORD))).unwrap();
        self.config.settings.upstream = Some(upstream);
    }

    pub fn write_config(&self) {
        self.config.write(self.instance.binaries.version(), &self.instance.layout).unwrap();
    }

    /// Writes the configuration and has the running server read it; returns when a new connection shows the rule.
    pub async fn apply_config(&self) {
        self.write_config();
        self.instance.reload(self.postmaster.as_ref().unwrap()).unwrap();
        let wanted = self.config.settings.rule.names_value();
        until("the new rule", async || {
            let shown =
                pgvigil_postgres::link::fresh_value(&self.instance.endpoint, "synchronous_standby_names", LIMIT);
            shown.await.unwrap() == wanted
        })
        .await;
    }

    pub async fn start(&mut self, role: StartAs) {
        let overrides = self.config.settings.command_line(self.instance.binaries.version());
        let options = SpawnOptions { overrides, ..SpawnOptions::default() };
        let (postmaster, ready) = self.instance.start(role, &options, LIMIT).await.unwrap();
        assert!(ready.is_some(), "{} is not ready: {}", self.name, self.instance.log_tail(20));
        assert!(self.instance.has_fence());
        self.postmaster = Some(postmaster);
    }

    pub async fn link(&self) -> Link {
        Link::connect(&self.instance.endpoint, "test", "-c search_path=public", LIMIT).await.unwrap()
    }

    /// A session whose commits wait for no standby.
    pub async fn local_link(&self) -> Link {
        Link::connect(&self.instance.endpoint, "test", "-c synchronous_commit=local", LIMIT).await.unwrap()
    }

    pub async fn sql(&self, sql: &str) -> String {
        let rows = self.link().await.rows("test", sql, LIMIT).await.unwrap();
        rows.into_iter().next().and_then(|row| row.into_iter().next().flatten()).unwrap_or_default()
    }

    pub async fn wait_streaming(&self) {
        until("streaming", async || {
            let sample = self.link().await.sample(LIMIT).await.unwrap();
            sample.receiver.is_some_and(|receiver| receiver.status == "streaming")
        })
        .await;
    }

    /// Waits until this primary's walsender of `standby` reports everything flushed so far.
    pub async fn wait_caught_up(&self, standby: &Self) {
        let target: Lsn = self.sql("SELECT pg_current_wal_flush_lsn()").await.parse().unwrap();
        until("caught up", async || {
            let senders = self.link().await.walsenders(LIMIT).await.unwrap();
            senders.iter().any(|(_, name, flush)| *name == standby.name && flush.is_some_and(|flush| flush >= target))
        })
        .await;
    }

    /// Promotes this standby under no rule and checks the timeline.
    pub async fn promote(&mut self, allotted: TimelineId) -> Promoted {
        self.config.settings.rule = SyncRule::Local;
        self.config.settings.upstream = None;
        self.apply_config().await;
        let link = self.link().await;
        let asked = Instant::now();
        self.instance.promote(self.postmaster.as_ref().unwrap()).unwrap();
        let promoted = self.instance.wait_promoted(&link, Some(allotted), LIMIT).await.unwrap();
        assert!(!self.instance.has_fence(), "PostgreSQL removes it, or nobody need put it back");
        self.instance.write_fence().unwrap();
        eprintln!("{} promoted within {:?}", self.name, asked.elapsed());
        assert!(self.instance.has_fence());
        link.checkpoint(LIMIT).await.unwrap();
        promoted
    }

    /// PostgreSQL's own opinion of valid WAL: the start of every record that pg_waldump prints, and its last words.
    pub fn waldump(&self, pg_wal: &Path, timeline: TimelineId, start: Lsn) -> (Vec<Lsn>, String) {
        let output = Command::new(self.instance.binaries.program("pg_waldump"))
            .arg("-p")
            .arg(pg_wal)
            .args(["-t", &timeline.to_string(), "-s", &start.to_string()])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let starts = text.lines().filter_map(|line| line.split_once("lsn: ")?.1.split(',').next()?.parse().ok());
        (starts.collect(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// All that pg_waldump prints for timeline 1.
    pub fn waldump_text(&self, pg_wal: &Path, start: Lsn) -> String {
        let mut command = Command::new(self.instance.binaries.program("pg_waldump"));
        let output = command.arg("-p").arg(pg_wal).args(["-s", &start.to_string()]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The last record's start and the end of WAL, where pg_waldump names it ("… at 0/END: …").
    pub fn waldump_end(&self, pg_wal: &Path, timeline: TimelineId, start: Lsn) -> (Lsn, Lsn) {
        let (starts, words) = self.waldump(pg_wal, timeline, start);
        let end = words.rsplit(" at ").find_map(|piece| piece.split([':', ' ', ',']).next()?.trim().parse().ok());
        (starts.last().copied().unwrap_or_default(), end.unwrap_or_else(|| panic!("pg_waldump said {words:?}")))
    }
}

/// Waits for a condition, with a generous limit.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition().await {
        assert!(Instant::now() < deadline, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
