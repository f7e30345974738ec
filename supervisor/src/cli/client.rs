//! The client: asks any node and follows it to the Raft leader.

use super::{args::Connection, outcome::Failure};
use crate::api::LEADER_METADATA;
use pgvigil_proto::v1::{self, pgvigil_client::PgvigilClient};
use std::{future::Future, time::Duration};
use tokio::time::{Instant, sleep};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};

/// How long a leader is looked for: an election of the Raft group takes a second or less.
const LOOK_FOR: Duration = Duration::from_secs(8);
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// Answers come in milliseconds, except those that wait for an agreement under load.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// Whether a call may be made twice when its first fate is unknown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// A question.
    Safe,
    /// A request: only when it surely was not carried out.
    OnlyUnsent,
}

/// A connection to whoever leads.
#[derive(Clone, Debug)]
pub struct Client {
    addresses: Vec<String>,
    /// Who led when last asked.
    leader: Option<(String, PgvigilClient<Channel>)>,
    cluster: String,
    look_for: Duration,
}

enum Attempt {
    /// Ask this one instead.
    Redirected(String),
    /// Ask another one, or this one later; why.
    Elsewhere(String),
    /// It answered with a failure.
    Failed(Status),
}

impl Client {
    /// Prepares to ask these addresses; nothing is sent yet.
    pub fn new(connection: &Connection) -> Result<Self, Failure> {
        let addresses: Vec<String> =
            connection.connect.split(',').map(str::trim).filter(|a| !a.is_empty()).map(ToOwned::to_owned).collect();
        for address in &addresses {
            endpoint(address)?;
        }
        if addresses.is_empty() {
            return Err(Failure::Usage("--connect names no HOST:PORT".to_owned()));
        }
        let cluster = connection.cluster.clone().unwrap_or_default();
        Ok(Self { addresses, leader: None, cluster, look_for: LOOK_FOR })
    }

    /// Looks for a leader for that long instead.
    #[must_use]
    pub fn looking_for(mut self, limit: Duration) -> Self {
        self.look_for = limit;
        self
    }

    /// The cluster that was named; empty for the only one.
    #[must_use]
    pub fn cluster(&self) -> String {
        self.cluster.clone()
    }

    /// Asks the leader.
    pub async fn call<Q, A, F, R>(&mut self, repeat: Repeat, question: Q, ask: F) -> Result<A, Failure>
    where
        Q: Clone,
        F: Fn(PgvigilClient<Channel>, Q) -> R,
        R: Future<Output = Result<Response<A>, Status>>,
    {
        let deadline = Instant::now() + self.look_for;
        let mut redirects = 0;
        let mut next = 0;
        loop {
            let target = match &self.leader {
                Some((address, _)) => address.clone(),
                None => {
                    let address = self.addresses[next % self.addresses.len()].clone();
                    next += 1;
                    address
                }
            };
            let why = match self.attempt(&target, repeat, question.clone(), &ask).await {
                Ok(answer) => return Ok(answer),
                Err(Attempt::Failed(status)) => return Err(status.into()),
                Err(Attempt::Redirected(to)) if redirects < 10 => {
                    redirects += 1;
                    self.leader = None;
                    if let Ok(client) = connect(&to).await {
                        self.leader = Some((to, client));
                        continue;
                    }
                    format!("the Raft leader at {to} cannot be reached")
                }
                Err(Attempt::Redirected(_)) => {
                    redirects = 0;
                    self.leader = None;
                    "the nodes do not agree who leads".to_owned()
                }
                Err(Attempt::Elsewhere(problem)) => {
                    self.leader = None;
                    format!("{target}: {problem}")
                }
            };
            if Instant::now() >= deadline {
                return Err(Failure::Failed(format!("no Raft leader answers at {}: {why}", self.addresses.join(", "))));
            }
            if next % self.addresses.len() == 0 {
                sleep(Duration::from_millis(100)).await;
            }
        }
    }

