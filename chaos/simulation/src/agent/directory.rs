//! The agent's ports in the simulation: what lies on the host's disk.

use super::shared::Ctx;
use crate::{
    planted::Planted,
    postgres::{
        data::{Conf, DataDir, Names, Upstream as Following},
        wal::{FIRST, Point},
    },
    world::World,
};
use anyhow::{Context, anyhow, bail};
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
use std::{collections::BTreeMap, rc::Rc};

/// A data directory as initdb leaves it, with our settings.
#[must_use]
pub fn fresh(w: &World) -> DataDir {
    let branch = w.tree.borrow_mut().begin(1, None);
    DataDir {
        marker: None,
        signal: true,
        conf: Rc::new(Conf::sealed()),
        pass: None,
        door: false,
        end: Point { branch, lsn: FIRST },
        synced: FIRST,
        clean: true,
        histories: BTreeMap::new(),
        interrupted: false,
    }
}

impl Ctx {
    /// The data directory, changed.
    fn change<T>(&self, change: impl FnOnce(&mut DataDir) -> T) -> anyhow::Result<T> {
        self.w.with_data(self.h, change).context("no data directory")
    }

    /// Where the WAL here ends.
    ///
    /// # Errors
    /// There is no data directory.
    pub fn directory_end(&self) -> anyhow::Result<DirectoryEnd> {
        let end = self.end_on_disk().context("no data directory")?;
        let own = OwnEnd { history: self.w.tree.borrow().history(end.branch), end: Lsn(end.lsn) };
        Ok(DirectoryEnd { own, needs: None })
    }

    /// What a copy of the source's directory holds at its end: the source's WAL and the source's mark. `None`: the source
    /// was lost meanwhile.
    async fn copy(&self, upstream: &Upstream, backup: bool) -> Option<DataDir> {
        let from = self.w.host_of(&upstream.key.member)?;
        let pid = self.w.hosts[from].pg.borrow().pid;
        let longest = if self.w.rng.chance(15) { 6_000_000 } else { 600_000 };
        let until = self.w.exec.now() + self.w.rng.range(50_000, longest);
        loop {
            let alive = {
                let pg = self.w.hosts[from].pg.borrow();
                pg.pid == pid && pg.pid != 0 && pg.ready && !pg.stopping && (backup || !pg.in_recovery)
            };
            if !alive || !self.w.reaches_both(self.h, from) {
                return None;
            }
            if self.w.exec.now() >= until && !self.w.exec.is_frozen(World::postgres_process(from)) {
                break;
            }
            self.w.pause(20_000, 40_000).await;
        }
        let mut copied = self.w.hosts[from].disk.borrow().data.clone()?;
        let pg = self.w.hosts[from].pg.borrow();
        let lsn = if pg.in_recovery { pg.replay } else { pg.flush };
        copied.end = self.w.tree.borrow().owner(Point { branch: copied.end.branch, lsn });
        copied.synced = copied.end.lsn;
        copied.conf = Rc::new(Conf::sealed());
        copied.signal = true;
        copied.pass = None;
        copied.door = false;
        copied.clean = false;
        copied.interrupted = false;
        Some(copied)
    }

    fn place(&self, copied: DataDir) {
        let mut disk = self.w.hosts[self.h].disk.borrow_mut();
        disk.data = Some(copied);
        disk.data_synced = None;
    }
}

impl Directory for Ctx {
    async fn has_data(&self) -> bool {
        self.w.hosts[self.h].disk.borrow().data.is_some()
    }

    async fn mark(&self, marker: &Marker) -> anyhow::Result<()> {
        self.w.fsync(self.h).await;
        let marker = marker.clone();
        self.change(|data| {
            data.marker = Some(marker);
            data.interrupted = false;
        })
    }

    async fn seal_on_disk(&self, timeline: RecoveryTimeline) -> anyhow::Result<()> {
        self.w.fsync(self.h).await;
        let mut disk = self.w.hosts[self.h].disk.borrow_mut();
        if self.w.planted == Some(Planted::SealNotDurable) {
            disk.before_unsynced();
        } else {
            disk.data_synced = None;
        }
        let data = disk.data.as_mut().context("no data directory")?;
        data.pass = None;
        data.signal = true;
        let pinned = timeline != RecoveryTimeline::Latest;
        data.conf = Rc::new(Conf { pinned, touched: data.conf.touched, ..Conf::sealed() });
        Ok(())
    }

