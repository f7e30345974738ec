//! Small acts over SQL: roles, slots, ending sessions.

use crate::{
    conf_text::{identifier, literal},
    link::{Link, QueryError, parse},
    ways::{AGENT_ROLE, DATABASE},
};
use pgvigil_core::lsn::Lsn;
use std::time::Duration;

/// What there is of the role [`AGENT_ROLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentRole {
    /// It can be used.
    Ready,
    /// There is none.
    Missing,
    /// It is a superuser, but may not log in.
    NoLogin,
    /// A role of that name is there that is no superuser: not pgvigil's.
    Another,
}

impl Link {
    /// Whether pgvigil's own superuser is there and may log in.
    pub async fn agent_role(&self, limit: Duration) -> Result<AgentRole, QueryError> {
        let sql = format!("SELECT rolsuper, rolcanlogin FROM pg_roles WHERE rolname = {}", literal(AGENT_ROLE));
        let rows = self.rows("look for pgvigil's role", &sql, limit).await?;
        Ok(match rows.first().map(Vec::as_slice) {
            None => AgentRole::Missing,
            Some([Some(superuser), _]) if superuser != "t" => AgentRole::Another,
            Some([_, Some(login)]) if login == "t" => AgentRole::Ready,
            Some(_) => AgentRole::NoLogin,
        })
    }

    /// Creates pgvigil's own superuser, or lets it log in again. On a primary only. A role of that name that is no
    /// superuser is left alone: somebody else may be a member of it.
    pub async fn ensure_agent_role(&self, limit: Duration) -> Result<AgentRole, QueryError> {
        let found = self.agent_role(limit).await?;
        let verb = match found {
            AgentRole::Missing => "CREATE ROLE",
            AgentRole::NoLogin => "ALTER ROLE",
            AgentRole::Ready | AgentRole::Another => return Ok(found),
        };
        let sql = format!("{verb} {} LOGIN SUPERUSER", identifier(AGENT_ROLE));
        self.execute("create pgvigil's role", &sql, limit).await?;
        Ok(AgentRole::Ready)
    }

    /// Databases that accept sessions, without `postgres` and the templates: the oldest three.
    pub async fn databases(&self, limit: Duration) -> Result<Vec<String>, QueryError> {
        let sql = format!(
            "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate AND datname <> {} \
             ORDER BY oid LIMIT 3",
            literal(DATABASE)
        );
        let rows = self.rows("list the databases", &sql, limit).await?;
        Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
    }

