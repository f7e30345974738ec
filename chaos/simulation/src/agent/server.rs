//! The agent's ports in the simulation: the server on its host.

use super::{sampler, session::Open, shared::Ctx};
use crate::{planted::Planted, world::World};
use anyhow::{Context, anyhow, bail};
use futures::future::{Either, select};
use pgvigil_agent::ports::{
    Directory, NoSession, NotPromoted, NotSealed, Promoted, RecoveryTimeline, Sealed, SealedServer, Server, StartAs,
};
use pgvigil_core::{id::TimelineId, lsn::Lsn, time::Time};
use std::{future::Future, pin::pin};

/// How long a running server may take to be sealed before it is stopped, in milliseconds.
const RUNNING_MS: u64 = 2_000;

impl Ctx {
    /// Kills everything that works in the data directory and sees it gone.
    pub(super) async fn kill_server(&self) {
        self.w.pause(500, 8_000).await;
        self.w.fence_kill(self.h);
    }

    /// Waits until a start has come to an end: `true` if it is ready; else it is dead, or the time is over.
    async fn ready(&self, limit_ms: u64) -> bool {
        let deadline = self.now().plus(limit_ms);
        loop {
            if !self.w.server_runs(self.h) {
                return false;
            }
            let ready = self.w.hosts[self.h].pg.borrow().ready;
            if ready && !self.w.exec.is_frozen(World::postgres_process(self.h)) {
                return true;
            }
            if self.now() >= deadline {
                return false;
            }
            self.w.pause(3_000, 5_000).await;
        }
    }

    /// Reload, no walreceiver left, the empty values shown, still no walreceiver. `false`: it must be stopped instead.
    async fn close_running(&self, deadline: Time) -> bool {
        self.w.reload(self.h);
        loop {
            if self.now() >= deadline {
                return false;
            }
            if self.w.has_receiver(self.h) {
                self.w.pause(300, 1_500).await;
                self.w.terminate_receiver(self.h);
                continue;
            }
            let Some(sample) = self.sample(deadline.since(self.now())).await else { return false };
            if self.w.hosts[self.h].pg.borrow().conf.upstream.is_some() {
                continue;
            }
            if !sample.in_recovery {
                return false;
            }
            self.step("seal:receivers-gone").await;
            if !self.w.has_receiver(self.h) {
                return !self.may_be_misled();
            }
        }
    }

    /// Whether its recovery may make for a timeline of which it has no WAL.
    fn may_be_misled(&self) -> bool {
        let own = self.w.own_timeline(self.h);
        let above = self.w.with_data(self.h, |data| data.has_history_above(own)).unwrap_or(false);
        let misled = above && !self.w.hosts[self.h].pg.borrow().pinned;
        if misled {
            self.w.cover.hit("seal", "may-be-misled");
        }
        misled && self.w.planted != Some(Planted::DeadTimelineUnseen)
    }

    async fn sealed(&self, promotion_asked: bool) -> anyhow::Result<Sealed> {
        self.seal_on_disk(RecoveryTimeline::Latest).await?;
        self.step("seal:on-disk").await;
        let runs = self.w.server_runs(self.h);
        let promoting = promotion_asked || self.w.hosts[self.h].pg.borrow().promoting;
        let server = if runs && !promoting && self.close_running(self.now().plus(RUNNING_MS)).await {
            self.w.cover.hit("seal", "running");
            SealedServer::Running { pinned: self.w.hosts[self.h].pg.borrow().pinned }
        } else {
            self.kill_server().await;
            self.w.cover.hit("seal", if runs { "stopped" } else { "not-running" });
            SealedServer::Stopped("not running, no standby, promoting or not answering")
        };
        self.w.fsync(self.h).await;
        self.w.with_data(self.h, |data| data.synced = data.end.lsn);
        let end = self.directory_end()?;
        self.step("seal:read").await;
        Ok(Sealed { end, server, steps: Vec::new() })
    }
}

impl Server for Ctx {
    type Session = Open;

