//! The agent's ports in the program: the data directory, and what is kept beside it.

use super::{
    door,
    here::Here,
    in_force,
    marker::{self, Kept},
    peers,
    session::GENERATION,
    shared::Shared,
};
use anyhow::Context;
use pgvigil_agent::ports::{Directory, DirectoryEnd, Removed, Rewound};
use pgvigil_core::{
    id::{Epoch, TimelineId},
    lineage::OwnEnd,
    local::Marker,
    lsn::Lsn,
    reconcile::Upstream,
    report::DiscardedWal,
    sync_rule::{RecoveryTimeline, SyncRule},
    time::WallTime,
};
use pgvigil_postgres::{
    DiskPosition, Settings,
    clone::{ClonePlan, OldData, clone as clone_server},
    conf_files::ensure_include,
    config::MemberConfig,
    diverged::{self, Kept as KeptWal},
    hba::Door,
    history_files,
    instance::{Instance, write_fence},
    rewind::{self, RewindPlan, rewind as rewind_server},
    seal::seal_on_disk,
    settings::write_pass_file,
    source::Source,
    stopped,
};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

const INITDB: Duration = Duration::from_secs(300);
/// How long copying may take: a terabyte over a slow line.
const COPY: Duration = Duration::from_secs(48 * 3600);
/// How long one run of pg_rewind, or of crash recovery before it, may take.
const REWIND: Duration = Duration::from_secs(3600);

pub(super) fn instance(shared: &Shared) -> Instance {
    Instance {
        binaries: shared.binaries.clone(),
        layout: shared.layout.clone(),
        endpoint: shared.server().endpoint.clone(),
        cgroup: shared.cgroup.clone(),
    }
}

/// Our settings file; sealed, with nobody to confirm, until the caller says otherwise.
pub(super) fn settings(shared: &Shared) -> Settings {
    let endpoint = shared.server().endpoint.clone();
    let mut settings = Settings::new(shared.config.port, endpoint.socket_dir);
    settings.listen_addresses = match (&shared.config.listen_addresses, shared.config.host.parse::<IpAddr>()) {
        (Some(addresses), _) => addresses.clone(),
        (None, Ok(address)) if address.is_loopback() => address.to_string(),
        (None, _) => "*".to_owned(),
    };
    if let Some(agreed) = shared.agreed() {
        settings.max_slot_wal_keep_size_mb = i64::try_from(agreed.settings.slot_wal_max_mib).unwrap_or(i64::MAX);
    }
    settings.wal_keep_size_mb = 1024;
    settings.allow_alter_system = false;
    settings.user = shared.config.parameters.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    settings
}

async fn source(shared: &Shared, upstream: &Upstream) -> anyhow::Result<Source> {
    let scram_plus = peers::trusted(shared, upstream).await?;
    Ok(Source {
        host: upstream.host.clone(),
        port: upstream.port,
        user: shared.access.replication_role.clone(),
        password: shared.secret.password().to_owned(),
        scram_plus,
    })
}

fn config(shared: &Shared) -> MemberConfig {
    MemberConfig {
        settings: settings(shared),
        door: Door::Closed,
        access: shared.access(),
        user_hba: shared.config.hba.clone(),
    }
}

fn end(found: &DiskPosition) -> DirectoryEnd {
    DirectoryEnd { own: OwnEnd { history: found.own.clone(), end: found.end() }, needs: found.needs }
}

/// Of which epoch it is, and by whose hand, the caller knows.
fn discarded(kept: KeptWal) -> DiscardedWal {
    DiscardedWal {
        epoch: Epoch(0),
        timeline: kept.manifest.timeline,
        from: kept.manifest.fork,
        to: kept.manifest.end,
        kept_in: kept.dir.display().to_string(),
        by_hand: false,
    }
}

pub(super) fn directory_end(found: &DiskPosition) -> DirectoryEnd {
    end(found)
}

/// What blocks runs elsewhere.
async fn blocking<T: Send + 'static, E: Into<anyhow::Error> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await?.map_err(Into::into)
}