    /// How many of `max_connections` are used, and how many there are.
    pub async fn connections(&self, limit: Duration) -> Result<(u32, u32), QueryError> {
        const WHAT: &str = "count the connections";
        let sql = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), \
                   current_setting('max_connections')";
        let row = self.rows(WHAT, sql, limit).await?.pop().unwrap_or_default();
        let number = |index: usize| parse(WHAT, row.get(index).and_then(Option::as_deref).unwrap_or_default());
        Ok((number(0)?, number(1)?))
    }

    /// Creates a physical slot that keeps WAL from now on; one that exists is kept. Works on a standby too.
    pub async fn ensure_physical_slot(&self, slot: &str, limit: Duration) -> Result<(), QueryError> {
        let slot = literal(slot);
        let sql = format!(
            "SELECT pg_create_physical_replication_slot({slot}, true) \
             WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {slot})"
        );
        self.execute("create a replication slot", &sql, limit).await
    }

    /// Drops a slot; an absent one is success. Fails while a process uses it.
    pub async fn drop_slot(&self, slot: &str, limit: Duration) -> Result<(), QueryError> {
        let sql = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {}",
            literal(slot)
        );
        self.execute("drop a replication slot", &sql, limit).await
    }

    /// Moves an unused physical slot forward to `to`, so that it holds back no older WAL. A slot that is in use or
    /// already there is left alone.
    pub async fn advance_slot(&self, slot: &str, to: Lsn, limit: Duration) -> Result<(), QueryError> {
        let sql = format!(
            "SELECT pg_replication_slot_advance(slot_name, '{to}') FROM pg_replication_slots \
             WHERE slot_name = {} AND active_pid IS NULL AND restart_lsn < '{to}'",
            literal(slot)
        );
        self.execute("advance a replication slot", &sql, limit).await
    }

    /// Asks one server process to end; `false` when there is none with that pid.
    pub async fn terminate_backend(&self, pid: i32, limit: Duration) -> Result<bool, QueryError> {
        let sql = format!("SELECT pg_terminate_backend({pid})");
        Ok(self.value("terminate a backend", &sql, limit).await? == "t")
    }

    /// Asks every client backend to end, except this connection and `keep`; returns how many were asked. Those that
    /// wait for standbys commit locally with a warning: never do this on a primary that may survive without its door
    /// being closed for good.
    pub async fn terminate_clients(&self, keep: &[i32], limit: Duration) -> Result<u32, QueryError> {
        const WHAT: &str = "terminate the clients";
        let keep = keep.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
        let sql = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND pid <> ALL ('{{{keep}}}'::int[])"
        );
        parse(WHAT, &self.value(WHAT, &sql, limit).await?)
    }

    /// How many of these server processes are still there.
    pub async fn count_alive(&self, pids: &[i32], limit: Duration) -> Result<u32, QueryError> {
        const WHAT: &str = "look for sessions";
        let pids = pids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
        let sql = format!("SELECT count(*) FROM pg_stat_get_activity(NULL) WHERE pid = ANY ('{{{pids}}}'::int[])");
        parse(WHAT, &self.value(WHAT, &sql, limit).await?)
    }

    /// Whether nothing is left to be written for anybody: no client's session is there (the agent's own do not count), and
    /// every standby of `names` that is connected has flushed all that this server has flushed.
    pub async fn is_drained(&self, names: &[String], limit: Duration) -> Result<bool, QueryError> {
        let names = names.iter().map(|name| literal(name)).collect::<Vec<_>>().join(",");
        let sql = format!(
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'client backend' \
             AND application_name NOT LIKE 'pgvigil/%') AND NOT EXISTS (SELECT FROM pg_stat_replication \
             WHERE application_name = ANY (ARRAY[{names}]::text[]) AND flush_lsn < pg_current_wal_flush_lsn())"
        );
        Ok(self.value("see whether all is drained", &sql, limit).await? == "t")
    }

    /// Every walsender's pid and reported flush position (proof step D3c). A walsender that has reported nothing has
    /// `None`.
    pub async fn walsenders(&self, limit: Duration) -> Result<Vec<(i32, String, Option<Lsn>)>, QueryError> {
        const WHAT: &str = "list the walsenders";
        let rows = self.rows(WHAT, "SELECT pid, application_name, flush_lsn FROM pg_stat_replication", limit).await?;
        rows.into_iter()
            .map(|row| {
                let [pid, name, flush]: [Option<String>; 3] =
                    row.try_into().map_err(|_| QueryError::Answer { what: WHAT, problem: "columns".to_owned() })?;
                let flush = flush.map(|text| parse(WHAT, &text)).transpose()?;
                Ok((parse(WHAT, &pid.unwrap_or_default())?, name.unwrap_or_default(), flush))
            })
            .collect()
    }

    /// Removes a setting of `ALTER SYSTEM` through the server, which keeps its file consistent.
    pub async fn reset_system_setting(&self, name: &str, limit: Duration) -> Result<(), QueryError> {
        let sql = format!("ALTER SYSTEM RESET {}", identifier(name));
        self.execute("reset a system setting", &sql, limit).await
    }

    /// Lets replay go on where it was paused by hand. No effect on a primary or where it is not paused.
    pub async fn resume_replay(&self, limit: Duration) -> Result<(), QueryError> {
        let sql = "SELECT pg_wal_replay_resume() WHERE pg_is_in_recovery()";
        self.execute("resume replay", sql, limit).await
    }

    /// Re-reads the configuration: the postmaster is signalled when this returns.
    pub async fn reload(&self, limit: Duration) -> Result<(), QueryError> {
        self.execute("reload", "SELECT pg_reload_conf()", limit).await
    }

    /// A checkpoint (on a standby: a restartpoint), as fast as the disk allows.
    pub async fn checkpoint(&self, limit: Duration) -> Result<(), QueryError> {
        self.execute("checkpoint", "CHECKPOINT", limit).await
    }
}
