//! A connection to the local server: over its Unix socket, as a superuser by peer authentication, with a limit on
//! every statement.

use crate::{
    conf_text::literal,
    reserved::AsWalsender,
    ways::{Search, Slot, Way, Ways, usual},
};
use std::{
    collections::BTreeSet,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
    time::Instant,
};
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, NoTls, SimpleQueryMessage, error::DbError, tls::NoTlsStream,
};

/// Where the local server is reached, and as whom.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The directory of its Unix socket.
    pub socket_dir: PathBuf,
    /// Its port, part of the socket's name.
    pub port: u16,
    /// The superuser role.
    pub user: String,
    /// Further `-c name=value` text for every session: what only this version of PostgreSQL knows.
    pub pin: &'static str,
    /// By which ways sessions get in.
    pub ways: Arc<Ways>,
}

impl Endpoint {
    /// An endpoint of a server of major version `major`.
    #[must_use]
    pub fn new(socket_dir: impl Into<PathBuf>, port: u16, user: impl Into<String>, major: u16) -> Self {
        // A trigger on login that raises, or takes its time, keeps nobody out whose triggers are off.
        let pin = if major >= 17 { "-c event_triggers=off -c transaction_timeout=0" } else { "" };
        Self { socket_dir: socket_dir.into(), port, user: user.into(), pin, ways: Arc::default() }
    }

    /// Whether a session stays: one that got in by another than the usual way gives its place up once that one works
    /// again, one in `template1` as soon as there is another place.
    #[must_use]
    pub fn keeps(&self, link: &Link) -> bool {
        self.ways.keeps(&self.user, &link.way)
    }
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
    /// The socket refused.
    #[error("{what}: {source}")]
    Socket {
        /// What was asked.
        what: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The role has lost its rights: what it would see of the server would be less than there is.
    #[error("role {role} is no superuser")]
    NoSuperuser {
        /// Which.
        role: String,
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

    /// A living server said no: neither a silent one, nor one that does not accept connections yet.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::NoSuperuser { .. }) || self.sqlstate().is_some_and(|code| !code.starts_with("57P"))
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
    way: Way,
    /// Statements that this session holds prepared.
    prepared: Mutex<BTreeSet<&'static str>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        // Ends the socket at once, even if a statement is still waiting on the server.
        self.driver.abort();
    }
}

/// Settings pinned in every session of ours: nothing that a role, a database or the user's configuration says may
/// slow down, cut off or redirect what the agent asks, or keep it out.
const PINNED: &str = "-c search_path=pg_catalog -c statement_timeout=0 -c lock_timeout=0 \
    -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0 -c default_transaction_read_only=off \
    -c default_transaction_isolation=read\\ committed -c client_min_messages=notice -c DateStyle=ISO \
    -c role=none -c session_preload_libraries= -c local_preload_libraries=";

/// duplicate_prepared_statement: an answer that came too late to be waited for.
const PREPARED_BEFORE: &str = "42P05";

const CONNECT: &str = "connect to the local server";

impl Link {
    /// Connects by the first of the [ways in](crate::ways) that works. `purpose` becomes part of the application name
    /// (`pgvigil/…`, of a walsender `pgvigil:…`); `pin` is further `-c name=value` text for the session. The error is that
    /// of the first way tried.
    pub async fn connect(endpoint: &Endpoint, purpose: &str, pin: &str, limit: Duration) -> Result<Self, QueryError> {
        let deadline = Instant::now() + limit;
        let mut search = Search::new(endpoint.ways.order(&endpoint.user));
        let mut next = search.next();
        let mut first = None;
        while let Some(way) = next {
            let left = deadline.saturating_duration_since(Instant::now());
            match Self::connect_by(&way, endpoint, purpose, pin, left).await {
                Ok(link) => return Ok(link),
                Err(error) => {
                    next = search.after(&way, crate::ways::Refused::of(&error));
                    first.get_or_insert(error);
                }
            }
        }
        Err(first.unwrap_or(QueryError::Timeout { what: CONNECT, limit }))
    }

