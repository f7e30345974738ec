//! A login of our own at a server from which a standby is to stream: does it know the replication role's password, and
//! what does it say if it refuses?
//!
//! Only SCRAM is answered, so the password never leaves, whoever asks for it in whatever way, and only a server that
//! holds the role's verifier can complete it. It is made without TLS, which SCRAM does not need.

use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Whom to ask, as whom.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The server's host.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// The replication role.
    pub role: &'a str,
    /// Its password.
    pub password: &'a str,
}

/// What a server that let us in showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Met {
    /// It speaks TLS.
    pub tls: bool,
}

/// Why it did not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nobody answered, or the connection ended.
    #[error("no connection: {0}")]
    Silent(String),
    /// The server says no, in its own words.
    #[error("{message} ({code})")]
    Said {
        /// SQLSTATE.
        code: String,
        /// PostgreSQL's message.
        message: String,
    },
    /// It wants the password in another way than SCRAM, or does not know it itself: it is not a member of this cluster, or
    /// its `pg_hba.conf` is not pgvigil's. It must not be given the password.
    #[error("it is not trusted with the password: {0}")]
    NotTrusted(String),
}

impl Refused {
    /// The server itself keeps the role out, or cannot be trusted: waiting does not help.
    #[must_use]
    pub fn lasts(&self) -> bool {
        match self {
            Self::Silent(_) => false,
            Self::Said { code, .. } => code.starts_with("28") || matches!(&**code, "3D000" | "53300" | "42704"),
            Self::NotTrusted(_) => true,
        }
    }
}

/// Logs in for physical replication and leaves at once.
pub async fn meet(caller: Caller<'_>, limit: Duration) -> Result<Met, Refused> {
    let attempt = async {
        login(caller).await?;
        Ok(Met { tls: speaks_tls(caller).await? })
    };
    let late = |_| Refused::Silent(format!("no answer within {} ms", limit.as_millis()));
    tokio::time::timeout(limit, attempt).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
}

