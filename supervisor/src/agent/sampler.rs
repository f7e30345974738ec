//! The sampler's session, and what can be seen of a server and its directory without one.

use super::{door, evidence, here::Here, in_force, marker, released, role, shared::Shared, twin, way_in};
use crate::clock;
use pgvigil_agent::{
    in_force::Stamp,
    known::ServerId,
    tasks::{
        sampler::{self, Content, Looker, Origins, Running, SLOW_EVERY},
        server_ended,
    },
};
use pgvigil_core::{local::Marker, sample::SlowSample, time::Time};
use pgvigil_postgres::{
    ClusterState, ControlFile, Endpoint, Link, Postmaster, Sample,
    datadir::{self, PostmasterStatus},
    kill,
    process::{LOG_BYTES, bound_log},
    rewind,
};
use std::{sync::Arc, time::Duration};
use tokio::task::JoinHandle;

/// A sample's own limit. Its lateness is no verdict on PostgreSQL: the canary is.
pub(super) const LIMIT: Duration = Duration::from_millis(1_500);
/// Between two looks at the ways in, in samples: while the usual one works, and while it does not.
const LOOK_EVERY: (u64, u64) = (SLOW_EVERY, 5);

/// Starts the sampler.
pub fn start(here: Here) {
    let eyes = Eyes { here: here.clone(), link: None, looking: None, role: role::Keeper::default() };
    tokio::spawn(async move { sampler::run(&here, eyes).await });
}

/// See the module.
struct Eyes {
    here: Here,
    /// The session, and the postmaster's process id.
    link: Option<(i32, Arc<Link>)>,
    /// A look at the ways in.
    looking: Option<JoinHandle<()>>,
    role: role::Keeper,
}

impl Eyes {
    /// Opens the session where there is none to this server.
    async fn open(&mut self, postmaster: Arc<Postmaster>) -> Option<Arc<Link>> {
        let shared = &self.here.0;
        let pid = postmaster.pid();
        let endpoint = shared.server().endpoint.clone();
        if let Some((of, link)) = &self.link
            && *of == pid
            && !link.is_closed()
            && endpoint.keeps(link)
        {
            return Some(Arc::clone(link));
        }
        self.link = None;
        match Link::connect(&endpoint, "pgvigil sampler", "", LIMIT).await {
            Ok(fresh) => {
                let fresh = Arc::new(fresh);
                shared.server().warm_link = Arc::downgrade(&fresh);
                self.link = Some((pid, Arc::clone(&fresh)));
                Some(fresh)
            }
            Err(error) if error.is_starting() => {
                shared.lock().local.starting_since.get_or_insert_with(clock::now);
                None
            }
            Err(error) => {
                twin::look_at_receiver(shared, None);
                way_in::shut_out(shared, &error);
                if error.is_refusal() {
                    evidence::look(shared, postmaster).await;
                }
                None
            }
        }
    }
}

impl Looker for Eyes {
    type Postmaster = Postmaster;

    async fn sample(&mut self, server: ServerId) -> Option<(Sample, Time)> {
        let postmaster = self.here.server().postmaster.clone().filter(|postmaster| id(postmaster) == server)?;
        let link = self.open(postmaster).await?;
        let shared = &self.here.0;
        let began = clock::now();
        match link.sample(LIMIT).await {
            Ok(sample) => {
                if shared.server().endpoint.ways.barred().is_none() {
                    shared.problem("connect", None);
                }
                twin::look_at_receiver(shared, Some(&sample));
                Some((sample, began))
            }
            Err(error) => {
                self.link = None;
                twin::look_at_receiver(shared, None);
                tracing::debug!(member = %shared.me(), "no sample: {error}");
                None
            }
        }
    }

    async fn slow_sample(&mut self) -> Option<SlowSample> {
        let (_, link) = self.link.as_ref()?;
        let Ok(slow) = link.slow_sample(LIMIT).await else {
            // What was asked of it may still be under way.
            self.link = None;
            return None;
        };
        let lost: Vec<_> = slow
            .slots
            .iter()
            .filter(|slot| matches!(slot.wal_status.as_deref(), Some("lost" | "unreserved")))
            .map(|slot| format!("{} ({})", slot.name, slot.wal_status.clone().unwrap_or_default()))
            .collect();
        let text = format!("replication slots that lost WAL or are about to: {}", lost.join(", "));
        self.here.problem("slots", (!lost.is_empty()).then_some(text));
        Some(slow)
    }