    async fn start(&self, role: StartAs, limit_ms: u64, until: impl Future<Output = ()>) -> anyhow::Result<()> {
        if role == StartAs::Primary {
            self.w.fsync(self.h).await;
            self.w.with_data(self.h, |data| data.signal = false);
            self.step("start-primary:unfenced").await;
        }
        let started = self.w.start_server(self.h);
        if role == StartAs::Primary && started {
            let epoch = self.a.inner.borrow().local.promise.reigned;
            self.w.hosts[self.h].pg.borrow_mut().epoch = epoch.0;
        }
        let ready = match select(pin!(self.ready(limit_ms)), pin!(until)).await {
            Either::Left((ready, _)) => ready,
            Either::Right(_) => false,
        };
        match role {
            StartAs::Primary => {
                self.w.with_data(self.h, |data| data.signal = true);
                if !started || !ready {
                    bail!("it did not start as primary");
                }
            }
            StartAs::Standby if !started => bail!("another postmaster works in the data directory"),
            StartAs::Standby if !self.w.server_runs(self.h) => bail!("it ended while starting"),
            StartAs::Standby => {}
        }
        sampler::watch(self);
        Ok(())
    }

    fn reload(&self) -> anyhow::Result<()> {
        self.w.reload(self.h);
        Ok(())
    }

    async fn stop(&self, limit_ms: u64) -> anyhow::Result<()> {
        if self.w.server_runs(self.h) {
            self.w.stop_server(self.h);
        }
        let deadline = self.now().plus(limit_ms);
        while self.w.server_runs(self.h) && self.now() < deadline {
            self.w.pause(1_000, 4_000).await;
        }
        self.kill_server().await;
        Ok(())
    }

    async fn kill(&self) -> anyhow::Result<()> {
        if self.w.rng.chance(1) {
            self.w.pause(1_000, 20_000).await;
            bail!("a process does not end");
        }
        self.kill_server().await;
        self.step("fence:killed").await;
        Ok(())
    }

    fn ask_promotion(&self) -> anyhow::Result<()> {
        self.w.replay(self.h);
        self.w.ask_promotion(self.h);
        Ok(())
    }

    fn signal_clients(&self) -> anyhow::Result<usize> {
        self.w.end_sessions(self.h);
        Ok(1)
    }

    async fn seal(&self, promotion_asked: bool) -> Result<Sealed, NotSealed> {
        self.sealed(promotion_asked).await.map_err(|why| NotSealed { lacks_wal: false, why })
    }

    async fn connect(&self, purpose: &str, limit_ms: u64) -> Result<Open, NoSession> {
        match self.query(limit_ms).await {
            Some(()) => Ok(Open::new(self)),
            None => Err(NoSession { refused: false, why: anyhow!("{purpose}: PostgreSQL does not answer") }),
        }
    }

    async fn urgent_session(&self, purpose: &str) -> Result<Open, NoSession> {
        self.connect(purpose, super::session::STATEMENT_MS).await
    }

    async fn connect_local(&self, purpose: &str, limit_ms: u64) -> Result<Open, NoSession> {
        self.connect(purpose, limit_ms).await
    }

    fn keep_session(&self, _session: Option<Open>) {}

    fn kept_session(&self) -> Option<Open> {
        None
    }

    fn checkpoint_later(&self, _session: Open) {}

    async fn wait_promoted(
        &self,
        session: &Open,
        allotted: TimelineId,
        limit_ms: u64,
    ) -> Result<Promoted, NotPromoted> {
        let not = |why| NotPromoted { wrong: false, why };
        let deadline = self.now().plus(limit_ms);
        loop {
            let recovers = pgvigil_agent::ports::Session::in_recovery(session).await.map_err(not)?;
            if !recovers {
                break;
            }
            if self.now() > deadline {
                return Err(not(anyhow!("it takes too long")));
            }
            self.w.pause(1_000, 2_000).await;
        }
        let branch = self.w.with_data(self.h, |data| data.end.branch).context("no data directory").map_err(not)?;
        let (timeline, fork) = {
            let tree = self.w.tree.borrow();
            (TimelineId(tree.timeline(branch)), tree.fork(branch).map_or(0, |fork| fork.lsn))
        };
        if timeline != allotted {
            return Err(NotPromoted { wrong: true, why: anyhow!("timeline {timeline} was taken, not {allotted}") });
        }
        Ok(Promoted { timeline, fork: Lsn(fork), insert: Lsn(self.w.hosts[self.h].pg.borrow().insert) })
    }

    async fn prepare_adoption(&self, _session: &Open, _primary: bool) -> anyhow::Result<()> {
        Ok(())
    }

    async fn take_over_files(&self, primary: bool) -> anyhow::Result<()> {
        if primary {
            self.remember_door(true)?;
        }
        Ok(())
    }
}