    async fn attempt<Q, A, F, R>(&mut self, target: &str, repeat: Repeat, question: Q, ask: &F) -> Result<A, Attempt>
    where
        F: Fn(PgvigilClient<Channel>, Q) -> R,
        R: Future<Output = Result<Response<A>, Status>>,
    {
        let client = match &self.leader {
            Some((address, client)) if address == target => client.clone(),
            _ => connect(target).await.map_err(Attempt::Elsewhere)?,
        };
        match ask(client.clone(), question).await {
            Ok(answer) => {
                self.leader = Some((target.to_owned(), client));
                Ok(answer.into_inner())
            }
            Err(status) => Err(self.what_now(status, repeat)),
        }
    }

    fn what_now(&self, status: Status, repeat: Repeat) -> Attempt {
        let hint = status.metadata().get(LEADER_METADATA).and_then(|value| value.to_str().ok());
        match (status.code(), hint) {
            (Code::FailedPrecondition, Some(leader)) => Attempt::Redirected(leader.to_owned()),
            // A status with a source never came from the server: the connection broke, maybe after it was sent.
            (Code::Unavailable | Code::Unknown | Code::Cancelled, _) if broke(&status) => match repeat {
                Repeat::Safe => Attempt::Elsewhere(status.message().to_owned()),
                Repeat::OnlyUnsent => Attempt::Failed(Status::aborted(format!(
                    "the connection broke ({}); it may or may not have been agreed: see pgvigil status",
                    status.message()
                ))),
            },
            (Code::Unavailable, _) => Attempt::Elsewhere(status.message().to_owned()),
            _ => Attempt::Failed(status),
        }
    }

    /// The status, from the leader.
    pub async fn status(&mut self) -> Result<crate::view::StatusDocument, Failure> {
        let question = v1::StatusRequest { cluster: self.cluster(), stale_ok: false };
        let answer = self.call(Repeat::Safe, question, |mut c, q| async move { c.status(q).await }).await?;
        answer.status.map(Into::into).ok_or_else(|| Failure::Failed("the answer holds no status".to_owned()))
    }

    /// The status as any node has it, when nobody leads.
    pub async fn stale_status(&mut self) -> Result<crate::view::StatusDocument, Failure> {
        let mut why = Failure::Failed("nobody answers".to_owned());
        for address in self.addresses.clone() {
            let question = v1::StatusRequest { cluster: self.cluster(), stale_ok: true };
            match connect(&address).await {
                Ok(mut client) => match client.status(question).await {
                    Ok(answer) => {
                        let status = answer.into_inner().status.map(Into::into);
                        return status.ok_or_else(|| Failure::Failed("the answer holds no status".to_owned()));
                    }
                    Err(status) => why = status.into(),
                },
                Err(problem) => why = Failure::Failed(format!("{address}: {problem}")),
            }
        }
        Err(why)
    }
}

fn broke(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

fn endpoint(address: &str) -> Result<Endpoint, Failure> {
    let usage = || Failure::Usage(format!("--connect: {address:?} is not HOST:PORT"));
    if address.contains('/')
        || address.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
    {
        return Err(usage());
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| usage())?;
    Ok(endpoint
        .connect_timeout(CONNECT_WITHIN)
        .timeout(ANSWER_WITHIN)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true))
}

async fn connect(address: &str) -> Result<PgvigilClient<Channel>, String> {
    let endpoint = endpoint(address).map_err(|failure| failure.to_string())?;
    match tokio::time::timeout(CONNECT_WITHIN, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(PgvigilClient::new(channel)),
        Ok(Err(error)) => {
            // tonic says only "transport error"; the innermost cause says what a person can act on.
            let mut cause: &dyn std::error::Error = &error;
            while let Some(inner) = cause.source() {
                cause = inner;
            }
            Err(cause.to_string())
        }
        Err(_) => Err("it does not answer".to_owned()),
    }
}
