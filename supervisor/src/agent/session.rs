//! A session of an act: the port's words in SQL.

use super::{in_force, shared::Shared};
use pgvigil_agent::ports::{ProofSender, Session};
use pgvigil_core::{lsn::Lsn, sample::Sample};
use pgvigil_postgres::{Link, QueryError, canary, link::parse, role::Look};
use std::{sync::Arc, time::Duration};

/// A statement of the agent's own.
pub(super) const STATEMENT: Duration = Duration::from_secs(5);
/// The setting by which a new connection shows that the newest file was read.
pub(super) const GENERATION: &str = "pgvigil.generation";

/// See the module.
pub struct Open {
    pub(super) link: Arc<Link>,
    shared: Arc<Shared>,
}

impl Open {
    pub(super) fn new(shared: &Arc<Shared>, link: impl Into<Arc<Link>>) -> Self {
        Self { link: link.into(), shared: Arc::clone(shared) }
    }

    async fn lsn(&self, what: &'static str, sql: &str) -> Result<Lsn, QueryError> {
        parse(what, &self.link.value(what, sql, STATEMENT).await?)
    }
}

impl Session for Open {
    async fn sample(&self) -> anyhow::Result<Sample> {
        Ok(self.link.sample(STATEMENT).await?)
    }

    async fn sync_names(&self) -> anyhow::Result<String> {
        Ok(self.link.setting("synchronous_standby_names", STATEMENT).await?)
    }

    async fn shows(&self, generation: &str, names: &str) -> anyhow::Result<bool> {
        let sql = format!(
            "SELECT current_setting('{GENERATION}', true), current_setting('synchronous_standby_names'), \
             current_setting('fsync'), current_setting('full_page_writes')"
        );
        let row = self.link.rows("read the settings in force", &sql, STATEMENT).await?.pop().unwrap_or_default();
        Ok(row == [generation, names, "on", "on"].map(|value| Some(value.to_owned())))
    }

    async fn why_not(&self) -> (String, bool) {
        in_force::why(&self.link, &["synchronous_standby_names", "fsync", "full_page_writes"]).await
    }

    async fn in_recovery(&self) -> anyhow::Result<bool> {
        Ok(self.link.in_recovery(STATEMENT).await?)
    }

    async fn insert_lsn(&self) -> anyhow::Result<Lsn> {
        Ok(self.lsn("read the insert position", "SELECT pg_current_wal_insert_lsn()").await?)
    }

    async fn flush_lsn(&self) -> anyhow::Result<Lsn> {
        Ok(self.lsn("read the flushed position", "SELECT pg_current_wal_flush_lsn()").await?)
    }

    async fn senders(&self) -> anyhow::Result<Vec<ProofSender>> {
        Ok(self.link.proof_senders(STATEMENT).await?)
    }

    async fn terminate(&self, pid: i32) -> anyhow::Result<()> {
        self.link.terminate_backend(pid, STATEMENT).await?;
        Ok(())
    }

    async fn end_clients(&self) -> anyhow::Result<()> {
        self.link.terminate_clients(&[], STATEMENT).await?;
        Ok(())
    }

    async fn is_drained(&self, names: &[String]) -> anyhow::Result<bool> {
        Ok(self.link.is_drained(names, STATEMENT).await?)
    }

    async fn checkpoint(&self, limit_ms: u64) -> anyhow::Result<()> {
        Ok(self.link.checkpoint(Duration::from_millis(limit_ms)).await?)
    }

    async fn resume_replay(&self) -> anyhow::Result<()> {
        Ok(self.link.resume_replay(STATEMENT).await?)
    }

    async fn marker(&self) -> anyhow::Result<Lsn> {
        let endpoint = self.shared.server().endpoint.clone();
        Ok(canary::marker(&endpoint, STATEMENT).await?)
    }

    async fn mend_role(&self) -> anyhow::Result<()> {
        let Shared { access, secret, .. } = self.shared.as_ref();
        self.link.mend_replication_role(&access.replication_role, secret, Look::Close, STATEMENT).await?;
        Ok(())
    }
}