async fn speaks_tls(caller: Caller<'_>) -> Result<bool, Refused> {
    // Length 8, code 80877103.
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    let ask = async {
        let mut stream = TcpStream::connect((caller.host, caller.port)).await?;
        stream.write_all(&SSL_REQUEST).await?;
        stream.read_u8().await
    };
    ask.await.map(|answer| answer == b'S').map_err(silent)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn silent(error: io::Error) -> Refused {
    Refused::Silent(error.to_string())
}

fn other_than_scram(what: &str) -> Refused {
    Refused::NotTrusted(what.to_owned())
}

async fn login(caller: Caller<'_>) -> Result<(), Refused> {
    let mut stream = TcpStream::connect((caller.host, caller.port)).await.map_err(silent)?;
    stream.set_nodelay(true).map_err(silent)?;
    let mut startup = 196_608_u32.to_be_bytes().to_vec();
    for text in ["user", caller.role, "replication", "true", "application_name", "pgvigil_check", ""] {
        startup.extend_from_slice(text.as_bytes());
        startup.push(0);
    }
    send(&mut stream, None, &startup).await?;
    let mut scram = ScramSha256::new(caller.password.as_bytes(), ChannelBinding::unsupported());
    let mut proven = false;
    loop {
        let (tag, body) = receive(&mut stream).await?;
        match (tag, authentication(tag, &body)) {
            (b'E', _) => return Err(said(&body)),
            (b'Z', _) => break,
            (b'R', Some((0, _))) if !proven => return Err(other_than_scram("it asks for no proof of the password")),
            (b'R', Some((10, list))) if !proven => {
                if !list.split(|byte| *byte == 0).any(|name| name == SCRAM_SHA_256.as_bytes()) {
                    return Err(other_than_scram("it offers no SCRAM-SHA-256"));
                }
                let first = scram.message();
                let mut answer = SCRAM_SHA_256.as_bytes().to_vec();
                answer.push(0);
                answer.extend_from_slice(&u32::try_from(first.len()).unwrap_or(u32::MAX).to_be_bytes());
                answer.extend_from_slice(first);
                send(&mut stream, Some(b'p'), &answer).await?;
            }
            (b'R', Some((11, challenge))) if !proven => {
                scram.update(challenge).map_err(|error| Refused::NotTrusted(error.to_string()))?;
                send(&mut stream, Some(b'p'), scram.message()).await?;
            }
            (b'R', Some((12, signature))) if !proven => {
                let unknown = |_| other_than_scram("it does not know the password itself");
                scram.finish(signature).map_err(unknown)?;
                proven = true;
            }
            (b'R', Some((0, _))) => {}
            (b'R', Some((3, _))) => return Err(other_than_scram("it asks for the password in clear")),
            (b'R', Some((5, _))) => return Err(other_than_scram("it asks for an MD5 of the password")),
            (b'R', _) => return Err(other_than_scram("it asks for another way of authentication")),
            // Parameters, notices, the cancel key.
            _ => {}
        }
    }
    // It ends by itself when this does not arrive.
    send(&mut stream, Some(b'X'), &[]).await.ok();
    Ok(())
}

/// The kind of an authentication request, and what belongs to it.
fn authentication(tag: u8, body: &[u8]) -> Option<(u32, &[u8])> {
    let (kind, rest) = body.split_first_chunk::<4>().filter(|_| tag == b'R')?;
    Some((u32::from_be_bytes(*kind), rest))
}

async fn send(stream: &mut TcpStream, tag: Option<u8>, body: &[u8]) -> Result<(), Refused> {
    let mut message: Vec<u8> = tag.into_iter().collect();
    message.extend_from_slice(&u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes());
    message.extend_from_slice(body);
    stream.write_all(&message).await.map_err(silent)
}

/// The longest message of a login: an error's text.
const LONGEST: usize = 64 << 10;

async fn receive(stream: &mut TcpStream) -> Result<(u8, Vec<u8>), Refused> {
    let tag = stream.read_u8().await.map_err(silent)?;
    let length = stream.read_u32().await.map_err(silent)?;
    let length =
        usize::try_from(length).ok().and_then(|length| length.checked_sub(4)).filter(|length| *length <= LONGEST);
    let Some(length) = length else { return Err(other_than_scram("it does not speak PostgreSQL's protocol")) };
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.map_err(silent)?;
    Ok((tag, body))
}

/// Reads an error: fields of a letter and a text, each ended by a zero.
fn said(body: &[u8]) -> Refused {
    let field = |wanted: u8| {
        let found = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&wanted));
        String::from_utf8_lossy(found.map_or(&[][..], |field| &field[1..])).into_owned()
    };
    Refused::Said { code: field(b'C'), message: field(b'M') }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// What a server that answers the startup packet with `answer` gets to read.
    async fn asked_by(answer: &'static [u8]) -> (Refused, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = vec![0; 1024];
            let length = stream.read(&mut heard).await.unwrap();
            heard.truncate(length);
            stream.write_all(answer).await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.ok();
            heard.extend(rest);
            heard
        });
        let caller = Caller { host: "127.0.0.1", port, role: "r", password: "the password" };
        let refused = meet(caller, Duration::from_secs(60)).await.unwrap_err();
        (refused, server.await.unwrap())
    }

    #[tokio::test]
    async fn whoever_asks_in_another_way_gets_nothing() {
        let clear = b"R\0\0\0\x08\0\0\0\x03";
        let md5 = b"R\0\0\0\x0c\0\0\0\x05salt";
        let none = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
        let plus = b"R\0\0\0\x1c\0\0\0\x0aSCRAM-SHA-256-PLU\0\0\0";
        for answer in [&clear[..], md5, none, plus, b"HTTP/1.1 400 Bad Request"] {
            let (refused, heard) = asked_by(answer).await;
            assert!(matches!(refused, Refused::NotTrusted(_)), "{refused:?}");
            assert!(refused.lasts());
            assert!(!String::from_utf8_lossy(&heard).contains("the password"));
        }
    }

    #[tokio::test]
    async fn its_words_are_kept() {
        let (refused, _) = asked_by(b"E\0\0\0\x1eSFATAL\0C28000\0Mnot today\0\0").await;
        assert_eq!(refused, Refused::Said { code: "28000".into(), message: "not today".into() });
        assert_eq!(refused.to_string(), "not today (28000)");
    }
}
