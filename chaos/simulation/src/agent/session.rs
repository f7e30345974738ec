//! A session of an act with the simulated server.

use super::shared::Ctx;
use anyhow::bail;
use pgvigil_agent::ports::{ProofSender, Session};
use pgvigil_core::{lsn::Lsn, sample::Sample};

/// A statement of the agent's own, in milliseconds.
pub const STATEMENT_MS: u64 = 5_000;

/// See the module.
pub struct Open {
    c: Ctx,
    pid: u64,
}

impl Open {
    /// A session with the server that runs now.
    #[must_use]
    pub fn new(c: &Ctx) -> Self {
        Self { c: c.clone(), pid: c.w.hosts[c.h].pg.borrow().pid }
    }

    /// Whether its server still runs.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.pid != 0 && self.c.w.hosts[self.c.h].pg.borrow().pid == self.pid
    }

    /// One statement: the server answers, and is the same as ever.
    async fn ask(&self) -> anyhow::Result<()> {
        if self.is_open() && self.c.query(STATEMENT_MS).await.is_some() && self.is_open() {
            return Ok(());
        }
        bail!("the session has ended, or PostgreSQL does not answer")
    }
}

impl Session for Open {
    async fn sample(&self) -> anyhow::Result<Sample> {
        self.ask().await?;
        match self.c.w.sample(self.c.h) {
            Some(sample) => Ok(sample),
            None => bail!("PostgreSQL does not answer"),
        }
    }

    async fn sync_names(&self) -> anyhow::Result<String> {
        Ok(self.sample().await?.sync_names)
    }

    async fn shows(&self, generation: &str, names: &str) -> anyhow::Result<bool> {
        self.ask().await?;
        let pg = self.c.w.hosts[self.c.h].pg.borrow();
        Ok(*pg.conf.generation == *generation && *pg.conf.names.value == *names)
    }

    async fn why_not(&self) -> (String, bool) {
        ("it shows other settings".to_owned(), false)
    }

    async fn in_recovery(&self) -> anyhow::Result<bool> {
        self.ask().await?;
        Ok(self.c.w.hosts[self.c.h].pg.borrow().in_recovery)
    }

    async fn insert_lsn(&self) -> anyhow::Result<Lsn> {
        self.ask().await?;
        Ok(Lsn(self.c.w.hosts[self.c.h].pg.borrow().insert))
    }

    async fn flush_lsn(&self) -> anyhow::Result<Lsn> {
        self.ask().await?;
        Ok(Lsn(self.c.w.hosts[self.c.h].pg.borrow().flush))
    }

    async fn senders(&self) -> anyhow::Result<Vec<ProofSender>> {
        self.ask().await?;
        let pg = self.c.w.hosts[self.c.h].pg.borrow();
        let of = |sender: &crate::postgres::server::Sender| ProofSender {
            pid: i32::try_from(sender.id).unwrap_or(i32::MAX),
            name: sender.name.as_ref().to_owned(),
            flush: sender.flushed.map(Lsn),
            counted: sender.flag && sender.flushed.is_some(),
        };
        Ok(pg.senders.iter().map(of).collect())
    }

    async fn terminate(&self, pid: i32) -> anyhow::Result<()> {
        self.ask().await?;
        self.c.w.cover.hit("prove", "walsender-ended");
        self.c.w.terminate_sender(self.c.h, u64::try_from(pid).unwrap_or_default());
        Ok(())
    }

    async fn end_clients(&self) -> anyhow::Result<()> {
        self.ask().await?;
        self.c.w.end_sessions(self.c.h);
        Ok(())
    }

    async fn is_drained(&self, names: &[String]) -> anyhow::Result<bool> {
        self.ask().await?;
        Ok(!self.c.w.hosts[self.c.h].pg.borrow().sessions && self.c.w.is_drained(self.c.h, names))
    }

    /// It is begun only after the checkpointer has taken up what was loaded (history A8).
    async fn checkpoint(&self, limit_ms: u64) -> anyhow::Result<()> {
        self.ask().await?;
        let deadline = self.c.now().plus(limit_ms);
        while self.c.w.hosts[self.c.h].pg.borrow().checkpointer_pending {
            if !self.is_open() || self.c.now() > deadline {
                bail!("no checkpoint");
            }
            self.c.w.pause(5_000, 10_000).await;
        }
        Ok(())
    }

    async fn resume_replay(&self) -> anyhow::Result<()> {
        self.ask().await?;
        self.c.w.hosts[self.c.h].pg.borrow_mut().replay_paused = false;
        self.c.w.replay(self.c.h);
        Ok(())
    }

    async fn marker(&self) -> anyhow::Result<Lsn> {
        self.ask().await?;
        if self.c.w.hosts[self.c.h].pg.borrow().in_recovery {
            bail!("no primary");
        }
        let end = self.c.w.write_wal(self.c.h, 0x80);
        let deadline = self.c.now().plus(STATEMENT_MS);
        loop {
            self.c.w.pause(300, 1_500).await;
            if !self.is_open() || self.c.now() > deadline {
                bail!("the marker was not flushed");
            }
            let flush = self.c.w.hosts[self.c.h].pg.borrow().flush;
            if flush >= end {
                return Ok(Lsn(flush));
            }
        }
    }

    async fn mend_role(&self) -> anyhow::Result<()> {
        self.ask().await
    }
}
