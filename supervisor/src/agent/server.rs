//! The agent's ports in the program: the server in the data directory, and sessions there.

use super::{
    adopt,
    directory::{directory_end, instance, settings},
    here::Here,
    sampler,
    session::Open,
};
use anyhow::bail;
use pgvigil_agent::ports::{NoSession, NotPromoted, NotSealed, Promoted, Sealed, SealedServer, Server, StartAs};
use pgvigil_core::id::TimelineId;
use pgvigil_postgres::{
    Link, Postmaster, QueryError, SealLimits, StopMode,
    clients::end_clients,
    conf_files::ensure_include,
    fault,
    instance::{InstanceError, StartAs as Role},
    process::SpawnOptions,
    seal::{SealedServer as Stands, seal as seal_server},
    user_conf::UserValues,
};
use std::{future::Future, sync::Arc, time::Duration};

impl From<StartAs> for Wrapped {
    fn from(role: StartAs) -> Self {
        Self(match role {
            StartAs::Primary => Role::Primary,
            StartAs::Standby => Role::Standby,
        })
    }
}

/// In so short a time a session answers that nothing holds up.
const ANSWERS: Duration = Duration::from_millis(50);

struct Wrapped(Role);

impl Here {
    /// Writes what only a start takes up, and how it is started so that no file overrides that.
    async fn start_options(&self, role: Role) -> anyhow::Result<SpawnOptions> {
        let mut ours = settings(self);
        ours.theirs = UserValues::read(&self.layout);
        if role == Role::Standby {
            ours.floors = instance(self).control_file().await.ok().map(|control| control.floors);
        }
        ours.write_start(&self.layout)?;
        // For those who start it by hand.
        ensure_include(&self.layout)?;
        let passed = self.config.environment.iter();
        let env = passed.filter_map(|name| Some((name.clone(), std::env::var(name).ok()?))).collect();
        Ok(SpawnOptions { overrides: ours.command_line(self.binaries.version()), env, ..SpawnOptions::default() })
    }

    fn postmaster(&self) -> anyhow::Result<Arc<Postmaster>> {
        let Some(postmaster) = self.0.server().postmaster.clone() else { bail!("PostgreSQL does not run") };
        Ok(postmaster)
    }

    async fn open(&self, purpose: &str, pin: &str, limit_ms: u64) -> Result<Open, NoSession> {
        let endpoint = self.0.server().endpoint.clone();
        let opened = Link::connect(&endpoint, purpose, pin, Duration::from_millis(limit_ms)).await;
        opened.map(|link| Open::new(self, link)).map_err(no_session)
    }
}

fn no_session(error: QueryError) -> NoSession {
    NoSession { refused: error.is_refusal(), why: error.into() }
}

impl Server for Here {
    type Session = Open;

    async fn start(&self, role: StartAs, limit_ms: u64, until: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Wrapped(role) = role.into();
        let options = self.start_options(role).await?;
        let limit = Duration::from_millis(limit_ms);
        let (postmaster, _) = instance(self).start_until(role, &options, limit, until).await?;
        sampler::watch(self, postmaster);
        Ok(())
    }

    fn reload(&self) -> anyhow::Result<()> {
        Ok(instance(self).reload(&*self.postmaster()?)?)
    }

    async fn stop(&self, limit_ms: u64) -> anyhow::Result<()> {
        instance(self).stop(StopMode::Fast, Duration::from_millis(limit_ms)).await?;
        Ok(())
    }

    async fn kill(&self) -> anyhow::Result<()> {
        instance(self).kill().await?;
        Ok(())
    }

    fn ask_promotion(&self) -> anyhow::Result<()> {
        Ok(instance(self).promote(&*self.postmaster()?)?)
    }

    /// PostgreSQL is watched only if something is armed there.
    async fn history_file_written(&self, timeline: TimelineId) {
        const POINT: &str = "promote:history-file";
        if !fault::waits_at(POINT) {
            return;
        }
        let path = self.layout.pg_wal().join(format!("{:08X}.history", timeline.0));
        for _ in 0..20_000 {
            if path.exists() {
                break;
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        fault::reach(POINT, Some(&self.layout.data_dir)).await;
    }

    fn signal_clients(&self) -> anyhow::Result<usize> {
        Ok(end_clients(&*self.postmaster()?)? as usize)
    }

    async fn seal(&self, promotion_asked: bool) -> Result<Sealed, NotSealed> {
        let sealed = seal_server(&instance(self), &settings(self), promotion_asked, SealLimits::default()).await;
        let sealed = sealed.map_err(|error| NotSealed { lacks_wal: error.lacks_wal(), why: error.into() })?;
        let server = match sealed.server {
            Stands::Running { pinned } => SealedServer::Running { pinned },
            Stands::Stopped(why) => SealedServer::Stopped(why),
        };
        let us = |took: Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let steps = sealed.steps.into_iter().map(|(step, took)| (step, us(took))).collect();
        Ok(Sealed { end: directory_end(&sealed.position), server, steps })
    }

    async fn connect(&self, purpose: &str, limit_ms: u64) -> Result<Open, NoSession> {
        self.open(purpose, "", limit_ms).await
    }

    async fn urgent_session(&self, purpose: &str) -> Result<Open, NoSession> {
        // It knows the views already; a new one would read them first.
        let warm = self.0.server().warm_link.upgrade().filter(|link| !link.is_closed());
        // It may have been ended just now, or be busy with what takes long.
        match warm {
            Some(link) if link.in_recovery(ANSWERS).await.is_ok() => Ok(Open::new(self, link)),
            _ => self.open(purpose, "", 5_000).await,
        }
    }

    async fn connect_local(&self, purpose: &str, limit_ms: u64) -> Result<Open, NoSession> {
        self.open(purpose, "-c synchronous_commit=local", limit_ms).await
    }

    fn keep_session(&self, session: Option<Open>) {
        self.0.server().proven_link = session.map(|session| session.link);
    }

    fn kept_session(&self) -> Option<Open> {
        let kept = self.0.server().proven_link.take().filter(|link| !link.is_closed());
        kept.map(|link| Open::new(self, link))
    }

    fn checkpoint_later(&self, session: Open) {
        tokio::spawn(async move {
            if let Err(error) = session.link.checkpoint(Duration::from_secs(600)).await {
                tracing::debug!("no checkpoint after the promotion: {error}");
            }
        });
    }

    async fn wait_promoted(
        &self,
        session: &Open,
        allotted: TimelineId,
        limit_ms: u64,
    ) -> Result<Promoted, NotPromoted> {
        let limit = Duration::from_millis(limit_ms);
        match instance(self).wait_promoted(&session.link, Some(allotted), limit).await {
            Ok(done) => Ok(Promoted { timeline: done.timeline, fork: done.fork, insert: done.insert }),
            Err(error) => {
                let wrong = matches!(error, InstanceError::WrongTimeline { .. } | InstanceError::NoFork(_));
                Err(NotPromoted { wrong, why: error.into() })
            }
        }
    }

    async fn prepare_adoption(&self, session: &Open, primary: bool) -> anyhow::Result<()> {
        adopt::prepare(self, &session.link, primary).await
    }

    async fn take_over_files(&self, primary: bool) -> anyhow::Result<()> {
        adopt::take_over_files(self, primary)
    }
}