    async fn write_fence(&self) -> anyhow::Result<()> {
        self.w.fsync(self.h).await;
        self.change(|data| data.signal = true)
    }

    async fn overrides(&self) -> anyhow::Result<Removed> {
        self.change(|data| {
            let name = "synchronous_standby_names".to_owned();
            let line = data.conf.by_hand.then(|| (name, data.conf.names.value.as_ref().to_owned()));
            Removed { lines: line.into_iter().collect(), changed: false }
        })
    }

    async fn remove_overrides(&self) -> anyhow::Result<Removed> {
        let written = self.w.hosts[self.h].disk.borrow().names_written.clone();
        let removed = self.change(|data| {
            if !data.conf.by_hand {
                return Removed::default();
            }
            let name = "synchronous_standby_names".to_owned();
            let lines = vec![(name, data.conf.names.value.as_ref().to_owned())];
            let ours = written.unwrap_or_else(|| Names::of(&SyncRule::Nobody));
            let touched = data.conf.touched + 1;
            data.conf = Rc::new(Conf { names: ours, by_hand: false, touched, ..(*data.conf).clone() });
            Removed { lines, changed: true }
        })?;
        // Another file is looked at after that.
        if removed.changed && self.w.rng.chance(5) {
            bail!("postgresql.conf cannot be read");
        }
        Ok(removed)
    }

    async fn put_rule(&self, rule: &SyncRule, generation: &str) -> anyhow::Result<BTreeMap<String, String>> {
        self.w.pause(100, 1_000).await;
        let names = Names::of(rule);
        self.w.hosts[self.h].disk.borrow_mut().names_written = Some(names.clone());
        let shown = [("synchronous_standby_names", names.value.as_ref()), ("synchronous_commit", names.commit)];
        let shown = shown.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let generation = generation.into();
        self.w.write_conf(self.h, |conf| {
            conf.names = names;
            conf.generation = generation;
            conf.upstream = None;
            conf.pinned = false;
        });
        Ok(shown)
    }

    async fn point_at(
        &self,
        upstream: &Upstream,
        name: &str,
        _bind_channel: bool,
        timeline: RecoveryTimeline,
    ) -> anyhow::Result<BTreeMap<String, String>> {
        let host = self.w.host_of(&upstream.key.member).context("no such host")?;
        self.w.fsync(self.h).await;
        self.change(|data| data.pass = Some(host))?;
        self.step("point-at:password").await;
        self.w.hosts[self.h].disk.borrow_mut().names_written = Some(Names::of(&SyncRule::Nobody));
        let name = name.into();
        self.w.write_conf(self.h, |conf| {
            conf.names = Names::of(&SyncRule::Nobody);
            conf.by_hand = false;
            conf.upstream = Some(Following { host, name });
            conf.pinned = timeline != RecoveryTimeline::Latest;
        });
        Ok(BTreeMap::new())
    }

    async fn trusted(&self, _upstream: &Upstream) -> anyhow::Result<bool> {
        Ok(false)
    }

    async fn write_door(&self, open: bool) -> anyhow::Result<()> {
        self.change(|data| data.door = open)
    }

    fn remember_door(&self, open: bool) -> anyhow::Result<()> {
        self.w.hosts[self.h].disk.borrow_mut().door_noted = Some(open);
        Ok(())
    }

    async fn newest_timeline(&self) -> anyhow::Result<TimelineId> {
        self.change(|data| TimelineId(data.newest_real()))
    }

    /// Asked for only where the end is on no agreed timeline.
    fn history_written_at(&self, _timeline: TimelineId) -> Option<WallTime> {
        self.w.cover.hit("seal", "astray");
        None
    }

    async fn start_timeline(&self, owner: TimelineId) -> anyhow::Result<RecoveryTimeline> {
        let above = |data: &mut DataDir| data.histories.last_key_value().is_some_and(|(last, _)| *last > owner.0);
        Ok(if self.change(above)? { RecoveryTimeline::Pinned(owner) } else { RecoveryTimeline::Latest })
    }

    async fn reserve_timeline(&self, owner: TimelineId, allotted: TimelineId) -> anyhow::Result<()> {
        self.w.fsync(self.h).await;
        let kept = self.w.planted == Some(Planted::DeadTimelineKept);
        self.change(|data| {
            if allotted <= owner || data.histories.contains_key(&allotted.0) {
                bail!("the timeline is taken");
            }
            for number in owner.0 + 1..allotted.0 {
                if kept {
                    data.histories.entry(number).or_default();
                } else {
                    data.histories.insert(number, None);
                }
            }
            Ok(())
        })?
    }