impl Directory for Here {
    async fn has_data(&self) -> bool {
        let version = self.layout.data_dir.join("PG_VERSION");
        // A task of ours that died says nothing of the disk: then there may be data.
        tokio::task::spawn_blocking(move || version.exists()).await.unwrap_or(true)
    }

    async fn mark(&self, mark: &Marker) -> anyhow::Result<()> {
        let (mark, major, layout) = (mark.clone(), self.binaries.version().major, self.layout.clone());
        blocking(move || {
            marker::write(&layout.data_dir, &mark)?;
            marker::keep(&layout.agent_dir, &Kept { marker: mark, major })?;
            rewind::forget_interrupted(&layout)?;
            anyhow::Ok(())
        })
        .await
    }

    async fn seal_on_disk(&self, timeline: RecoveryTimeline) -> anyhow::Result<()> {
        let mut ours = settings(self);
        ours.recovery_timeline = timeline;
        let (layout, version) = (self.layout.clone(), self.binaries.version());
        blocking(move || seal_on_disk(&layout, &ours, version)).await
    }

    async fn write_fence(&self) -> anyhow::Result<()> {
        let layout = self.layout.clone();
        blocking(move || write_fence(&layout).map(drop)).await
    }

    async fn overrides(&self) -> anyhow::Result<Removed> {
        in_force::overrides(self)
    }

    async fn remove_overrides(&self) -> anyhow::Result<Removed> {
        in_force::remove_overrides(self)
    }

    async fn put_rule(&self, rule: &SyncRule, generation: &str) -> anyhow::Result<BTreeMap<String, String>> {
        let mut ours = settings(self);
        ours.rule = rule.clone();
        self.unproven_file.write_rule(&rule.names_value())?;
        ours.user.push((GENERATION.to_owned(), generation.to_owned()));
        ours.replace(self.binaries.version(), &self.layout)?;
        Ok(ours.shown(self.binaries.version(), &self.layout))
    }

    async fn point_at(
        &self,
        upstream: &Upstream,
        name: &str,
        bind_channel: bool,
        timeline: RecoveryTimeline,
    ) -> anyhow::Result<BTreeMap<String, String>> {
        let mut ours = settings(self);
        ours.recovery_timeline = timeline;
        let role = &self.access.replication_role;
        let mut to = pgvigil_postgres::Upstream::new(&upstream.host, upstream.port, role, name);
        to.scram_plus = bind_channel;
        self.server().pointed_at = Some(((upstream.host.clone(), upstream.port), bind_channel));
        write_pass_file(&self.layout, Some((&to, self.secret.password())))?;
        ours.upstream = Some(to);
        // One that is promoted by hand while no agent runs shows this and not its last reign's rule: nothing of that reign
        // has changed by it.
        self.unproven_file.write_rule(&ours.rule.names_value())?;
        ours.replace(self.binaries.version(), &self.layout)?;
        Ok(ours.shown(self.binaries.version(), &self.layout))
    }

    async fn trusted(&self, upstream: &Upstream) -> anyhow::Result<bool> {
        peers::trusted(self, upstream).await
    }

    async fn write_door(&self, open: bool) -> anyhow::Result<()> {
        Shared::write_door(self, if open { Door::Open } else { Door::Closed })?;
        Ok(())
    }

    fn remember_door(&self, open: bool) -> anyhow::Result<()> {
        Ok(door::remember(&self.layout.agent_dir, open)?)
    }

    async fn newest_timeline(&self) -> anyhow::Result<TimelineId> {
        let pg_wal = self.layout.pg_wal();
        Ok(blocking(move || history_files::newest(&pg_wal)).await?.unwrap_or_default())
    }

    fn history_written_at(&self, timeline: TimelineId) -> Option<WallTime> {
        history_files::written_at(&self.layout.pg_wal(), timeline).map(WallTime)
    }

    async fn start_timeline(&self, owner: TimelineId) -> anyhow::Result<RecoveryTimeline> {
        Ok(history_files::start_timeline(&self.layout.pg_wal(), owner)?)
    }

