//! A connection to the local server: over its Unix socket, as the superuser by peer authentication, with a limit on
//! every statement.

use crate::conf_text::literal;
use std::{path::PathBuf, sync::Arc, sync::Mutex, time::Duration};
use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage, error::DbError};

/// Where the local server is reached, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The directory of its Unix socket.
    pub socket_dir: PathBuf,
    /// Its port, part of the socket's name.
    pub port: u16,
    /// The superuser role.
    pub user: String,
}

/// A statement or a connection failed.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// It took longer than allowed. The connection is in an unknown state and must be dropped.
    #[error("{what} took longer than {limit:?}")]
    Timeout {
        /// What was asked.
        what: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// The server or the connection refused.
    #[error("{what}: {}", describe(source))]
    Server {
        /// What was asked.
        what: &'static str,
        /// The reason.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The answer was not of the expected form.
    #[error("{what}: unexpected answer: {problem}")]
    Answer {
        /// What was asked.
        what: &'static str,
        /// What was wrong with it.
        problem: String,
    },
}

impl QueryError {
    /// The server's SQLSTATE, where it gave one: `57P03` while it starts, `28000` when it refuses us, …
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server { source, .. } => source.code().map(tokio_postgres::error::SqlState::code),
            _ => None,
        }
    }

    /// The server does not accept connections *yet*: it starts, or recovery is not consistent.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        self.sqlstate() == Some("57P03")
    }
}

fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{}: {} ({})", db.severity(), db.message(), db.code().code()),
        // The library's own text hides the cause, which is what one wants to read.
        None => match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    }
}

/// A warm connection. Statements are sent one after the other; after a [`QueryError::Timeout`] drop it.
#[derive(Debug)]
pub struct Link {
    client: Client,
    notices: Arc<Mutex<Vec<DbError>>>,
    driver: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        // Ends the socket at once, even if a statement is still waiting on the server.
        self.driver.abort();
    }
}

/// Settings pinned in every session of ours: nothing that a role, a database or the user's configuration says may
/// slow down, cut off or redirect what the agent asks.
const PINNED: &str = "-c search_path=pg_catalog -c statement_timeout=0 -c lock_timeout=0 \
    -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0 -c default_transaction_read_only=off \
    -c default_transaction_isolation=read\\ committed -c client_min_messages=notice -c DateStyle=ISO";

impl Link {
    /// Connects to database `postgres`. `purpose` becomes part of the application name (`pgvigil/…`); `pin` is
    /// further `-c name=value` text for the session.
    pub async fn connect(endpoint: &Endpoint, purpose: &str, pin: &str, limit: Duration) -> Result<Self, QueryError> {
        const WHAT: &str = "connect to the local server";
        let mut config = Config::new();
        config
            .host_path(&endpoint.socket_dir)
            .port(endpoint.port)
            .user(&endpoint.user)
            .dbname("postgres")
            .application_name(format!("pgvigil/{purpose}"))
            .options(format!("{PINNED} {pin}"))
            .connect_timeout(limit);
        let (client, mut connection) = within(WHAT, limit, config.connect(NoTls)).await?;
        let notices = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&notices);
        let driver = tokio::spawn(async move {
            while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                match message {
                    Ok(AsyncMessage::Notice(notice)) => {
                        if let Ok(mut list) = sink.lock() {
                            // Nobody collects them on most connections; the canary does after every commit.
                            if list.len() >= 100 {
                                list.remove(0);
                            }
                            list.push(notice);
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%error, "connection to the local server ended");
                        return;
                    }
                }
            }
        });
        Ok(Self { client, notices, driver })
    }

    /// Whether the connection is known to be gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs SQL text and returns the rows of its last statement as text columns.
    pub async fn rows(
        &self,
        what: &'static str,
        sql: &str,
        limit: Duration,
    ) -> Result<Vec<Vec<Option<String>>>, QueryError> {
        let messages = within(what, limit, self.client.simple_query(sql)).await?;
        let mut rows = Vec::new();
        for message in &messages {
            match message {
                SimpleQueryMessage::Row(row) => {
                    rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
                }
                SimpleQueryMessage::RowDescription(_) => rows.clear(),
                _ => {}
            }
        }
        Ok(rows)
    }

    /// Runs SQL text that yields one row of one non-null column.
    pub async fn value(&self, what: &'static str, sql: &str, limit: Duration) -> Result<String, QueryError> {
        let rows = self.rows(what, sql, limit).await?;
        match rows.into_iter().next().and_then(|row| row.into_iter().next()).flatten() {
            Some(value) => Ok(value),
            None => Err(QueryError::Answer { what, problem: "no value".to_owned() }),
        }
    }

    /// Runs SQL text for its effect.
    pub async fn execute(&self, what: &'static str, sql: &str, limit: Duration) -> Result<(), QueryError> {
        within(what, limit, self.client.batch_execute(sql)).await
    }

    /// Takes the notices and warnings that came since the last call. Those of a statement are here when it returns.
    #[must_use]
    pub fn take_notices(&self) -> Vec<DbError> {
        self.notices.lock().map(|mut list| std::mem::take(&mut *list)).unwrap_or_default()
    }

    /// The value of a setting as this session sees it.
    pub async fn setting(&self, name: &str, limit: Duration) -> Result<String, QueryError> {
        let sql = format!("SELECT current_setting({})", literal(name));
        self.value("read a setting", &sql, limit).await
    }
}

/// Parses an answer.
pub fn parse<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T, QueryError> {
    text.parse().map_err(|_| QueryError::Answer { what, problem: format!("{text:?}") })
}

async fn within<T>(
    what: &'static str,
    limit: Duration,
    future: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, QueryError> {
    match tokio::time::timeout(limit, future).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(QueryError::Server { what, source }),
        Err(_) => Err(QueryError::Timeout { what, limit }),
    }
}

/// The value of a setting in a *new* connection, opened for this question (proof step D3a): its fork shows that the
/// postmaster has re-read the file and signalled every child.
pub async fn fresh_value(endpoint: &Endpoint, name: &str, limit: Duration) -> Result<String, QueryError> {
    let link = Link::connect(endpoint, "proof", "", limit).await?;
    link.setting(name, limit).await
}