    async fn clear_reservations(&self, owner: TimelineId) -> anyhow::Result<()> {
        self.change(|data| data.histories.retain(|number, fork| *number <= owner.0 || fork.is_some()))
    }

    async fn remove_histories_above(&self, owner: TimelineId) -> anyhow::Result<Vec<TimelineId>> {
        self.change(|data| data.histories.split_off(&(owner.0 + 1)).into_keys().map(TimelineId).collect())
    }

    async fn mark_history(&self, _timeline: TimelineId, epoch: Epoch) -> anyhow::Result<()> {
        self.w.fsync(self.h).await;
        let branch = self.change(|data| data.end.branch)?;
        self.w.tree.borrow_mut().mark(branch, epoch.0);
        Ok(())
    }

    async fn initdb(&self) -> anyhow::Result<()> {
        self.w.pause(200_000, 800_000).await;
        if self.has_data().await {
            bail!("the directory is not empty");
        }
        self.w.hosts[self.h].disk.borrow_mut().data = Some(fresh(&self.w));
        self.w.fsync(self.h).await;
        Ok(())
    }

    fn is_interrupted(&self) -> anyhow::Result<bool> {
        Ok(self.w.with_data(self.h, |data| data.interrupted).unwrap_or(false))
    }

    async fn end_of_stopped(&self) -> anyhow::Result<DirectoryEnd> {
        self.w.pause(1_000, 5_000).await;
        self.directory_end()
    }

    async fn keep_diverged(&self, fork: Lsn, _label: &str) -> anyhow::Result<Option<DiscardedWal>> {
        if self.w.rng.chance(2) {
            bail!("no space left on device");
        }
        let own = self.directory_end()?.own;
        Ok((own.end > fork).then(|| DiscardedWal {
            epoch: Epoch(0),
            timeline: own.history.timeline,
            from: fork,
            to: own.end,
            kept_in: "aside".to_owned(),
            by_hand: false,
        }))
    }

    async fn fence_half_made(&self) -> anyhow::Result<()> {
        self.w.with_data(self.h, |data| data.pass = None);
        self.kill_server().await;
        Ok(())
    }

    async fn rewind(&self, upstream: &Upstream, fork: Lsn, _timeline: TimelineId, label: &str) -> Rewound {
        let last_start = || self.w.hosts[self.h].pg.borrow().pid;
        let begun = async {
            self.write_fence().await?;
            self.kill_server().await;
            let before = last_start();
            let kept = self.keep_diverged(fork, label).await?;
            if self.w.rng.chance(20) {
                // The source has not written its checkpoint yet.
                self.w.pause(200_000, 3_000_000).await;
            }
            if self.w.rng.chance(5) {
                self.w.cover.hit("remake", "rewind-refused");
                bail!("pg_rewind refused");
            }
            if self.w.server_runs(self.h) || last_start() != before {
                bail!("somebody started PostgreSQL before pg_rewind began");
            }
            self.change(|data| data.interrupted = true)?;
            anyhow::Ok((kept, before))
        };
        let (kept, before) = match begun.await {
            Ok(begun) => begun,
            Err(error) => return Rewound { kept: None, done: Err(error) },
        };
        let copied = self.copy(upstream, false).await;
        let done = match copied {
            None => Err(anyhow!("the source is gone")),
            // What is there is neither the old directory nor the new one.
            Some(_) if self.w.server_runs(self.h) || last_start() != before => {
                self.w.cover.hit("remake", "started-meanwhile");
                Err(anyhow!("somebody started PostgreSQL meanwhile"))
            }
            Some(copied) => {
                self.place(copied);
                self.step("rewind:copied").await;
                Ok(())
            }
        };
        self.w.cover.hit("remake", if done.is_ok() { "rewound" } else { "rewind-failed" });
        Rewound { kept, done }
    }

    async fn clone_from(&self, upstream: &Upstream, _keep_old: Option<String>) -> anyhow::Result<()> {
        let copied = self.copy(upstream, true).await.context("the source is gone")?;
        if self.w.server_runs(self.h) {
            bail!("the old data directory is in use");
        }
        self.place(copied);
        self.step("clone:copied").await;
        self.w.cover.hit("remake", "cloned");
        Ok(())
    }
}
