//! The way to other members' ports: PostgreSQL's own request for encryption.

use super::here::Here;
use pgvigil_agent::tasks::prober;
use pgvigil_core::member::MemberSpec;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How long a postmaster may take to answer. It forks a child for each connection; a busy host needs tens of
/// milliseconds, a checkpoint does not delay it.
const ANSWER: Duration = Duration::from_millis(400);
/// PostgreSQL's SSLRequest: length 8, code 80877103.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Starts the prober.
pub fn start(here: Here) {
    tokio::spawn(async move { prober::run(&here, Prober).await });
}

struct Prober;

impl prober::Prober for Prober {
    async fn probe(&self, of: &MemberSpec) -> (bool, String) {
        match tokio::time::timeout(ANSWER, ask(&of.host, of.port)).await {
            Ok(Ok(detail)) => (true, detail),
            Ok(Err(detail)) => (false, detail),
            Err(_) => (false, format!("no answer within {} ms", ANSWER.as_millis())),
        }
    }
}

async fn ask(host: &str, port: u16) -> Result<String, String> {
    let mut stream = TcpStream::connect((host, port)).await.map_err(|error| format!("connect: {error}"))?;
    stream.write_all(&SSL_REQUEST).await.map_err(|error| format!("send: {error}"))?;
    let mut answer = [0];
    match stream.read(&mut answer).await {
        Ok(0) => Err("closed without an answer".to_owned()),
        Ok(_) => Ok("a postmaster answered".to_owned()),
        Err(error) => Err(format!("read: {error}")),
    }
}
