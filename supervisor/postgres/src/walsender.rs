//! Which walsenders a proof must wait for: those that can release commits (proof step D3c).
//!
//! A walsender looks at commits that wait only if the setting that it holds itself lists its name, and its standby has
//! reported a flush. Base backups, log receivers, clones and logical subscribers never do either, so they are nobody's
//! concern: ended for a proof, a backup of hours would be lost whenever a standby is rebooted.

use crate::link::{Link, QueryError, parse};
use pgvigil_core::lsn::Lsn;
use std::{collections::BTreeSet, time::Duration};

/// One walsender, as the primary shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walsender {
    /// Its process.
    pub pid: i32,
    /// The name that `synchronous_standby_names` is compared with.
    pub name: String,
    /// What its standby has reported as flushed; `None` before the first report, and always for a base backup.
    pub flush: Option<Lsn>,
    /// The setting that this process holds lists it, and it has reported a flush: it may release commits.
    pub counted: bool,
}

/// The processes of `before` that may release commits by an older setting and whose standby does not have `marker` yet.
/// `names` are those of every rule that is open: one of them may not have reported yet, and be counted when it does.
#[must_use]
pub fn behind(senders: &[Walsender], before: &BTreeSet<i32>, names: &BTreeSet<String>, marker: Lsn) -> Vec<i32> {
    let releases = |sender: &&Walsender| sender.counted || names.contains(&sender.name);
    let old = |sender: &&Walsender| before.contains(&sender.pid) && sender.flush.is_none_or(|flush| flush < marker);
    senders.iter().filter(old).filter(releases).map(|sender| sender.pid).collect()
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_waits_for_those_that_release_commits_and_for_nobody_else() {
        let sender = |pid, name: &str, flush: Option<u64>, counted| Walsender {
            pid,
            name: name.to_owned(),
            flush: flush.map(Lsn),
            counted,
        };
        let senders = [
            sender(1, "pgvigil_b_i1_e2", Some(5), true),
            sender(2, "pgvigil_c_i1_e2", Some(50), true),
            sender(3, "pg_basebackup", None, false),
            sender(4, "pg_receivewal", Some(1), false),
            // It has just connected: nothing reported, so PostgreSQL shows no priority yet.
            sender(5, "pgvigil_d_i1_e2", None, false),
            // By a list that somebody wrote by hand.
            sender(6, "other", Some(1), true),
            // Connected since: by the new setting.
            sender(7, "pgvigil_e_i1_e2", None, false),
        ];
        let names = ["b", "c", "d", "e"].map(|m| format!("pgvigil_{m}_i1_e2")).into_iter().collect();
        assert_eq!(behind(&senders, &(1..=6).collect(), &names, Lsn(10)), [1, 5, 6]);
    }
}