    async fn reserve_timeline(&self, owner: TimelineId, allotted: TimelineId) -> anyhow::Result<()> {
        let pg_wal = self.layout.pg_wal();
        blocking(move || history_files::reserve(&pg_wal, owner, allotted)).await
    }

    async fn clear_reservations(&self, owner: TimelineId) -> anyhow::Result<()> {
        Ok(history_files::clear_reservations(&self.layout.pg_wal(), owner)?)
    }

    async fn remove_histories_above(&self, owner: TimelineId) -> anyhow::Result<Vec<TimelineId>> {
        let pg_wal = self.layout.pg_wal();
        blocking(move || history_files::remove_above(&pg_wal, owner)).await
    }

    async fn mark_history(&self, timeline: TimelineId, epoch: Epoch) -> anyhow::Result<()> {
        let pg_wal = self.layout.pg_wal();
        blocking(move || history_files::mark(&pg_wal, timeline, epoch)).await
    }

    async fn initdb(&self) -> anyhow::Result<()> {
        let mut print = |line: &str| tracing::debug!("initdb: {line}");
        instance(self).initdb(INITDB, &mut print).await?;
        Shared::write_door(self, Door::Closed)?;
        settings(self).write(self.binaries.version(), &self.layout)?;
        ensure_include(&self.layout)?;
        Ok(())
    }

    fn is_interrupted(&self) -> anyhow::Result<bool> {
        Ok(rewind::interrupted(&self.layout)?.is_some())
    }

    async fn end_of_stopped(&self) -> anyhow::Result<DirectoryEnd> {
        let (_, found) = stopped::read(&instance(self)).await?;
        Ok(end(&found))
    }

    async fn keep_diverged(&self, fork: Lsn, label: &str) -> anyhow::Result<Option<DiscardedWal>> {
        let (control, found) = stopped::read(&instance(self)).await?;
        let (layout, label) = (self.layout.clone(), label.to_owned());
        let kept = blocking(move || diverged::keep(&layout, &found, fork, control.wal_segment_size, &label)).await?;
        Ok(kept.map(discarded))
    }

    async fn fence_half_made(&self) -> anyhow::Result<()> {
        if self.layout.data_dir.exists() {
            write_pass_file(&self.layout, None)?;
            instance(self).fence().await?;
        }
        Ok(())
    }

    async fn rewind(&self, upstream: &Upstream, fork: Lsn, timeline: TimelineId, label: &str) -> Rewound {
        let source = match source(self, upstream).await {
            Ok(source) => source,
            Err(error) => return Rewound { kept: None, done: Err(error) },
        };
        let plan = RewindPlan { source, fork, timeline, label: label.to_owned(), config: config(self), limit: REWIND };
        let reporter = Arc::clone(self);
        let mut progress = move |line: &str| reporter.lock().activity = Some(format!("pg_rewind: {line}"));
        match rewind_server(&instance(self), &plan, &mut progress).await {
            Ok(rewound) => Rewound { kept: rewound.kept.map(discarded), done: Ok(()) },
            Err(error) => {
                let kept = diverged::kept(&self.layout, label).map(discarded);
                Rewound { kept, done: Err(error.into()) }
            }
        }
    }

    async fn clone_from(&self, upstream: &Upstream, keep_old: Option<String>) -> anyhow::Result<()> {
        let plan = ClonePlan {
            source: source(self, upstream).await?,
            slot: None,
            max_rate: None,
            tablespaces: Vec::new(),
            config: config(self),
            old: keep_old.map_or(OldData::Remove, OldData::Keep),
            limit: COPY,
        };
        let reporter = Arc::clone(self);
        let mut progress = move |line: &str| reporter.lock().activity = Some(format!("cloning: {}", line.trim()));
        let kept = clone_server(&instance(self), &plan, &mut progress).await.context("pg_basebackup")?;
        if let Some(kept) = kept {
            tracing::info!(member = %Shared::me(self), "the old data directory is kept in {}", kept.display());
        }
        Ok(())
    }
}