    async fn origins(&mut self, names: &[String]) -> Option<Origins> {
        let (_, link) = self.link.as_ref()?;
        in_force::origins(link, names).await
    }

    async fn blocking_errors(&mut self) -> Vec<String> {
        match &self.link {
            Some((_, link)) => in_force::blocking_errors(link).await,
            None => Vec::new(),
        }
    }

    async fn sampled(&mut self, sample: &Sample) {
        if let Some((_, link)) = &self.link
            && sample.in_recovery
            && sample.replay_paused
        {
            undercut(&self.here, link).await;
        }
    }

    async fn settled(&mut self) {
        if let Some((_, link)) = &self.link {
            released::look(&self.here, link).await;
        }
    }

    async fn rarely(&mut self) {
        let shared = &self.here.0;
        let newest = shared.lock().sample.as_ref().map(|(sample, _)| sample.clone());
        if let (Some((_, link)), Some(sample)) = (&self.link, newest) {
            in_force::files(shared, link, &sample).await;
        }
        let log = shared.layout.log_file();
        // A server that runs for a year, or one that complains twenty times a second, must not fill the disk.
        let bounded = tokio::task::spawn_blocking(move || bound_log(&log, LOG_BYTES)).await;
        let failed = bounded.ok().and_then(Result::err);
        shared.problem("log", failed.map(|error| format!("PostgreSQL's log cannot be kept small: {error}")));
    }

    fn round_ends(&mut self, count: u64) {
        let shared = &self.here.0;
        if shared.lock().problems.contains_key("files") {
            // A session reads the files anew by itself, and keeps what it had where it cannot: what is in force for clients
            // only a new one shows. Keeps S1.
            self.link = None;
        }
        self.role.round(shared);
        let (rarely, often) = LOOK_EVERY;
        let every = if shared.server().endpoint.ways.barred().is_some() { often } else { rarely };
        if shared.lock().sample.is_some()
            && count % every == 1
            && self.looking.as_ref().is_none_or(JoinHandle::is_finished)
        {
            self.looking = Some(tokio::spawn(way_in::look(Arc::clone(shared))));
        }
    }

    async fn nothing_runs(&mut self, busy: bool) -> Result<(), String> {
        self.link = None;
        if busy { Ok(()) } else { end_recovery(&self.here).await }
    }

    fn stamps(&self, sample: &Sample) -> Vec<Option<Stamp>> {
        in_force::stamps(&self.here.layout, sample)
    }

    fn rule_written(&self) -> Option<String> {
        self.here.unproven_file.rule_now()
    }

    fn major(&self) -> u32 {
        u32::from(self.here.binaries.version().major)
    }

    fn content(&self) -> Content {
        let (dir, version) = (&self.here.layout.data_dir, self.here.binaries.version());
        match datadir::content(dir) {
            Err(error) => Content::Unusable(error.to_string()),
            // Its files are gone; whoever served from them may serve on for a while.
            Ok(datadir::Content::Empty) => match kill::processes(dir, self.here.cgroup.as_deref()) {
                Ok(pids) if pids.is_empty() => Content::Empty,
                Ok(pids) => Content::Unusable(format!(
                    "the files of {} are gone, and processes of PostgreSQL still work there: {pids:?}; they end by themselves within a minute, \
                     or end them",
                    dir.display()
                )),
                Err(error) => Content::Unusable(error.to_string()),
            },
            Ok(datadir::Content::Foreign) => Content::Unusable(format!(
                "{} holds files, but no PostgreSQL data; move them away or name another directory",
                dir.display()
            )),
            Ok(datadir::Content::Cluster { major }) if major != version.major => Content::Unusable(format!(
                "{} is of PostgreSQL {major}, the programs are of {version}; set member.bin_dir to PostgreSQL {major}",
                dir.display()
            )),
            Ok(datadir::Content::Cluster { .. }) => Content::Data,
        }
    }

