//! The agent's side of the guard: every deadline is acknowledged before it is used.

use pgvigil_core::{
    guard::{Duty, Message},
    time::Time,
};
use std::{io, path::PathBuf, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};

/// The guard did not confirm. The right to serve must not be extended then.
#[derive(Debug, thiserror::Error)]
pub enum GuardClientError {
    /// It cannot be reached, or the connection broke.
    #[error("cannot talk to the guard at {}: {source}", socket.display())]
    Io {
        /// Its socket.
        socket: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It did not answer in time.
    #[error("the guard at {} did not answer {message:?} within {limit:?}", socket.display())]
    Silent {
        /// Its socket.
        socket: PathBuf,
        /// What it was told.
        message: String,
        /// The limit.
        limit: Duration,
    },
    /// It answered something else: `late` when the deadline is already over, so that it kills now.
    #[error("the guard answered {answer:?} to {message:?}")]
    Refused {
        /// What it was told.
        message: String,
        /// What it answered.
        answer: String,
    },
}

/// A connection to the guard; it connects anew by itself after an error.
#[derive(Debug)]
pub struct GuardClient {
    socket: PathBuf,
    limit: Duration,
    stream: Option<BufReader<UnixStream>>,
}

impl GuardClient {
    /// A client that waits at most `limit` for each answer. Does not connect yet.
    #[must_use]
    pub const fn new(socket: PathBuf, limit: Duration) -> Self {
        Self { socket, limit, stream: None }
    }

    /// Tells or asks it; what it has in force then. A deadline may be used only after this has returned it.
    pub async fn tell(&mut self, message: Message) -> Result<Duty, GuardClientError> {
        let (text, confirmed, duty) = match message {
            Message::Arm(Time(at)) => (format!("deadline {at}"), format!("ok {at}"), Duty::Armed(Time(at))),
            Message::Disarm => ("disarm".to_owned(), "ok disarmed".to_owned(), Duty::Disarmed),
            Message::Hold => ("pause-hold".to_owned(), "ok held".to_owned(), Duty::Held),
            Message::Status => return self.status().await,
        };
        self.expect(text, &confirmed).await.map(|()| duty)
    }

    /// Ends a guard that is not armed.
    pub async fn quit(&mut self) -> Result<(), GuardClientError> {
        self.expect("quit".to_owned(), "ok quit").await
    }

    /// Whether a watchdog device is counting down behind it. `None`: it was given none.
    pub async fn watchdog(&mut self) -> Result<Option<bool>, GuardClientError> {
        let message = "watchdog".to_owned();
        match self.ask(&message).await?.as_str() {
            "watchdog none" => Ok(None),
            "watchdog on" => Ok(Some(true)),
            "watchdog off" => Ok(Some(false)),
            answer => Err(GuardClientError::Refused { message, answer: answer.to_owned() }),
        }
    }

    async fn status(&mut self) -> Result<Duty, GuardClientError> {
        let answer = self.ask("status").await?;
        let parsed = answer.split_once(' ').and_then(|(duty, at)| {
            let at = Time(at.parse().ok()?);
            match duty {
                "disarmed" => Some(Duty::Disarmed),
                "held" => Some(Duty::Held),
                "armed" => Some(Duty::Armed(at)),
                "fired" => Some(Duty::Fired(at)),
                _ => None,
            }
        });
        parsed.ok_or(GuardClientError::Refused { message: "status".to_owned(), answer })
    }

    async fn expect(&mut self, message: String, wanted: &str) -> Result<(), GuardClientError> {
        let answer = self.ask(&message).await?;
        if answer == wanted { Ok(()) } else { Err(GuardClientError::Refused { message, answer }) }
    }

    async fn ask(&mut self, message: &str) -> Result<String, GuardClientError> {
        // Taken out meanwhile: after an error, or when the caller gives up, a late answer must not be taken for the
        // next question's.
        let stream = self.stream.take();
        let exchange = async {
            let mut stream = match stream {
                Some(stream) => stream,
                None => BufReader::new(UnixStream::connect(&self.socket).await?),
            };
            stream.write_all(format!("{message}\n").as_bytes()).await?;
            let mut answer = String::new();
            if stream.read_line(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok((stream, answer.trim_end().to_owned()))
        };
        match tokio::time::timeout(self.limit, exchange).await {
            Ok(Ok((stream, answer))) => {
                self.stream = Some(stream);
                Ok(answer)
            }
            Ok(Err(source)) => Err(GuardClientError::Io { socket: self.socket.clone(), source }),
            Err(_) => Err(GuardClientError::Silent {
                socket: self.socket.clone(),
                message: message.to_owned(),
                limit: self.limit,
            }),
        }
    }
}
