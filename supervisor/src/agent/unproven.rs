//! What the agent saw that speaks against "no acknowledged commit can be lost": kept, also on disk, until it is agreed.

use super::shared::Shared;
use crate::clock;
use pgvigil_core::{
    rpo::{Cause, Ledger, Stretch},
    time::Time,
};
use pgvigil_postgres::fsio;
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// Where it is written down. Without a flush: what an agent that is killed had seen is there for the next one.
#[derive(Clone, Debug)]
pub struct UnprovenFile {
    path: PathBuf,
    /// Beside it: the value of `synchronous_standby_names` that this agent wrote last.
    rule: PathBuf,
    /// The same in memory, once it was written.
    written: Arc<Mutex<Option<String>>>,
}

/// Instants of a clock that begins anew with each boot are kept as ages at a time of the wall clock.
#[derive(Serialize, Deserialize)]
struct Stored {
    wall_ms: u64,
    now_ms: u64,
    /// See [`Ledger::last_id`].
    #[serde(default)]
    last_id: u64,
    stretches: Vec<Stretch>,
}

impl UnprovenFile {
    /// In `agent_dir`.
    #[must_use]
    pub fn new(agent_dir: &Path) -> Self {
        Self { path: agent_dir.join("unproven.json"), rule: agent_dir.join("rule.txt"), written: Arc::default() }
    }

    /// What an agent before this one had not seen agreed. A file that cannot be read is none: nothing is promised by it.
    #[must_use]
    pub fn read(&self) -> Ledger {
        let Ok(Some(text)) = fsio::read_text(&self.path) else { return Ledger::default() };
        let Ok(mut stored) = serde_json::from_str::<Stored>(&text) else { return Ledger::default() };
        let now = clock::now();
        let passed = clock::wall().0.saturating_sub(stored.wall_ms);
        let here = |at: Time| now.minus(passed + stored.now_ms.saturating_sub(at.0));
        for stretch in &mut stored.stretches {
            stretch.began = here(stretch.began);
            stretch.ended = stretch.ended.map(here);
        }
        Ledger::recovered(stored.stretches, stored.last_id, now)
    }

    /// What an agent before this one wrote last as `synchronous_standby_names`.
    #[must_use]
    pub fn rule(&self) -> Option<String> {
        let text = fsio::read_text(&self.rule).ok().flatten()?;
        match text.split_once(' ') {
            Some((sum, names)) if sum.len() == 8 && u32::from_str_radix(sum, 16).is_ok() => {
                (sum == Self::sum(names)).then(|| names.to_owned())
            }
            // As it was before there were sums.
            _ => Some(text),
        }
    }

    /// What this agent, or else one before it, wrote last.
    #[must_use]
    pub fn rule_now(&self) -> Option<String> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).clone().or_else(|| self.rule())
    }

    /// Before it is put in force: an agent that finds a running primary with another value knows that somebody changed it
    /// while no agent looked.
    pub fn write_rule(&self, names: &str) -> Result<(), fsio::FsError> {
        fsio::overwrite(&self.rule, format!("{} {names}", Self::sum(names)).as_bytes(), 0o600)?;
        *self.written.lock().unwrap_or_else(PoisonError::into_inner) = Some(names.to_owned());
        Ok(())
    }

    /// A text of which only a part was written is none.
    fn sum(names: &str) -> String {
        format!("{:08x}", crc32c::crc32c(names.as_bytes()))
    }

    fn write(&self, ledger: &Ledger) {
        let (last_id, stretches) = (ledger.last_id(), ledger.stretches.clone());
        let stored = Stored { wall_ms: clock::wall().0, now_ms: clock::now().0, last_id, stretches };
        let written = match serde_json::to_vec(&stored) {
            _ if *ledger == Ledger::default() => fsio::remove_durable(&self.path).map_err(|error| error.to_string()),
            Ok(text) => fsio::replace(&self.path, &text, 0o600).map(drop).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = written {
            tracing::warn!("what was seen of the rule is kept in memory only: {error}");
        }
    }
}

impl Shared {
    /// Commits may be acknowledged without k standbys from now on, for this cause, or have been since the rule was last
    /// shown in force. Said again while it goes on, it changes nothing. Agreed as soon as a leader hears of it.
    pub fn unproven_begins(&self, cause: Cause, detail: impl AsRef<str>) {
        if self.lock().unproven_begins(cause, detail.as_ref(), (clock::now(), clock::wall())) {
            self.evidence_changed();
        }
    }

    /// What went on for this cause is seen to be over.
    pub fn unproven_ends(&self, cause: Cause) {
        if self.lock().unproven.ends(cause, clock::now()) {
            tracing::info!(member = %self.me(), ?cause, "commits are acknowledged by the rule again");
            self.evidence_changed();
        }
    }

    /// What was over and agreed is forgotten: on disk too.
    pub(super) fn evidence_forgotten(&self) {
        let ledger = self.lock().unproven.clone();
        self.unproven_file.write(&ledger);
    }

    /// [`Known::unproven`](pgvigil_agent::known::Known::unproven) has changed: it is written down and told.
    pub(super) fn evidence_changed(&self) {
        self.evidence_forgotten();
        self.report.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgvigil_core::id::Epoch;

    #[test]
    fn the_rule_written_last_is_read_with_and_without_its_sum_and_a_torn_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = UnprovenFile::new(dir.path());
        assert_eq!(file.rule_now(), None);
        file.write_rule("ANY 1 (\"e1.pg2.i1\")").unwrap();
        assert_eq!((file.rule_now(), file.rule()), (file.rule(), Some("ANY 1 (\"e1.pg2.i1\")".to_owned())));
        let text = std::fs::read_to_string(dir.path().join("rule.txt")).unwrap();
        std::fs::write(dir.path().join("rule.txt"), &text[..text.len() - 3]).unwrap();
        assert_eq!(UnprovenFile::new(dir.path()).rule_now(), None);
        std::fs::write(dir.path().join("rule.txt"), "ANY 1 (\"e1.pg3.i1\")").unwrap();
        assert_eq!(UnprovenFile::new(dir.path()).rule_now().as_deref(), Some("ANY 1 (\"e1.pg3.i1\")"));
    }

    #[test]
    fn what_a_killed_agent_had_seen_is_there_for_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = UnprovenFile::new(dir.path());
        assert_eq!(file.read(), Ledger::default());
        let mut ledger = Ledger::default();
        ledger.begins(Epoch(3), Cause::RuleNotInForce, "changed by hand", clock::now(), 1);
        file.write(&ledger);
        let read = file.read();
        assert_eq!(read.stretches[0].cause, Cause::RuleNotInForce);
        assert!(!read.goes_on(), "nobody looks while no agent runs: what is seen anew begins anew");
        file.write(&Ledger::default());
        assert_eq!(file.read(), Ledger::default());
        std::fs::write(dir.path().join("unproven.json"), "{").unwrap();
        assert_eq!(file.read(), Ledger::default());
    }
}
