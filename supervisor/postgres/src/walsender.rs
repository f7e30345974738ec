//! The walsenders as a proof looks at them (proof step D3c).

use crate::link::{Link, QueryError, parse};
pub use pgvigil_core::proof::{ProofSender as Walsender, behind};
use std::time::Duration;

impl Link {
    /// Every walsender.
    pub async fn proof_senders(&self, limit: Duration) -> Result<Vec<Walsender>, QueryError> {
        const WHAT: &str = "list the walsenders";
        let sql = "SELECT pid, application_name, flush_lsn, sync_priority > 0 FROM pg_stat_replication";
        let rows = self.rows(WHAT, sql, limit).await?;
        rows.into_iter()
            .map(|row| {
                let [pid, name, flush, counted]: [Option<String>; 4] =
                    row.try_into().map_err(|_| QueryError::Answer { what: WHAT, problem: "columns".to_owned() })?;
                let flush = flush.map(|text| parse(WHAT, &text)).transpose()?;
                let pid = parse(WHAT, &pid.unwrap_or_default())?;
                Ok(Walsender { pid, name: name.unwrap_or_default(), flush, counted: counted.as_deref() == Some("t") })
            })
            .collect()
    }
}
