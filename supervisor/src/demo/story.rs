//! What the demo tells, line by line: on standard output for people, on standard error beside JSON.

use super::Ending;
use crate::{
    cli::{Client, Failure, News, follow_news, incident_text, local_time, milliseconds, status_screen},
    view::StatusDocument,
};
use std::{
    io::Write as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;

/// The teller.
pub(super) struct Story {
    json: bool,
    /// Wall clock of the fault, ms since 1970: from then on lines show the time since.
    fault: Mutex<Option<u64>>,
    told: AtomicBool,
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Story {
    pub(super) const fn new(json: bool) -> Self {
        Self { json, fault: Mutex::new(None), told: AtomicBool::new(false) }
    }

    /// A line with the time, or the time since the fault.
    pub(super) fn say(&self, text: &str) {
        self.say_at(wall_ms(), text);
    }

    fn say_at(&self, at_ms: u64, text: &str) {
        let fault = *self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let time = match fault {
            Some(fault) if at_ms >= fault => format!("{:>+9} ms", at_ms - fault),
            Some(fault) => format!("{:>9} ms", -i128::from(fault - at_ms)),
            None => local_time(at_ms),
        };
        self.line(&format!("{time}  {text}"));
    }

    /// A reader that is gone must not end the demo in the middle: what runs has to be stopped.
    fn line(&self, text: &str) {
        if self.json {
            drop(writeln!(std::io::stderr(), "{text}"));
        } else {
            drop(writeln!(std::io::stdout(), "{text}"));
        }
    }

    /// From now on lines show the time since now.
    pub(super) fn begin_clock(&self) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(wall_ms());
    }

    /// The result was printed: what ends the demo from here on is no failure, and lines show the time again.
    pub(super) fn told(&self) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.told.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_told(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    pub(super) fn table(&self, status: &StatusDocument) {
        self.line(&format!("\n{}", status_screen(status)));
    }

    /// Tells every event until `good` holds; `None` when it does not in time.
    pub(super) async fn until(
        &self,
        client: &mut Client,
        limit: Instant,
        good: impl Fn(&StatusDocument) -> bool,
    ) -> Result<Option<StatusDocument>, Failure> {
        follow_news(client, limit, |news| match news {
            // Findings of a moment ("waiting for ...") would read like trouble; a story that fails ends with them.
            News::Event(event) if event.kind == "finding" => None,
            News::Event(event) => {
                self.say_at(event.at_ms, &format!("{:<8} {}", event.kind, event.text));
                None
            }
            News::Status(status) => good(&status).then_some(*status),
        })
        .await
    }

    /// The result, also for programs.
    pub(super) fn ending(&self, ending: &Ending, dsn: &str) -> Result<(), Failure> {
        if self.json {
            let text = serde_json::to_string_pretty(&ending.json(dsn));
            println!("{}", text.map_err(|error| Failure::Failed(error.to_string()))?);
            return Ok(());
        }
        if let Some(incident) = &ending.incident {
            self.line(&format!("\n{}", incident_text(incident)));
        }
        let verdict = &ending.verdict;
        let gap = ending.stopped_for.map_or_else(
            || "still stopped".to_owned(),
            |gap| format!("{}, from the last acknowledgement before to the first one after", show(gap)),
        );
        self.line(&format!("writes stopped for {gap}"));
        self.line(&format!(
            "acknowledged {}, lost {} (every acknowledged row was looked for on {})",
            verdict.acknowledged, verdict.lost, verdict.read_from
        ));
        if verdict.unanswered > 0 {
            self.line(&format!(
                "unanswered {}: the connection broke first, so their clients must look; {} of them are there",
                verdict.unanswered, verdict.unanswered_present
            ));
        }
        match ending.healed_after {
            Some(after) => {
                self.line(&format!("{} is back as a standby, everything healed after {}\n", ending.killed, show(after)))
            }
            None => self.line(&format!("{} is not back as a standby\n", ending.killed)),
        }
        Ok(())
    }
}

fn show(duration: std::time::Duration) -> String {
    milliseconds(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