    /// Connects by the usual way alone: whether that works, and why not, is then known to everybody who connects.
    pub async fn connect_as_usual(endpoint: &Endpoint, purpose: &str, limit: Duration) -> Result<Self, QueryError> {
        Self::connect_by(&usual(&endpoint.user), endpoint, purpose, "", limit).await
    }

    /// Connects as usual, but to `database`.
    pub async fn connect_to(endpoint: &Endpoint, database: &str, limit: Duration) -> Result<Self, QueryError> {
        let way = Way { database: database.to_owned(), ..usual(&endpoint.user) };
        Self::open(&way, endpoint, "test", "", limit).await
    }

    async fn connect_by(
        way: &Way,
        endpoint: &Endpoint,
        purpose: &str,
        pin: &str,
        limit: Duration,
    ) -> Result<Self, QueryError> {
        let opened = Self::open(way, endpoint, purpose, pin, limit).await;
        match &opened {
            Ok(_) => endpoint.ways.worked(&endpoint.user, way),
            Err(error) => endpoint.ways.failed(&endpoint.user, way, error),
        }
        opened
    }

    async fn open(
        way: &Way,
        endpoint: &Endpoint,
        purpose: &str,
        pin: &str,
        limit: Duration,
    ) -> Result<Self, QueryError> {
        let mut config = Config::new();
        config
            .host_path(&endpoint.socket_dir)
            .port(endpoint.port)
            .user(&way.role)
            .dbname(&way.database)
            // Where somebody has made the server ask for one, it shall say that this is not it: no role can have this one.
            .password("")
            .options(format!("{PINNED} {} {pin}", endpoint.pin))
            .connect_timeout(limit);
        match way.slot {
            Slot::Client => {
                config.application_name(format!("pgvigil/{purpose}"));
                let (client, connection) = within(CONNECT, limit, config.connect(NoTls)).await?;
                Self::over(way, client, connection)
            }
            Slot::Walsender => {
                config.application_name(format!("pgvigil:{purpose}"));
                let socket = endpoint.socket_dir.join(format!(".s.PGSQL.{}", endpoint.port));
                let stream = AsWalsender::connect(&socket)
                    .await
                    .map_err(|source| QueryError::Socket { what: CONNECT, source })?;
                let (client, connection) = within(CONNECT, limit, config.connect_raw(stream, NoTls)).await?;
                Self::over(way, client, connection)
            }
        }
    }

    fn over<S>(way: &Way, client: Client, connection: Connection<S, NoTlsStream>) -> Result<Self, QueryError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if connection.parameter("is_superuser") == Some("off") {
            return Err(QueryError::NoSuperuser { role: way.role.clone() });
        }
        let notices = Arc::new(Mutex::new(Vec::new()));
        let driver = tokio::spawn(drive(connection, Arc::clone(&notices)));
        Ok(Self { client, notices, driver, way: way.clone(), prepared: Mutex::default() })
    }

    /// By which way it got in.
    #[must_use]
    pub const fn way(&self) -> &Way {
        &self.way
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

    /// As [`value`](Self::value), for a statement that is run again and again in this session: it is prepared under `name`,
    /// since planning costs ten times what running does. By SQL, which a walsender's session takes too.
    pub async fn value_again(
        &self,
        what: &'static str,
        name: &'static str,
        sql: &str,
        limit: Duration,
    ) -> Result<String, QueryError> {
        let known = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).contains(name);
        if !known {
            // By itself: what follows may fail, and that takes no statement back.
            match self.execute(what, &format!("PREPARE {name} AS {sql}"), limit).await {
                Err(error) if error.sqlstate() != Some(PREPARED_BEFORE) => return Err(error),
                _ => {}
            }
            self.prepared.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        }
        self.value(what, &format!("EXECUTE {name}"), limit).await
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

/// Moves the connection's messages until it ends; keeps the notices.
async fn drive<S>(mut connection: Connection<S, NoTlsStream>, notices: Arc<Mutex<Vec<DbError>>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            Ok(AsyncMessage::Notice(notice)) => {
                if let Ok(mut list) = notices.lock() {
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
