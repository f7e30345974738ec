//! Following a cluster over changes of its Raft leader, and waiting until something that was asked for is done.

use super::{Client, Output, args::Waiting, client::Repeat, format::local_time, outcome::Failure};
use crate::view::{EventDocument, StatusDocument};
use pgvigil_proto::v1::{self, watch_reply::What};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// What takes no longer is done without a word.
const QUIET: Duration = Duration::from_secs(2);
/// Between two attempts to find a leader with a cluster.
const RETRY: Duration = Duration::from_millis(200);

/// What the watch stream brought.
pub(crate) enum News {
    /// Something happened.
    Event(EventDocument),
    /// How things are now.
    Status(Box<StatusDocument>),
}

/// How far something is.
pub(super) enum Progress {
    /// Not yet.
    Going,
    /// Done; a sentence.
    Done(String),
    /// It will not be done.
    Failed(String),
    /// The rules say no, after all.
    Refused(String),
}

/// Hands all news to `on` until it returns something; `None` when `limit` has passed before.
///
/// After a change of leader the new one's stream begins with its status; events in between are not repeated.
pub(crate) async fn follow<T>(
    client: &mut Client,
    limit: Instant,
    mut on: impl FnMut(News) -> Option<T>,
) -> Result<Option<T>, Failure> {
    loop {
        let question = v1::WatchRequest { cluster: client.cluster(), status_interval_ms: 200 };
        let call = client.call(Repeat::Safe, question, |mut c, q| async move { c.watch(q).await });
        let mut stream = match timeout_at(limit, call).await {
            Ok(Ok(stream)) => stream,
            // No leader or no cluster yet, or not any more: a moment later there may be.
            Ok(Err(Failure::Failed(_))) if Instant::now() < limit => {
                sleep(RETRY).await;
                continue;
            }
            Ok(Err(failure)) => return Err(failure),
            Err(_) => return Ok(None),
        };
        loop {
            let news = match timeout_at(limit, stream.message()).await {
                Ok(Ok(Some(reply))) => match reply.what {
                    Some(What::Event(event)) => News::Event(event.into()),
                    Some(What::Status(status)) => News::Status(Box::new(status.into())),
                    None => continue,
                },
                Ok(Ok(None) | Err(_)) => break,
                Err(_) => return Ok(None),
            };
            if let Some(found) = on(news) {
                return Ok(Some(found));
            }
        }
    }
}

/// Watches the cluster until `judge` says that it is done; gives its sentence. Says what happens meanwhile when it
/// takes longer.
pub(super) async fn until_done(
    client: &mut Client,
    out: Output,
    waiting: Waiting,
    judge: impl Fn(&StatusDocument) -> Progress,
) -> Result<(String, StatusDocument), Failure> {
    let begun = Instant::now();
    let mut lines = Lines { quiet_until: begun + QUIET, held: Vec::new(), waits_for: String::new(), print: !out.json };
    let limit = begun + Duration::from_secs(waiting.timeout);
    let end = follow(client, limit, |news| match news {
        News::Event(event) => {
            lines.say(format!("{}  {}", local_time(event.at_ms), event.text));
            None
        }
        News::Status(status) => match judge(&status) {
            Progress::Going => {
                lines.waits_for(&status);
                None
            }
            Progress::Done(text) => Some(Ok((text, *status))),
            Progress::Failed(text) => Some(Err(Failure::Failed(text))),
            Progress::Refused(text) => Some(Err(Failure::Refused { code: "dropped".to_owned(), text })),
        },
    });
    end.await?.unwrap_or_else(|| {
        let seconds = waiting.timeout;
        Err(Failure::Failed(format!(
            "not done after {seconds} s; it was agreed and may still be done: see pgvigil status"
        )))
    })
}

/// Lines of progress on standard error, held back while it may still be quick.
struct Lines {
    quiet_until: Instant,
    held: Vec<String>,
    waits_for: String,
    print: bool,
}

impl Lines {
    fn waits_for(&mut self, status: &StatusDocument) {
        if self.waits_for != status.waits_for {
            self.waits_for.clone_from(&status.waits_for);
            if !status.waits_for.is_empty() {
                self.held.push(format!("{}  waits for: {}", local_time(status.at_ms), status.waits_for));
            }
        }
        self.flush();
    }

    fn say(&mut self, line: String) {
        self.held.push(line);
        self.flush();
    }

    fn flush(&mut self) {
        if self.print && Instant::now() >= self.quiet_until {
            for line in self.held.drain(..) {
                eprintln!("{line}");
            }
        }
    }
}