    fn running(&self) -> anyhow::Result<Option<Running<Postmaster>>> {
        let shared = &self.here.0;
        let Some(postmaster) = Postmaster::adopt(&shared.layout.data_dir)? else { return Ok(None) };
        let file = datadir::PidFile::read(&shared.layout.data_dir).ok().flatten();
        // A hot standby is as "ready" in its pid file as a primary: only the control file tells them apart.
        let control = ControlFile::read(&shared.binaries, &shared.layout.data_dir);
        let recovers = control.is_ok_and(|control| control.state == ClusterState::InArchiveRecovery);
        // The door as this agent left it: restarting pgvigil closes it to nobody.
        let door_open = door::may_be_open(&shared.layout.agent_dir);
        // What it is, the first sample tells. The fence on disk says what it is only of a server that has not become a primary
        // since: there it lies for the next start.
        let status = file.as_ref().and_then(|file| file.status);
        let standby = recovers || matches!(status, Some(PostmasterStatus::Starting | PostmasterStatus::Standby));
        let fenced = standby && shared.layout.standby_signal().exists();
        if let Some((port, socket_dir)) = file.and_then(|file| file.port.zip(file.socket_dir)) {
            let mut server = shared.server();
            server.endpoint = Endpoint { socket_dir, port, ..server.endpoint.clone() };
        }
        Ok(Some(Running { server: id(&postmaster), postmaster, start: self.last_start(), fenced, door_open }))
    }

    fn last_start(&self) -> Option<Stamp> {
        in_force::stamp(&self.here.layout.postmaster_opts())
    }

    fn has_ended_clean(&self) -> bool {
        ControlFile::read(&self.here.binaries, &self.here.layout.data_dir).is_ok_and(|c| c.state.is_clean())
    }

    fn marker(&self) -> Option<Marker> {
        marker::read(&self.here.layout.data_dir).ok().flatten()
    }

    fn watch(&self, postmaster: Postmaster) {
        watch(&self.here, postmaster);
    }
}

/// Replay stands still: because somebody paused it, or because the primary was restarted with larger settings than this
/// standby runs with (an adopted one, or one whose configuration was changed before its restart).
async fn undercut(shared: &Arc<Shared>, link: &Link) {
    let (binaries, dir) = (shared.binaries.clone(), shared.layout.data_dir.clone());
    let Ok(Ok(control)) = tokio::task::spawn_blocking(move || ControlFile::read(&binaries, &dir)).await else { return };
    for (name, floor) in control.floors.by_name() {
        let Ok(runs_with) = link.setting(name, LIMIT).await else { return };
        if runs_with.parse::<u32>().is_ok_and(|value| value < floor) {
            let why = format!("its replay stands still: it runs with {name} = {runs_with}, its primary with {floor}");
            let fresh = shared.lock().local.restart_due.replace(why.clone()).is_none();
            if fresh {
                tracing::warn!(member = %shared.me(), "{why}; it is restarted");
                shared.work.notify_one();
            }
            return;
        }
    }
}

/// A server that an agent before this one started to finish recovery before a rewind is no server to adopt: it is ended,
/// and the rewind begins anew.
async fn end_recovery(shared: &Arc<Shared>) -> Result<(), String> {
    let instance = super::directory::instance(shared);
    if !rewind::is_recovery(&instance.layout) || !matches!(instance.adopt(), Ok(Some(_))) {
        return Ok(());
    }
    tracing::info!(member = %shared.me(), "ending the recovery that a rewind had begun before pgvigil was restarted");
    let ended = instance.fence().await;
    ended.map(drop).map_err(|error| format!("the recovery before a rewind cannot be ended: {error}"))
}

/// How it is known to what is pure.
pub(super) fn id(postmaster: &Postmaster) -> ServerId {
    ServerId::try_from(postmaster.pid()).unwrap_or_default()
}

/// Keeps `postmaster` and notices its end at once.
pub fn watch(here: &Here, postmaster: Postmaster) {
    let postmaster = Arc::new(postmaster);
    let start = in_force::stamp(&here.layout.postmaster_opts());
    {
        let mut known = here.lock();
        here.server().postmaster = Some(Arc::clone(&postmaster));
        known.found_running(id(&postmaster), start);
    }
    here.look.notify_one();
    let here = here.clone();
    tokio::spawn(async move {
        let exit = postmaster.exited().await;
        tracing::info!(member = %here.me(), pid = postmaster.pid(), ?exit, "the postmaster has ended");
        server_ended(&here, id(&postmaster));
    });
}
